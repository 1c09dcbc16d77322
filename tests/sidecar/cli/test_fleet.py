from typing import Any

from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

CONFIRMED = {"state": "confirmed", "since": 2_000, "cut": 0}
AT = 1_900_000_000_000_000
UNCONFIRMED = {"state": "unconfirmed", "refuses_by": {"retrieval": AT}}


def statement(name: str, *, counted: bool = True, **nodes: object) -> dict[str, Any]:
    return {"id": name, "kind": "lock", "target": "all", "issued": 0, "counted": counted, "nodes": nodes}


def test_a_fleet_that_has_confirmed_all_is_a_yes(daemon: FakeDaemon) -> None:
    """Each node of the roster on a line."""
    daemon.says("GET /v1/fleet", statements=[statement("l", tools=CONFIRMED, agents=CONFIRMED)], left_out=0)
    done = daemon.run("status", "--fleet")
    assert done.code == Exit.YES
    assert done.out.splitlines() == [
        "1 statements count now",
        "agents: all confirmed",
        "tools: all confirmed",
    ]


def test_a_node_that_has_not_confirmed_is_named_with_what_it_lacks(daemon: FakeDaemon) -> None:
    """And when it must refuse by itself, where the CA counts the statement; exit code 3."""
    listed = [statement("l", tools=UNCONFIRMED), statement("m", counted=False, tools=UNCONFIRMED)]
    daemon.says("GET /v1/fleet", statements=listed, left_out=4)
    done = daemon.run("status", "--fleet")
    assert done.code == Exit.UNCONFIRMED
    assert done.out.splitlines() == [
        "2 statements count now, and 4 older",
        "tools: 2 unconfirmed",
        "  lock all (l); refuses by itself retrieval by 2030-03-17 17:46:40 UTC",
        "  lock all (m)",
    ]
    assert daemon.run("status", "--fleet", "--json").json["statements"] == listed
