from dataclasses import replace

import pytest
from hypothesis import given

from pki.clock import SECOND
from sidecar.policy.match import Rule
from sidecar.policy.model import Policy, Service
from sidecar.policy.needless import cover_of, why_never
from sidecar.policy.ruleset import RuleSet
from tests.sidecar.policy.reference import World, worlds
from tests.sidecar.policy.world import POLICY, policy_of

BARE = POLICY.partition("[[grants]]")[0]


def rules_of(policy: Policy) -> dict[str, Rule]:
    return {rule.id: rule for rule in (*policy.grants.rules, *policy.denies.rules)}


def grant(name: str, rest: str) -> str:
    return f'[[grants]]\nid = "{name}"\n{rest}\n'


@pytest.mark.parametrize(
    ("rest", "why"),
    [
        ('agents = ["clerk"]\nservices = ["wiki"]', ""),
        ('agents = ["clerk"]\nsegments = ["action"]', ""),
        ('services = ["wiki"]', "it names no agents"),
        ('agents = ["clerk"]', "it names no services and no segments"),
        ('agents = ["clerk"]\nsegments = ["empty"]', "its segments have no services"),
        ('agents = ["idler"]\nservices = ["wiki"]', "its agents may run on no node"),
        ('agents = ["clerk"]\nservices = ["nowhere"]', "its services stand beside no node"),
        ('agents = ["clerk", "idler"]\nservices = ["nowhere", "wiki"]', ""),
    ],
)
def test_a_rule_that_no_stream_can_match_says_why(rest: str, why: str) -> None:
    """Empty lists, empty segments, agents and services without a node."""
    more = """
        [segments.empty]
        class = "read"
        stale-after = "1m"
        [agents.idler]
        uid = 7
        [services.nowhere]
        segment = "action"
        target = "h:1"
        """
    policy = policy_of(BARE + more + grant("x", rest))
    assert why_never(rules_of(policy)["x"], policy) == why


CLERK = 'agents = ["clerk"]\n'


@pytest.mark.parametrize(
    ("rules", "covered"),
    [
        ([CLERK + 'services = ["wiki"]', CLERK + 'services = ["tickets"]'], {}),
        ([CLERK + 'services = ["wiki"]', CLERK + 'services = ["wiki", "vault"]'], {"r0": "r1"}),
        ([CLERK + 'services = ["wiki"]', CLERK + 'segments = ["retrieval"]'], {"r1": "r0"}),
        ([CLERK + 'services = ["wiki"]', CLERK + 'segments = ["retrieval", "action"]'], {"r0": "r1"}),
        ([CLERK + 'services = ["wiki"]', CLERK + 'services = ["wiki"]'], {"r1": "r0"}),
        (
            [CLERK + 'services = ["wiki"]', 'agents = ["clerk", "researcher"]\nservices = ["wiki"]'],
            {"r0": "r1"},
        ),
        ([CLERK + 'services = ["wiki"]', CLERK + 'services = ["wiki"]\nexpires = 2027-01-01'], {"r1": "r0"}),
        ([CLERK + 'services = ["wiki"]\nexpires = 2027-01-01', CLERK + 'segments = ["retrieval"]'], {"r0": "r1"}),
        ([CLERK + 'services = ["wiki"]', CLERK + 'segments = ["retrieval", "action"]\nexpires = 2027-01-01'], {}),
    ],
)  # fmt: skip
def test_a_rule_that_another_contains_is_covered(rules: list[str], covered: dict[str, str]) -> None:
    """The cover is at least as wide and lasts at least as long; of two equal ones the first is it."""
    policy = policy_of(BARE + "".join(grant(f"r{n}", rest) for n, rest in enumerate(rules)))
    cover = cover_of(policy)
    found = {name: cover(rule) for name, rule in rules_of(policy).items()}
    assert {name: by.id for name, by in found.items() if by} == covered


def test_a_deny_covers_a_grant_and_never_the_reverse() -> None:
    """What is denied anyway needs no grant; what is granted may well be denied."""
    both = CLERK + 'services = ["wiki"]'
    policy = policy_of(BARE + grant("yes", both) + grant("no", both).replace("grants", "denies"))
    cover, rules = cover_of(policy), rules_of(policy)
    assert cover(rules["yes"]) is rules["no"]
    assert cover(rules["no"]) is None


@given(worlds)
def test_a_covered_rule_can_go(world: World) -> None:
    """Taking it away changes no verdict for anyone at any time."""
    policy = policy_of(world.text)
    cover = cover_of(policy)
    for rule in rules_of(policy).values():
        if rule.agents and cover(rule):
            rest = replace(policy, grants=without(policy.grants, rule), denies=without(policy.denies, rule))
            assert verdicts(rest) == verdicts(policy)


@given(worlds)
def test_a_rule_that_never_matches_can_go(world: World) -> None:
    """Taking it away changes no verdict for anyone who has a place to be."""
    policy = policy_of(world.text)
    for rule in rules_of(policy).values():
        if why_never(rule, policy):
            rest = replace(policy, grants=without(policy.grants, rule), denies=without(policy.denies, rule))
            assert verdicts(rest) == verdicts(policy)


def without(rules: RuleSet, rule: Rule) -> RuleSet:
    return RuleSet(one for one in rules.rules if one is not rule)


def verdicts(policy: Policy) -> list[bool]:
    """What the rules say to each agent and service that has a place, second by second."""

    def said(rules: RuleSet, agent: str, service: Service, at: int) -> bool:
        return any(
            rule.matches(agent, service.name, service.segment.name)
            for rule in rules.rules
            if rule.expires is None or at * SECOND < rule.expires
        )

    return [
        said(policy.grants, agent.name, service, at) and not said(policy.denies, agent.name, service, at)
        for agent in policy.agents.values()
        for service in policy.services.values()
        if agent.nodes and service.nodes
        for at in range(8)
    ]
