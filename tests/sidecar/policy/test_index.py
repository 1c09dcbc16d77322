import time

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.index import Leaf, NameIndex, PathIndex, RequestIndex, keep_longest
from sidecar.policy.match import HTTP, MCP, TCP, Effect
from sidecar.policy.operation import Operation
from sidecar.policy.patterns import NamePattern, PathPattern
from tests.sidecar.policy.test_match import SMALL, about, http, resources, rule, tools

path_patterns = st.builds(
    lambda parts, rest: PathPattern.parse("/" + "/".join(parts) + rest),
    st.lists(st.sampled_from(["a", "b", "*", ""]), max_size=3),
    st.sampled_from(["", "/**"]),
)
paths = (
    st.lists(st.sampled_from(["a", "b", ""]), max_size=4).map(lambda parts: "/" + "/".join(parts)) | st.text()
)


@given(st.lists(path_patterns, max_size=6), paths)
def test_the_tree_of_paths_finds_each_pattern_that_matches(patterns: list[PathPattern], path: str) -> None:
    """And no other."""
    index: PathIndex[str] = PathIndex()
    for pattern in patterns:
        index.place(pattern)["GET"] = pattern.text
    found = {text for values in index.walk(path) for text in values.values()}
    # "/a/" with nothing after it and "/a/" as a pattern are one place.
    assert found == {pattern.text for pattern in patterns if pattern.matches(path)}


name_patterns = st.text("ab*", min_size=1, max_size=4).filter(lambda text: "**" not in text).map(NamePattern)


@given(st.lists(name_patterns, max_size=6), st.text("ab", max_size=5))
def test_the_index_of_names_finds_each_pattern_that_matches(patterns: list[NamePattern], name: str) -> None:
    """And no other."""
    index: NameIndex[list[str]] = NameIndex(list)
    for pattern in patterns:
        index.place(pattern).append(pattern.text)
    assert {text for texts in index.walk(name) for text in texts} == {
        pattern.text for pattern in patterns if pattern.matches(name)
    }


def test_a_leaf_has_rules_by_agent_and_condition() -> None:
    """Those whose conditions all hold, and of two alike the one that lasts longest."""
    leaf, short, long, strict = Leaf(), rule(expires=5), rule(), rule(expires=7)
    for one in (short, long):
        leaf.enter(one)
    leaf.enter(strict, (SMALL,))
    assert list(leaf.rules("a", frozenset())) == [long]
    assert list(leaf.rules("a", frozenset({SMALL.name}))) == [long, strict]
    assert list(leaf.rules("b", frozenset({SMALL.name}))) == []
    assert list(leaf.conditions) == [SMALL.name]
    assert (leaf.any_rule("a"), leaf.any_rule("b")) == (long, None)


def test_any_rule_of_a_leaf_may_be_one_with_conditions() -> None:
    """It is for hints."""
    leaf, strict = Leaf(), rule()
    leaf.enter(strict, (SMALL,))
    assert leaf.any_rule("a") is strict


def test_the_rule_that_is_there_stays_while_it_lasts_as_long() -> None:
    """The first in the file among equals."""
    rules = {"x": rule(expires=5)}
    for one, stays in ((rule(expires=5), True), (rule(expires=4), True), (rule(expires=6), False)):
        held = rules["x"]
        keep_longest(rules, "x", one)
        assert (rules["x"] is held) is stays


def test_a_name_with_two_readings_finds_every_deny_and_no_grant() -> None:
    """Whatever its patterns say."""
    for effect, count in ((Effect.GRANT, 0), (Effect.DENY, 1)):
        index = RequestIndex(effect)
        index.enter(about(mcp=resources("docs://a"), effect=effect))
        index.enter(about(mcp=tools("x"), effect=effect))
        leaves = index.leaves(MCP, Operation("resources/read", "docs://b/../a"))
        assert [len(list(leaf.rules("a", frozenset()))) for leaf in leaves] == [1] * count


def test_requests_of_other_protocols_find_nothing() -> None:
    """A method that MCP does not have, a request in a tcp stream."""
    index = RequestIndex(Effect.GRANT)
    index.enter(about(http("GET", "/**"), tools("*")))
    assert index.leaves(MCP, Operation("GET", "/a")) == []
    assert index.leaves(TCP, Operation("GET", "/a")) == []
    assert index.leaves(HTTP, Operation("tools/call", "x")) == []
    assert (
        len(index.leaves(HTTP, Operation("GET", "/a"))) == len(index.near(HTTP, Operation("PUT", "/a"))) == 1
    )
    assert (
        len(index.leaves(MCP, Operation("tools/call", "x")))
        == len(index.near(MCP, Operation("tools/call", "x")))
        == 1
    )


def test_a_look_up_costs_the_same_among_many() -> None:
    """All of one service: the walk is down the request's own path."""
    index: PathIndex[str] = PathIndex()
    names: NameIndex[list[str]] = NameIndex(list)
    for number in range(50_000):
        index.place(PathPattern.parse(f"/api/p{number}/**"))["GET"] = "x"
        names.place(NamePattern(f"tool_{number}_*"))
    before = time.process_time()
    for number in range(1_000):
        assert len(index.walk(f"/api/p{number}/x/y")) == 1
        assert len(names.walk(f"tool_{number}_x")) == 1
    assert time.process_time() - before < 2
