import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import Wall
from sidecar.policy.match import Effect, Rule
from sidecar.policy.ruleset import RuleSet

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
    ("one", "matches"),
    [
        (rule(1, services=("s",)), True),
        (rule(1, segments=("g",)), True),
        (rule(1, services=("t",)), False),
        (rule(1, segments=("h",)), False),
        (rule(1, agents=("b",), services=("s",)), False),
        (rule(1, agents=(), services=("s",)), False),
        (rule(1), False),
    ],
)
def test_a_rule_matches_its_agents_on_its_services_and_segments(one: Rule, matches: bool) -> None:
    """Empty lists match nothing."""
    assert one.matches("a", "s", "g") is matches
    assert RuleSet([one]).longest("a", "s", "g") is (one if matches else None)


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
    expected = min(
        matching, key=lambda one: (one.expires is not None, -(one.expires or 0), one.line), default=None
    )
    assert RuleSet(rules).longest(agent, service, segment) is expected


def test_a_rule_counts_the_pairs_it_names() -> None:
    """What the cap on the size of an index counts."""
    assert rule(1, agents=("a", "b"), services=("s", "t"), segments=("g",)).entries == 6
