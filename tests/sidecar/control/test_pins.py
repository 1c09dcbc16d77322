from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from sidecar.control.admin import admin_app
from sidecar.mcp.pins import digest
from tests.sidecar.control.world import Station, ask, station
from tests.statements import Mint

TOOL: dict[str, Any] = {"name": "get", "annotations": {"destructiveHint": True}}
CHANGED = {**TOOL, "description": "Other."}


@pytest.fixture
def node(tmp_path: Path) -> Station:
    return station(tmp_path, Mint())


@pytest.fixture
def app(node: Station) -> Starlette:
    async def reload() -> list[str]:
        return []

    return admin_app(node, reload)


async def test_an_admin_sees_what_tools_are_and_approves_a_change(node: Station, app: Starlette) -> None:
    """What drifted says so until then; both are on record."""
    pins = node.carrier.servers.pins
    pins.see("tickets", TOOL, {})
    pins.see("tickets", CHANGED, {})
    _, body = await ask(app, "GET", "/v1/pins")
    [shown] = body["pins"]
    assert (shown["tool"], shown["seen"], shown["counts"]) == ("get", digest(CHANGED), digest(TOOL))
    assert (shown["by"], shown["risk"]) == ("node", "high")
    assert "has changed" in shown["fault"]
    wanted = {"service": "tickets", "tool": "get", "seen": digest(CHANGED)[:12]}
    status, shown = await ask(app, "POST", "/v1/pins/approve", wanted)
    assert (status, shown["fault"], shown["counts"]) == (200, "", digest(CHANGED))


@pytest.mark.parametrize(
    "wanted",
    [
        {"service": "tickets", "tool": "put", "seen": "0" * 12},
        {"service": "tickets", "tool": "get", "seen": "0" * 12},
        {"service": "tickets", "tool": "get"},
        {"service": "tickets", "tool": "get", "seen": 7},
        "approve",
    ],
)
async def test_what_was_not_seen_is_not_approved(node: Station, app: Starlette, wanted: object) -> None:
    """By name, by digest, or in a shape that is none."""
    node.carrier.servers.pins.see("tickets", TOOL, {})
    assert (await ask(app, "POST", "/v1/pins/approve", wanted))[0] == 400
