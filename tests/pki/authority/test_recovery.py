"""A CA made anew under its root: members that knew the old one follow it, and nothing is given twice."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from pki import keys, svid
from pki.authority.entries import Invitation
from pki.authority.keystore import REGISTER_FILE, Birth, create, open_online, read_standing
from pki.authority.recovery import NUMBERS_SKIPPED, Found, rebuild
from pki.authority.register import Register
from pki.authority.rollover import Phase, Step
from pki.authority.signer import Span, StatementSigner
from pki.authority.succession import RootAccess, Successor
from pki.bundle import open_successor
from pki.certificate import read
from pki.clock import HOUR, Wall
from pki.errors import LocalError
from pki.spiffe import IdKind, SpiffeId
from pki.spki import spki_sha256
from pki.statement import Cutoff, Lift, Revocation, Target
from pki.svid import Signer
from pki.verify import Identity, Rejected, verify
from tests.authority import NOW, new_key, new_serial

CA = SpiffeId.for_ca("example.org", "main")
NODE = SpiffeId.for_node("example.org", "a")
BANNED = SpiffeId.for_node("example.org", "banned")
NUMBERS = count(1)
SECRET_HASH = b"s" * 32


def entropy(size: int) -> bytes:
    return (1 << 150 | next(NUMBERS) << 8).to_bytes(20)[-size:]


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """A CA that has signed a revocation and given out a token."""
    create(tmp_path / "lost", CA, None, NOW, entropy)
    return tmp_path / "lost"


def root_of(folder: Path) -> Signer:
    return Signer(open_online(folder).bundle.roots[0], keys.load(folder / "root.key"))


def found(folder: Path, register: bytes | None = None) -> Found:
    """What the nodes of the lost CA hold of it."""
    authority = open_online(folder)
    with Register.open(folder / REGISTER_FILE) as kept:
        signer = StatementSigner(authority, kept)
        body = Revocation(target=Target(kind="node", value="banned"))
        revoked = signer.restriction(body, Span(NOW, Wall(NOW + HOUR)))
    counters = {"number": revoked.payload.number, "sequence/policy": 7}
    return Found(authority.bundle, counters, (revoked,), (authority.bundle_statement,), register)


def remade(lost: Path, folder: Path, given: Found) -> Path:
    rebuild(folder, Birth(CA, NOW, entropy), root_of(lost), given)
    return folder


def leaf(folder: Path) -> tuple[bytes, ...]:
    issuer = open_online(folder).issuer
    plan = svid.LeafPlan(NODE, new_key().public_key(), new_serial(), NOW, HOUR)
    return svid.leaf(plan, issuer), issuer.certificate


def test_members_follow_it_by_their_root_into_a_new_epoch(lost: Path, tmp_path: Path) -> None:
    """Its bundle follows the one they have; their certificates count until they have renewed, its old words never."""
    before, member = leaf(lost), open_online(lost).bundle
    new = open_online(remade(lost, tmp_path / "new", found(lost)))
    after = open_successor(new.bundle_statement, member)
    assert (after.epoch, after.newer_than(member)) == (member.epoch + 1, True)
    assert isinstance(verify(before, after, NOW), Identity)
    assert not set(member.statement_keys) & set(after.statement_keys)
    assert isinstance(verify(leaf(tmp_path / "new"), after, NOW), Identity)
    assert new.id == CA


def test_no_number_is_given_twice(lost: Path, tmp_path: Path) -> None:
    """It goes on far above what anybody has seen, each counter above its own last."""
    given = found(lost)
    with Register.open(remade(lost, tmp_path / "new", given) / REGISTER_FILE) as register:
        assert register.next_number() == given.counters["number"] + NUMBERS_SKIPPED + 1
        assert register.next_sequence("policy") == 8
        assert register.next_sequence("member/node/a") == 1


def test_who_was_banned_stays_banned_and_no_token_comes_back(lost: Path, tmp_path: Path) -> None:
    """Of a backup: bans before it, bans after it by the nodes; a token in it may have been spent since."""
    given = found(lost)
    with Register.open(lost / REGISTER_FILE) as register:
        register.ban(Target(kind="agent", value="old"), "before", NOW)
        register.add_token(SECRET_HASH, Invitation(IdKind.NODE, "b", (), Wall(NOW + HOUR)), NOW)
        register.copy(tmp_path / "copy")
    given = found(lost, (tmp_path / "copy").read_bytes())
    with Register.open(remade(lost, tmp_path / "new", given) / REGISTER_FILE) as register:
        assert register.is_banned(BANNED)
        assert register.is_banned(SpiffeId.for_agent("example.org", "old", "a", "a" * 26))
        spending = register.spend_token(SECRET_HASH, b"k" * 32, NOW)
        assert spending is not None
        assert (spending.spent_by, spending.invitation.expires) == (None, 0)


def test_a_cutoff_and_what_was_lifted_count_as_they_did(lost: Path, tmp_path: Path) -> None:
    """A name that may come back may, and certificates from before the cutoff may not."""
    given, target = found(lost), Target(kind="node", value="banned")
    (revoked,) = given.stops
    with Register.open(lost / REGISTER_FILE) as kept:
        signer, span = StatementSigner(open_online(lost), kept), Span(NOW, Wall(NOW + HOUR))
        cutoff = signer.restriction(Cutoff(target=Target(kind="agent", value="x"), before=NOW), span)
        lift = signer.lift("unrevoke", Lift(ids=[revoked.id], before=NOW), span)
    given = replace(given, stops=(revoked, cutoff, lift))
    agent = SpiffeId.for_agent("example.org", "x", "a", "a" * 26)
    with Register.open(remade(lost, tmp_path / "new", given) / REGISTER_FILE) as register:
        for name in (agent, SpiffeId.for_node("example.org", target.value)):
            assert not register.is_banned(name)
            assert register.is_banned(name, "", Wall(NOW - 1))


def test_it_goes_on_to_retire_and_never_back(lost: Path, tmp_path: Path) -> None:
    """The lost issuer's key is nowhere: rollback is refused, and retire ends the trust in it."""
    old, folder = leaf(lost), remade(lost, tmp_path / "new", found(lost))
    assert read_standing(folder).phase is Phase.ACTIVATED
    take = Successor(folder, Birth(CA, NOW, entropy), RootAccess(None, lost / "root.key")).take
    with pytest.raises(LocalError, match="nothing leads back"):
        take(Step.ROLLBACK)
    take(Step.RETIRE)
    assert isinstance(verify(old, open_online(folder).bundle, NOW), Rejected)


def test_a_node_that_slept_through_it_finds_the_bundles_in_between(lost: Path, tmp_path: Path) -> None:
    """All that were seen are kept, and the new one."""
    with Register.open(remade(lost, tmp_path / "new", found(lost)) / REGISTER_FILE) as register:
        assert len(register.bundles(0, 0)) == 2


def test_a_ca_is_never_overwritten_and_never_half_there(lost: Path, tmp_path: Path) -> None:
    """Where one is, recovery stops; a register that is none leaves no CA behind."""
    with pytest.raises(LocalError, match="never overwritten"):
        remade(lost, lost, found(lost))
    with pytest.raises(LocalError):
        remade(lost, tmp_path / "new", found(lost, b"not a register"))
    assert not (tmp_path / "new").exists()


def test_the_root_key_of_a_backup_lies_where_it_lay(lost: Path, tmp_path: Path) -> None:
    """As it was, under its passphrase; without one the CA's folder has none."""
    held = (lost / "root.key").read_bytes()
    folder = remade(lost, tmp_path / "new", replace(found(lost), root_key=held))
    assert (folder / "root.key").read_bytes() == held
    assert not (remade(lost, tmp_path / "other", found(lost)) / "root.key").exists()
    pin = spki_sha256(root_of(lost).key.public_key())
    assert open_online(folder).pins == {pin}
    assert read(open_online(folder).tls.certificate).not_after > NOW
