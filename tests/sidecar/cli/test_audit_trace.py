from pathlib import Path

import pytest

from sidecar.audit import record
from sidecar.audit.record import Answered, Caller, Record, Requested, Role, Ruling, Subject, Traffic
from sidecar.audit.volume import Site, open_volume
from sidecar.disk import RealDisk
from sidecar.exits import Exit
from sidecar.reasons import Reason
from tests.auditlog import NOON
from tests.sidecar.cli.world import lockgate

SESSION, CHILD, REQUEST = "m" * 26, "e" * 26, "q" * 26
SPAN = f"00-{'ab' * 16}-{'1' * 16}-01"
ALLOW = Ruling(verdict="allow", rule="read-wiki")


def subject(role: Role, stream: str, session: str = SESSION, *parents: str) -> Subject:
    return Subject(
        stream=stream * 26,
        role=role,
        session=session,
        parents=parents,
        agent="researcher",
        service="wiki",
        trace=SPAN,
    )


def log(folder: Path, node: str, *records: Record) -> Path:
    folder.mkdir()
    open_volume(Site(RealDisk(), folder, node), NOON, list(records)).volume.close()
    return folder


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """Of two nodes: one stream with one request, one refusal, a child's stream that lives."""
    near, far = subject(Role.AGENT, "a"), subject(Role.TOOL, "a")
    below = subject(Role.AGENT, "i", CHILD, SESSION)
    refused = Ruling(verdict="deny", reason=Reason.NO_GRANT, hint="ask\x1b[2J for it")
    asked = Requested(request=REQUEST, operation={"method": "GET", "name": "/api/a"}, operation_class="read")
    agents = log(
        tmp_path / "agents-1",
        "agents-1",
        record.session(NOON, "started", SESSION, "researcher", {"trace": SPAN}),
        record.admitted(NOON, near, ALLOW, Caller("uid", 1001)),
        record.denied(NOON, subject(Role.AGENT, "e"), refused),
        record.admitted(NOON, below, ALLOW),
        record.closed(NOON, near, Traffic(7, 9)),
        record.session(NOON, "ended", SESSION, "researcher", {"why": "asked"}),
    )
    tools = log(
        tmp_path / "tools-1",
        "tools-1",
        record.admitted(NOON, far, ALLOW),
        record.request(NOON, far, ALLOW, asked),
        record.answered(
            NOON, far, Answered(request=REQUEST, status=200, latency=1_500, bytes_in=1, bytes_out=2)
        ),
    )
    return [tools, agents]


def test_the_tree_is_drawn(logs: list[Path]) -> None:
    """What was done in it, by whom it was decided, and how long it took; nothing in it commands the terminal."""
    done = lockgate("audit", "trace", SESSION, *logs)
    at = "2026-01-01 00:00:00"
    assert done.out.splitlines() == [
        f"session {SESSION}  researcher on agents-1  trace {'ab' * 16}  started {at}",
        f"├─ {at}  wiki  allowed by read-wiki  7 B in, 9 B out  closed after 0 us  on agents-1, tools-1",
        "│  └─ GET /api/a  allowed by read-wiki  answered 200  in 1.5 ms",
        f"├─ {at}  wiki  REFUSED no_grant (ask [2J for it)  on agents-1",
        f"├─ child {CHILD}  researcher on agents-1  trace {'ab' * 16}",
        f"│  └─ {at}  wiki  allowed by read-wiki  live  on agents-1",
        f"└─ ended {at}: asked",
    ]
    assert done.code == Exit.YES


def test_a_trace_is_asked_for_by_its_id_or_its_context(logs: list[Path]) -> None:
    """Both tell the same story."""
    whole = lockgate("audit", "trace", SESSION, *logs).out
    assert [lockgate("audit", "trace", what, *logs).out for what in ("ab" * 16, SPAN)] == [whole, whole]


def test_with_json_it_is_one_object(logs: list[Path]) -> None:
    """The tree, and how many actions are in it."""
    body = lockgate("audit", "trace", SESSION, "--json", *logs).json
    assert body["actions"] == 4
    assert body["sessions"][0]["streams"][0]["requests"][0]["latency"] == 1_500


def test_nothing_found_is_no(logs: list[Path]) -> None:
    """With the advice to look on other nodes."""
    done = lockgate("audit", "trace", "y" * 26, *logs)
    assert (done.code, done.out) == (Exit.NO, "")
    assert "another node's log" in done.err


@pytest.mark.parametrize("what", ["AB" * 16, "no name", "-", ""])
def test_what_names_no_session_trace_or_agent_is_refused(what: str, logs: list[Path]) -> None:
    """Before any log is read."""
    done = lockgate("audit", "trace", what, *logs)
    assert done.code == Exit.NO
    assert "no session's id (26 characters), no trace's (32 hex digits), no agent's name" in done.err


def test_an_agents_name_gives_all_its_sessions(logs: list[Path]) -> None:
    """The same tree, without knowing an id; another name gives none."""
    by_session = lockgate("audit", "trace", SESSION, *logs)
    by_agent = lockgate("audit", "trace", "researcher", *logs)
    assert by_agent.out == by_session.out
    assert lockgate("audit", "trace", "a-b-c-d", *logs).code == Exit.NO


def test_since_leaves_out_sessions_that_were_over(logs: list[Path]) -> None:
    """What is asked for is what was alive then; a session is told whole."""
    whole = lockgate("audit", "trace", "researcher", *logs)
    at = "2026-01-01T00:00:00+00:00"
    assert lockgate("audit", "trace", "researcher", "--since", at, *logs).out == whole.out
    assert lockgate("audit", "trace", "researcher", "--since", "2026-01-02T00:00:00Z", *logs).code == Exit.NO
    refused = lockgate("audit", "trace", "researcher", "--since", "yesterday", *logs)
    assert refused.code == Exit.USAGE
    assert "no duration (2h) and no time" in refused.err
