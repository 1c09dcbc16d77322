import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from sidecar.policy.narrowing import Narrowing, covers, is_operation
from sidecar.policy.operation import Operation


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
