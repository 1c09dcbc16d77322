from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

SEEN = "ab" * 32
PIN = {
    "service": "tickets",
    "tool": "get",
    "seen": SEEN,
    "counts": SEEN,
    "by": "node",
    "fault": "",
    "risk": "low",
}


def test_tools_are_listed_with_what_they_were_seen_as(daemon: FakeDaemon) -> None:
    """Enough of the digest to approve it with."""
    daemon.says("GET /v1/pins", pins=[])
    assert daemon.run("policy", "pin", "ls").out == "no MCP tools seen yet\n"
    daemon.says("GET /v1/pins", pins=[PIN])
    done = daemon.run("policy", "pin", "ls")
    assert (done.code, done.out) == (Exit.YES, "tickets  get  abababababab  low risk\n")


def test_a_tool_that_is_refused_for_its_definition_is_a_no(daemon: FakeDaemon) -> None:
    """So that a script sees drift."""
    daemon.says("GET /v1/pins", pins=[{**PIN, "fault": "it has changed"}])
    done = daemon.run("policy", "pin", "ls")
    assert (done.code, done.out) == (
        Exit.NO,
        "tickets  get  abababababab  low risk  refused: it has changed\n",
    )


def test_a_definition_is_approved_by_its_digest(daemon: FakeDaemon) -> None:
    """One that the policy pins otherwise is refused all the same, and that is a no."""
    daemon.says("POST /v1/pins/approve", **PIN)
    done = daemon.run("policy", "pin", "approve", "tickets", "get", "ABABABABABAB")
    assert (done.code, done.out) == (Exit.YES, "tickets get: approved\n")
    daemon.says("POST /v1/pins/approve", **{**PIN, "fault": "not as the policy pins it"})
    done = daemon.run("policy", "pin", "approve", "tickets", "get", "abababab")
    assert (done.code, done.out) == (Exit.NO, "tickets get: not as the policy pins it\n")
