from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sidecar.audit.trace import Trace, trace_of

SESSION, CHILD = "s" * 26, "c" * 26
TRACE = "ab" * 16
SPAN = f"00-{TRACE}-{'1' * 16}-01"
LOCK = "l" * 26


def line(kind: str, at: int, node: str = "agents-1", **fields: object) -> dict[str, Any]:
    return {
        "schema": 1,
        "kind": kind,
        "at": at,
        "node": node,
        "session": SESSION,
        "agent": "researcher",
        **fields,
    }


def stream(kind: str, at: int, role: str = "agent", name: str = "a", **fields: Any) -> dict[str, Any]:
    node = "tools-1" if role == "tool" else "agents-1"
    whose: dict[str, Any] = {
        "stream": name,
        "role": role,
        "service": "wiki",
        "segment": "retrieval",
        "trace": SPAN,
    }
    return line(kind, at, node, **(whose | fields))


def request(kind: str, at: int, name: str, **fields: Any) -> dict[str, Any]:
    return stream(kind, at, "tool", request=name, **fields)


STARTED = line("session", 10, what="started", trace=SPAN, on_behalf_of="ada")
ALLOWED: dict[str, Any] = {"verdict": "allow", "rule": "read-wiki"}
NEAR = [
    STARTED,
    stream("admitted", 100, **ALLOWED),
    stream("opened", 104),
    stream("denied", 200, name="b", verdict="deny", reason="no_grant", hint="nothing grants it", count=3),
    stream("closed", 300, bytes_in=7, bytes_out=9),
    line("session", 400, what="ended", why="asked"),
]
FAR = [
    stream("admitted", 50_101, "tool", **ALLOWED),
    stream("opened", 50_103, "tool"),
    stream("closed", 50_299, "tool", bytes_in=7, bytes_out=9),
]


def only(trace: Trace) -> Any:
    (session,) = trace.sessions
    return session


def test_a_session_is_told_from_its_start_to_its_end() -> None:
    """Who, where, for whom, why it ended."""
    session = only(trace_of(NEAR))
    assert (session.session, session.agent, session.node, session.trace) == (
        SESSION,
        "researcher",
        "agents-1",
        TRACE,
    )
    assert (session.on_behalf_of, session.started, session.ended, session.why) == ("ada", 10, 400, "asked")


def test_a_stream_is_one_whatever_the_number_of_logs() -> None:
    """In either order of the logs; times and durations are those of the session's own node."""
    for records in (NEAR + FAR, FAR + NEAR):
        first, _ = only(trace_of(records)).streams
        assert (first.nodes, first.at) == (["agents-1", "tools-1"], 100)
        assert (first.open_latency, first.duration, first.ended) == (4, 200, "closed")
        assert (first.bytes_in, first.bytes_out, first.verdict, first.rule) == (7, 9, "allow", "read-wiki")


def test_streams_stand_in_the_order_of_the_sessions_own_node() -> None:
    """Another node's clock and log order nothing that this one has seen."""
    far = [stream("admitted", 1, "tool", name="z"), stream("admitted", 2, "tool", name="a")]
    near = [
        stream("admitted", 9, name="a"),
        stream("admitted", 10, name="z"),
        stream("admitted", 11, name="y"),
    ]
    assert [one.stream for one in only(trace_of(far + near)).streams] == ["a", "z", "y"]


def test_without_the_sessions_own_log_the_tools_tells_what_it_knows() -> None:
    """Durations included: they are its own."""
    (one,) = only(trace_of(FAR)).streams
    assert (one.nodes, one.open_latency, one.duration) == (["tools-1"], None, 198)


def test_a_refusal_names_its_reason_and_how_often() -> None:
    """Refusals that are alike are one record with their number."""
    _, refused = only(trace_of(NEAR)).streams
    assert (refused.verdict, refused.reason, refused.hint, refused.count) == (
        "deny",
        "no_grant",
        "nothing grants it",
        3,
    )
    assert (refused.decided_by, refused.ended) == ("agents-1", "")
    assert trace_of(NEAR).actions == 4


def test_a_tools_refusal_stands_though_the_agents_node_had_let_it_in() -> None:
    """Whatever came first."""
    far = [stream("denied", 5, "tool", verdict="deny", reason="stale", rule="")]
    for records in ([*NEAR[:2], *far], [*far, *NEAR[:2]]):
        (one,) = only(trace_of(records)).streams
        assert (one.verdict, one.reason, one.decided_by) == ("deny", "stale", "tools-1")


def test_a_stream_that_lives_has_no_end() -> None:
    """Nor a duration."""
    (one,) = only(trace_of(NEAR[:3])).streams
    assert (one.ended, one.duration) == ("", None)


def test_no_room_is_told() -> None:
    """It is no decision of the policy's."""
    (one,) = only(trace_of([stream("shed", 5, reason="limit")])).streams
    assert (one.ended, one.reason) == ("shed", "limit")


def test_a_cut_names_what_cut_it_beside_what_let_it_in() -> None:
    """And the statement comes with the story, once, from whichever log."""
    lock = line("lock", 250, what="applied", statement=LOCK, target="all", by="alice")
    other = line("revocation", 251, what="applied", statement="r" * 26, target="node:x")
    records = [
        *NEAR[:3],
        lock,
        other,
        stream("cut", 260, reason="locked", rule=LOCK),
        {**lock, "node": "tools-1"},
    ]
    found = trace_of(records)
    (one,) = only(found).streams
    assert (one.rule, one.ended, one.ended_for, one.ended_by) == ("read-wiki", "cut", "locked", LOCK)
    assert found.statements == [lock]


def test_requests_stand_in_their_stream() -> None:
    """In the order of the tool's node, each with what was decided and what became of it."""
    operation = {"method": "GET", "name": "/api/a"}
    records = [
        *FAR[:2],
        request("request", 60, "r1", **ALLOWED, operation=operation, operation_class="read"),
        request("answered", 70, "r1", status=200, latency=9),
        request("denied", 80, "r2", verdict="deny", reason="denied", rule="no-b", operation=operation),
        request("request", 90, "r3", **ALLOWED, operation=operation),
        request("answered", 91, "r3", status=0, latency=1, reason="locked", hint="x"),
    ]
    first, second, third = only(trace_of(records)).streams[0].requests
    assert (first.operation, first.operation_class, first.rule) == ("GET /api/a", "read", "read-wiki")
    assert (first.status, first.latency, first.reason) == (200, 9, "")
    assert (second.verdict, second.reason, second.rule, second.status) == ("deny", "denied", "no-b", None)
    assert (third.status, third.reason, third.rule) == (0, "locked", "read-wiki")


def test_an_observed_segment_says_what_it_would_refuse() -> None:
    """The stream passed."""
    (one,) = only(trace_of([stream("admitted", 1, verdict="would_deny", reason="no_grant")])).streams
    assert (one.verdict, one.hint, one.reason) == ("would_deny", "no_grant", "")


def test_children_stand_below_their_parents() -> None:
    """Of any depth; one whose parent is not at hand stands on top."""
    child = line("session", 20, what="started", session=CHILD, parents=[SESSION])
    grandchild = line("session", 21, what="started", session="g" * 26, parents=[SESSION, CHILD])
    session = only(trace_of([STARTED, child, grandchild]))
    assert [one.session for one in session.children] == [CHILD]
    assert [one.session for one in session.children[0].children] == ["g" * 26]
    assert [one.session for one in trace_of([child]).sessions] == [CHILD]


def test_children_in_a_circle_stand_on_top() -> None:
    """No log of ours holds one; a reader must end all the same."""
    circle = [
        line("session", 1, what="started", session=name, parents=[above])
        for name, above in ("ab", "bc", "ca")
    ]
    assert len(trace_of(circle).sessions) == 3


def test_other_records_tell_nothing() -> None:
    """Those of another schema's kinds neither."""
    assert trace_of([line("renewal", 1), line("a-new-kind", 2), {}]).sessions == []


KINDS = ["session", "lock", "admitted", "opened", "denied", "request", "answered", "closed", "cut", "shed"]
VALUES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=2)
KEYS = [
    "at",
    "node",
    "session",
    "stream",
    "request",
    "role",
    "parents",
    "trace",
    "what",
    "reason",
    "rule",
    "count",
]


@given(
    st.lists(
        st.fixed_dictionaries({"kind": st.sampled_from(KINDS)}, optional=dict.fromkeys(KEYS, VALUES)),
        max_size=6,
    )
)
def test_whatever_records_hold_there_is_a_story(records: list[dict[str, Any]]) -> None:
    """They may be somebody's who wants to break the reader."""
    assert trace_of(records).actions >= 0
