"""A rollover on disk: after each step the CA opens, and every member that took the step before takes this one."""

from itertools import count
from pathlib import Path

import pytest

from pki import keys, svid
from pki.authority.keystore import BUNDLE_FILE, STANDING_FILE, Birth, create, open_online, read_standing
from pki.authority.rollover import Part, Phase, Step
from pki.authority.succession import RootAccess, Successor, keys_of
from pki.bundle import TrustBundle, open_pinned, open_successor
from pki.certificate import read
from pki.clock import DAY, HOUR, Wall
from pki.errors import LocalError, RemoteError
from pki.spiffe import SpiffeId
from pki.spki import spki_sha256
from pki.verify import Identity, verify
from tests.authority import NOW, new_key, new_serial

CA = SpiffeId.for_ca("example.org", "main")
NODE = SpiffeId.for_node("example.org", "a")
SECRET = b"a passphrase"
NUMBERS = count(1)

WAYS = [{Part.ISSUER}, {Part.STATEMENT}, {Part.ISSUER, Part.STATEMENT}, {Part.ROOT}]


def entropy(size: int) -> bytes:
    return (1 << 150 | next(NUMBERS) << 8).to_bytes(20)[-size:]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A CA without a passphrase, which would cost a second for each step."""
    create(tmp_path / "authority", CA, None, NOW, entropy)
    return tmp_path / "authority"


def successor(folder: Path, passphrase: bytes | None = None, key: Path | None = None) -> Successor:
    return Successor(folder, Birth(CA, NOW, entropy), RootAccess(passphrase, key))


def leaf(folder: Path) -> tuple[bytes, ...]:
    """What the CA issues now."""
    issuer = open_online(folder).issuer
    plan = svid.LeafPlan(NODE, new_key().public_key(), new_serial(), NOW, HOUR)
    return svid.leaf(plan, issuer), issuer.certificate


def is_good(chain: tuple[bytes, ...], bundle: TrustBundle) -> bool:
    return isinstance(verify(chain, bundle, NOW), Identity)


@pytest.mark.parametrize("parts", WAYS, ids=lambda parts: "+".join(sorted(parts)))
def test_no_step_of_a_rollover_leaves_anybody_behind(folder: Path, parts: set[Part]) -> None:
    """What was issued before a step verifies after it, until retire; the CA's own TLS leaf and words always do."""
    take = successor(folder).take
    before, member = leaf(folder), open_online(folder).bundle
    for step, phase in (
        (Step.PREPARE, Phase.PREPARED),
        (Step.ACTIVATE, Phase.ACTIVATED),
        (Step.RETIRE, Phase.IDLE),
    ):
        during = leaf(folder)
        statement = take(step, parts)
        follows = open_successor(statement, member)
        assert follows.newer_than(member)
        assert follows.epoch == member.epoch
        authority, member = open_online(folder), follows
        assert authority.bundle == member
        assert read_standing(folder).phase is phase
        assert is_good((authority.tls.certificate,), member)
        assert is_good(leaf(folder), member)
        assert authority.statement.certificate == member.statement_keys[0]
        assert authority.issuer.certificate == member.issuers[0]
        if step is not Step.RETIRE:
            assert is_good(before, member)
            assert is_good(during, member)
    assert is_good(before, member) is (Part.ISSUER not in parts and Part.ROOT not in parts)
    assert len(member.roots) == len(member.issuers) == len(member.statement_keys) == 1


@pytest.mark.parametrize("parts", WAYS, ids=lambda parts: "+".join(sorted(parts)))
def test_a_rollback_brings_back_the_keys_of_before(folder: Path, parts: set[Part]) -> None:
    """From each phase; what was issued in between is no longer good once the new key is gone."""
    take = successor(folder).take
    first, member = open_online(folder), open_online(folder).bundle
    between: tuple[bytes, ...] = ()
    for step in (Step.PREPARE, Step.ACTIVATE, Step.ROLLBACK, Step.ACTIVATE, Step.ROLLBACK, Step.ROLLBACK):
        member = open_successor(take(step, parts), member)
        between = leaf(folder) if read_standing(folder).phase is Phase.ACTIVATED else between
        assert is_good(leaf(folder), member)
    last = open_online(folder)
    for one, other in ((last.issuer, first.issuer), (last.statement, first.statement), (last.tls, first.tls)):
        assert one.certificate == other.certificate
    assert is_good(between, member) is (Part.ISSUER not in parts and Part.ROOT not in parts)


def test_whoever_slept_through_one_step_takes_the_next_but_not_through_a_roots_end(folder: Path) -> None:
    """A root's last step is signed by the new root: whoever missed all before needs them in their order."""
    asleep = open_online(folder).bundle
    take = successor(folder).take
    prepared, activated, retired = (
        take(step, {Part.ROOT}) for step in (Step.PREPARE, Step.ACTIVATE, Step.RETIRE)
    )
    assert len(open_successor(activated, asleep).roots) == 2
    with pytest.raises(RemoteError, match="not signed by a root that is trusted here"):
        open_successor(retired, asleep)
    for statement in (prepared, retired):
        asleep = open_successor(statement, asleep)
    assert asleep == open_online(folder).bundle


def test_a_token_of_a_rollover_has_two_pins(folder: Path) -> None:
    """Whoever joins with it finds the CA by the old root or by the new one."""
    take = successor(folder).take
    [old] = pins = open_online(folder).pins
    for step in (Step.PREPARE, Step.ACTIVATE):
        carried = take(step, {Part.ROOT})
        pins = open_online(folder).pins
        assert len(pins) == 2
        assert open_pinned(carried, pins) == open_pinned(carried, frozenset({old}))
    carried = take(Step.RETIRE)
    assert open_online(folder).pins == pins - {old}
    assert open_pinned(carried, pins).sequence == 4


def test_the_keys_of_a_generation_that_is_over_are_gone(folder: Path) -> None:
    """What is gone cannot be stolen. What is no key of a generation stays."""
    (folder / "notes.key").write_text("mine")
    take = successor(folder).take
    for step in (Step.PREPARE, Step.ACTIVATE, Step.RETIRE):
        take(step, {Part.ROOT})
    names = {path.name for path in folder.glob("*.key")}
    spares = {f"{part}-{number}.key" for part in ("issuer", "statement", "tls") for number in (5, 8)}
    assert names - spares == {"root-2.key", "issuer-2.key", "statement-2.key", "tls-2.key", "notes.key"}
    assert spares <= names
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*-2.*"))


@pytest.mark.parametrize("broken_off_after", [BUNDLE_FILE, "issuer-2.key"])
def test_a_step_that_was_broken_off_is_taken_again(
    folder: Path, broken_off_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any of its writes, the CA opens as before, and the same step then succeeds."""

    def save(data: bytes, path: Path) -> None:
        real(data, path)
        if path.name == broken_off_after:
            raise KeyboardInterrupt

    real = keys.save_private
    before = open_online(folder)
    with monkeypatch.context() as patched:
        patched.setattr(keys, "save_private", save)
        with pytest.raises(KeyboardInterrupt):
            successor(folder).take(Step.PREPARE, {Part.ISSUER})
    assert read_standing(folder).phase is Phase.IDLE
    assert open_online(folder).issuer.certificate == before.issuer.certificate
    member = open_online(folder).bundle
    member = open_successor(successor(folder).take(Step.PREPARE, {Part.ISSUER}), member)
    assert len(member.issuers) == 2


def test_a_stolen_online_key_is_replaced_at_once_and_the_epoch_rises(folder: Path) -> None:
    """Nothing that the stolen key has signed, or signs, is good in the new epoch."""
    stolen, member = leaf(folder), open_online(folder).bundle
    after = open_successor(successor(folder).taint({Part.ISSUER, Part.STATEMENT}), member)
    assert (after.epoch, after.sequence) == (member.epoch + 1, member.sequence + 1)
    assert not set(after.issuers) & set(member.issuers)
    assert not set(after.statement_keys) & set(member.statement_keys)
    assert not is_good(stolen, after)
    assert is_good(leaf(folder), after)
    with pytest.raises(LocalError, match="make a new one"):
        successor(folder).taint({Part.ROOT})


def test_a_step_needs_the_roots_own_key(folder: Path, tmp_path: Path) -> None:
    """Kept elsewhere it is named; another key, or none, changes nothing."""
    elsewhere = tmp_path / "usb" / "root.key"
    elsewhere.parent.mkdir()
    (folder / "root.key").rename(elsewhere)
    with pytest.raises(LocalError, match=r"root\.key: No such file"):
        successor(folder).take(Step.PREPARE, {Part.ISSUER})
    with pytest.raises(LocalError, match=r"not the key of root\.pem"):
        successor(folder, key=folder / "issuer.key").take(Step.PREPARE, {Part.ISSUER})
    with pytest.raises(LocalError, match="of which key"):
        successor(folder, key=elsewhere).take(Step.PREPARE, set())
    assert read_standing(folder).phase is Phase.IDLE
    successor(folder, key=elsewhere).take(Step.PREPARE, {Part.ISSUER})
    assert read_standing(folder).phase is Phase.PREPARED


def test_a_new_root_lies_under_the_passphrase_of_the_old_one(tmp_path: Path) -> None:
    """And no step is taken without it."""
    folder = tmp_path / "authority"
    create(folder, CA, SECRET, NOW, entropy)
    with pytest.raises(LocalError, match="wrong passphrase"):
        successor(folder, b"another").take(Step.PREPARE, {Part.ROOT})
    successor(folder, SECRET).take(Step.PREPARE, {Part.ROOT})
    assert spki_sha256(keys.load(folder / "root-2.key", SECRET).public_key()) in open_online(folder).pins
    with pytest.raises(LocalError, match="is encrypted"):
        keys.load(folder / "root-2.key")


def test_the_keys_before_and_after_are_named_in_every_phase(folder: Path) -> None:
    """By their key identifiers, as certificates name who signed them."""
    take = successor(folder).take
    assert keys_of(folder, read_standing(folder)) == (frozenset(), frozenset())
    first = read(open_online(folder).issuer.certificate).subject_key_id.hex()
    take(Step.PREPARE, {Part.ISSUER})
    old, new = keys_of(folder, read_standing(folder))
    assert first in old - new
    take(Step.ACTIVATE)
    assert keys_of(folder, read_standing(folder)) == (old, new)
    assert read(open_online(folder).issuer.certificate).subject_key_id.hex() in new - old


def test_a_damaged_standing_is_refused(folder: Path) -> None:
    """Which keys count must not be guessed."""
    (folder / STANDING_FILE).write_text('{"phase": "idle", "active": {"root": "../../root"}}')
    with pytest.raises(LocalError, match=r"standing.json: damaged"):
        open_online(folder)


# Without the root: what it has signed beforehand


@pytest.fixture
def stocked(folder: Path, tmp_path: Path) -> Path:
    """A CA with spares, whose root key is elsewhere."""
    successor(folder).stock()
    (folder / "root.key").rename(tmp_path / "root.key")
    return folder


def later(folder: Path, days: int, key: Path | None = None) -> Successor:
    return Successor(folder, Birth(CA, Wall(NOW + days * DAY), entropy), RootAccess(None, key))


def test_two_generations_follow_each_other_without_the_root(stocked: Path) -> None:
    """Half life after half life; what was issued before a step verifies after it, until retire."""
    member = open_online(stocked).bundle
    for days in (45, 90):
        take = later(stocked, days).take
        for step in (Step.PREPARE, Step.ACTIVATE, Step.RETIRE):
            before = member
            member = open_successor(take(step), before)
            assert (member.epoch, member.sequence) == (before.epoch, before.sequence + 1)
            assert set(before.issuers) & set(member.issuers)
            assert open_online(stocked).bundle == member
        assert read(open_online(stocked).issuer.certificate).not_after > NOW + (days + 85) * DAY
        assert len(list(stocked.glob("issuer-*.key"))) == (2 if days == 45 else 1)
    with pytest.raises(LocalError, match=r"root\.key"):
        later(stocked, 135).take(Step.PREPARE, {Part.ISSUER})


def test_a_spare_is_no_good_before_half_life(stocked: Path) -> None:
    """Until then the root is wanted: what is not valid yet would cut everybody off."""
    assert later(stocked, 43).ready(Step.PREPARE) is None
    assert later(stocked, 44).ready(Step.PREPARE) is not None
    assert later(stocked, 44 + 91).ready(Step.PREPARE) is None


@pytest.mark.parametrize("step", [Step.ACTIVATE, Step.RETIRE, Step.ROLLBACK])
def test_only_the_step_that_leads_on_was_signed(stocked: Path, step: Step) -> None:
    """Back goes nobody without the root."""
    assert later(stocked, 45).ready(step) is None


@pytest.mark.parametrize("parts", [{Part.ROOT}, {Part.ISSUER}, {Part.STATEMENT}, set(Part)])
def test_other_keys_than_both_online_ones_take_the_root(stocked: Path, parts: set[Part]) -> None:
    """The bundles that were signed name both."""
    assert later(stocked, 45).ready(Step.PREPARE, parts) is None


def test_the_root_goes_on_above_all_that_it_signed_beforehand(stocked: Path, tmp_path: Path) -> None:
    """Two bundles of one sequence could both be in force somewhere: whoever stole the folder has the other."""
    root, was = tmp_path / "root.key", open_online(stocked).bundle.sequence
    later(stocked, 45).take(Step.PREPARE)
    back = open_online(stocked).bundle
    carried = later(stocked, 45, root).take(Step.ROLLBACK)
    assert open_successor(carried, back).sequence == was + 7
    assert read_standing(stocked).phase is Phase.IDLE
    assert len(read_standing(stocked).spares) == 2
    tainted = later(stocked, 46, root).taint({Part.ISSUER})
    assert open_successor(tainted, back).sequence == was + 14
    assert later(stocked, 91).ready(Step.PREPARE) is not None  # Of the new epoch, stocked anew.


def test_a_bundle_that_does_not_fit_is_not_used(stocked: Path) -> None:
    """Exchanged for that of another phase, it is no way on."""
    two, three = (stocked / f"spare-{number}.statement" for number in (2, 3))
    three.rename(two)
    assert later(stocked, 45).ready(Step.PREPARE) is None
