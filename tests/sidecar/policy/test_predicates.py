import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.policy.operation import HttpCall, Json, McpCall
from sidecar.policy.predicates import Condition, Demands, JsonPath, Predicate, Reach, Scalar, Subject

GRANT, DENY = Reach.EVERY, Reach.SOME


def query(reach: Reach, values: list[str], **tests: Any) -> bool:
    """Whether the tests hold for a query that has ``x`` with these values."""
    call = HttpCall("GET", "/", (("y", "5"), *(("x", value) for value in values)))
    return Condition(Predicate(Subject.QUERY, "x", Demands(**tests), reach)).holds(call)


def argument(reach: Reach, value: Any, path: str = "$.x", **tests: Any) -> bool:
    call = McpCall("tools/call", "t", {"x": value})
    return Condition(Predicate(Subject.ARGUMENT, path, Demands(**tests), reach)).holds(call)


def one_of(*values: Scalar) -> dict[str, Any]:
    return {"one_of": values}


@pytest.mark.parametrize(
    ("values", "in_grant", "in_deny"),
    [
        (["me"], True, True),
        (["you"], False, False),
        (["me", "you"], False, True),
        (["you", "me"], False, True),
        (["me", "me"], True, True),
        ([], False, False),
    ],
)
def test_a_repeated_name_gains_nothing(values: list[str], in_grant: bool, in_deny: bool) -> None:
    """Parameter pollution: whichever value the tool takes, a grant has seen each, and a deny any."""
    assert query(GRANT, values, one_of=("me",)) is in_grant
    assert query(DENY, values, one_of=("me",)) is in_deny


@pytest.mark.parametrize(
    ("value", "known", "same"),
    [
        (1, 1, True),
        (1.0, 1, True),
        (1, 1.0, True),
        ("1", 1, False),
        (1, "1", False),
        (True, 1, False),
        (1, True, False),
        (True, True, True),
        (False, 0, False),
        (False, False, True),
        ("true", True, False),
        ("a", "a", True),
        ("a", "A", False),
        (None, "null", False),
        ([1], 1, False),
        ({}, "", False),
        (math.nan, 1, False),
        (2**64, 2**64, True),
        (2**53 + 1, float(2**53), False),
    ],
    ids=repr,
)
def test_equality_is_jsons(value: Any, known: Scalar, same: bool) -> None:
    """1 is not "1" and not true, whatever Python thinks."""
    assert argument(GRANT, value, one_of=(known,)) is same
    assert argument(DENY, value, one_of=(known,)) is same


@pytest.mark.parametrize(
    ("value", "holds"),
    [(0, True), (10, True), (0.5, True), (-1, False), (11, False), (10.0001, False), (10**400, False)],
    ids=["0", "10", "0.5", "-1", "11", "10.0001", "of 400 digits"],
)
def test_a_range_has_both_its_ends(value: Any, holds: bool) -> None:
    """For whole numbers of any length, and for others."""
    assert argument(GRANT, value, low=0, high=10) is holds
    assert argument(DENY, value, low=0, high=10) is holds


@pytest.mark.parametrize("value", ["5", True, None, [5], {}, math.nan, math.inf, -math.inf])
def test_what_is_no_number_cannot_be_compared(value: Any) -> None:
    """A lenient tool may take it for one: no grant trusts it, every deny stops it."""
    for low, high in ((0, None), (None, 10), (0, 10)):
        assert not argument(GRANT, value, low=low, high=high)
        assert argument(DENY, value, low=low, high=high)


@pytest.mark.parametrize(
    ("text", "is_five"),
    [("5", True), ("5.0", True), ("5.00", True), ("4", False), ("50", False), ("-5", False), ("0", False)],
)
def test_a_query_has_decimal_numbers(text: str, is_five: bool) -> None:
    """Its values are text; min and max read digits."""
    assert query(GRANT, [text], low=5, high=5) is is_five
    assert query(DENY, [text], low=5, high=5) is is_five


@pytest.mark.parametrize(
    "text", ["", "05", "5e0", "+5", " 5", "5_0", "0x5", "\u0665", "5.", ".5", "nan", "5" * 31, "5\n", "--5"]
)
def test_a_query_has_one_spelling_of_a_number(text: str) -> None:
    """What another reader may take for another number is none."""
    assert not query(GRANT, [text], low=-(10**40), high=10**40)
    assert query(DENY, [text], low=6, high=6)


def test_a_prefix_is_of_text() -> None:
    """Nothing else begins with anything."""
    assert query(GRANT, ["docs/a"], prefix="docs/")
    assert not query(GRANT, ["/docs/"], prefix="docs/")
    assert not argument(DENY, ["docs/"], prefix="docs/")


def test_all_tests_hold_for_one_value() -> None:
    """Two values that fulfil half of a condition each do not fulfil it."""
    assert not query(DENY, ["3", "20"], low=5, high=10)
    assert query(DENY, ["3", "20", "7"], low=5, high=10)
    assert not argument(GRANT, "docs", one_of=("docs", "papers"), prefix="p")


@pytest.mark.parametrize("reach", Reach)
def test_present_and_absent_are_opposites(reach: Reach) -> None:
    """With no value, with one, with several."""
    absent = Condition(Predicate(Subject.QUERY, "x", None, reach))
    for values in ([], [""], ["a", "b"]):
        call = HttpCall("GET", "/", tuple(("x", value) for value in values))
        assert query(reach, values) is bool(values)
        assert absent.holds(call) is not bool(values)


ITEMS: list[Json] = [{"id": "me"}, {"id": "you"}, {}]


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [
        ({"y": 1}, "$.x.y", [1]),
        ({"y": 1}, "$.x", [{"y": 1}]),
        ({"y": {"z": None}}, "$.x.y.z", [None]),
        ({}, "$.x.y", []),
        (1, "$.x.y", []),
        ([7, 8], "$.x[1]", [8]),
        ([7, 8], "$.x[2]", []),
        ({"1": 7}, "$.x[1]", []),
        ([7, 8], "$.x[*]", [7, 8]),
        ([], "$.x[*]", []),
        ([[1], [2, 3]], "$.x[*][0]", [1, 2]),
        ({"a b": 1}, '$.x["a b"]', [1]),
        ({"*": 1}, '$.x["*"]', [1]),
        ({"é": 1}, '$.x["\\u00e9"]', [1]),
    ],
)
def test_a_path_leads_to_values(value: Any, path: str, found: list[Any]) -> None:
    """Members, indexes, each element, and odd names in quotes; nothing where it leads nowhere."""
    assert JsonPath.parse(path).values({"x": value}) == found


@pytest.mark.parametrize(
    ("value", "in_grant", "in_deny"),
    [
        ([{"id": "me"}], True, True),
        ([{"id": "me"}, {"id": "me"}], True, True),
        (ITEMS[:2], False, True),
        ([ITEMS[0], {}], False, True),
        ([{}], False, False),
        ([], False, False),
        ({"id": "me"}, False, False),
        ("me", False, False),
    ],
)
def test_each_element_counts(value: Any, in_grant: bool, in_deny: bool) -> None:
    """An element without the rest of the path is one that a grant has not seen to be right."""
    assert argument(GRANT, value, "$.x[*].id", one_of=("me",)) is in_grant
    assert argument(DENY, value, "$.x[*].id", one_of=("me",)) is in_deny


def test_absent_of_each_element_is_of_all() -> None:
    """One that has it is enough to have it."""
    absent = Condition(Predicate(Subject.ARGUMENT, "$.x[*].id", None, GRANT))
    assert absent.holds(McpCall("tools/call", "t", {"x": [{}, {}]}))
    assert absent.holds(McpCall("tools/call", "t", {}))
    assert not absent.holds(McpCall("tools/call", "t", {"x": ITEMS}))


def test_a_condition_is_of_its_own_protocol() -> None:
    """Of the other's calls none holds, not even that something is absent."""
    http, mcp = HttpCall("GET", "/", (("$.x", "5"),)), McpCall("tools/call", "t", {"x": 5})
    for tests in (Demands(), None):
        assert not Condition(Predicate(Subject.ARGUMENT, "$.x", tests, GRANT)).holds(http)
        assert not Condition(Predicate(Subject.QUERY, "x", tests, GRANT)).holds(mcp)


@pytest.mark.parametrize(
    ("tests", "name"),
    [
        (Demands(high=100), 'every query "x" max 100'),
        (Demands(low=0, high=1.5), 'every query "x" min 0 max 1.5'),
        (Demands(one_of=("b", "a", "b")), 'every query "x" in ["a","b"]'),
        (Demands(one_of=(1,)), 'every query "x" in [1]'),
        (Demands(one_of=(True,)), 'every query "x" in [true]'),
        (Demands(one_of=("1",)), 'every query "x" in ["1"]'),
        (Demands(prefix='"'), 'every query "x" prefix "\\""'),
        (Demands(), 'every query "x" present'),
        (None, 'no query "x"'),
    ],
)
def test_a_name_tells_all_of_a_predicate(tests: Demands | None, name: str) -> None:
    """So that what a record says can be read, and two that differ in a type are two."""
    assert Predicate(Subject.QUERY, "x", tests, GRANT).name == name
    assert Condition(Predicate(Subject.QUERY, "x", tests, GRANT)).name == name


def test_a_predicate_in_a_hint_is_short() -> None:
    """An agent reads it."""
    assert str(Predicate(Subject.QUERY, "limit", Demands(high=100), GRANT)) == "limit max 100"
    assert str(Predicate(Subject.ARGUMENT, "$.x", None, GRANT)) == "$.x absent"


def test_a_name_in_a_grant_is_none_in_a_deny() -> None:
    """They are different questions."""
    assert Predicate(Subject.QUERY, "x", Demands(), DENY).name == 'some query "x" present'


@pytest.mark.parametrize(
    "path", ["", "$", "x", ".x", "$x", "$.", "$.1", "$[", "$[-1]", "$[01]", "$[x]", '$["]', '$["\\x"]', "$.x y", "$" + ".x" * 17, "$." + "x" * 300]
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    """So that a condition never asks for something else than its author thinks."""
    with pytest.raises(LocalError, match=r"path|too long"):
        JsonPath.parse(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "id"]), inner, max_size=2)
    ),
    max_leaves=8,
)
any_tests = st.none() | st.builds(
    Demands,
    one_of=st.none() | st.lists(st.booleans() | st.integers() | st.text(max_size=2), min_size=1).map(tuple),
    prefix=st.none() | st.text(max_size=2),
    low=st.none() | st.integers(),
    high=st.none() | st.floats(allow_nan=False),
)


@given(json_values, st.sampled_from(["$.x", "$.x.id", "$.x[0]", "$.x[*]", "$.x[*].id"]), any_tests)
def test_any_arguments_have_an_answer(value: Any, path: str, tests: Demands | None) -> None:
    """No call raises, and what holds for every value holds for some; but for what cannot be compared."""
    call = McpCall("tools/call", "t", {"x": value})
    every, some = (
        Condition(Predicate(Subject.ARGUMENT, path, tests, reach)).holds(call) for reach in (GRANT, DENY)
    )
    assert some or not every


@given(st.text())
def test_any_text_is_a_path_or_refused(text: str) -> None:
    """There is one error."""
    with suppress(LocalError):
        assert JsonPath.parse(text).text == text
