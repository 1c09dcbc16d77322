from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from pki.authority.id_token import OnBehalfOf
from pki.authority.issuer import Chain, Issuer, Lifetimes, WantedSession
from pki.authority.refusal import Refusal, RefusalError
from pki.clock import DAY, HOUR, MINUTE, SECOND, Wall
from pki.ids import new_id
from pki.spiffe import IdKind
from pki.spki import PublicKey
from pki.statement import Target
from pki.verify import Identity, verify
from tests.authority import NOW, TinyCa, new_key

ALICE = OnBehalfOf("alice", b"a token's digest", Wall(NOW + HOUR))
OTHER = new_id(b"another-session!")
LATER = Wall(NOW + 30 * MINUTE)


def anyone(node: str, agent: str) -> bool:
    return True


def identity(ca: TinyCa, chain: Chain, at: Wall = NOW) -> Identity:
    judgement = verify(chain, ca.bundle, at)
    assert isinstance(judgement, Identity), judgement
    return judgement


def test_each_kind_has_its_lifetime(ca: TinyCa, issuer: Issuer) -> None:
    """A session 1 h, a node 24 h, an operator 12 h, counted from the issue."""
    key = new_key().public_key()
    chains = (
        issuer.session(WantedSession(ca.agent(), key), NOW, anyone),
        issuer.admit(ca.node(), key, NOW, "t"),
        issuer.admit(ca.operator(), key, NOW, "t"),
    )
    ends = [identity(ca, chain).not_after - NOW for chain in chains]
    assert ends == [HOUR, DAY, 12 * HOUR]
    assert Lifetimes(node=5).of(IdKind.NODE) == 5


def test_a_certificate_is_written_down_before_it_is_given_away(ca: TinyCa, issuer: Issuer) -> None:
    """Else it could not be revoked by its serial."""
    first = identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    second = identity(ca, issuer.renew(first, new_key().public_key(), LATER), LATER)
    issuer.register.ban(Target(kind="serial", value=second.serial), "s", NOW)
    assert issuer.register.is_banned(first.id, first.lineage)


def test_a_renewal_keeps_the_name_and_the_line(ca: TinyCa, issuer: Issuer) -> None:
    """A new serial and a new key, the same identity and lineage."""
    key = new_key()
    first = identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    second = identity(ca, issuer.renew(first, key.public_key(), LATER), LATER)
    assert (second.id, second.lineage, second.public_key) == (first.id, first.lineage, key.public_key())
    assert first.serial == first.lineage != second.serial
    assert second.not_after == LATER + DAY


def test_a_new_token_begins_a_new_line(ca: TinyCa, issuer: Issuer) -> None:
    """To revoke the serial of the old one does not reach it."""
    lines = {
        identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t")).lineage for _ in range(2)
    }
    assert len(lines) == 2


def test_a_session_keeps_its_line_over_renewals(ca: TinyCa, issuer: Issuer) -> None:
    """Its node names the certificate that it renews."""
    first = started(ca, issuer)
    second = identity(ca, renewed(issuer, first), LATER)
    assert (second.id, second.lineage) == (ca.agent(), first.lineage)
    assert second.serial != first.serial


def test_a_session_is_renewed_once_from_each_certificate(ca: TinyCa, issuer: Issuer) -> None:
    """The same key gets the same certificate again, since an answer may be lost; another key is a clone's."""
    first, key = started(ca, issuer), new_key().public_key()
    assert renewed(issuer, first, key) == renewed(issuer, first, key)
    assert issuer.register.clones() == []
    for _ in range(2):
        another = new_key().public_key()
        for _ in range(2):
            assert reason_of(partial(renewed, issuer, first, another)) is Refusal.CLONE
    assert issuer.register.clones() == [(first.serial, LATER)] * 2


def test_a_session_is_renewed_by_a_certificate_of_its_own(ca: TinyCa, issuer: Issuer) -> None:
    """Not another session's, nor the node's, nor one that was never issued; and not as a new one."""
    first, node = started(ca, issuer), identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    another = identity(
        ca, issuer.session(WantedSession(ca.agent(session=OTHER), new_key().public_key()), NOW, anyone)
    )
    for serial in (another.serial, node.serial, "abc", ""):
        wanted = WantedSession(first.id, new_key().public_key(), serial)
        assert reason_of(partial(issuer.session, wanted, LATER, anyone)) is Refusal.SESSION_TAKEN


def test_a_session_keeps_its_user_over_renewals(ca: TinyCa, issuer: Issuer) -> None:
    """By the CA's own register: what a node says of a user at a renewal changes nothing, and drops nothing."""
    wanted = WantedSession(ca.agent(), new_key().public_key(), user=ALICE)
    first = identity(ca, issuer.session(wanted, NOW, anyone))
    assert first.on_behalf_of == "alice"
    for user in (None, replace(ALICE, user="mallory", digest=b"another")):
        wanted = WantedSession(ca.agent(), new_key().public_key(), first.serial, user=user)
        first = identity(ca, issuer.session(wanted, LATER, anyone), LATER)
        assert first.on_behalf_of == "alice"


def test_an_id_token_starts_one_session(ca: TinyCa, issuer: Issuer) -> None:
    """Whoever overheard it comes too late; and a session that may not be costs its user no token."""
    key = new_key().public_key()
    wanted = WantedSession(ca.agent(), key, user=ALICE)
    assert reason_of(lambda: issuer.session(wanted, NOW, lambda *_: False)) is Refusal.NOT_LISTED
    issuer.session(wanted, NOW, anyone)
    again = WantedSession(ca.agent(session=OTHER), key, user=ALICE)
    assert reason_of(lambda: issuer.session(again, NOW, anyone)) is Refusal.ID_TOKEN


def test_a_session_whose_name_is_taken_costs_no_token(ca: TinyCa, issuer: Issuer) -> None:
    """The user logs in once for the one that starts."""
    started(ca, issuer)
    taken = WantedSession(ca.agent(), new_key().public_key(), user=ALICE)
    assert reason_of(lambda: issuer.session(taken, NOW, anyone)) is Refusal.SESSION_TAKEN
    free = replace(taken, id=ca.agent(session=OTHER))
    assert identity(ca, issuer.session(free, NOW, anyone)).on_behalf_of == "alice"


def test_a_session_that_has_ended_is_not_renewed(ca: TinyCa, issuer: Issuer) -> None:
    """Nor one whose longest life is over, however fresh its certificate; no certificate reaches past that."""
    first, key = started(ca, issuer), new_key().public_key()
    assert reason_of(lambda: renewed(issuer, first, key, at=first.not_after)) is Refusal.NOT_ALLOWED
    limit = 40 * MINUTE
    assert reason_of(lambda: renewed(issuer, first, key, Wall(NOW + limit), limit)) is Refusal.NOT_ALLOWED
    chain = renewed(issuer, first, key, Wall(NOW + limit - 1), limit)
    assert identity(ca, chain, Wall(NOW + limit - 1)).not_after <= NOW + limit + SECOND
    wanted = WantedSession(ca.agent(session=OTHER), key, longest=limit)
    assert identity(ca, issuer.session(wanted, NOW, anyone)).not_after == NOW + limit


def test_a_session_of_a_node_that_lost_its_agent_is_not_renewed(ca: TinyCa, issuer: Issuer) -> None:
    """The policy in force is asked each time."""
    first = started(ca, issuer)
    wanted = WantedSession(first.id, new_key().public_key(), first.serial)
    assert reason_of(lambda: issuer.session(wanted, LATER, lambda *_: False)) is Refusal.NOT_LISTED


def started(ca: TinyCa, issuer: Issuer) -> Identity:
    """The first certificate of a session."""
    return identity(ca, issuer.session(WantedSession(ca.agent(), new_key().public_key()), NOW, anyone))


def renewed(
    issuer: Issuer,
    before: Identity,
    key: PublicKey | None = None,
    at: Wall = LATER,
    longest: int | None = None,
) -> Chain:
    """The next one."""
    wanted = WantedSession(before.id, key or new_key().public_key(), before.serial, longest)
    return issuer.session(wanted, at, anyone)


def test_only_nodes_renew_themselves(ca: TinyCa, issuer: Issuer) -> None:
    """An operator comes again with a token, a session is renewed by its node."""
    key = new_key().public_key()
    for chain in (
        issuer.admit(ca.operator(), key, NOW, "t"),
        issuer.session(WantedSession(ca.agent(), key), NOW, anyone),
    ):
        with pytest.raises(RefusalError, match="not a node") as caught:
            issuer.renew(identity(ca, chain), key, NOW)
        assert caught.value.reason is Refusal.NOT_ALLOWED


def test_a_session_needs_a_policy_that_lists_its_node(ca: TinyCa, issuer: Issuer) -> None:
    """The question is asked with the node and the agent of the certificate to be."""
    asked: list[tuple[str, str]] = []

    def nobody(node: str, agent: str) -> bool:
        asked.append((node, agent))
        return False

    with pytest.raises(RefusalError, match="agents-1 hold sessions of agent researcher") as caught:
        issuer.session(WantedSession(ca.agent(), new_key().public_key()), NOW, nobody)
    assert caught.value.reason is Refusal.NOT_LISTED
    assert asked == [("agents-1", "researcher")]


def test_a_session_id_is_not_given_twice(ca: TinyCa, issuer: Issuer) -> None:
    """Another agent or node cannot have the id of a session that exists."""
    key = new_key().public_key()
    issuer.session(WantedSession(ca.agent(), key), NOW, anyone)
    for other in (ca.agent(name="other"), ca.agent(node="agents-2")):
        with pytest.raises(RefusalError) as caught:
            issuer.session(WantedSession(other, key), NOW, anyone)
        assert caught.value.reason is Refusal.SESSION_TAKEN


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (Target(kind="node", value="agents-1"), {"a node", "its renewal", "a session"}),
        (Target(kind="agent", value="researcher"), {"a session"}),
        (Target(kind="operator", value="alice"), {"an operator"}),
    ],
    ids=str,
)
def test_a_banned_identity_gets_no_certificate(
    ca: TinyCa, issuer: Issuer, target: Target, reached: set[str]
) -> None:
    """Neither a first one nor the next one, however it asks; nobody else is touched."""
    key = new_key().public_key()
    node = identity(ca, issuer.admit(ca.node(), key, NOW, "t"))
    issuer.register.ban(target, "statement", NOW)
    asked: dict[str, Callable[[], Chain]] = {
        "a node": lambda: issuer.admit(ca.node(), key, NOW, "t"),
        "its renewal": lambda: issuer.renew(node, key, NOW),
        "a session": lambda: issuer.session(WantedSession(ca.agent(), key), NOW, anyone),
        "an operator": lambda: issuer.admit(ca.operator(), key, NOW, "t"),
    }
    assert {what for what, ask in asked.items() if reason_of(ask) is Refusal.BANNED} == reached


def reason_of(ask: Callable[[], Chain]) -> Refusal | None:
    try:
        ask()
    except RefusalError as error:
        return error.reason
    return None


def test_a_banned_serial_ends_its_line(ca: TinyCa, issuer: Issuer) -> None:
    """The node and the session whose certificate was revoked cannot renew it."""
    key = new_key().public_key()
    node = identity(ca, issuer.admit(ca.node(), key, NOW, "t"))
    session = identity(ca, issuer.session(WantedSession(ca.agent(), key), NOW, anyone))
    for number, serial in enumerate((node.serial, session.serial)):
        issuer.register.ban(Target(kind="serial", value=serial), str(number), NOW)
    with pytest.raises(RefusalError, match="revoked"):
        issuer.renew(node, key, NOW)
    with pytest.raises(RefusalError, match="revoked"):
        renewed(issuer, session)
    issuer.admit(ca.node(), key, NOW, "t")


def test_a_renewal_that_is_asked_for_again_is_answered_the_same(ca: TinyCa, issuer: Issuer) -> None:
    """The first answer may have been lost: the same key gets the very same certificate."""
    key = new_key().public_key()
    first = identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    assert issuer.renew(first, key, LATER) == issuer.renew(first, key, Wall(LATER + MINUTE))


def test_a_second_renewal_with_another_key_is_a_clone(ca: TinyCa, issuer: Issuer) -> None:
    """Only one holder can be the right one: the other has a copy, and an alarm is all it gets."""
    first = identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    issuer.renew(first, new_key().public_key(), LATER)
    with pytest.raises(RefusalError) as refused:
        issuer.renew(first, new_key().public_key(), LATER)
    assert refused.value.reason is Refusal.CLONE


def test_of_two_renewals_at_once_the_later_is_judged_by_the_first(ca: TinyCa, issuer: Issuer) -> None:
    """Both looked before either wrote. The same key has the same answer, and another raises the alarm."""
    first, keys = started(ca, issuer), [new_key().public_key() for _ in range(2)]
    node = identity(ca, issuer.admit(ca.node(), new_key().public_key(), NOW, "t"))
    ways: tuple[Callable[[PublicKey], Chain], ...] = (
        lambda key: renewed(issuer, first, key),
        lambda key: issuer.renew(node, key, LATER),
    )
    for renew in ways:
        answer = renew(keys[0])
        assert late(issuer, partial(renew, keys[0])) == answer
        assert reason_of(partial(late, issuer, partial(renew, keys[1]))) is Refusal.CLONE
    assert [serial for serial, _ in issuer.register.clones()] == [first.serial, node.serial]


def late(issuer: Issuer, renew: Callable[[], Chain]) -> Chain:
    """What ``renew`` answers if its first look at the register saw no renewal."""
    looks = issuer.register.renewal_of
    with pytest.MonkeyPatch.context() as patch:

        def blind(serial: str) -> None:
            patch.setattr(issuer.register, "renewal_of", looks)

        patch.setattr(issuer.register, "renewal_of", blind)
        return renew()


def first_of(ca: TinyCa, issuer: Issuer) -> tuple[PublicKey, Identity]:
    key = new_key().public_key()
    return key, identity(ca, issuer.admit(ca.operator(), key, NOW, "t"))


def test_an_operator_renews_under_the_same_key(ca: TinyCa, issuer: Issuer) -> None:
    """The same name, line and key, for as long again."""
    key, first = first_of(ca, issuer)
    second = identity(ca, issuer.renew_operator(first, key, LATER), LATER)
    assert (second.id, second.lineage, second.spki_sha256) == (first.id, first.lineage, first.spki_sha256)
    assert (second.serial != first.serial, second.not_after) == (True, LATER + 12 * HOUR)


def test_an_operator_has_no_other_key_than_the_rosters(ca: TinyCa, issuer: Issuer) -> None:
    """A certificate for another would sign nothing, and hide who it is for."""
    _, first = first_of(ca, issuer)
    assert (
        reason_of(lambda: issuer.renew_operator(first, new_key().public_key(), LATER)) is Refusal.NOT_ALLOWED
    )


def test_two_who_hold_one_operators_key_are_answered_the_same(ca: TinyCa, issuer: Issuer) -> None:
    """A laptop and its backup: the key is one, so this is no alarm."""
    key, first = first_of(ca, issuer)
    answers = [issuer.renew_operator(first, key, Wall(LATER + wait)) for wait in (0, MINUTE)]
    assert answers[0] == answers[1]


def test_one_token_carries_an_operator_for_seven_days(ca: TinyCa, issuer: Issuer) -> None:
    """Renewed as often as one likes, the line ends then, and the last certificate with it."""
    key, held = first_of(ca, issuer)
    at, ends = NOW, Wall(NOW + 7 * DAY)
    while held.not_after < ends:
        at = Wall(at + 6 * HOUR)
        held = identity(ca, issuer.renew_operator(held, key, at), at)
    assert held.not_after == ends
    for late in (at, ends, Wall(ends + DAY)):
        with pytest.raises(RefusalError, match=r"7 days, .* token create operator:alice") as caught:
            issuer.renew_operator(held, key, late)
        assert caught.value.reason is Refusal.NOT_ALLOWED


def test_a_revoked_operator_is_not_renewed(ca: TinyCa, issuer: Issuer) -> None:
    """By name, or by the serial of any certificate of the line."""
    key, first = first_of(ca, issuer)
    second = identity(ca, issuer.renew_operator(first, key, LATER), LATER)
    issuer.register.ban(Target(kind="serial", value=second.serial), "s", LATER)
    assert reason_of(lambda: issuer.renew_operator(first, key, LATER)) is Refusal.BANNED


def test_a_line_that_was_never_written_down_is_not_renewed(ca: TinyCa, issuer: Issuer) -> None:
    """Nobody knows when it began."""
    key = new_key()
    stranger = identity(ca, ca.issue(ca.operator(), key))
    assert reason_of(lambda: issuer.renew_operator(stranger, key.public_key(), NOW)) is Refusal.NOT_ALLOWED
