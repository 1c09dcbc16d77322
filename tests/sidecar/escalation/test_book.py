from itertools import permutations

import pytest

from pki.clock import MINUTE, Wall
from sidecar.defaults import SKEW
from sidecar.escalation.book import Held, in_snapshot
from sidecar.escalation.machine import State
from sidecar.snapshot import Restrictions, RevocationInForce, Target
from tests.asking import TTL, WAIT, approves, asks, leases, refuses, session
from tests.authority import NOW
from tests.sidecar.escalation.world import World, held, rule


def test_what_is_held_says_the_same_in_any_order() -> None:
    """Members hear of things in different orders, and after a restart all at once."""
    world = World(rule(approvals=2))
    asked = asks(session(world.mint))
    said = [
        held(asked, session(world.mint)),
        held(approves(world.alice, asked), world.alice),
        held(approves(world.bob, asked, NOW + 2), world.bob),
        held(leases(world.mint, asked, "alice", "bob", issued=NOW + 3)),
    ]
    for order in permutations(said):
        found = world.stands(*order, at=NOW + MINUTE)
        assert (found.state, sorted(found.approvals), found.until) == (
            State.GRANTED,
            ["alice", "bob"],
            NOW + TTL,
        )


def test_an_answer_to_what_nobody_asked_waits_for_the_request() -> None:
    """And a lease brings its request along."""
    world = World()
    asked = asks(session(world.mint))
    assert world.stands(held(leases(world.mint, asked, "alice"))).state is State.GRANTED


@pytest.mark.parametrize(
    ("who", "issued", "seen", "counts"),
    [
        ("alice", NOW + 1, NOW + 1, True),
        ("alice", NOW - SKEW, NOW + 1, True),
        ("alice", NOW - SKEW - 1, NOW + 1, False),
        ("alice", NOW + 1, NOW + WAIT + SKEW, False),
        ("carol", NOW + 1, NOW + 1, False),
        ("nobody", NOW + 1, NOW + 1, False),
    ],
    ids=[
        "in-time",
        "a-slow-clock",
        "before-it-was-asked",
        "seen-too-late",
        "no-approver",
        "not-in-the-roster",
    ],
)
def test_only_those_who_may_agree_in_time(who: str, issued: int, seen: int, counts: bool) -> None:
    """One who dates an approval back is late all the same: it is when it was seen."""
    world = World()
    asked, operator = asks(session(world.mint)), world.mint.operator(who)
    found = world.stands(held(asked), held(approves(operator, asked, issued), operator, seen))
    assert (found.approvals != {}, found.state is State.GRANTED) == (counts, counts)


@pytest.mark.parametrize("world", [World(uids={"agents-1": 1001}), World(user="alice@example.org")])
def test_nobody_approves_what_he_started_himself(world: World) -> None:
    """By uid on the session's node, or as the user that it runs for."""
    asked = asks(session(world.mint)) if not world.operators["alice"].user else None
    if asked is None:
        name = world.mint.ca.agent(session="a" * 26, node="agents-1")
        key = session(world.mint)
        chain = world.mint.ca.issue(name, key.key, on_behalf_of="alice@example.org")
        asked = asks(type(key)(name, key.key, chain))
    assert world.stands(held(asked), held(approves(world.alice, asked), world.alice)).state is State.REQUESTED
    assert world.stands(held(asked), held(approves(world.bob, asked), world.bob)).state is State.GRANTED


def test_the_same_operator_twice_is_once() -> None:
    """Two approvals take two."""
    world = World(rule(approvals=2))
    asked = asks(session(world.mint))
    twice = [held(approves(world.alice, asked, NOW + n), world.alice) for n in (1, 2)]
    assert world.stands(held(asked), *twice).state is State.APPROVED


@pytest.mark.parametrize("target", [("operator", "alice"), ("session", "a" * 26), ("agent", "researcher")])
def test_a_revocation_ends_what_rests_on_it(target: tuple[str, str]) -> None:
    """Of who agreed, or of who asked: also when the CA has granted it."""
    world = World()
    asked = asks(session(world.mint))
    said = (held(asked), held(approves(world.alice, asked), world.alice))
    granted = held(leases(world.mint, asked, "alice", issued=NOW + 2))
    kind, value = target
    revoked = RevocationInForce("r", Target(kind, value), "bob")
    for given in (said, (*said, granted)):
        assert world.stands(*given, at=NOW + 3).state is State.GRANTED
        world.restrictions = Restrictions(revocations=[revoked])
        assert world.stands(*given, at=NOW + 3).state is State.ENDED
        world.restrictions = Restrictions()


def test_another_policy_ends_what_is_not_granted_yet() -> None:
    """What the CA granted stands as long as its rule would give it now."""
    world = World()
    asked = asks(session(world.mint))
    granted = held(leases(world.mint, asked, "alice"))
    world.policy = "cd" * 32
    assert world.stands(held(asked)).why == "the policy changed; ask again"
    assert world.stands(held(asked), granted).state is State.GRANTED
    for changed, why in (
        (rule(id="other"), "the policy has no escalation ticket-writes"),
        (rule(approvals=2), "takes 2 approvals now"),
        (rule(services=frozenset({"wiki"})), "does not offer tickets"),
        (rule(max_ttl=MINUTE), "lasts for 1m at most"),
    ):
        world.rule = changed
        found = world.stands(held(asked), granted)
        assert (found.state, why in found.why) == (State.ENDED, True), found.why


def test_a_refusal_is_final_and_says_why() -> None:
    """Also when it comes after the lease."""
    world = World()
    asked = asks(session(world.mint))
    found = world.stands(
        held(asked),
        held(leases(world.mint, asked, "alice")),
        held(refuses(world.bob, asked, NOW + 2), world.bob),
        at=NOW + 3,
    )
    assert (found.state, found.why, found.cut_short) == (State.REFUSED, "refused by bob: not today", True)


def test_a_snapshot_has_what_decisions_read() -> None:
    """Leases, also those cut short, by which a refusal says so; and what waits, so that it says whom to poll."""
    world = World()
    asked = asks(session(world.mint))
    waiting = in_snapshot([world.stands(held(asked))])
    assert [(one.id, one.until) for one in waiting.pending] == [(asked.id, NOW + WAIT)]
    granted = [held(asked), held(leases(world.mint, asked, "alice"))]
    [lease] = in_snapshot([world.stands(*granted)]).all
    assert (lease.id, lease.until, lease.cut_short) == (asked.id, NOW + TTL, False)
    refused = Held(refuses(world.bob, asked, NOW + 2), str(world.bob.id), Wall(NOW + 2))
    assert in_snapshot([world.stands(*granted, refused, at=NOW + 3)]).all[0].cut_short
