from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import DAY, MINUTE, SECOND, Wall
from sidecar.policy import explain as module
from sidecar.policy.decide import Request, decide
from sidecar.policy.explain import Account, Explanation, explain
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.match import Effect
from sidecar.policy.model import Policy
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LeaseInForce,
    Leases,
    LockInForce,
    Moment,
    Restrictions,
    RevocationInForce,
    Snapshot,
    Target,
)
from tests.sidecar.policy.reference import World, worlds
from tests.sidecar.policy.requests import http_requests, mcp_requests, policies
from tests.sidecar.policy.world import (
    NOW,
    POLICY,
    SESSION,
    fresh,
    later,
    policy_of,
    request,
    roster,
    session,
    snapshot,
)

HTTP = """\
[services.shop]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:1"
protocol = "http"
[[services.shop.operations]]
methods = ["*"]
path = "/admin/**"
segment = "high-risk"
[agents.researcher]
nodes = ["agents-1"]
uid = 1
[agents.clerk]
nodes = ["agents-1"]
uid = 2
[[grants]]
id = "buy"
agents = ["researcher"]
services = ["shop"]
http = [{ methods = ["GET"], path = "/api/**", query = { limit = { max = 100 } } }]
[[grants]]
id = "old"
agents = ["researcher"]
segments = ["action"]
expires = 1970-01-02
[[grants]]
id = "of-clerk"
agents = ["clerk"]
services = ["shop"]
"""


def shop(operation: Operation | None, text: str = HTTP) -> Explanation:
    policy = load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
    asked = replace(request("shop"), operation=operation)
    return explain(asked, Snapshot(policy, "", roster("agents-1", "tools-1"), Restrictions(), ""), fresh())


def get(path: str, *holds: str) -> Operation:
    return Operation("GET", path, frozenset(holds))


LIMIT = 'every query "limit" max 100'


def rules(account: Account) -> dict[str, str]:
    """Why each candidate speaks or not."""
    return {one.rule.id: one.why for one in account.candidates}


def test_every_step_up_to_the_answer_is_told() -> None:
    """In the order of decisions, each with what it looked at."""
    [account] = explain(request(), snapshot(policy_of(POLICY)), later(fresh(), 3 * SECOND)).accounts
    assert [(step.name, step.answer, step.why) for step in account.steps] == [
        ("locked", "ok", "none of all, segment:retrieval, service:wiki, agent:researcher, node:agents-1, node:tools-1 is locked"),
        ("revoked", "ok", "none of all, segment:retrieval, service:wiki, agent:researcher, node:agents-1, node:tools-1 is revoked"),
        ("expired", "ok", "the certificates under it last until 1970-01-12 14:46:40 UTC"),
        ("misbound", "ok", "researcher may run on agents-1, wiki stands beside tools-1"),
        ("known", "ok", "the policy has agent researcher and service wiki"),
        ("stale", "ok", "complete 3 s ago; retrieval allows 5m"),
        ("narrowed", "ok", "no child session"),
        ("denied", "ok", "no deny matches"),
        ("granted", "allow", "grant read-wiki"),
    ]  # fmt: skip
    assert (account.steps[-1].rule, account.steps[-1].line) == ("read-wiki", 34)


def restricted(**restrictions: Any) -> Snapshot:
    return snapshot(policy_of(POLICY), Restrictions(**restrictions))


LOCK = LockInForce("l", Target("agent", "researcher"), Wall(NOW + 1), "bob", "stop")
LEASED = POLICY + (
    '[[escalations]]\nid = "more"\nagents = ["clerk"]\nfrom = "action"\nto = "retrieval"\nservices = ["wiki"]\n'
    'max-ttl = "1h"\napprovals = 1\napprovers = ["role:approver"]\n'
)
PASSES = {
    "locked": "the lock l on agent:researcher has ended",
    "denied": "deny no-wiki has ended",
    "granted": "grant read-wiki has ended",
    "leased": "lease l has ended",
    "narrowed": "left to this child session",
}
ENDED_DENY = (
    '[[denies]]\nid = "no-wiki"\nagents = ["researcher"]\nservices = ["wiki"]\nexpires = 1970-01-02\n'
)


@pytest.mark.parametrize("name", PASSES)
def test_what_has_ended_is_told_from_what_never_was(name: str) -> None:
    """A lock that ran out, a deny, a grant, a lease; and a child session that was left this."""
    text = LEASED + (ENDED_DENY if name == "denied" else "")
    if name in ("granted", "leased"):
        text = text.replace('id = "read-wiki"', 'id = "read-wiki"\nexpires = 1970-01-02')
    policy = load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
    asked, moment = request(), fresh()
    held: list[LeaseInForce] = []
    if name == "leased":
        asked = request(agent="clerk")
        held = [LeaseInForce("l", SESSION, "more", frozenset({"wiki"}), None, Wall(NOW))]
    if name == "narrowed":
        asked = replace(asked, narrowing=Narrowing(frozenset({"wiki"}), None, Wall(NOW + DAY)))
        policy = load_policy(HTTP.replace("shop", "wiki").encode(), "policy.toml", enforced=LANGUAGE)
        asked = replace(asked, operation=get("/api/x", LIMIT))
    locks = [replace(LOCK, until=Wall(NOW))] if name == "locked" else []
    world = Snapshot(policy, "", roster("agents-1", "tools-1"), Restrictions(locks), "", Leases(held))
    [account] = explain(asked, world, moment).accounts
    [step] = [step for step in account.steps if step.name == name]
    assert (step.answer, step.why) == ("no" if name in ("granted", "leased") else "ok", PASSES[name])


@pytest.mark.parametrize(
    ("world", "moment", "name", "reason"),
    [
        (restricted(locks=[LOCK]), fresh(), "locked", Reason.LOCKED),
        (restricted(revocations=[RevocationInForce("r", Target("node", "tools-1"), "b")]), fresh(), "revoked", Reason.REVOKED),
        (restricted(), fresh(NOW + DAY), "expired", Reason.EXPIRED),
        (restricted(), later(fresh(), 6 * MINUTE), "stale", Reason.STALE),
        (snapshot(None), fresh(), "known", Reason.NO_GRANT),
    ],
)  # fmt: skip
def test_the_step_that_refuses_is_the_last(
    world: Snapshot, moment: Moment, name: str, reason: Reason
) -> None:
    """With the very words that the agent gets."""
    found = explain(request(), world, moment)
    [account] = found.accounts
    last = account.steps[-1]
    assert (last.name, last.answer, last.why) == (name, "deny", found.decision.hint)
    assert found.decision.reason is reason


def test_staleness_of_a_segment_that_passes_it_is_said() -> None:
    """A segment that is only observed goes on past what would refuse it."""
    text = '[segments.retrieval]\nmode = "observe"\n' + POLICY.replace('services = ["wiki"]', "services = []")
    policy = load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
    found = explain(request(), snapshot(policy), later(fresh(), 6 * MINUTE))
    [account] = found.accounts
    answers = {step.name: step.answer for step in account.steps if step.answer not in ("ok", "no")}
    assert answers == {"stale": "observed", "granted otherwise": "observed"}
    assert (found.decision.allowed, found.decision.would_deny) == (True, Reason.STALE)


def test_each_rule_is_taken_apart() -> None:
    """Whom it names, what it names, how long, which requests, and which predicate does not hold."""
    [account] = shop(get("/api/x")).accounts
    assert rules(account) == {
        "old": "matches, and has ended",
        "buy": "not about this: limit max 100",
        "of-clerk": "not about this: agent researcher",
    }
    buy = next(one for one in account.candidates if one.rule.id == "buy")
    assert [(check.what, check.holds) for check in buy.checks] == [
        ("agent researcher", True),
        ("service shop", True),
        ("GET /api/**", True),
        ("  limit max 100", False),
    ]
    [account] = shop(get("/api/x", LIMIT)).accounts
    assert (
        rules(account)["buy"] == "matches; old speaks for it"
        or rules(account)["buy"] == "matches, and speaks"
    )


def test_the_rule_that_speaks_comes_first_and_the_others_say_why_not() -> None:
    """Of two that match, the one that lasts longest."""
    more = '[[grants]]\nid = "whole"\nagents = ["researcher"]\nservices = ["shop"]\nexpires = 1990-01-01\n'
    [account] = shop(get("/api/x", LIMIT), HTTP + more).accounts
    assert [(one.rule.id, one.why) for one in account.candidates[:2]] == [
        ("buy", "matches, and speaks"),
        ("whole", "matches; buy speaks for it"),
    ]
    assert [(check.what, check.holds) for check in account.candidates[1].checks] == [
        ("agent researcher", True),
        ("service shop", True),
        ("in force until 1990-01-01", True),
        ("everything that it does", True),
    ]


def test_a_request_of_another_kind_and_another_protocol_is_said() -> None:
    """A pattern that does not fit, and a rule about requests that this service does not have."""
    more = '[[grants]]\nid = "tools"\nagents = ["researcher"]\nsegments = ["action"]\nmcp = [{ tools = ["*"] }]\n'
    [account] = shop(get("/other"), HTTP + more).accounts
    assert rules(account)["buy"] == "not about this: GET /api/**"
    assert rules(account)["tools"] == "not about this: http requests"
    [admin] = shop(get("/admin/x"), HTTP + more).accounts
    assert (admin.segment, rules(admin)["buy"]) == ("high-risk", "not about this: GET /api/**")


def test_a_stream_has_an_account_for_each_segment_of_its_service() -> None:
    """It opens where any of them lets some request through."""
    partial = '[[denies]]\nid = "not-x"\nagents = ["researcher"]\nservices = ["shop"]\nhttp = [{ methods = ["GET"], path = "/x" }]\n'
    found = shop(None, HTTP + partial)
    assert [account.segment for account in found.accounts] == ["action", "high-risk"]
    buy = next(one for one in found.accounts[0].candidates if one.rule.id == "buy")
    assert buy.checks[-1].what == "some requests: the stream opens"
    deny = next(one for one in found.accounts[0].candidates if one.rule.id == "not-x")
    assert deny.checks[-1].what == "some requests: the stream is left alone"
    assert found.decision.allowed


def test_only_the_nearest_of_very_many_rules_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """With how many more there are."""
    monkeypatch.setattr(module, "MAX_RULES", 1)
    [account] = shop(get("/api/x", LIMIT)).accounts
    assert ([one.rule.id for one in account.candidates], account.others) == (["buy"], 2)


def check_account(account: Account) -> None:
    last, decision = account.steps[-1], account.decision
    if last.answer == "allow":
        assert decision.allowed
        assert decision.would_deny or (last.rule, last.line) == (decision.rule, decision.line)
    elif last.answer == "deny":
        assert (decision.allowed, decision.rule, decision.hint) == (False, last.rule, last.why)
    else:
        assert (last.answer, decision.allowed) == ("observed", True)
    speaking = {one.rule.effect: one.rule.id for one in account.candidates if one.speaks}
    if decision.reason is Reason.DENIED:
        assert speaking[Effect.DENY] == decision.rule
    if decision.allowed and decision.would_deny is None and last.name == "granted":
        assert speaking[Effect.GRANT] == decision.rule
    assert all(one.matches for one in account.candidates if one.speaks)


@given(worlds)
def test_the_explanation_of_a_stream_is_its_decision(world: World) -> None:
    """Whatever is locked, revoked, stale or misplaced."""
    found = explain(world.asked, world.snapshot, world.moment)
    assert found.decision == decide(world.asked, world.snapshot, world.moment)
    for account in found.accounts:
        check_account(account)


@given(policies(), st.data())
def test_the_explanation_of_a_request_is_its_decision(policy: Policy, data: st.DataObject) -> None:
    """Rule by rule: the one that it names is the one that speaks."""
    service = data.draw(st.sampled_from(("http", "mcp")))
    operation = data.draw(st.none() | (http_requests if service == "http" else mcp_requests))
    at = Wall(5 * SECOND)
    asked = Request(session("a"), service, "tools-1", (), Wall(at + 1), operation=operation)
    world = Snapshot(policy, "", roster("agents-1", "tools-1"), Restrictions(), "")
    found = explain(asked, world, Moment(at, at, at))
    assert found.decision == decide(asked, world, Moment(at, at, at))
    assert found.decision in [account.decision for account in found.accounts]
    for account in found.accounts:
        check_account(account)
