from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import MINUTE, Wall
from sidecar.policy.decide import Decision, Request, decide, next_boundary, redecide
from sidecar.policy.narrowing import Narrowing, covers, is_operation
from sidecar.policy.operation import Operation
from sidecar.reasons import Reason
from sidecar.snapshot import Moment, Snapshot
from tests.sidecar.policy.world import NOW, POLICY, fresh, policy_of, request, snapshot


def left(*operations: str) -> Narrowing:
    return Narrowing(frozenset({"wiki"}), operations, Wall(1))


@pytest.mark.parametrize(
    ("pattern", "method", "name", "is_left"),
    [
        ("GET /api/pages", "GET", "/api/pages", True),
        ("GET /api/pages", "GET", "/api/pages/1", False),
        ("GET /api/pages", "PUT", "/api/pages", False),
        ("GET /api/*", "GET", "/api/pages", True),
        ("GET /api/*", "GET", "/api/", True),
        ("GET /api/*", "GET", "/api/pages/1", False),
        ("GET /api/*", "GET", "/apis", False),
        ("GET /api/**", "GET", "/api/pages/1", True),
        ("GET /api/**", "get", "/api/pages/1", False),
        ("* /api/**", "DELETE", "/api/pages/1", True),
        ("tools/call get_*", "tools/call", "get_page", True),
        ("tools/call get_*", "tools/call", "delete_page", False),
        ("tools/call get_*", "resources/read", "get_page", False),
        ("tools/call get_*", "initialize", "", True),
    ],
)
def test_what_a_narrowing_leaves(pattern: str, method: str, name: str, is_left: bool) -> None:
    """Method and name both; a wildcard at the end; a request without a name is no access."""
    assert left(pattern).leaves(Operation(method, name)) is is_left


def test_without_operations_all_that_a_service_offers_is_left() -> None:
    """And with none at all, nothing: an empty list matches nothing, as everywhere."""
    call = Operation("DELETE", "/api/pages")
    assert Narrowing(frozenset({"wiki"}), None, Wall(1)).leaves(call)
    assert not left().leaves(call)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("GET /api/**", True),
        ("* /", True),
        ("tools/call *", True),
        ("GET", False),
        ("GET ", False),
        (" /api", False),
        ("GET /a b", False),
        ("GET /*/b", False),
        ("GET /a***", False),
        ("G* /a", False),
        ("** /a", False),
        ("GET /\u00e4", False),
        ("GET /\n", False),
        ("", False),
    ],
)
def test_an_operation_has_one_form(text: str, is_one: bool) -> None:
    """What is no operation is refused where it is written, and never matches by surprise."""
    assert is_operation(text) is is_one


@pytest.mark.parametrize(
    ("wide", "narrow", "does"),
    [
        (None, None, True),
        (None, ["GET /a"], True),
        (["GET /**"], None, False),
        (["GET /**"], [], True),
        ([], ["GET /a"], False),
        (["GET /a"], ["GET /a"], True),
        (["GET /a"], ["GET /a*"], False),
        (["GET /a*"], ["GET /ab*"], True),
        (["GET /a*"], ["GET /a/*"], False),
        (["GET /a*"], ["GET /ab**"], False),
        (["GET /a**"], ["GET /a/b*", "GET /a"], True),
        (["GET /a", "PUT /b**"], ["PUT /b/c", "GET /a"], True),
        (["* /a"], ["GET /a", "* /a"], True),
        (["GET /a"], ["* /a"], False),
    ],
)
def test_one_list_of_operations_covers_another(
    wide: list[str] | None, narrow: list[str] | None, does: bool
) -> None:
    """Each of the narrower is within one of the wider; nothing is covered by two together."""
    assert covers(wide, narrow) is does


NAMES = st.text("ab/", max_size=5)
PATTERNS = st.builds(
    lambda method, name, stars: f"{method} {name}{stars}",
    st.sampled_from(["GET", "PUT", "*"]),
    NAMES.filter(bool),
    st.sampled_from(["", "*", "**"]),
)


@given(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3), st.sampled_from(["GET", "PUT"]), NAMES)
def test_what_is_covered_allows_nothing_more(
    wide: list[str], narrow: list[str], method: str, name: str
) -> None:
    """For every request: what the narrower leaves, the wider leaves."""
    operation = Operation(method, name)
    if covers(wide, narrow) and left(*narrow).leaves(operation):
        assert left(*wide).leaves(operation)


# -- What a decision makes of it

ENDS = Wall(NOW + MINUTE)
NOTES = """
[services.notes]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:8004"
"""
"""A second service on tools-1, of protocol tcp; the wiki is http here."""
HTTP = POLICY.replace('target = "127.0.0.1:8001"', 'target = "127.0.0.1:8001"\nprotocol = "http"')
SNAPSHOT = snapshot(policy_of(HTTP + NOTES))


def decided(
    service: str, child: Narrowing | None, operation: Operation | None = None, at: int = NOW
) -> Decision:
    asked = replace(request(service), narrowing=child, operation=operation)
    return decide(asked, SNAPSHOT, fresh(at))


GET = Operation("GET", "/api/pages")
ALL = Narrowing(frozenset({"wiki", "notes"}), None, ENDS)
SOME = replace(ALL, operations=("GET /api/**",))


@pytest.mark.parametrize(
    ("service", "child", "operation", "reason"),
    [
        ("wiki", ALL, None, None),
        ("wiki", ALL, GET, None),
        ("notes", ALL, None, None),
        ("tickets", ALL, None, Reason.NARROWED),
        ("wiki", SOME, None, None),
        ("wiki", SOME, GET, None),
        ("wiki", SOME, Operation("PUT", "/api/pages"), Reason.NARROWED),
        ("wiki", SOME, Operation("GET", "/admin"), Reason.NARROWED),
        ("notes", SOME, None, Reason.NARROWED),
        ("wiki", replace(ALL, services=frozenset()), None, Reason.NARROWED),
        ("vault", replace(ALL, services=frozenset({"vault"})), None, Reason.MISBOUND),
        ("nothing", ALL, None, Reason.NO_GRANT),
    ],
)
def test_a_child_is_refused_what_was_narrowed_away(
    service: str, child: Narrowing, operation: Operation | None, reason: Reason | None
) -> None:
    """Service by service; request by request where they can be told apart, and else the whole stream."""
    assert decided(service, child, operation).reason is reason


@pytest.mark.parametrize("judge", [decide, redecide], ids=["new", "live"])
def test_a_child_ends_at_its_time(judge: Callable[[Request, Snapshot, Moment], Decision]) -> None:
    """New streams and live ones, and not a moment earlier."""
    asked = replace(request(), narrowing=ALL)
    reasons = [judge(asked, SNAPSHOT, fresh(at)).reason for at in (ENDS - 1, ENDS)]
    assert reasons == [None, Reason.NARROWED]
    assert next_boundary(asked, SNAPSHOT, fresh()) == ENDS


@given(
    st.sampled_from(["wiki", "notes", "tickets", "vault", "nothing"]),
    st.frozensets(st.sampled_from(["wiki", "notes", "tickets", "vault"])),
    st.none() | st.lists(PATTERNS, max_size=2).map(tuple),
    st.none() | st.builds(Operation, st.sampled_from(["GET", "PUT"]), st.sampled_from(["/a", "/ab", "/a/b"])),
)
def test_a_child_never_has_more_than_its_session(
    service: str,
    services: frozenset[str],
    operations: tuple[str, ...] | None,
    operation: Operation | None,
) -> None:
    """Whatever its narrowing says: what the policy refuses to the session it refuses to the child."""
    if decided(service, Narrowing(services, operations, ENDS), operation).allowed:
        assert decided(service, None, operation).allowed
