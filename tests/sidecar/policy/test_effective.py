from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import DAY, Wall
from sidecar.policy.decide import Request, decide
from sidecar.policy.effective import Basis, Permission, day, permissions
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.match import Effect, Rule
from sidecar.policy.model import Policy
from sidecar.policy.operation import Operation
from sidecar.policy.slices import Pattern
from sidecar.snapshot import Moment, Restrictions, Snapshot
from tests.sidecar.policy.reference import World, worlds
from tests.sidecar.policy.requests import http_requests, mcp_requests, policies
from tests.sidecar.policy.world import NOW, POLICY, policy_of, roster, session

EXPIRY = 'id = "read-wiki"'
DENY = """
[[denies]]
id = "not-yet"
agents = ["researcher"]
services = ["wiki"]
"""


def rows(text: str, now: Wall = NOW) -> list[str]:
    """Each permission as one line."""
    return [
        " ".join((one.agent, one.service, one.operation, one.rule, *one.conditions))
        for one in permissions(policy_of(text), now)
    ]


def test_each_permission_names_all_that_it_rests_on() -> None:
    """Class and segment are the service's, the rule is the grant with its line."""
    [first, *_] = permissions(policy_of(POLICY), NOW, ["clerk"])
    assert first == Permission(
        "clerk", "tickets", "any", "mutate", "action", "all-actions", 39, (), first.basis
    )
    assert (first.basis.part.service.name, first.basis.pattern) == ("tickets", None)


def test_rows_are_sorted_and_a_deny_takes_its_away() -> None:
    """The clerk has the vault by its segment, and not by the deny."""
    assert rows(POLICY) == [
        "clerk tickets any all-actions",
        "researcher tickets any all-actions",
        "researcher vault any all-actions",
        "researcher wiki any read-wiki",
    ]


@pytest.mark.parametrize(
    ("grant", "deny", "row"),
    [
        ("", "", "researcher wiki any read-wiki"),
        ("1970-01-20", "", "researcher wiki any read-wiki until 1970-01-20"),
        ("1970-01-12", "", None),
        ("", "1970-01-12", "researcher wiki any read-wiki"),
        ("", "1970-01-20", "researcher wiki any read-wiki from 1970-01-20 (deny not-yet)"),
        ("1970-01-20", "1970-01-20", None),
        (
            "1970-01-21",
            "1970-01-20",
            "researcher wiki any read-wiki from 1970-01-20 (deny not-yet) until 1970-01-21",
        ),
        ("", "never", None),
    ],
)
def test_rules_that_end_are_conditions(grant: str, deny: str, row: str | None) -> None:
    """What has ended is gone, and what ends is said with its day; a deny that outlasts the grant leaves nothing."""
    text = POLICY.replace(EXPIRY, f"{EXPIRY}\nexpires = {grant}" if grant else EXPIRY)
    if deny:
        text += DENY + (f"expires = {deny}\n" if deny != "never" else "")
    assert [one for one in rows(text) if "wiki" in one] == ([row] if row else [])


def test_who_or_what_is_nowhere_may_do_nothing() -> None:
    """Without a node there is no session, and no tool."""
    assert not [one for one in rows(POLICY.replace('nodes = ["agents-1"]', "nodes = []")) if "resea" in one]
    assert not [one for one in rows(POLICY.replace('nodes = ["tools-1"]', "nodes = []")) if "wiki" in one]
    assert list(permissions(policy_of(POLICY), NOW, ["nobody"])) == []


def test_a_rules_time_is_a_date_where_it_is_midnight() -> None:
    """As it was written."""
    assert (day(Wall(20 * DAY)), day(Wall(1_500_000))) == ("1970-01-21", "1970-01-01 00:00:01 UTC")


@given(worlds)
def test_a_permission_is_what_a_decision_allows(world: World) -> None:
    """For every agent and service, in a mesh where all is well: no row too many, and none too few."""
    policy = policy_of(world.text)
    now = Wall(world.now * 1_000_000)
    permitted = {
        (one.agent, one.service)
        for one in permissions(policy, now)
        if not any(condition.startswith("from") for condition in one.conditions)
    }
    assert permitted == _allowed(policy, now)


def _allowed(policy: Policy, now: Wall) -> set[tuple[str, str]]:
    snapshot = Snapshot(policy, "", roster("n1", "n2"), Restrictions(), "")
    moment = Moment(now, now, now)
    return {
        (agent.name, service.name)
        for agent, service in product(policy.agents.values(), policy.services.values())
        if agent.nodes
        and service.nodes
        and decide(
            Request(
                session(agent.name, min(agent.nodes)), service.name, min(service.nodes), (), Wall(now + 1)
            ),
            snapshot,
            moment,
        ).allowed
    }


# Requests


SHOP = """\
[services.shop]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:1"
protocol = "http"
[[services.shop.operations]]
methods = ["*"]
path = "/admin/**"
segment = "high-risk"
[services.crm]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:2"
protocol = "mcp"
[[services.crm.operations]]
tools = ["delete_*"]
segment = "high-risk"
[agents.a]
nodes = ["agents-1"]
uid = 1
[[grants]]
id = "g"
agents = ["a"]
"""


def shop(rest: str) -> list[str]:
    """What agent a may do: class, segment and conditions after the operation."""
    policy = load_policy((SHOP + rest).encode(), "policy.toml", enforced=LANGUAGE)
    return [
        f"{one.service} {one.operation}: "
        + ", ".join((one.operation_class, one.segment, one.rule, *one.conditions))
        for one in permissions(policy, NOW)
    ]


DENY_EXPORT = """
[[denies]]
id = "d"
agents = ["a"]
services = ["shop"]
http = [{ methods = ["GET"], path = "/api/export/**" }]
"""


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (
            'services = ["shop"]',
            [
                "shop * /admin/**: by method, high-risk, g",
                "shop any: by method, action, g, outside * /admin/**",
            ],
        ),
        ('segments = ["action"]', ["shop any: by method, action, g, outside * /admin/**"]),
        (
            'segments = ["high-risk"]',
            ["crm tools delete_*: mutate, high-risk, g", "shop * /admin/**: by method, high-risk, g"],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["GET"], path = "/admin/users" }]',
            ["shop GET /admin/users: read, high-risk, g"],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["POST"], path = "/*/users" }]',
            [
                "shop POST /*/users within * /admin/**: mutate, high-risk, g",
                "shop POST /*/users: mutate, action, g, outside * /admin/**",
            ],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["GET"], path = "/api/**", query = { n = { max = 9 } } }]',
            ["shop GET /api/**: read, action, g, where n max 9"],
        ),
        (
            'services = ["crm"]\nmcp = [{ tools = ["get_*"] }, { resources = ["docs://**"] }]',
            ["crm tools get_*: read, retrieval, g", "crm resources docs://**: read, retrieval, g"],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["*"], path = "/api/**" }]' + DENY_EXPORT,
            ["shop * /api/**: by method, action, g, except GET /api/export/** (deny d)"],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["GET"], path = "/api/export/x" }]' + DENY_EXPORT,
            [],
        ),
        (
            'services = ["shop"]\nhttp = [{ methods = ["GET"], path = "/x" }]' + DENY_EXPORT,
            ["shop GET /x: read, action, g"],
        ),
        (
            'services = ["crm"]\nhttp = [{ methods = ["GET"], path = "/x" }]\nmcp = [{ prompts = ["hello"] }]',
            ["crm prompts hello: read, retrieval, g"],
        ),
    ],
)
def test_requests_are_told_apart_by_what_rules_and_services_say_of_them(rest: str, said: list[str]) -> None:
    """The part of the service, then what the grant leaves of it, then what a deny takes out."""
    assert shop(rest) == said


def test_what_a_wider_grant_covers_for_as_long_is_not_shown() -> None:
    """A second grant of less adds nothing, unless it lasts longer; of two that are equal one is shown."""
    some = 'services = ["crm"]\nmcp = [{ tools = ["get_*"] }]\n'
    more = '[[grants]]\nid = "h"\nagents = ["a"]\nservices = ["crm"]\nmcp = [{ tools = ["get_page"] }]\n'
    assert shop(some + more) == ["crm tools get_*: read, retrieval, g"]
    assert shop("expires = 2090-01-01\n" + some + more) == [
        "crm tools get_*: read, retrieval, g, until 2090-01-01",
        "crm tools get_page: read, retrieval, h",
    ]
    whole = '[[grants]]\nid = "w"\nagents = ["a"]\nservices = ["crm"]\n'
    assert shop(some + whole) == [
        "crm tools delete_*: mutate, high-risk, w",
        "crm any: read, retrieval, w, outside tools delete_*",
    ]
    assert shop(some + some.replace("services", '[[grants]]\nid = "h"\nagents = ["a"]\nservices', 1)) == [
        "crm tools get_*: read, retrieval, g"
    ]


def test_a_segment_that_is_only_observed_is_open_to_every_agent() -> None:
    """Whoever reads what a policy permits must see that."""
    observed = '[segments.action]\nmode = "observe"\n'
    assert shop(f'services = ["crm"]\nmcp = [{{ tools = ["get_*"] }}]\n{observed}') == [
        "crm tools get_*: read, retrieval, g",
        "shop any: by method, action, , outside * /admin/**, observed, not enforced",
    ]


@given(policies(), st.data())
def test_a_permission_is_what_a_decision_allows_of_requests(policy: Policy, data: st.DataObject) -> None:
    """For every request: some row is about it exactly when it would be allowed, or passed in an observed segment."""
    now = Wall(5_000_000)
    service = data.draw(st.sampled_from(("http", "mcp")))
    operation = data.draw(http_requests if service == "http" else mcp_requests)
    names = sorted({name for rule in policy.grants.rules + policy.denies.rules for name in conditions(rule)})
    operation = replace(
        operation, holds=frozenset(data.draw(st.sets(st.sampled_from(names))) if names else ())
    )
    asked = Request(session("a"), service, "tools-1", (), Wall(now + 1), operation=operation)
    moment = Moment(now, now, now)
    decision = decide(asked, Snapshot(policy, "", roster("agents-1", "tools-1"), Restrictions(), ""), moment)
    rows = [one for one in permissions(policy, now) if one.service == service]
    assert decision.allowed == any(is_about(one.basis, operation) for one in rows)


def conditions(rule: Rule) -> set[str]:
    patterns: list[Pattern] = [*rule.http, *rule.mcp]
    return {name for pattern in patterns for name in pattern.conditions}


def is_about(basis: Basis, operation: Operation) -> bool:
    """Whether a permission allows this request, read from what it was made of."""
    part, protocol = basis.part, basis.part.service.protocol
    if part.service.special(operation) is not part.special:
        return False
    if basis.grant is None:
        return True
    if basis.denied_until or (basis.pattern and not basis.pattern.matches(operation, Effect.GRANT)):
        return False
    return not any(deny.meets(protocol, operation) for deny, _ in basis.denies)
