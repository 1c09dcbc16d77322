from pathlib import Path

import pytest
import trio

from pki.authority.enrol import MAX_TTL, ROLES, Admission, Enrolment
from pki.authority.entries import Invitation
from pki.authority.issuer import Issuer
from pki.authority.refusal import Refusal, RefusalError
from pki.authority.register import Register
from pki.clock import MINUTE, Wall
from pki.errors import LocalError
from pki.spiffe import IdKind
from pki.spki import spki_sha256
from pki.statement import Target
from pki.token import Token
from pki.verify import Identity, verify
from tests.authority import NOW, TRUST_DOMAIN, TinyCa, new_key

END = Wall(NOW + 10 * MINUTE)
NODE = Invitation(IdKind.NODE, "agents-1", (), END)
OPERATOR = Invitation(IdKind.OPERATOR, "alice", ("admin", "approver"), END)
ADDRESSES = ("127.0.0.1:7444",)


@pytest.fixture
def enrolment(issuer: Issuer) -> Enrolment:
    return Enrolment(issuer)


def refusal(
    enrolment: Enrolment, secret: bytes, at: Wall = NOW, trust_domain: str = TRUST_DOMAIN
) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        enrolment.redeem(secret, trust_domain, new_key().public_key(), at)
    assert "\n" not in str(caught.value)
    assert secret.hex() not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("invitation", [NODE, OPERATOR])
def test_a_token_lets_in_the_one_it_names(ca: TinyCa, enrolment: Enrolment, invitation: Invitation) -> None:
    """Name, kind and roles are the token's; the key is the newcomer's."""
    token = enrolment.create(invitation, ADDRESSES, NOW)
    key = new_key().public_key()
    admission = enrolment.redeem(token.secret, token.member.trust_domain, key, NOW)
    judgement = verify(admission.chain, ca.bundle, NOW)
    assert isinstance(judgement, Identity)
    assert judgement.id == admission.id
    assert (admission.id.kind, admission.id.name) == (invitation.kind, invitation.name)
    assert (admission.roles, admission.key) == (invitation.roles, spki_sha256(key))
    assert judgement.public_key == key


def test_a_token_carries_what_a_newcomer_needs(ca: TinyCa, enrolment: Enrolment) -> None:
    """Where the CA is, and the pin of its root; through text and back."""
    token = Token.parse(enrolment.create(NODE, ADDRESSES, NOW).encode())
    assert (token.member, token.addresses) == (ca.node(), ADDRESSES)
    assert token.pins == {spki_sha256(ca.root.key.public_key())}


def test_the_same_key_is_answered_the_same(enrolment: Enrolment) -> None:
    """An answer that was lost on the way costs the newcomer nothing, and mints nothing."""
    token, key = enrolment.create(NODE, ADDRESSES, NOW), new_key().public_key()
    first = enrolment.redeem(token.secret, TRUST_DOMAIN, key, NOW)
    assert enrolment.redeem(token.secret, TRUST_DOMAIN, key, Wall(END - 1)) == first


def test_a_token_spent_by_a_key_that_got_no_answer_is_answered_later(
    enrolment: Enrolment, register: Register
) -> None:
    """The CA died between the two: the same key may come again."""
    token, key = enrolment.create(NODE, ADDRESSES, NOW), new_key().public_key()
    register_of_dead_ca = Enrolment(Issuer(enrolment.issuer.authority, register, entropy=_dies))
    with pytest.raises(OSError, match="died"):
        register_of_dead_ca.redeem(token.secret, TRUST_DOMAIN, key, NOW)
    assert refusal(enrolment, token.secret).reason is Refusal.TOKEN_USED
    assert enrolment.redeem(token.secret, TRUST_DOMAIN, key, NOW).chain


def _dies(size: int) -> bytes:
    raise OSError(size, "died")


def test_wrong_used_expired_and_foreign_tokens_are_told_apart(enrolment: Enrolment) -> None:
    """Each with one line that says what to do."""
    used, late = (enrolment.create(NODE, ADDRESSES, NOW) for _ in range(2))
    enrolment.redeem(used.secret, TRUST_DOMAIN, new_key().public_key(), NOW)
    refusals = {
        Refusal.TOKEN_UNKNOWN: refusal(enrolment, b"s" * 16),
        Refusal.TOKEN_USED: refusal(enrolment, used.secret),
        Refusal.TOKEN_EXPIRED: refusal(enrolment, late.secret, at=END),
        Refusal.TOKEN_FOREIGN: refusal(enrolment, late.secret, trust_domain="elsewhere.org"),
    }
    assert {reason: error.reason for reason, error in refusals.items()} == {
        reason: reason for reason in refusals
    }
    assert len({str(error) for error in refusals.values()}) == 4
    assert all("lockgate token create" in str(error) for error in refusals.values())


def test_a_foreign_token_is_not_spent(enrolment: Enrolment) -> None:
    """Nothing is looked up for it."""
    token = enrolment.create(NODE, ADDRESSES, NOW)
    refusal(enrolment, token.secret, trust_domain="elsewhere.org")
    assert enrolment.redeem(token.secret, TRUST_DOMAIN, new_key().public_key(), NOW).chain


async def test_of_two_keys_in_a_race_one_wins(enrolment: Enrolment) -> None:
    """However they interleave, one gets the certificate and the other hears that the token is used."""
    for _ in range(5):
        token = enrolment.create(NODE, ADDRESSES, NOW)
        outcomes: list[Admission | Refusal] = []

        async def race(secret: bytes, outcomes: list[Admission | Refusal]) -> None:
            key = new_key().public_key()
            try:
                outcomes.append(
                    await trio.to_thread.run_sync(enrolment.redeem, secret, TRUST_DOMAIN, key, NOW)
                )
            except RefusalError as error:
                outcomes.append(error.reason)

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(race, token.secret, outcomes)
        assert outcomes.count(Refusal.TOKEN_USED) == 1
        assert len(outcomes) == 2


def test_a_banned_name_is_not_let_in_by_a_new_token(enrolment: Enrolment, register: Register) -> None:
    """Neither by a token made before the ban, nor is one made after it."""
    before = enrolment.create(NODE, ADDRESSES, NOW)
    register.ban(Target(kind="node", value="agents-1"), "statement", NOW)
    assert refusal(enrolment, before.secret).reason is Refusal.BANNED
    with pytest.raises(LocalError, match="was revoked"):
        enrolment.create(NODE, ADDRESSES, NOW)


@pytest.mark.parametrize("by", ["name", "serial"])
def test_a_repeat_after_a_ban_is_refused(
    ca: TinyCa, enrolment: Enrolment, register: Register, by: str
) -> None:
    """The kept answer is not handed out again to whom has been revoked since."""
    token, key = enrolment.create(NODE, ADDRESSES, NOW), new_key().public_key()
    chain = enrolment.redeem(token.secret, TRUST_DOMAIN, key, NOW).chain
    joined = verify(chain, ca.bundle, NOW)
    assert isinstance(joined, Identity)
    named = Target(kind="node", value="agents-1")
    register.ban(named if by == "name" else Target(kind="serial", value=joined.serial), "s", NOW)
    with pytest.raises(RefusalError, match="revoked"):
        enrolment.redeem(token.secret, TRUST_DOMAIN, key, NOW)


@pytest.mark.parametrize(
    "invitation",
    [
        pytest.param(Invitation(IdKind.CA, "ca-2", (), END), id="a CA"),
        pytest.param(Invitation(IdKind.AGENT, "researcher", (), END), id="an agent"),
        pytest.param(Invitation(IdKind.NODE, "Not A Name", (), END), id="no name"),
        pytest.param(Invitation(IdKind.NODE, "a", ("admin",), END), id="a node with a role"),
        pytest.param(Invitation(IdKind.OPERATOR, "a", (), END), id="an operator without one"),
        pytest.param(Invitation(IdKind.OPERATOR, "a", ("root",), END), id="an unknown role"),
        pytest.param(Invitation(IdKind.NODE, "a", (), NOW), id="no time to live"),
        pytest.param(Invitation(IdKind.NODE, "a", (), Wall(NOW + MAX_TTL + 1)), id="too long to live"),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(enrolment: Enrolment, invitation: Invitation) -> None:
    """It is refused where the admin can still correct it."""
    with pytest.raises(LocalError, match="token: "):
        enrolment.create(invitation, ADDRESSES, NOW)


def test_every_role_can_be_given(enrolment: Enrolment) -> None:
    """All four roles of the roster."""
    enrolment.create(Invitation(IdKind.OPERATOR, "a", tuple(sorted(ROLES)), END), ADDRESSES, NOW)


def test_the_register_never_holds_a_secret(enrolment: Enrolment, tmp_path: Path) -> None:
    """Whoever reads a backup of it cannot join."""
    token = enrolment.create(NODE, ADDRESSES, NOW)
    enrolment.redeem(token.secret, TRUST_DOMAIN, new_key().public_key(), NOW)
    assert (tmp_path / "register.sqlite").exists()
    assert all(token.secret not in file.read_bytes() for file in tmp_path.iterdir())
