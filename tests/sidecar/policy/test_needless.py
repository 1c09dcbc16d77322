from dataclasses import replace

import pytest
from hypothesis import given

from pki.clock import SECOND
from sidecar.policy.decide import decide
from sidecar.policy.match import Rule
from sidecar.policy.model import Policy, Service
from sidecar.policy.needless import cover_of, hidden_operations, why_never, why_never_asked
from sidecar.policy.ruleset import RuleSet
from tests.sidecar.policy.language import Draw, whole_policy_of
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


# Requests


@pytest.mark.parametrize("part", range(4))
def test_what_is_called_needless_can_go_in_all_of_the_language(part: int) -> None:
    """Without a rule that is covered or never matches, every request has the verdict it had."""
    for seed in range(part * 150, (part + 1) * 150):
        draw = Draw(seed)
        world = draw.world()
        read = world.snapshot()
        policy = read.policy
        assert policy is not None
        cover = cover_of(policy)
        needless = [rule for rule in rules_of(policy).values() if why_never(rule, policy) or cover(rule)]
        for rule in needless:
            rest = replace(policy, grants=without(policy.grants, rule), denies=without(policy.denies, rule))
            for _ in range(20):
                ask = draw.ask(world)
                before, after = (
                    decide(ask.request(one), replace(read, policy=one), ask.moment) for one in (policy, rest)
                )
                assert (before.allowed, before.would_deny) == (after.allowed, after.would_deny), (
                    seed,
                    rule.id,
                )


HTTP_BASE = """
[services.wiki]
segment = "retrieval"
nodes = ["n"]
target = "h:1"
protocol = "http"
[services.crm]
segment = "action"
nodes = ["n"]
target = "h:2"
protocol = "mcp"
[agents.clerk]
nodes = ["n"]
uid = 1
"""
WIKI, CRM = CLERK + 'services = ["wiki"]\n', CLERK + 'services = ["crm"]\n'


def gets(*paths: str, query: str = "{}") -> str:
    rows = [f'{{ methods = ["GET"], path = "{path}", query = {query} }}' for path in paths]
    return f"http = [{', '.join(rows)}]"


@pytest.mark.parametrize(
    ("rules", "covered"),
    [
        ([WIKI + gets("/api/**"), WIKI + gets("/api/x")], {"r1": "r0"}),
        ([WIKI + gets("/api/x"), WIKI + gets("/other/**")], {}),
        ([WIKI + gets("/api/**"), WIKI], {"r0": "r1"}),
        ([WIKI + gets("/api/**"), CLERK + 'segments = ["retrieval"]\n' + gets("/**")], {"r0": "r1"}),
        ([CLERK + 'segments = ["retrieval"]\n' + gets("/a"), WIKI + gets("/**")], {"r0": "r1"}),
        ([WIKI + gets("/a"), WIKI + gets("/a", query="{ x = { max = 5 } }")], {"r1": "r0"}),
        ([WIKI + gets("/a", "/b"), WIKI + gets("/a")], {"r1": "r0"}),
        ([CRM + 'mcp = [{ tools = ["get_*"] }]', CRM + 'mcp = [{ tools = ["get_a", "get_b"] }]'], {"r1": "r0"}),
        ([CRM + 'mcp = [{ tools = ["get_*"] }]', CRM + 'mcp = [{ prompts = ["get_a"] }]'], {}),
        ([CRM + 'mcp = [{ resources = ["docs://**"] }]', CRM + 'mcp = [{ resources = ["docs://a/*"] }]'], {"r1": "r0"}),
    ],
)  # fmt: skip
def test_a_rule_about_requests_is_covered_by_a_wider_one(rules: list[str], covered: dict[str, str]) -> None:
    """Pattern by pattern; a whole rule covers all of them."""
    policy = whole_policy_of(HTTP_BASE + "".join(grant(f"r{n}", rest) for n, rest in enumerate(rules)))
    cover = cover_of(policy)
    found = {name: cover(rule) for name, rule in rules_of(policy).items()}
    assert {name: by.id for name, by in found.items() if by} == covered


def test_a_deny_of_some_requests_covers_no_grant() -> None:
    """The grant opens the stream, which a deny of requests leaves."""
    text = (
        HTTP_BASE
        + grant("yes", WIKI + gets("/a"))
        + grant("no", WIKI + gets("/**")).replace("grants", "denies")
    )
    policy = whole_policy_of(text)
    assert cover_of(policy)(rules_of(policy)["yes"]) is None


def test_a_rule_in_a_segment_that_does_not_speak_its_protocol_never_matches() -> None:
    """What is named by segment is looked at with what stands in it."""
    policy = whole_policy_of(HTTP_BASE + grant("x", CLERK + 'segments = ["action"]\n' + gets("/a")))
    assert why_never(rules_of(policy)["x"], policy) == "its services do not speak http"


def operations(*rows: str) -> str:
    entries = "".join(
        f"[[services.{row.partition(' ')[0]}.operations]]\n{row.partition(' ')[2]}\n" for row in rows
    )
    return HTTP_BASE.replace("[agents", entries + "[agents")


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        ('wiki methods = ["*"]\npath = "/a/**"', 'wiki methods = ["GET"]\npath = "/a/b"', True),
        ('wiki methods = ["GET"]\npath = "/a/**"', 'wiki methods = ["*"]\npath = "/a/b"', False),
        ('wiki methods = ["GET"]\npath = "/a"', 'wiki methods = ["GET"]\npath = "/a/**"', False),
        ('crm tools = ["get_*"]', 'crm tools = ["get_a"]', True),
        ('crm tools = ["get_a"]', 'crm tools = ["get_*"]', False),
    ],
)
def test_an_entry_behind_a_wider_one_never_counts(first: str, second: str, hidden: bool) -> None:
    """The first that names a request does."""
    policy = whole_policy_of(operations(*(f'{row}\nclass = "read"' for row in (first, second))))
    found = [pair for service in policy.services.values() for pair in hidden_operations(service)]
    assert [(later.line > earlier.line) for later, earlier in found] == [True] * hidden


@pytest.mark.parametrize(
    ("agents", "services", "start", "why"),
    [
        ('"clerk"', '"crm"', "retrieval", ""),
        ("", '"crm"', "retrieval", "it names no agents"),
        ('"clerk"', "", "retrieval", "it names no services"),
        ('"clerk"', '"wiki"', "high-risk", "service wiki has nothing in segment action"),
        ('"clerk"', '"crm"', "high-risk", "no grant lets its agents into segment high-risk"),
    ],
)
def test_an_escalation_that_nobody_can_ask_for_says_why(
    agents: str, services: str, start: str, why: str
) -> None:
    """Names that are missing, a service elsewhere, an agent that is not where it would start from."""
    escalation = (
        f'[[escalations]]\nid = "up"\nagents = [{agents}]\nservices = [{services}]\n'
        f'from = "{start}"\nto = "action"\nmax-ttl = "15m"\n'
    )
    policy = whole_policy_of(HTTP_BASE + grant("r", WIKI + gets("/a")) + escalation)
    assert why_never_asked(policy.escalations["up"], policy) == why
