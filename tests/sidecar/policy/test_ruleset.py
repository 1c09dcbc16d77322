import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from sidecar.policy.asked import operation_of
from sidecar.policy.match import HTTP, MCP, TCP, Effect, HttpPattern, Rule
from sidecar.policy.operation import Operation
from sidecar.policy.ruleset import RuleSet
from tests.sidecar.policy.language import Draw, whole_policy_of
from tests.sidecar.policy.test_match import SMALL, http, tools

AGENTS = ("a", "b")
SERVICES = ("s", "t")
SEGMENTS = ("g", "h")


def rule(line: int, expires: int | None = None, **names: tuple[str, ...]) -> Rule:
    return Rule(
        effect=Effect.GRANT,
        id=f"r{line}",
        agents=frozenset(names.get("agents", ("a",))),
        services=frozenset(names.get("services", ())),
        segments=frozenset(names.get("segments", ())),
        expires=None if expires is None else Wall(expires),
        line=line,
    )


@pytest.mark.parametrize(
    ("expires", "longest"),
    [
        ((None, None, None), 1),
        ((5, None, 9), 2),
        ((5, 5, 5), 1),
        ((5, 7, 6), 2),
        ((5, 7, 7), 2),
        ((5, 6, 7), 3),
        ((5, 7, None), 3),
    ],
)
def test_the_rule_that_lasts_longest_speaks(expires: tuple[int | None, ...], longest: int) -> None:
    """Named by service or by segment alike; the first in the file among equals."""
    services = [rule(n, until, services=("s",)) for n, until in enumerate(expires, 1)]
    segments = [rule(n, until, segments=("g",)) for n, until in enumerate(expires, 1)]
    for rules in (services, segments, [services[0], segments[1], services[2]], [*segments[:2], services[2]]):
        assert RuleSet(rules).longest("a", "s", "g") is rules[longest - 1]


def test_the_first_of_equals_on_one_line_speaks() -> None:
    """An inline list of rules has one line for all of them."""
    by_segment, by_service = rule(1, segments=("g",)), rule(2, services=("s",))
    assert RuleSet([by_segment, by_service]).longest("a", "s", "g") is by_segment


subsets = st.sets(st.sampled_from(AGENTS + SERVICES + SEGMENTS))
drawn = st.lists(st.tuples(subsets, st.none() | st.integers(0, 3)), max_size=6)


@given(drawn, st.sampled_from(AGENTS), st.sampled_from(SERVICES), st.sampled_from(SEGMENTS))
def test_the_index_finds_what_a_search_finds(
    rows: list[tuple[set[str], int | None]], agent: str, service: str, segment: str
) -> None:
    """Whatever the rules, the index agrees with looking at each of them."""
    rules = [
        rule(
            line,
            expires,
            agents=tuple(names & set(AGENTS)),
            services=tuple(names & set(SERVICES)),
            segments=tuple(names & set(SEGMENTS)),
        )
        for line, (names, expires) in enumerate(rows, 1)
    ]
    matching = [one for one in rules if one.matches(agent, service, segment)]
    assert RuleSet(rules).longest(agent, service, segment) is longest(matching)


def longest(rules: list[Rule]) -> Rule | None:
    """The first of those that last longest."""
    return min(rules, key=lambda one: (one.expires is not None, -(one.expires or 0)), default=None)


@pytest.mark.parametrize("seed", range(200))
def test_the_index_finds_requests_as_a_search_does(seed: int) -> None:
    """Paths, names, methods, conditions: looking at each pattern of each rule finds the same."""
    draw = Draw(seed)
    world = draw.world()
    policy = whole_policy_of(world.text)
    for _ in range(10):
        ask = draw.ask(world)
        if (service := policy.services.get(ask.service)) is None:
            continue
        operation = operation_of(ask.call, service, policy) if ask.call else None
        for rules in (policy.grants, policy.denies):
            for segment in policy.segments:
                meant = (ask.agent, service.name, segment)
                found = rules.longest(*meant, service.protocol, operation)
                matching = [one for one in rules.rules if one.matches(*meant)]
                assert found is longest([one for one in matching if one.meets(service.protocol, operation)])


def requests(
    number: int, *patterns: HttpPattern, effect: Effect = Effect.GRANT, expires: int | None = None
) -> Rule:
    end = None if expires is None else Wall(expires)
    who, where = frozenset({"a"}), frozenset({"s"})
    return Rule(effect, f"r{number}", who, where, frozenset(), end, number, http=patterns)


def test_of_conditions_those_that_hold_speak() -> None:
    """Rules of one path that differ in their conditions are all looked at."""
    strict, open_ = requests(1, http("GET", "/a", SMALL)), requests(2, http("GET", "/a"), expires=5)
    rules = RuleSet([strict, open_])
    small = Operation("GET", "/a", frozenset({SMALL.name}))
    assert rules.longest("a", "s", "g", HTTP, small) is strict
    assert rules.longest("a", "s", "g", HTTP, Operation("GET", "/a")) is open_
    assert [one.name for one in rules.conditions("s", "g", HTTP, small)] == [SMALL.name]
    assert list(rules.conditions("s", "g", HTTP, Operation("GET", "/b"))) == []


@pytest.mark.parametrize(
    ("method", "path", "nearest"),
    [
        ("POST", "/a/b", 2),
        ("POST", "/a", 1),
        ("GET", "/a/b/c", 3),
        ("GET", "/z", 1),
    ],
)
def test_the_nearest_rule_has_the_path_or_is_any(method: str, path: str, nearest: int) -> None:
    """The deepest pattern of the path, by whatever method; else one that opens the stream. Never another agent's."""
    rules = [
        requests(1, http("GET", "/a")),
        requests(2, http("GET", "/a/b")),
        requests(3, http("POST", "/a/**")),
        requests(4, http("PUT", "/z")),
    ]
    other = [
        Rule(
            Effect.GRANT,
            "x",
            frozenset({"b"}),
            rules[0].services,
            frozenset(),
            None,
            9,
            http=(http("PUT", "/**"),),
        )
    ]
    found = RuleSet([*rules[:3], *other]).nearest("a", "s", "g", HTTP, Operation(method, path))
    assert found is rules[nearest - 1]
    assert RuleSet(other).nearest("a", "s", "g", HTTP, Operation(method, path)) is None
    assert RuleSet(rules).nearest("a", "s", "g", TCP, Operation(method, path)) is None


def test_a_rule_reaches_what_it_is_about_under_some_condition() -> None:
    """Whole rules reach everything."""
    rules = RuleSet([requests(1, http("GET", "/a", SMALL))])
    assert rules.reaches("a", "s", "g", HTTP, Operation("GET", "/a"))
    assert not rules.reaches("a", "s", "g", HTTP, Operation("GET", "/b"))
    assert not rules.reaches("b", "s", "g", HTTP, Operation("GET", "/a"))
    assert RuleSet([rule(1, services=("s",))]).reaches("a", "s", "g", MCP, Operation("x", ""))


def test_a_deny_of_some_requests_leaves_the_stream() -> None:
    """And a grant of some opens it."""
    deny, grant = requests(1, http("*", "/**"), effect=Effect.DENY), requests(2, http("GET", "/"))
    assert RuleSet([deny]).longest("a", "s", "g", HTTP) is None
    assert RuleSet([deny]).longest("a", "s", "g", HTTP, Operation("GET", "/")) is deny
    assert RuleSet([grant]).longest("a", "s", "g", HTTP) is grant
    assert RuleSet([grant]).longest("a", "s", "g", MCP) is None


def test_a_rule_of_tools_is_of_no_other_method() -> None:
    """What the index does not know is for whole rules."""
    one = Rule(Effect.GRANT, "r", frozenset({"a"}), frozenset({"s"}), frozenset(), None, 1, mcp=(tools("*"),))
    rules = RuleSet([one])
    assert rules.longest("a", "s", "g", MCP, Operation("tools/call", "x")) is one
    assert rules.longest("a", "s", "g", MCP, Operation("completion/complete", "x")) is None
    assert rules.longest("a", "s", "g", TCP, Operation("tools/call", "x")) is None
