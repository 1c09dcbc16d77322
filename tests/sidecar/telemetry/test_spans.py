from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from sidecar.audit import record
from sidecar.audit.record import Answered, Ending, Record, Requested, Role, Ruling, Subject, Traffic
from sidecar.reasons import Reason
from sidecar.telemetry import spans
from sidecar.telemetry.spans import Span, Spans

SESSION, STREAM, REQUEST = "a" * 26, "e" * 26, "i" * 26
TRACE = "ab" * 16
ROOT, OWN, ASKED, FOREIGN = "1" * 16, "2" * 16, "3" * 16, "4" * 16
ALLOW = Ruling(verdict="allow", rule="read-wiki")
DENY = Ruling(verdict="deny", reason=Reason.NO_GRANT, hint="ask")


def context(span: str) -> str:
    return f"00-{TRACE}-{span}-01"


def subject(role: Role = Role.AGENT, span: str = OWN) -> Subject:
    return Subject(
        stream=STREAM, role=role, session=SESSION, agent="researcher", service="wiki", trace=context(span)
    )


def at(time: int) -> Wall:
    return Wall(time)


STARTED = record.session(at(10), "started", SESSION, "researcher", {"trace": context(ROOT)})
ENDED = record.session(at(900), "ended", SESSION, "researcher", {"why": "asked"})
GET = Requested(
    request=REQUEST,
    operation={"method": "GET", "name": "/api/a"},
    operation_class="read",
    parent=context(OWN),
)


def spans_of(*records: Record, node: str = "agents-1") -> list[Span]:
    core = Spans(node)
    return [span for one in records if (span := core.take(one))]


def request(asked: Requested, time: int = 200) -> Record:
    return record.request(at(time), subject(Role.TOOL, ASKED), ALLOW, asked)


def test_a_session_is_the_root_of_its_streams() -> None:
    """From its start to its end, and its streams below it."""
    stream, session = spans_of(
        STARTED,
        record.admitted(at(100), subject(), ALLOW),
        record.opened(at(101), subject()),
        record.closed(at(300), subject(), Traffic(7, 9)),
        ENDED,
    )
    assert (session.name, session.trace, session.id, session.parent) == (
        "invoke_agent researcher",
        TRACE,
        ROOT,
        "",
    )
    assert (session.start, session.end, session.error) == (10, 900, "")
    assert (stream.name, stream.trace, stream.id, stream.parent) == ("stream wiki", TRACE, OWN, ROOT)
    assert (stream.start, stream.end, stream.error) == (100, 300, "")


def test_what_a_span_says_has_the_names_of_the_conventions() -> None:
    """And names of our own for what they do not know. Nothing is said of what is not known."""
    _, session = spans_of(
        STARTED,
        record.admitted(at(1), subject(), ALLOW),
        record.cut(at(2), subject(), Ending(Reason.LOCKED, "x"), Traffic(7, 9)),
        ENDED,
    )
    assert session.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "researcher",
        "gen_ai.conversation.id": SESSION,
        "lockgate.node": "agents-1",
        "lockgate.ended": "asked",
    }


def test_a_cut_is_an_error_with_its_reason() -> None:
    """So is a refusal, which has no beginning of its own."""
    cut, denied = spans_of(
        record.admitted(at(1), subject(), ALLOW),
        record.cut(at(2), subject(), Ending(Reason.LOCKED, "x"), Traffic(7, 9)),
        record.denied(at(5), subject(), DENY),
    )
    assert (cut.error, cut.attributes["error.type"], cut.attributes["lockgate.bytes_in"]) == (
        "locked",
        "locked",
        7,
    )
    assert (denied.error, denied.start, denied.end) == ("no_grant", 5, 5)
    assert denied.attributes["lockgate.verdict"] == "deny"


def test_the_tools_node_has_a_span_of_its_own_below_the_agents() -> None:
    """Both know the stream by one span id, and no two spans may have one."""
    (near,) = spans_of(
        record.admitted(at(1), subject(), ALLOW), record.closed(at(2), subject(), Traffic(0, 0))
    )
    far_records = [
        record.admitted(at(1), subject(Role.TOOL), ALLOW),
        record.closed(at(2), subject(Role.TOOL), Traffic(0, 0)),
    ]
    (far,) = spans_of(*far_records, node="tools-1")
    assert (far.trace, far.parent) == (near.trace, near.id)
    assert far.id != near.id
    assert [far] == spans_of(*far_records, node="tools-1")


def test_a_request_hangs_below_its_stream() -> None:
    """On the tool's node; from its decision to the end of its answer."""
    answer = Answered(request=REQUEST, status=200, latency=40, bytes_in=0, bytes_out=5)
    one, stream = spans_of(
        record.admitted(at(100), subject(Role.TOOL), ALLOW),
        request(GET),
        record.answered(at(240), subject(Role.TOOL, ASKED), answer),
        record.closed(at(300), subject(Role.TOOL), Traffic(7, 9)),
        node="tools-1",
    )
    assert (one.name, one.id, one.parent, one.start, one.end) == ("GET", ASKED, stream.id, 200, 240)
    told = {
        "http.request.method": "GET",
        "url.path": "/api/a",
        "http.response.status_code": 200,
        "lockgate.class": "read",
    }
    assert told.items() <= one.attributes.items()


def test_a_request_hangs_below_the_span_that_its_caller_named() -> None:
    """The agent's own spans are in the tree, too."""
    asked = Requested(request=REQUEST, operation=GET.operation, parent=context(FOREIGN))
    denied = record.request_denied(at(5), subject(Role.TOOL, ASKED), DENY, asked)
    (one,) = spans_of(record.admitted(at(1), subject(Role.TOOL), ALLOW), denied)
    assert (one.parent, one.error, one.start) == (FOREIGN, "no_grant", 5)


@pytest.mark.parametrize(
    ("method", "name", "title", "told"),
    [
        (
            "tools/call",
            "find",
            "tools/call find",
            {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "find"},
        ),
        ("prompts/get", "sum", "prompts/get sum", {"gen_ai.prompt.name": "sum"}),
        ("resources/read", "docs://a", "resources/read", {"mcp.resource.uri": "docs://a"}),
        ("WEBSOCKET", "/live", "WEBSOCKET", {"http.request.method": "GET", "url.path": "/live"}),
        ("", "", "request", {}),
    ],
)
def test_requests_are_named_as_the_conventions_want(
    method: str, name: str, title: str, told: dict[str, str]
) -> None:
    """Few names, so that they can be grouped: a tool's is one, a path is not."""
    operation: Any = {"method": method, "name": name} if method else {}
    (one,) = spans_of(
        record.request_denied(at(5), subject(), DENY, Requested(request=REQUEST, operation=operation))
    )
    assert one.name == title
    assert told.items() <= one.attributes.items()


def test_a_request_without_an_answer_is_forgotten_with_its_stream() -> None:
    """Its segment records none; kept, such requests would leave no room for others."""
    core = Spans("tools-1")
    for one in (record.admitted(at(100), subject(Role.TOOL), ALLOW), request(GET), request(GET, 300)):
        core.take(one)
    assert len(core._begun) == 2
    core.take(record.closed(at(400), subject(Role.TOOL), Traffic(7, 9)))
    assert core._begun == {}


def test_what_has_no_trace_has_no_span() -> None:
    """A stranger's connection is nobody's action."""
    stranger = Subject(stream=STREAM, role=Role.AGENT, service="wiki")
    assert (
        spans_of(
            record.denied(at(1), stranger, DENY), record.finding(at(1), "x"), record.reload(at(1), "applied")
        )
        == []
    )


def test_an_end_without_its_beginning_is_no_span() -> None:
    """It was before the daemon's start, or before spans were wanted."""
    answer = Answered(request=REQUEST, status=200, latency=1, bytes_in=0, bytes_out=0)
    assert spans_of(ENDED, record.answered(at(1), subject(), answer)) == []


def test_beginnings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that spans are lost, never memory."""
    monkeypatch.setattr(spans, "MAX_OPEN", 1)
    closed = record.closed(at(3), subject(), Traffic(0, 0))
    (one,) = spans_of(STARTED, record.admitted(at(1), subject(), ALLOW), closed, ENDED)[-1:]
    assert one.name == "invoke_agent researcher"


@given(st.integers(0, 2**52), st.integers(0, 2**52))
def test_no_span_ends_before_it_begins(first: int, second: int) -> None:
    """The wall clock may be set back in between."""
    (one,) = spans_of(
        record.admitted(at(first), subject(), ALLOW), record.closed(at(second), subject(), Traffic(0, 0))
    )
    assert one.start <= one.end
