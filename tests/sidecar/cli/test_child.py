import os
import sys

import pytest

from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

PARENT, CHILD = "a" * 26, "e" * 26
CALL = "POST /v1/children"
STARTED = {
    "session": CHILD,
    "uid": os.geteuid(),
    "services": {"wiki": "127.0.0.1:15001"},
    "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
}
REFUSAL = {
    "at": 1_900_000_000_000_000,
    "session": CHILD,
    "stream": "",
    "service": "vault",
    "reason": "no_grant",
    "rule": "",
    "hint": "no grant lets it\x1b[31m",
    "remedy": "ask an admin",
}


def test_a_command_runs_as_a_child_and_its_exit_code_is_passed_on(
    daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the child's environment."""
    daemon.says(CALL, **STARTED)
    program = "import os; print(os.environ['LOCKGATE_SESSION'], os.environ['LOCKGATE_WIKI_ADDR']); raise SystemExit(7)"
    done = daemon.run("session", "child", "--", sys.executable, "-c", program)
    assert (done.code, daemon.asked) == (7, [(CALL, {})])
    assert capfd.readouterr().out == f"{CHILD} 127.0.0.1:15001\n"


def test_what_is_left_is_named_by_options(daemon: FakeDaemon) -> None:
    """Life in seconds, and at least one."""
    daemon.says(CALL, **STARTED)
    narrowed = ("--service", "wiki", "--service", "tickets", "--operation", "GET /api/**")
    daemon.run("session", "child", *narrowed, "--life", "10m", "--session", PARENT, "true", "--json")
    daemon.run("session", "child", "--life", "1ms", "true")
    assert [body for _, body in daemon.asked] == [
        {"services": ["wiki", "tickets"], "operations": ["GET /api/**"], "life": 600, "session": PARENT},
        {"life": 1},
    ]


def test_a_child_that_is_refused_runs_nothing(daemon: FakeDaemon, tmp_path: os.PathLike[str]) -> None:
    """The exit code is that of our own failures, which no command has."""
    daemon.refuses(CALL, "child: no service is left")
    proof = os.path.join(tmp_path, "ran")
    done = daemon.run("session", "child", "touch", proof)
    assert (done.code, done.err) == (Exit.EXEC_FAILED, "lockgate: child: no service is left\n")
    assert not os.path.exists(proof)


def test_why_says_what_was_refused_and_what_would_help(daemon: FakeDaemon) -> None:
    """A line for each and one for its remedy; nothing of it commands the terminal."""
    daemon.says(
        "GET /v1/refusals", refusals=[REFUSAL, {**REFUSAL, "service": "", "rule": "no-export", "hint": ""}]
    )
    assert daemon.run("session", "why").out.splitlines() == [
        "2030-03-17 17:46:40 UTC  vault: no_grant: no grant lets it [31m",
        "    ask an admin",
        "2030-03-17 17:46:40 UTC  a stream: no_grant by no-export",
        "    ask an admin",
    ]
    assert daemon.run("session", "why", "--json").json["refusals"][0] == REFUSAL


def test_why_of_one_session_asks_for_it_alone(daemon: FakeDaemon) -> None:
    """Or says that there is nothing to tell."""
    daemon.says(f"GET /v1/refusals/{CHILD}", refusals=[])
    assert daemon.run("session", "why", CHILD).out == "nothing was refused\n"
    assert daemon.run("session", "why", "../sessions").code == Exit.USAGE
