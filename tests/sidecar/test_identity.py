from collections.abc import Callable
from pathlib import Path

import pytest

from pki import chain as chains
from pki import keys
from pki.errors import LocalError, RemoteError
from pki.spki import spki_sha256
from sidecar.identity import (
    BUNDLE_FILE,
    CHAIN_FILE,
    KEY_FILE,
    NEXT_KEY_FILE,
    Credential,
    NextKey,
    ca_of,
    load_bundle,
    named,
    save_bundle,
)
from tests.authority import new_key, tiny_ca

CA = tiny_ca()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "identity"


def credential() -> Credential:
    key = new_key()
    return Credential(CA.node(), CA.issue(CA.node(), key), key)


def parts(credential: Credential) -> tuple[object, ...]:
    """What two equal credentials have in common: keys do not compare."""
    return credential.id, credential.chain, spki_sha256(credential.key.public_key())


def test_what_was_saved_is_loaded(folder: Path) -> None:
    """Key, chain and name; the folder and its files are for the owner alone."""
    made = credential()
    made.save(folder)
    assert parts(Credential.load(folder)) == parts(made)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_passphrase_guards_the_key(folder: Path) -> None:
    """Without it, or with another, there is no credential."""
    made = credential()
    made.save(folder, b"correct horse")
    assert parts(Credential.load(folder, b"correct horse")) == parts(made)
    for wrong in (None, b"battery"):
        with pytest.raises(LocalError, match=KEY_FILE):
            Credential.load(folder, wrong)


def test_no_key_is_shown() -> None:
    """Not in a log, not in a traceback."""
    assert "key" not in repr(credential())


DAMAGES: dict[str, Callable[[Path], object]] = {
    CHAIN_FILE: lambda folder: (folder / CHAIN_FILE).unlink(),
    "chain.pem: ": lambda folder: (folder / CHAIN_FILE).write_text("no PEM"),
    KEY_FILE: lambda folder: (folder / KEY_FILE).unlink(),
    "not the key of": lambda folder: keys.save(new_key(), folder / KEY_FILE),
    "chmod": lambda folder: (folder / KEY_FILE).chmod(0o644),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_credential_is_named(said: str, folder: Path) -> None:
    """The file, and what is wrong with it."""
    credential().save(folder)
    DAMAGES[said](folder)
    with pytest.raises(LocalError, match=said):
        Credential.load(folder)


# -- Renewal


def test_the_next_key_is_the_same_until_its_certificate_is_here(folder: Path) -> None:
    """It is on disk before it is used: an answer of the CA that was lost is asked for again with the same key."""
    folder.mkdir()
    following = NextKey(folder)
    first = following.load()
    assert spki_sha256(following.load().public_key()) == spki_sha256(first.public_key())
    assert spki_sha256(NextKey(folder).load().public_key()) == spki_sha256(first.public_key())


def renewed(folder: Path) -> Credential:
    """The next certificate of the node in ``folder``, not taken up yet."""
    key = NextKey(folder).load()
    return Credential(CA.node(), CA.issue(CA.node(), key), key)


def test_a_renewed_credential_takes_the_place_of_the_old(folder: Path) -> None:
    """Chain and key together, and the next renewal begins with another key."""
    credential().save(folder)
    following = renewed(folder)
    NextKey(folder).take_up(following)
    assert parts(Credential.load(folder)) == parts(following)
    assert not (folder / NEXT_KEY_FILE).exists()
    other = NextKey(folder).load()
    assert spki_sha256(other.public_key()) != spki_sha256(following.key.public_key())


def test_a_crash_before_the_chain_is_written_leaves_the_old_credential(folder: Path) -> None:
    """A still valid credential is never given up for one that is not there yet."""
    old = credential()
    old.save(folder)
    renewed(folder)
    assert parts(Credential.load(folder)) == parts(old)


def test_a_crash_between_chain_and_key_is_mended(folder: Path) -> None:
    """The new chain stands, its key still under its other name: they are brought together, once and for all."""
    credential().save(folder)
    following = renewed(folder)
    keys.save_private(chains.to_pem(following.chain), folder / CHAIN_FILE)
    assert parts(Credential.load(folder)) == parts(following)
    assert not (folder / NEXT_KEY_FILE).exists()
    assert parts(Credential.load(folder)) == parts(following)


# -- The trust anchor


def test_a_saved_bundle_is_the_anchor(folder: Path) -> None:
    """What a join proved by its pin is believed from then on."""
    save_bundle(CA.bundle_statement.raw, folder)
    assert load_bundle(folder) == CA.bundle


@pytest.mark.parametrize(
    "raw", [b"", b"nonsense", CA.bundle_statement.raw[:-1]], ids=["empty", "junk", "cut"]
)
def test_a_damaged_bundle_is_named(raw: bytes, folder: Path) -> None:
    """A node without its anchor must not start."""
    save_bundle(raw, folder)
    with pytest.raises(LocalError, match=BUNDLE_FILE):
        load_bundle(folder)


def test_a_missing_bundle_says_what_to_do(folder: Path) -> None:
    """It came with the join."""
    with pytest.raises(LocalError, match="lockgate join"):
        load_bundle(folder)


# -- Names


def test_a_bundle_names_its_ca() -> None:
    """By its statement keys."""
    assert ca_of(CA.bundle).path == ("ca", "ca-1")


def test_a_certificate_without_one_spiffe_id_names_nobody() -> None:
    """An issuer has none, and bytes are no certificate."""
    assert named(credential().chain[0]) == CA.node()
    for bad in (CA.issuer.certificate, b"\x30\x00"):
        with pytest.raises(RemoteError):
            named(bad)
