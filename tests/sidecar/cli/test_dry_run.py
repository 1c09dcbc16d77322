from sidecar.cli.dry_run import MAX_ROWS
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

PATH = {"agent": "researcher", "service": "wiki", "segment": "retrieval"}


def test_a_dry_run_says_what_would_stop_and_signs_nothing(daemon: FakeDaemon) -> None:
    """No operator, no statement: live streams of this node, and the ways that the policy has."""
    daemon.says("POST /v1/dry-run", streams={"wiki": 2, "echo": 1}, sessions=1, paths=[PATH])
    for verb, kind in (("lock", "lock"), ("revoke", "revocation")):
        done = daemon.run(verb, "agent:researcher", "--dry-run")
        assert done.code == Exit.YES
        assert "3 live streams of 1 sessions: echo 1, wiki 2" in done.out
        assert "  researcher -> wiki (retrieval)" in done.out
        assert daemon.asked.pop() == (
            "POST /v1/dry-run",
            {"kind": kind, "target": {"kind": "agent", "value": "researcher"}},
        )
        assert daemon.asked == []
    done = daemon.run("lock", "all", "--dry-run", "--json")
    assert (done.json["dry_run"], done.json["paths"]) == (True, [PATH])


def test_a_long_answer_is_cut_short_on_a_terminal_only(daemon: FakeDaemon) -> None:
    """--json has all of it."""
    daemon.says("POST /v1/dry-run", streams={}, sessions=0, paths=[PATH] * (MAX_ROWS + 7))
    assert "and 7 more" in daemon.run("lock", "all", "--dry-run").out
    assert len(daemon.run("lock", "all", "--dry-run", "--json").json["paths"]) == MAX_ROWS + 7


def test_a_dry_run_is_of_a_whole_revocation(daemon: FakeDaemon) -> None:
    """What certificates are that old, only the CA's register knows."""
    done = daemon.run("revoke", "agent:a", "--dry-run", "--issued-before", "2027-01-01")
    assert (done.code, daemon.asked) == (Exit.USAGE, [])
