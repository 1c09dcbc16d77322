from itertools import product

import pytest
from hypothesis import given

from pki.clock import DAY, Wall
from sidecar.policy.decide import Request, decide
from sidecar.policy.effective import Permission, day, permissions
from sidecar.policy.model import OperationClass, Policy
from sidecar.snapshot import Moment, Restrictions, Snapshot
from tests.sidecar.policy.reference import World, worlds
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
    assert first == Permission("clerk", "tickets", "any", OperationClass.MUTATE, "action", "all-actions", 39)


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
