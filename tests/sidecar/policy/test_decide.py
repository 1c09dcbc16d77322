import os
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.clock import MINUTE, SECOND, Wall
from pki.spiffe import SpiffeId
from sidecar.policy.case import Question
from sidecar.policy.decide import (
    MAX_HINT_CHARS,
    Decision,
    Horizon,
    Request,
    decide,
    decide_until,
    judge,
    next_boundary,
    redecide,
    steps_of,
)
from sidecar.policy.model import Policy, Verdict
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LeaseInForce,
    Leases,
    LockInForce,
    Moment,
    NodeMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
)
from tests.sidecar.policy import told
from tests.sidecar.policy.language import Draw, whole_policy_of
from tests.sidecar.policy.reference import AGENTS, SERVICES, World, reference, sessions, targets, worlds
from tests.sidecar.policy.world import (
    NOW,
    POLICY,
    SESSION,
    fresh,
    later,
    policy_of,
    request,
    session,
    snapshot,
)

MESH = policy_of(POLICY)


def lock(target: Target, until: int = NOW + MINUTE, message: str = "") -> LockInForce:
    return LockInForce("lock-1", target, Wall(until), "alice", message)


def revocation(target: Target) -> RevocationInForce:
    return RevocationInForce("revocation-1", target, "alice")


def judged(asked: Request, read: Snapshot, moment: Moment) -> Decision:
    """The decision without what it says of segment and class."""
    return replace(decide(asked, read, moment), segment="", operation_class=None)


# One rule after the other


def test_a_grant_allows_and_is_named() -> None:
    """An allowed stream can be traced to a line of the policy file."""
    assert judged(request(), snapshot(MESH), fresh()) == Decision(Verdict.ALLOW, rule="read-wiki", line=34)


def test_a_grant_on_a_segment_allows_its_services() -> None:
    """Services come and go; the rule says what kind may be reached."""
    decision = decide(request("tickets", "tools-2", agent="clerk"), snapshot(MESH), fresh())
    assert (decision.allowed, decision.rule) == (True, "all-actions")


def test_a_deny_wins_over_any_grant() -> None:
    """The clerk has a grant on the vault's segment, and a deny on the vault."""
    decision = judged(request("vault", "tools-2", agent="clerk"), snapshot(MESH), fresh())
    assert decision == Decision(
        Verdict.DENY,
        Reason.DENIED,
        "no-vault",
        44,
        "deny no-vault keeps agent clerk and vault apart",
    )


def test_what_no_rule_mentions_is_refused() -> None:
    """The hint names the absence: there is no rule to name."""
    decision = judged(request(agent="clerk"), snapshot(MESH), fresh())
    assert decision == Decision(Verdict.DENY, Reason.NO_GRANT, hint="no grant lets agent clerk reach wiki")


@pytest.mark.parametrize(
    ("policy", "asked", "hint"),
    [
        (None, request(), "this node has no policy yet"),
        (MESH, request("vualt"), "the policy has no service 'vualt'"),
        (MESH, request(agent="stranger"), "the policy has no agent stranger"),
    ],
    ids=["policy", "service", "agent"],
)
def test_what_the_policy_does_not_know_is_refused(policy: Policy | None, asked: Request, hint: str) -> None:
    """Also when the node is stale: there is nothing whose staleness could be judged."""
    for moment in (fresh(), replace(fresh(), as_of=None)):
        assert judged(asked, snapshot(policy), moment) == Decision(Verdict.DENY, Reason.NO_GRANT, hint=hint)


@pytest.mark.parametrize(
    ("asked", "nodes", "hint", "line"),
    [
        (
            replace(request(), session=session(node="agents-2")),
            ("agents-2", "tools-1"),
            "agent researcher may not run on node agents-2",
            16,
        ),
        (
            request(tool_node="tools-2"),
            ("agents-1", "tools-2"),
            "service wiki is not beside node tools-2",
            1,
        ),
        (request(), ("tools-1",), "node agents-1 is not in the roster", 0),
        (request(), ("agents-1",), "node tools-1 is not in the roster", 0),
        (
            replace(request(), session=SpiffeId.for_node("example.org", "agents-1")),
            ("agents-1", "tools-1"),
            "spiffe://example.org/node/agents-1 is no agent's session",
            0,
        ),
    ],
    ids=["agent-elsewhere", "service-elsewhere", "agent-node-gone", "tool-node-gone", "no-session"],
)
def test_a_stream_outside_its_place_is_misbound(
    asked: Request, nodes: tuple[str, ...], hint: str, line: int
) -> None:
    """Roster and policy say where sessions and services are; a certificate alone does not."""
    members = {name: NodeMember(name, (), "", (), ()) for name in nodes}
    decision = judged(asked, replace(snapshot(MESH), roster=Roster(members, {})), fresh())
    assert decision == Decision(Verdict.DENY, Reason.MISBOUND, "", line, hint)


def test_a_lock_names_itself_and_its_message() -> None:
    """Whoever is stopped learns by whom, and what to do about it."""
    target = Target("segment", "retrieval")
    locked = snapshot(MESH, Restrictions([lock(target, message="ask in #ops")]))
    assert judged(request(), locked, fresh()) == Decision(
        Verdict.DENY, Reason.LOCKED, "lock-1", 0, "segment:retrieval is locked by alice: ask in #ops"
    )
    silent = snapshot(MESH, Restrictions([lock(target)]))
    assert judged(request(), silent, fresh()).hint == "segment:retrieval is locked by alice"


def test_a_revocation_names_itself() -> None:
    """The statement can be looked up by its id."""
    revoked = snapshot(MESH, Restrictions(revocations=[revocation(Target("session", SESSION))]))
    assert judged(request(), revoked, fresh()) == Decision(
        Verdict.DENY, Reason.REVOKED, "revocation-1", 0, f"session:{SESSION} is revoked by alice"
    )


@pytest.mark.parametrize(
    "target",
    [
        Target("all"),
        Target("agent", "researcher"),
        Target("session", SESSION),
        Target("id", f"spiffe://example.org/agent/researcher/agents-1/{SESSION}"),
        Target("node", "agents-1"),
        Target("node", "tools-1"),
        Target("service", "wiki"),
        Target("segment", "retrieval"),
        Target("serial", "ab"),
        Target("serial", "cd"),
    ],
    ids=str,
)
def test_restrictions_hit_every_name_under_a_stream(target: Target) -> None:
    """Both nodes, the service and its segment, the agent, the session, each certificate's lineage."""
    locked = snapshot(MESH, Restrictions([lock(target)]))
    assert decide(request(), locked, fresh()).reason is Reason.LOCKED
    revoked = snapshot(MESH, Restrictions(revocations=[revocation(target)]))
    assert decide(request(), revoked, fresh()).reason is Reason.REVOKED


def test_a_node_named_like_an_agent_is_no_agent() -> None:
    """A lock on agent X does not hit a node X, and no grant for agent X lets node X in."""
    asked = replace(request(), session=SpiffeId.for_node("example.org", "researcher"))
    locked = snapshot(MESH, Restrictions([lock(Target("agent", "researcher"))]))
    assert decide(asked, locked, fresh()).reason is Reason.MISBOUND


# Order


Fix = Callable[[Request, Snapshot, Moment], tuple[Request, Snapshot, Moment]]

LADDER: list[tuple[Reason, Fix]] = [
    (Reason.LOCKED, lambda r, s, m: (r, with_restrictions(s, locks=()), m)),
    (Reason.REVOKED, lambda r, s, m: (r, with_restrictions(s, revocations=()), m)),
    (Reason.EXPIRED, lambda r, s, m: (replace(r, not_after=Wall(m.now + 1)), s, m)),
    (Reason.MISBOUND, lambda r, s, m: (replace(r, tool_node="tools-2"), s, m)),
    (Reason.STALE, lambda r, s, m: (r, s, replace(m, as_of=m.now))),
    (
        Reason.DENIED,
        lambda r, s, m: (r, replace(s, policy=policy_of(POLICY.replace('["clerk"]', "[]", 1))), m),
    ),
]


def with_restrictions(one: Snapshot, **changes: tuple[()]) -> Snapshot:
    restrictions = one.restrictions
    locks = changes.get("locks", restrictions.locks)
    return replace(
        one, restrictions=Restrictions(locks, changes.get("revocations", restrictions.revocations))
    )


def test_the_reason_is_the_first_that_applies() -> None:
    """With everything wrong at once, each thing mended uncovers the next, in the order of the closed list."""
    asked = replace(request("vault", "tools-1", agent="clerk"), not_after=NOW)
    restrictions = Restrictions([lock(Target("all"))], [revocation(Target("agent", "clerk"))])
    read, moment = snapshot(MESH, restrictions), replace(fresh(), as_of=None)
    for reason, mend in LADDER:
        assert judged(asked, read, moment).reason is reason
        asked, read, moment = mend(asked, read, moment)
    assert judged(asked, read, moment) == Decision(Verdict.ALLOW, rule="all-actions", line=39)


# Time


@pytest.mark.parametrize(
    ("wall", "floor", "locked"),
    [(0, MINUTE - 1, True), (0, MINUTE, False), (9 * MINUTE, MINUTE - 1, True)],
    ids=["before", "at-the-end", "wall-ahead"],
)
def test_a_lock_ends_by_the_floor_alone(wall: int, floor: int, locked: bool) -> None:
    """Setting the wall clock ahead opens nothing."""
    read = snapshot(MESH, Restrictions([lock(Target("all"), until=NOW + MINUTE)]))
    moment = Moment(Wall(NOW + wall), Wall(NOW + floor), Wall(NOW + 9 * MINUTE))
    assert (decide(request(), read, moment).reason is Reason.LOCKED) is locked


@pytest.mark.parametrize(
    ("wall", "floor", "denied"),
    [(0, MINUTE - 1, True), (0, MINUTE, False), (9 * MINUTE, MINUTE - 1, True)],
    ids=["before", "at-the-end", "wall-ahead"],
)
def test_a_deny_expires_by_the_floor_alone(wall: int, floor: int, denied: bool) -> None:
    """A deny restricts, so it ends as locks do."""
    read = snapshot(expiring('id = "no-vault"', NOW + MINUTE))
    moment = Moment(Wall(NOW + wall), Wall(NOW + floor), Wall(NOW + 9 * MINUTE))
    decision = decide(request("vault", "tools-2", agent="clerk"), read, moment)
    assert (decision.reason is Reason.DENIED) is denied


@pytest.mark.parametrize(
    ("wall", "floor", "allowed"),
    [(MINUTE - 1, 0, True), (MINUTE, 0, False), (0, MINUTE - 1, True), (0, MINUTE, False)],
)
def test_a_grant_expires_by_the_later_clock(wall: int, floor: int, allowed: bool) -> None:
    """A grant permits: neither clock set back revives it. The refusal names the grant that was."""
    read = snapshot(expiring('id = "read-wiki"', NOW + MINUTE))
    decision = judged(request(), read, Moment(Wall(NOW + wall), Wall(NOW + floor), NOW))
    expired = Decision(Verdict.DENY, Reason.NO_GRANT, "read-wiki", 34, "grant read-wiki has expired")
    assert decision == (Decision(Verdict.ALLOW, rule="read-wiki", line=34) if allowed else expired)


@pytest.mark.parametrize(("wall", "floor"), [(1, 0), (0, 1)])
def test_a_certificate_expires_by_the_later_clock(wall: int, floor: int) -> None:
    """Its last instant no longer counts."""
    asked = replace(request(), not_after=Wall(NOW + 1))
    assert decide(asked, snapshot(MESH), fresh()).allowed
    moment = Moment(Wall(NOW + wall), Wall(NOW + floor), NOW)
    refused = decide(asked, snapshot(MESH), moment)
    assert refused.reason is Reason.EXPIRED
    assert refused.hint == "a certificate of the session or of a node under it has expired"


@pytest.mark.parametrize(
    ("service", "node", "refused_at", "cut_at"),
    [
        ("wiki", "tools-1", 5 * MINUTE, None),
        ("tickets", "tools-1", MINUTE, None),
        ("vault", "tools-2", 15 * SECOND, 30 * SECOND),
    ],
)
def test_staleness_refuses_at_the_limit_and_cuts_at_twice_where_asked(
    service: str, node: str, refused_at: int, cut_at: int | None
) -> None:
    """New streams by the segment's stale-after; live ones only where on-stale is cut."""
    asked, read = request(service, node), snapshot(MESH)
    assert decide(asked, read, later(fresh(), refused_at - 1)).allowed
    assert decide(asked, read, later(fresh(), refused_at)).reason is Reason.STALE
    assert redecide(asked, read, later(fresh(), refused_at)).allowed
    if cut_at is None:
        assert redecide(asked, read, later(fresh(), 59 * MINUTE)).allowed
    else:
        assert redecide(asked, read, later(fresh(), cut_at - 1)).allowed
        assert redecide(asked, read, later(fresh(), cut_at)).reason is Reason.STALE


def test_without_any_complete_word_nothing_opens() -> None:
    """A node that was never complete is stale, and where staleness cuts it keeps nothing open either."""
    moment = replace(fresh(), as_of=None)
    refused = decide(request(), snapshot(MESH), moment)
    assert refused.reason is Reason.STALE
    assert refused.hint == "this node has not heard enough from the CA lately for segment retrieval"
    assert redecide(request(), snapshot(MESH), moment).allowed
    assert redecide(request("vault", "tools-2"), snapshot(MESH), moment).reason is Reason.STALE


def test_the_next_boundary_is_the_nearest_end() -> None:
    """Certificate, grant, lock, deny and the cut by staleness each end at an instant that is known before."""
    policy = expiring('id = "read-wiki"', NOW + 3 * MINUTE)
    asked = replace(request(), not_after=Wall(NOW + 4 * MINUTE))
    locked = Restrictions([lock(Target("all"), until=NOW + 2 * MINUTE)])
    assert next_boundary(asked, snapshot(policy, locked), fresh()) == NOW + 2 * MINUTE
    assert next_boundary(asked, snapshot(policy), fresh()) == NOW + 3 * MINUTE
    assert next_boundary(asked, snapshot(MESH), fresh()) == NOW + 4 * MINUTE
    assert next_boundary(replace(asked, service="vault"), snapshot(MESH), fresh()) == NOW + 30 * SECOND
    assert next_boundary(replace(asked, not_after=NOW), snapshot(MESH), fresh()) is None


def test_what_the_floor_ends_is_waited_for_by_the_floor() -> None:
    """With the floor a second behind the wall clock a lock holds a second longer on the wall."""
    locked = snapshot(MESH, Restrictions([lock(Target("all"), until=NOW + MINUTE)]))
    moment = Moment(NOW, Wall(NOW - SECOND), NOW)
    assert next_boundary(request(), locked, moment) == NOW + MINUTE + SECOND


def expiring(rule: str, at: int) -> Policy:
    seconds = at // SECOND
    days, rest = divmod(seconds, 86_400)
    assert days == 11, "NOW is on 1970-01-12"
    time = f"1970-01-12T{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}.{at % SECOND:06}Z"
    assert rule in POLICY
    return policy_of(POLICY.replace(rule, f"{rule}; expires = {time}".replace("; ", "\n")))


# Any policy, any request, any time


@settings(max_examples=400, deadline=None)
@given(worlds)
def test_every_decision_equals_the_reference(world: World) -> None:
    """The indexed decision and a search through the uncompiled rules agree on verdict and reason."""
    read, moment = world.snapshot, world.moment
    for decision, expected in (
        (decide(world.asked, read, moment), reference(world, live=False)),
        (redecide(world.asked, read, moment), reference(world, live=True)),
    ):
        assert decision.reason == expected
        assert decision.allowed is (expected is None)


@given(worlds, st.integers(0, 20))
def test_until_the_next_boundary_time_changes_nothing(world: World, half_seconds: int) -> None:
    """A live stream that is judged again at its boundaries only is judged as if it were judged always."""
    read, moment, by = world.snapshot, world.moment, half_seconds * SECOND // 2
    boundary = next_boundary(world.asked, read, moment)
    before, after = (redecide(world.asked, read, at) for at in (moment, later(moment, by)))
    assert boundary is None or boundary > moment.now
    if boundary is None or moment.now + by < boundary:
        assert (before.verdict, before.reason, before.rule) == (after.verdict, after.reason, after.rule)


@given(worlds)
def test_without_a_grant_nothing_is_allowed(world: World) -> None:
    """The default is deny."""
    assert not decide(world.asked, replace(world, grants=[]).snapshot, world.moment).allowed


@given(worlds)
def test_a_deny_of_everything_leaves_nothing(world: World) -> None:
    """No grant, however many or wide, wins over a deny."""
    deny = {"agents": set(AGENTS), "services": set(SERVICES), "segments": set(), "expires": None}
    assert not decide(
        world.asked, replace(world, denies=[*world.denies, deny]).snapshot, world.moment
    ).allowed


@given(worlds, targets, st.integers(0, 6))
def test_a_restriction_never_opens_anything(world: World, target: Target, until: int) -> None:
    """Whatever is locked or revoked in addition, what was refused stays refused."""
    if not decide(world.asked, world.snapshot, world.moment).allowed:
        more = replace(world, locks=[*world.locks, (target, until)], revoked=[*world.revoked, target])
        assert not decide(world.asked, more.snapshot, world.moment).allowed


any_int = st.integers()
any_text = st.text(max_size=600)


@given(
    worlds,
    st.builds(
        Request, sessions, any_text, any_text, st.lists(any_text, max_size=3).map(tuple), any_int.map(Wall)
    ),
    st.builds(Moment, any_int.map(Wall), any_int.map(Wall), st.none() | any_int.map(Wall)),
    st.booleans(),
)
def test_every_request_at_any_time_has_an_answer(
    world: World, asked: Request, moment: Moment, without_policy: bool
) -> None:
    """No input raises, and every refusal names a reason, and a rule or what is absent."""
    read = replace(world.snapshot, policy=None) if without_policy else world.snapshot
    next_boundary(asked, read, moment)
    for decision in (decide(asked, read, moment), redecide(asked, read, moment)):
        assert (decision.reason is None) is decision.allowed
        assert decision.rule or decision.hint
        assert len(decision.hint) <= MAX_HINT_CHARS


# The whole language

POLICIES = 250_000 // 10 if "LOCKGATE_LONG" in os.environ else 2_500 // 10
REQUESTS = 4
"""Of each policy: 10,000 in all, and a million with LOCKGATE_LONG."""


@pytest.mark.parametrize("part", range(10))
def test_every_decision_is_what_the_reference_page_says(part: int) -> None:
    """Whatever the policy, the request and the time: verdict, reason, rule, segment and class."""
    for seed in range(part * POLICIES, (part + 1) * POLICIES):
        draw = Draw(seed)
        world = draw.world()
        read = world.snapshot()
        assert read.policy is not None
        for _ in range(REQUESTS):
            ask = draw.ask(world)
            asked = ask.request(read.policy)
            for decision, said in (
                (decide(asked, read, ask.moment), told.expected(world, ask, live=False)),
                (redecide(asked, read, ask.moment), told.expected(world, ask, live=True)),
            ):
                found = told.Expected(
                    decision.reason,
                    decision.would_deny,
                    said.rule and decision.rule,
                    decision.segment,
                    decision.operation_class,
                )
                assert found == said, f"seed {seed}: {ask}"
                assert decision.allowed is (said.reason is None)


@pytest.mark.parametrize("part", range(4))
def test_until_its_boundary_a_request_of_any_kind_is_judged_alike(part: int) -> None:
    """As it is for streams: whatever the policy, nothing changes through time before next_boundary says so."""
    for seed in range(part * 100, (part + 1) * 100):
        draw = Draw(seed)
        world = draw.world()
        read = world.snapshot()
        assert read.policy is not None
        for _ in range(REQUESTS):
            ask = draw.ask(world)
            asked, moment, by = ask.request(read.policy), ask.moment, draw.seconds() * SECOND // 2
            boundary = next_boundary(asked, read, moment)
            before, after = (redecide(asked, read, at) for at in (moment, later(moment, by)))
            assert boundary is None or boundary > moment.now
            if boundary is None or moment.now + by < boundary:
                assert replace(before, hint="") == replace(after, hint=""), f"seed {seed}: {ask}"


# Requests


REQUESTS_POLICY = whole_policy_of(
    POLICY.replace('target = "127.0.0.1:8001"', 'target = "h:1"\nprotocol = "http"', 1)
    .replace('target = "127.0.0.1:8002"', 'target = "h:2"\nprotocol = "mcp"', 1)
    .replace(
        "[services.vault]",
        """\
[[services.wiki.operations]]
methods = ["*"]
path = "/admin/**"
segment = "high-risk"
[[services.wiki.operations]]
methods = ["POST"]
path = "/search"
class = "read"
[[services.tickets.operations]]
tools = ["get_*"]
segment = "retrieval"
[services.vault]""",
    )
    + """
[[escalations]]
id = "up"
agents = ["researcher", "clerk"]
from = "action"
to = "retrieval"
services = ["wiki", "tickets"]
max-ttl = "15m"
"""
)


def asking(operation: Operation | None, service: str = "wiki", agent: str = "researcher") -> Request:
    return replace(request(service, agent=agent), operation=operation)


def leased(until: int, operations: tuple[str, ...] | None = None, rule: str = "up") -> Snapshot:
    lease = LeaseInForce(
        "lease-1", SESSION, rule, frozenset({"wiki", "tickets"}), operations, Wall(NOW + until)
    )
    return replace(snapshot(REQUESTS_POLICY), leases=Leases([lease]))


@pytest.mark.parametrize(
    ("service", "operation", "segment", "of_class"),
    [
        ("wiki", Operation("GET", "/"), "retrieval", "read"),
        ("wiki", Operation("HEAD", "/"), "retrieval", "read"),
        ("wiki", Operation("DELETE", "/"), "retrieval", "mutate"),
        ("wiki", Operation("GET", "/admin/x"), "high-risk", "read"),
        ("wiki", Operation("POST", "/search"), "retrieval", "read"),
        ("wiki", None, "retrieval", "read"),
        ("tickets", Operation("tools/call", "set_x"), "action", "mutate"),
        ("tickets", Operation("tools/call", "get_x"), "retrieval", "read"),
        ("tickets", Operation("resources/read", "docs://x"), "action", "read"),
        ("tickets", Operation("ping", ""), "action", "read"),
        ("tickets", None, "action", "mutate"),
        ("vault", None, "high-risk", "mutate"),
    ],
)
def test_a_request_has_its_own_segment_and_class(
    service: str, operation: Operation | None, segment: str, of_class: str
) -> None:
    """The first of the service's operations that names it says; else the service's segment, and the method."""
    decision = decide(asking(operation, service), snapshot(REQUESTS_POLICY), fresh())
    assert (decision.segment, decision.operation_class) == (segment, of_class)


def test_a_lock_on_a_segment_stops_the_requests_in_it() -> None:
    """Those of the same service in another segment go on, and so does the stream that carries them."""
    locked = snapshot(REQUESTS_POLICY, Restrictions([lock(Target("segment", "high-risk"))]))
    assert decide(asking(Operation("GET", "/admin/x")), locked, fresh()).reason is Reason.LOCKED
    assert decide(asking(Operation("GET", "/x")), locked, fresh()).allowed
    assert redecide(asking(None), locked, fresh()).allowed


def test_a_stream_opens_if_a_request_in_any_segment_could() -> None:
    """The service's own segment is locked, one of its operations is elsewhere."""
    locked = snapshot(REQUESTS_POLICY, Restrictions([lock(Target("segment", "retrieval"))]))
    decision = decide(asking(None), locked, fresh())
    assert (decision.allowed, decision.segment) == (True, "high-risk")
    both = Restrictions([lock(Target("segment", "retrieval")), lock(Target("segment", "high-risk"))])
    decision = decide(asking(None), snapshot(REQUESTS_POLICY, both), fresh())
    assert (decision.reason, decision.segment) == (Reason.LOCKED, "retrieval")


def test_a_lease_allows_what_no_grant_does() -> None:
    """It names itself, with the line of the escalation that it came from."""
    asked = asking(Operation("GET", "/"), agent="clerk")
    assert decide(asked, snapshot(REQUESTS_POLICY), fresh()).reason is Reason.NO_GRANT
    decision = decide(asked, leased(MINUTE), fresh())
    assert (decision.allowed, decision.rule) == (True, "lease-1")
    assert decision.line == REQUESTS_POLICY.escalations["up"].line


def test_a_lease_ends_by_the_later_clock_and_says_so() -> None:
    """It permits, so no clock set back revives it."""
    asked, read = asking(Operation("GET", "/"), agent="clerk"), leased(MINUTE)
    for moment in (replace(fresh(), wall=Wall(NOW + MINUTE)), later(fresh(), MINUTE)):
        assert judged(asked, read, moment) == Decision(
            Verdict.DENY,
            Reason.LEASE_ENDED,
            "lease-1",
            0,
            "lease lease-1 has ended; ask for escalation up again",
        )
    assert next_boundary(asked, read, fresh()) == NOW + MINUTE


@pytest.mark.parametrize(
    ("read", "operation", "service"),
    [
        (leased(MINUTE, rule="gone"), Operation("GET", "/"), "wiki"),
        (leased(MINUTE, ("GET /a",)), Operation("GET", "/"), "wiki"),
        (leased(MINUTE), Operation("GET", "/admin/x"), "wiki"),
        (
            leased(MINUTE, ("resources/read docs://a**",)),
            Operation("resources/read", "docs://a/../b"),
            "tickets",
        ),
    ],
    ids=["rule gone", "another operation", "another segment", "two readings"],
)
def test_a_lease_gives_no_more_than_the_policy_in_force(
    read: Snapshot, operation: Operation, service: str
) -> None:
    """Its escalation must still be there, and lead to the segment of the request."""
    assert decide(asking(operation, service, "clerk"), read, fresh()).rule != "lease-1"


def test_the_lease_that_lasts_longest_speaks() -> None:
    """One that has ended hides no other."""
    short, long = leased(SECOND).leases.all[0], replace(leased(MINUTE).leases.all[0], id="lease-2")
    read = replace(snapshot(REQUESTS_POLICY), leases=Leases([short, long]))
    assert (
        decide(asking(Operation("GET", "/"), agent="clerk"), read, later(fresh(), 2 * SECOND)).rule
        == "lease-2"
    )


@pytest.mark.parametrize(
    ("left", "hint"),
    [
        (Narrowing(frozenset({"wiki"}), None, Wall(NOW + 1)), ""),
        (Narrowing(frozenset({"wiki"}), ("GET /api/**",), Wall(NOW + 1)), ""),
        (Narrowing(frozenset({"wiki"}), None, NOW), "the time that this child session was left is over"),
        (
            Narrowing(frozenset({"tickets"}), None, Wall(NOW + 1)),
            "this child session was not left service wiki",
        ),
        (
            Narrowing(frozenset({"wiki"}), ("GET /b",), Wall(NOW + 1)),
            "this child session was not left this operation of service wiki",
        ),
    ],
)
def test_a_child_session_has_what_was_left_to_it(left: Narrowing, hint: str) -> None:
    """Time, services, operations; the rights themselves are its parent's."""
    asked = replace(asking(Operation("GET", "/api/x")), narrowing=left)
    decision = decide(asked, snapshot(REQUESTS_POLICY), fresh())
    assert (decision.reason, decision.hint) == (Reason.NARROWED if hint else None, hint)


def test_operations_cannot_be_left_of_a_stream_that_shows_none() -> None:
    """A child that was left some operations of a tcp service gets no stream of it; an http stream opens."""
    for service, node, allowed in (("vault", "tools-2", False), ("wiki", "tools-1", True)):
        left = Narrowing(frozenset({service}), ("GET /api/**",), Wall(NOW + 1))
        asked = replace(request(service, node), narrowing=left)
        assert decide(asked, snapshot(REQUESTS_POLICY), fresh()).allowed is allowed


OBSERVED = whole_policy_of('[segments.retrieval]\nmode = "observe"\n' + POLICY)


@pytest.mark.parametrize(
    ("asked", "moment", "would", "rule"),
    [
        (request(), fresh(), None, "read-wiki"),
        (request(agent="clerk"), fresh(), Reason.NO_GRANT, ""),
        (request(), replace(fresh(), as_of=None), Reason.STALE, ""),
        (request(agent="clerk"), replace(fresh(), as_of=None), Reason.STALE, ""),
    ],
)
def test_an_observed_segment_passes_and_says_what_it_would_have_done(
    asked: Request, moment: Moment, would: Reason | None, rule: str
) -> None:
    """The first of stale, denied and no_grant that applies; what is granted is just allowed."""
    decision = decide(asked, snapshot(OBSERVED), moment)
    assert (decision.allowed, decision.reason, decision.would_deny, decision.rule) == (
        True,
        None,
        would,
        rule,
    )


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (request(), snapshot(OBSERVED, Restrictions([lock(Target("all"))]))),
        (request(), snapshot(OBSERVED, Restrictions(revocations=[revocation(Target("all"))]))),
        (replace(request(), not_after=NOW), snapshot(OBSERVED)),
        (request(tool_node="tools-2"), snapshot(OBSERVED)),
        (request(agent="stranger"), snapshot(OBSERVED)),
        (replace(request(), narrowing=Narrowing(frozenset(), None, NOW)), snapshot(OBSERVED)),
    ],
    ids=["locked", "revoked", "expired", "misbound", "unknown", "narrowed"],
)
def test_an_observed_segment_refuses_all_else(asked: Request, read: Snapshot) -> None:
    """Also when it would be stale or denied as well: observing opens nothing that somebody stopped."""
    for moment in (fresh(), replace(fresh(), as_of=None)):
        decision = decide(asked, read, moment)
        assert not decision.allowed
        assert decision.would_deny is None


def test_a_service_stands_beside_the_nodes_with_its_labels() -> None:
    """Those of the roster, now: a node that lost one of them is no longer its place."""
    policy = policy_of(POLICY.replace('nodes = ["tools-1"]', 'labels = ["rack", "gpu"]', 1))
    for labels, reason in ((("rack", "gpu", "x"), None), (("rack",), Reason.MISBOUND), ((), Reason.MISBOUND)):
        members = {name: NodeMember(name, (), "", (), labels) for name in ("agents-1", "tools-1")}
        read = replace(snapshot(policy), roster=Roster(members, {}))
        assert decide(request(), read, fresh()).reason is reason


def test_a_decision_holds_until_its_horizon() -> None:
    """What permits by the later clock, what restricts by the floor; while all is fresh."""
    policy = expiring('id = "read-wiki"', NOW + MINUTE)
    locked = Restrictions([lock(Target("agent", "researcher"), until=NOW + 2 * MINUTE)])
    moment = Moment(NOW, Wall(NOW - SECOND), NOW)
    decision, horizon = decide_until(request(), snapshot(policy, locked), moment)
    assert decision == decide(request(), snapshot(policy, locked), moment)
    assert horizon == Horizon(Wall(NOW + MINUTE), Wall(NOW + 2 * MINUTE), is_fresh=True)
    _, stale = decide_until(request(), snapshot(policy), replace(moment, as_of=None))
    assert not stale.is_fresh


def test_the_steps_of_a_decision_can_be_followed() -> None:
    """As far as they are asked, each with its answer: the last one is the decision."""
    read = snapshot(REQUESTS_POLICY)
    [case] = Question(asking(Operation("GET", "/")), read, fresh(), live=False).cases()
    steps = list(steps_of(case))
    assert [name for name, _ in steps][-3:] == ["narrowed", "denied", "granted"]
    assert steps[-1][1] == judge(case)
    [observed] = Question(request(agent="clerk"), snapshot(OBSERVED), fresh(), live=False).cases()
    assert [name for name, _ in steps_of(observed)][-2:] == ["leased", "no_grant"]
    [unknown] = Question(asking(None, "z"), read, fresh(), live=False).cases()
    assert [name for name, _ in steps_of(unknown)][-1] == "unknown"
