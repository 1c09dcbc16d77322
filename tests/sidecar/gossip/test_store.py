from collections.abc import Iterable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.asking import EscalationRequest
from pki.clock import HOUR, MINUTE, SECOND, Wall
from pki.errors import RemoteError
from pki.ids import new_id
from pki.judge import Word
from pki.spiffe import SpiffeId
from pki.statement import (
    Applied,
    AuditHead,
    Cutoff,
    Lift,
    Receipt,
    RolloverAck,
    Signer,
    Statement,
    Target,
    Terms,
    parse,
    sign,
)
from sidecar.defaults import OPERATOR_LIVE_STATEMENTS, OPERATOR_LOCK_MAX_TTL, RETENTION
from sidecar.gossip import quota
from sidecar.gossip.store import Entry, Store, is_restriction, stages
from tests.asking import approves, asks, refuses, session
from tests.authority import NOW
from tests.statements import Mint, Signatory, ca_word, lock, revocation, word_of

MINT = Mint()
ALICE, BOB, NODE = MINT.operator("alice"), MINT.operator("bob"), MINT.node("tools-1")
AT = Wall(NOW)

LOCK = ALICE.says("lock", lock(), ttl=3 * HOUR)
SESSION_END = NODE.says("revocation", revocation("session", "a" * 26))
CA_LOCK = MINT.says("lock", lock("agent", "researcher"))
CA_REVOCATION = MINT.says("revocation", revocation("node", "rogue"))
TWINS = [MINT.policy(2, "1" * 64), MINT.policy(2, "2" * 64)]

NUMBERED = [
    MINT.adopts(LOCK, 4 * HOUR),
    MINT.adopts(LOCK, 2 * HOUR),
    MINT.adopts(SESSION_END),
    CA_LOCK,
    CA_REVOCATION,
    MINT.lifts("unlock", CA_LOCK.id),
    MINT.lifts("unrevoke", SESSION_END.id),
    MINT.lifts("unlock", CA_REVOCATION.id, "m" * 26),
    MINT.policy(1),
    *TWINS,
    MINT.enlists(ALICE),
    MINT.enlists(BOB, sequence=4),
    MINT.enlists(BOB, ("admin",), sequence=5),
    MINT.enrols("bob"),
    MINT.ca.bundle_statement,
]
POOL = [*NUMBERED, LOCK, SESSION_END]


def take(store: Store, statement: Statement, at: int = NOW, *, settled: bool = True) -> bool:
    """Merge as a member would, whoever signed."""
    changed = store.merge(word(statement), original(statement), Wall(at))
    if settled:
        store.settle([statement.id])
    return changed


def word(statement: Statement) -> Word:
    for who, signer in ((ALICE, Signer.RESPONDER), (BOB, Signer.RESPONDER), (NODE, Signer.NODE)):
        if statement.envelope.chain[0] == who.chain[0]:
            return word_of(statement, who.id, signer)
    if isinstance(statement.body, EscalationRequest):
        return word_of(statement, SpiffeId.parse(statement.body.session), Signer.SESSION)
    return ca_word(statement)


def original(statement: Statement) -> Statement | None:
    raw = getattr(statement.body, "original", None)
    return parse(raw) if raw else None


def filled(*statements: Statement) -> Store:
    store = Store()
    for statement in statements:
        take(store, statement)
    return store


def restrictions(store: Store, floor: int = NOW) -> list[tuple[str, str, int]]:
    return sorted((e.statement.id, e.author, e.ends) for e in store.in_force(Wall(floor)))


def picture(store: Store) -> tuple[object, ...]:
    """All that a store says that others act on."""
    newest = [
        store.newest(kind, name)
        for kind, name in (("policy", ""), ("bundle", ""), ("member", "operator/bob"))
    ]
    return (
        restrictions(store),
        store.numbered_digest(NOW),
        store.ids_digest(),
        sorted(store.ids()),
        store.last_number(),
        [entry and entry.statement.id for entry in newest],
        sorted(member.member.name for member in store.members()),
    )


EXPECTED = picture(filled(*POOL))


@given(st.permutations(range(len(POOL))), st.lists(st.integers(0, len(POOL) - 1), max_size=12), st.booleans())
def test_order_and_repetition_change_nothing_the_ca_numbered(
    order: list[int], again: list[int], settled: bool
) -> None:
    """Flood, repair and restarts deliver in any order, more than once; every member ends with the same."""
    store = Store()
    for at, which in enumerate([*again, *order, *again]):
        take(store, POOL[which], NOW + at * SECOND, settled=settled)
    store.settle(statement.id for statement in POOL)
    assert picture(store) == EXPECTED


def test_in_force_is_what_was_restricted_less_what_was_lifted() -> None:
    """The expected picture itself: the lock that was not unlocked, the revocation that was not unrevoked."""
    assert [name for name, _, _ in restrictions(filled(*POOL))] == sorted([LOCK.id, CA_REVOCATION.id])


def test_a_statement_merges_once() -> None:
    """The second time nothing changed, so nothing is flooded again."""
    store = Store()
    assert take(store, CA_LOCK) is True
    assert take(store, CA_LOCK) is False
    assert len(store) == 1
    assert store.ids_digest() == store.ids_digest() == filled(CA_LOCK).ids_digest()


def test_unlock_never_lifts_a_revocation_and_unrevoke_never_a_lock() -> None:
    """Each kind of lift is worth its own kind only, whatever ids it names."""
    wrong = [MINT.lifts("unlock", CA_REVOCATION.id), MINT.lifts("unrevoke", CA_LOCK.id)]
    store = filled(CA_LOCK, CA_REVOCATION, *wrong)
    assert len(restrictions(store)) == 2


def test_a_lift_may_come_before_what_it_lifts() -> None:
    """Then the restriction never acts."""
    lift = MINT.lifts("unlock", CA_LOCK.id)
    store = filled(lift, CA_LOCK)
    assert restrictions(store) == []


def test_a_lift_counts_once_it_is_durable() -> None:
    """A crash must not bring back what was said to be lifted, so before it is settled the lock stays."""
    lift = MINT.lifts("unlock", CA_LOCK.id)
    store = filled(CA_LOCK)
    take(store, lift, settled=False)
    assert [name for name, _, _ in restrictions(store)] == [CA_LOCK.id]
    store.settle([lift.id])
    assert restrictions(store) == []


def test_a_restriction_counts_from_the_merge_on() -> None:
    """It waits for no disk."""
    store = Store()
    take(store, CA_LOCK, settled=False)
    assert [name for name, _, _ in restrictions(store)] == [CA_LOCK.id]


def cutoffs(store: Store, floor: int = NOW) -> dict[str, int]:
    return {entry.statement.id: before for entry, before in store.cutoffs(Wall(floor))}


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_of_several_unrevokes_the_earliest_cutoff_holds(order: tuple[int, ...]) -> None:
    """In any order: two leave the earlier cutoff, and one that says mistake leaves none."""
    lifts = [MINT.says("unrevoke", Lift(ids=[CA_REVOCATION.id], before=at)) for at in (NOW, NOW - 5)]
    pool = [CA_REVOCATION, *lifts]
    store = filled(*(pool[which] for which in order))
    assert restrictions(store) == []
    assert cutoffs(store) == {CA_REVOCATION.id: NOW - 5}
    take(store, MINT.lifts("unrevoke", CA_REVOCATION.id))
    assert cutoffs(store) == {}


def test_a_cutoff_holds_until_it_ends_or_is_unrevoked() -> None:
    """An unlock does nothing to it."""
    cut = MINT.says("cutoff", Cutoff(target=Target(kind="agent", value="a"), before=NOW))
    store = filled(cut, MINT.lifts("unlock", cut.id))
    assert cutoffs(store) == {cut.id: NOW}
    assert cutoffs(store, NOW + HOUR) == {}
    take(store, MINT.lifts("unrevoke", cut.id))
    assert cutoffs(store) == {}


@pytest.mark.parametrize("first", [True, False])
def test_unlock_never_outruns_the_lock_it_lifts(first: bool) -> None:
    """A lift deleted before its lock would revive it: it is kept as long, in whatever order they came."""
    lift = MINT.lifts("unlock", CA_LOCK.id)
    store = filled(*([lift, CA_LOCK] if first else [CA_LOCK, lift]))
    for floor in range(NOW, NOW + HOUR + 2 * MINUTE, 10 * SECOND):
        assert restrictions(store, floor) == []
        store.expire(Wall(floor))
    assert len(store) == 0


def test_a_restriction_ends_by_the_floor() -> None:
    """At its expiry and not a moment before."""
    store = filled(CA_LOCK)
    ends = NOW + HOUR
    assert len(restrictions(store, ends - 1)) == 1
    assert restrictions(store, ends) == []


def test_an_operators_own_lock_is_clipped_at_what_was_first_seen() -> None:
    """Dated ahead, it still ends four hours after it came here; adopted, it ends when the CA says."""
    long = ALICE.says("lock", lock(), ttl=9 * HOUR)
    store = filled(long)
    assert restrictions(store) == [(long.id, str(ALICE.id), NOW + OPERATOR_LOCK_MAX_TTL)]
    take(store, MINT.adopts(long, 9 * HOUR))
    assert restrictions(store) == [(long.id, str(ALICE.id), NOW + 9 * HOUR)]


def test_a_revocation_is_not_clipped() -> None:
    """It lasts as long as it says."""
    long = NODE.says("revocation", revocation("session", "i" * 26), ttl=9 * HOUR)
    assert restrictions(filled(long)) == [(long.id, str(NODE.id), NOW + 9 * HOUR)]


def test_an_adoption_brings_its_original_along_under_both_ids() -> None:
    """A member that sees the adoption first holds what one holds that saw the original first."""
    adoption = MINT.adopts(LOCK)
    store = filled(adoption)
    assert LOCK.id in store
    assert adoption.id in store
    assert store.raw(LOCK.id) == LOCK.raw
    assert store.raw(adoption.id) == adoption.raw
    entry = store.entry(adoption.id)
    assert entry is not None
    assert (entry.statement, entry.author, entry.adoptions) == (LOCK, str(ALICE.id), (adoption,))
    assert take(store, LOCK) is False


def test_an_adopted_word_of_nobody_is_the_cas() -> None:
    """An original whose chain names no one is on the CA's account: it took it over."""
    strange = sign("lock", lock(), Terms(1, NOW, NOW + HOUR), ALICE.key, (b"no certificate",))
    entry = filled(MINT.adopts(strange)).entry(strange.id)
    assert entry is not None
    assert entry.author == "ca"


def head(who: Signatory, at: int) -> Statement:
    return who.says("audit-head", AuditHead(volume="v", count=at, head="00" * 32, at=at, signature=b"s"))


def test_of_each_nodes_audit_heads_the_newest_counts() -> None:
    """One a node is held, whatever order they come in, and another node's is another subject."""
    other = MINT.node("tools-2")
    heads = [head(NODE, 1), head(NODE, 2), head(other, 1)]
    store = Store()
    for statement, who in ((heads[0], NODE), (heads[1], NODE), (heads[2], other)):
        assert store.merge(word_of(statement, who.id, Signer.NODE), None, AT)
        store.settle([statement.id])
    assert {entry.statement.id for entry in store.of_kinds("audit-head")} == {heads[1].id, heads[2].id}
    assert not store.merge(word_of(heads[0], NODE.id, Signer.NODE), None, AT)


def test_a_newer_version_supersedes_once_it_is_durable() -> None:
    """Until then the one before stays in force, and comes to no harm if the newer one is lost."""
    old, new = MINT.policy(7), MINT.policy(8)
    store = filled(old)
    take(store, new, settled=False)
    assert store.newest("policy") == store.entry(old.id)
    store.forget([new.id])
    assert new.id not in store
    assert store.newest("policy") == store.entry(old.id)
    take(store, new, settled=False)
    assert store.settle([new.id]) == [old.id]
    assert store.newest("policy") == store.entry(new.id)
    assert old.id not in store


def test_an_older_version_is_not_taken() -> None:
    """A peer that is behind cannot roll anything back."""
    old, new = MINT.enrols("tools-9", 1), MINT.enrols("tools-9", 2)
    store = filled(new)
    assert take(store, old) is False
    assert old.id not in store


def test_two_bodies_at_one_sequence_end_the_same_everywhere() -> None:
    """Whichever came first: the CA's later number wins."""
    assert filled(*TWINS).newest("policy") == filled(*reversed(TWINS)).newest("policy")


def test_forgetting_spares_what_is_durable_and_what_is_not_there() -> None:
    """Only what the disk refused is let go."""
    store = filled(CA_LOCK)
    store.forget([CA_LOCK.id, "u" * 26])
    assert CA_LOCK.id in store


def test_settling_what_is_not_held_is_nothing() -> None:
    """It may have been superseded in the same batch."""
    assert Store().settle([CA_LOCK.id]) == []


def test_a_statement_is_kept_a_while_after_it_ended() -> None:
    """A heartbeat from before its end still counts it; deleted, its ids and its adoptions' are gone."""
    adoption = MINT.adopts(SESSION_END, 2 * HOUR)
    store = filled(adoption, MINT.enrols("tools-3"))
    ends = NOW + 2 * HOUR + RETENTION
    assert store.expire(Wall(ends - 1)) != [SESSION_END.id]
    assert store.expire(Wall(ends)) == [SESSION_END.id]
    assert SESSION_END.id not in store
    assert adoption.id not in store
    assert store.ids() == []


def test_the_promised_set_is_what_expires_later_up_to_its_number() -> None:
    """What the CA said after the heartbeat, and what had ended before it, are no part of it."""
    short, later = MINT.says("lock", lock(), ttl=MINUTE), MINT.says("lock", lock("node", "tools-1"))
    held = filled(short, CA_LOCK, later)
    at = NOW + MINUTE
    assert held.numbered_digest(at, short.payload.number) == filled(CA_LOCK).numbered_digest(at)
    assert held.numbered_digest(NOW, short.payload.number) == filled(CA_LOCK, short).numbered_digest(NOW)
    assert held.numbered_digest(at) == filled(CA_LOCK, later).numbered_digest(at)


def test_an_operators_statement_counts_for_completeness_through_its_adoption() -> None:
    """On its own it has no number."""
    assert filled(LOCK).numbered_digest(NOW) == Store().numbered_digest(NOW)
    assert filled(MINT.adopts(LOCK)).numbered_digest(NOW) != Store().numbered_digest(NOW)


def test_an_operator_has_two_hundred_live_statements_and_no_more() -> None:
    """Refused beyond; what is in force stays in force, and others still may."""
    statements = [ALICE.says("lock", lock("agent", f"a{n}")) for n in range(OPERATOR_LIVE_STATEMENTS)]
    store = filled(*statements)
    one_more = ALICE.says("revocation", revocation("agent", "late"))
    with pytest.raises(RemoteError, match="200 live already"):
        take(store, one_more)
    assert one_more.id not in store
    assert len(restrictions(store)) == OPERATOR_LIVE_STATEMENTS
    assert take(store, BOB.says("lock", lock())) is True
    assert take(store, CA_LOCK) is True


def test_a_quota_is_free_again_when_a_statement_is_gone() -> None:
    """What expired, or was forgotten, no longer counts."""
    short = ALICE.says("lock", lock(), ttl=MINUTE)
    others = [ALICE.says("lock", lock("agent", f"b{n}")) for n in range(OPERATOR_LIVE_STATEMENTS - 1)]
    store = filled(short, *others)
    store.expire(Wall(NOW + MINUTE + RETENTION))
    assert take(store, ALICE.says("lock", lock("agent", "next"))) is True


def test_an_adopted_statement_is_past_its_quota() -> None:
    """The CA took it over: every member takes it in, or none would be complete again."""
    full = filled(*(ALICE.says("lock", lock("agent", f"c{n}")) for n in range(OPERATOR_LIVE_STATEMENTS)))
    assert take(full, MINT.adopts(LOCK)) is True


def test_a_node_has_a_quota_of_its_own_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its receipts cannot keep it from ending its sessions."""
    monkeypatch.setattr(quota, "MEMBER_LIVE_STATEMENTS", 1)
    receipt = NODE.says("receipt", Receipt(applied=[Applied(id=LOCK.id, since=NOW, cut=2)]))
    store = filled(receipt, SESSION_END)
    with pytest.raises(RemoteError, match="1 live already"):
        take(store, NODE.says("revocation", revocation("session", "e" * 26)))


def test_a_session_has_a_quota_and_its_node_one_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that asks in a loop fills its own place; a node that starts sessions to ask, the node's."""
    monkeypatch.setattr(quota, "_ALLOWANCES", {"session": 2, "node": 3})
    loud, quiet = session(MINT), session(MINT, new_id(b"b" * 16))
    requests = [asks(one, nonce=bytes([n] * 16)) for one in (loud, quiet) for n in range(3)]
    store = filled(*requests[:2])
    with pytest.raises(RemoteError, match="2 live already"):
        take(store, requests[2])
    assert take(store, requests[3])
    with pytest.raises(RemoteError, match="3 live already"):
        take(store, requests[4])
    assert take(store, asks(session(MINT, new_id(b"c" * 16), "agents-2")))


def test_answers_leave_an_operator_the_places_of_its_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who approves all day can still stop something, and refuse something."""
    monkeypatch.setattr(quota, "_ALLOWANCES", {"": 1, "approval": 1, "refusal": 1})
    request = asks(session(MINT))
    store = filled(approves(ALICE, request), refuses(ALICE, request), ALICE.says("lock", lock()))
    for one in (approves(ALICE, request, NOW + 2), refuses(ALICE, request, NOW + 2)):
        with pytest.raises(RemoteError, match="1 live already"):
            take(store, one)


def test_a_permission_is_given_out_once_it_is_settled_and_a_restriction_at_once() -> None:
    """What a crash could lose must not have let anything in."""
    request = asks(session(MINT))
    store, answers = Store(), [approves(ALICE, request), refuses(ALICE, request)]
    for one in answers:
        take(store, one, settled=False)
    assert [entry.statement for entry in store.of_kinds("approval", "refusal")] == answers[1:]
    store.settle(one.id for one in answers)
    assert [entry.statement for entry in store.of_kinds("approval", "refusal")] == answers
    assert list(store.of_kinds("request")) == []


def test_restoring_equals_continuing() -> None:
    """A store put back from its durable entries is the store that was."""
    store = filled(*POOL)
    entries = [entry for name in store.ids() if (entry := store.entry(name)) is not None]
    restored = Store()
    for entry in entries:
        restored.restore(entry)
    assert restored.settle(restored.ids()) == []
    assert picture(restored) == picture(store)


def test_restoring_finishes_a_supersession_that_a_crash_interrupted() -> None:
    """Both versions were on disk: the older one goes, in whatever order they are read."""
    old, new = (Entry(statement, "ca", AT) for statement in (MINT.policy(11), MINT.policy(12)))
    for order in ((old, new), (new, old)):
        restored = Store()
        for entry in order:
            restored.restore(entry)
        assert restored.settle(restored.ids()) == [old.statement.id]
        assert restored.newest("policy") == new


def test_who_may_sign_comes_before_what_was_signed() -> None:
    """Bundles, then the CA's in its order, then the rest."""
    bundle = MINT.ca.bundle_statement
    first, second = MINT.enlists(ALICE, sequence=6), MINT.policy(9)
    assert stages([LOCK, second, bundle, first]) == [[bundle], [first, second], [LOCK]]
    assert stages([]) == []


@pytest.mark.parametrize(
    ("statements", "restricts"),
    [
        ([LOCK, SESSION_END, CA_REVOCATION, MINT.adopts(LOCK)], True),
        ([MINT.policy(1), MINT.lifts("unlock", LOCK.id), MINT.enrols("x"), MINT.beats("0" * 64)], False),
        ([MINT.says("a-newer-kind", lock())], False),
    ],
)
def test_only_what_takes_away_acts_before_it_is_durable(
    statements: Iterable[Statement], restricts: bool
) -> None:
    """Kinds of a newer version count as permissions."""
    assert {is_restriction(statement) for statement in statements} == {restricts}


def test_what_is_not_held_has_no_envelope() -> None:
    """Asked for by a peer that is ahead."""
    assert Store().raw(LOCK.id) is None
    assert Store().newest("policy") is None
    assert Store().last_number() == 0


def test_the_set_of_a_heartbeat_is_what_counts_under_the_keys_of_now() -> None:
    """What another epoch said, or a key that is trusted no more, is in no set; what permitted goes, stops stay."""
    said = [MINT.policy(1), MINT.enlists(ALICE), CA_LOCK, CA_REVOCATION]
    store = filled(*said)
    before, keys = store.numbered_digest(AT), MINT.ca.bundle.statement_keys
    store.trust(keys, 1)
    assert (store.numbered_digest(AT), store.purge()) == (before, [])
    for trusted, epoch in ((keys, 2), ((b"another key",), 1)):
        store.trust(trusted, epoch)
        assert store.numbered_digest(AT) == Store().numbered_digest(AT)
    assert set(store.purge()) == {one.id for one in said[:2]}
    assert {entry.statement.id for entry in store.of_the_ca()} == {CA_LOCK.id, CA_REVOCATION.id}


def test_the_newest_word_of_each_node_on_the_bundle_counts() -> None:
    """The CA waits for it before it uses a new key."""
    said = [
        NODE.says("rollover-ack", RolloverAck(sequence=number, digest="0" * 64, issuer="0a"), NOW + number)
        for number in (1, 2)
    ]
    for order in (said, said[::-1]):
        assert [one.sequence for one in filled(*order).acknowledgements().values()] == [2]
