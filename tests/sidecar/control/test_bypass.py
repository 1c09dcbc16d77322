from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.control.admin import admin_app
from sidecar.control.bypass import bypass_route
from tests.sidecar.ca.world import POLICY
from tests.sidecar.control.world import Station, ask, message, station, with_policy
from tests.statements import Mint

MORE = """
[services.files]
segment = "retrieval"
nodes = ["agents-1"]
target = "unix:/run/files.sock"

[services.crm]
segment = "retrieval"
nodes = ["agents-1"]
target = "10.0.0.5:443"

[[bindings]]
agent = "researcher"
service = "crm"
listen = "unix:/run/crm.sock"
"""


@pytest.fixture
def node(tmp_path: Path) -> Station:
    return station(tmp_path, Mint())


async def reload() -> list[str]:
    raise LocalError("not asked for")


async def test_it_names_ways_agents_and_users(node: Station) -> None:
    """Of this node: what is beside it, what is bound here, and where the other tools might answer."""
    await with_policy(node, POLICY + MORE)
    status, body = await ask(admin_app(node, reload), "GET", "/v1/bypass")
    assert status == 200, body
    assert (body["node"], body["sequence"]) == ("agents-1", 1)
    assert body["agents"] == [
        {"agent": "researcher", "uid": 1001, "ports": [15001], "sockets": ["/run/crm.sock"]}
    ]
    assert body["targets"] == ["10.0.0.5:443"]
    places = {way["service"]: way["place"] for way in body["ways"]}
    assert (places["files"], places["crm"]) == ("unix:/run/files.sock", "10.0.0.5:443")


async def test_without_a_policy_there_is_nothing_to_go_around(node: Station) -> None:
    """It says so."""
    assert bypass_route(node).path == "/v1/bypass"
    assert "no policy is in force" in message(await ask(admin_app(node, reload), "GET", "/v1/bypass"))
