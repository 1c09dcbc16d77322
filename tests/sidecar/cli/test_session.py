import os
import sys
from pathlib import Path

import pytest

from sidecar.cli.session import environment, table
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

ID = "a" * 26
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
END_ALONE = f"DELETE /v1/sessions/{ID}?when=alone"
SESSION = {
    "session": ID,
    "agent": "researcher",
    "id": f"spiffe://example.org/agent/researcher/agents-1/{ID}",
    "uid": os.geteuid(),
    "started": 0,
    "not_after": 1_900_000_000_000_000,
    "attribution": "uid",
}
STARTED = {
    **SESSION,
    "services": {"wiki": "127.0.0.1:15001", "big-data": "unix:/run/x"},
    "traceparent": TRACE,
}


@pytest.fixture(autouse=True)
def no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs in this very process, which is to stay where it is."""
    monkeypatch.setattr("sidecar.session.cgroup.enter_new", lambda _: False)


def test_start_prints_the_id_and_the_entrances(daemon: FakeDaemon) -> None:
    """The id alone on the first line, for scripts."""
    daemon.says("POST /v1/sessions", **STARTED)
    done = daemon.run("session", "start", "--agent", "researcher")
    assert done.out.splitlines() == [ID, "  wiki      127.0.0.1:15001", "  big-data  unix:/run/x"]
    assert daemon.asked == [("POST /v1/sessions", {"agent": "researcher"})]
    assert daemon.run("session", "start", "--agent", "researcher", "--json").json["session"] == ID


def test_with_the_ca_away_the_exit_code_is_that_of_unreachable(daemon: FakeDaemon) -> None:
    """No new sessions then, and nothing was refused."""
    daemon.refuses("POST /v1/sessions", "CA: cannot connect", status=503)
    done = daemon.run("session", "start", "--agent", "researcher")
    assert (done.code, done.err) == (Exit.UNCONFIRMED, "lockgate: CA: cannot connect\n")


def test_sessions_are_listed_with_their_end(daemon: FakeDaemon) -> None:
    """Or that there are none."""
    daemon.says("GET /v1/sessions", sessions=[])
    assert daemon.run("session", "ls").out == "no sessions of yours\n"
    daemon.says("GET /v1/sessions", sessions=[SESSION])
    line = daemon.run("session", "ls").out
    assert line.startswith(
        f"{ID}  researcher  uid {os.geteuid()}  known by uid  until 2030-03-17 17:46:40 UTC"
    )


def test_a_session_is_ended_by_its_id(daemon: FakeDaemon) -> None:
    """What is no id never gets into a path."""
    daemon.says(f"DELETE /v1/sessions/{ID}", **SESSION)
    assert daemon.run("session", "end", ID).out == f"ended {ID}\n"
    assert daemon.run("session", "end", "../status").code == Exit.USAGE


def test_a_session_is_shown_with_all_that_is_known(daemon: FakeDaemon) -> None:
    """Where its services are reached first, as at its start."""
    daemon.says(f"GET /v1/sessions/{ID}", **STARTED, exported=True)
    lines = daemon.run("session", "show", ID).out.splitlines()
    assert lines[:2] == [ID, "  wiki      127.0.0.1:15001"]
    assert f"SPIFFE ID:   {SESSION['id']}" in lines
    assert "key:         exported" in lines
    assert daemon.run("session", "show", ID, "--json").json["exported"] is True


def test_columns_are_aligned() -> None:
    """Whatever the names."""
    short, long = {**SESSION, "agent": "a"}, {**SESSION, "agent": "a-longer-name", "exported": True}
    first, second = table([short, long]).splitlines()
    assert first.index("uid") == second.index("uid")
    assert second.endswith("UTC  exported")
    assert table([]) == ""


def test_exec_passes_the_exit_code_on_and_ends_the_session(daemon: FakeDaemon) -> None:
    """However the command ended."""
    daemon.says("POST /v1/sessions", **STARTED)
    daemon.says(END_ALONE, **SESSION, ended=True)
    script = "import os, sys; sys.exit(7 * (os.environ['LOCKGATE_WIKI_ADDR'] == '127.0.0.1:15001'))"
    done = daemon.run("session", "exec", "--agent", "researcher", sys.executable, "-c", script)
    assert done.code == 7
    assert [call for call, _ in daemon.asked] == ["POST /v1/sessions", END_ALONE]
    assert daemon.asked[0][1] == {"agent": "researcher", "own_cgroup": True, "hold": True}


def test_root_makes_the_cgroup_of_its_command_itself(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon may be nobody in particular, and is told its name, which is the session's id."""
    entered: list[str] = []

    def enter_new(name: str) -> bool:
        entered.append(name)
        return True

    monkeypatch.setattr("sidecar.session.cgroup.enter_new", enter_new)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    daemon.says("POST /v1/sessions", **STARTED)
    daemon.says(END_ALONE, **SESSION, ended=True)
    for _ in range(2):
        assert daemon.run("session", "exec", "--agent", "researcher", "true").code == 0
    first, second = [body for call, body in daemon.asked if call == "POST /v1/sessions"]
    assert [first["made"], second["made"]] == entered
    assert first["made"] != second["made"]
    assert "own_cgroup" not in first


def test_exec_says_that_others_of_its_session_still_run(daemon: FakeDaemon) -> None:
    """Its exit code is the command's all the same."""
    daemon.says("POST /v1/sessions", **STARTED)
    daemon.says(END_ALONE, **SESSION, ended=False)
    done = daemon.run("session", "exec", "--agent", "researcher", "true")
    assert (done.code, done.err) == (
        0,
        "lockgate: processes of this session still run; it ends with the last of them\n",
    )


def test_the_commands_options_are_its_own(daemon: FakeDaemon) -> None:
    """From its first word on, --json and --dir are not ours."""
    daemon.says("POST /v1/sessions", **STARTED)
    daemon.says(END_ALONE, **SESSION, ended=True)
    script = "import sys; sys.exit(sys.argv[1:] != ['--json', '--dir', 'x'])"
    words = [sys.executable, "-c", script, "--json", "--dir", "x"]
    assert daemon.run("session", "exec", "--agent", "researcher", *words).code == 0


@pytest.mark.parametrize("status", [400, 503])
def test_exec_that_gets_no_session_runs_nothing(daemon: FakeDaemon, status: int) -> None:
    """Its own failure is 125, which no command's is."""
    daemon.refuses("POST /v1/sessions", "no", status=status)
    done = daemon.run("session", "exec", "--agent", "researcher", "false")
    assert (done.code, done.err) == (Exit.EXEC_FAILED, "lockgate: no\n")


def test_a_session_that_cannot_be_ended_is_said(daemon: FakeDaemon) -> None:
    """The command's exit code stands."""
    daemon.says("POST /v1/sessions", **STARTED)
    daemon.refuses(END_ALONE, "gone", status=503)
    done = daemon.run("session", "exec", "--agent", "researcher", "true")
    assert (done.code, done.err) == (0, "lockgate: the session could not be ended: gone\n")
    daemon.refuses(END_ALONE, "you have no such session")  # It ended before its command did.
    assert daemon.run("session", "exec", "--agent", "researcher", "true").err == ""


def test_a_command_finds_its_session_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside all that was there; what was there of another session is replaced."""
    monkeypatch.setenv("TRACEPARENT", "another")
    monkeypatch.setenv("KEPT", "yes")
    found = environment(STARTED, Path("/run/agent.sock"))
    assert found["LOCKGATE_SESSION"] == ID
    assert found["LOCKGATE_BIG_DATA_ADDR"] == "unix:/run/x"
    assert (found["TRACEPARENT"], found["KEPT"]) == (TRACE, "yes")
    assert found["LOCKGATE_AGENT_SOCK"] == "/run/agent.sock"
