"""A credential on disk: whole after any crash, and never readable by others."""

from pathlib import Path

import pytest

from pki.errors import LocalError, RemoteError
from pki.spki import Key
from sidecar.identity import (
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
from tests.authority import TinyCa, new_key, tiny_ca


@pytest.fixture
def ca() -> TinyCa:
    return tiny_ca()


def credential(ca: TinyCa, key: Key) -> Credential:
    return Credential(ca.node(), ca.issue(ca.node(), key), key)


def spelled(one: Credential) -> tuple[object, ...]:
    return one.id, one.chain, one.key.private_numbers()


def test_a_credential_survives_the_trip_to_disk(ca: TinyCa, tmp_path: Path) -> None:
    """The same name, chain and key come back, from files that only their owner reads."""
    kept = credential(ca, new_key())
    kept.save(tmp_path / "identity")
    assert spelled(Credential.load(tmp_path / "identity")) == spelled(kept)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "identity").iterdir()} == {0o600}


def test_a_missing_or_damaged_credential_says_what_to_do(ca: TinyCa, tmp_path: Path) -> None:
    """One line: which file, and how to get a good one."""
    with pytest.raises(LocalError, match="lockgate join"):
        Credential.load(tmp_path)
    credential(ca, new_key()).save(tmp_path)
    (tmp_path / CHAIN_FILE).write_text("junk")
    with pytest.raises(LocalError, match=CHAIN_FILE):
        Credential.load(tmp_path)


def test_the_next_key_is_the_same_until_its_certificate_is_here(ca: TinyCa, tmp_path: Path) -> None:
    """An answer of the CA that was lost is asked for again with the very same key."""
    credential(ca, new_key()).save(tmp_path)
    first = NextKey(tmp_path).load()
    assert NextKey(tmp_path).load().private_numbers() == first.private_numbers()
    following = credential(ca, first)
    NextKey(tmp_path).take_up(following)
    assert spelled(Credential.load(tmp_path)) == spelled(following)
    assert NextKey(tmp_path).load().private_numbers() != first.private_numbers()


def test_a_crash_in_the_middle_of_a_renewal_leaves_a_pair_that_fits(ca: TinyCa, tmp_path: Path) -> None:
    """The chain is replaced first: its key is then found under its other name, and put in its place."""
    old = credential(ca, new_key())
    old.save(tmp_path)
    following = credential(ca, NextKey(tmp_path).load())
    assert spelled(Credential.load(tmp_path)) == spelled(old)
    following.save(tmp_path / "elsewhere")
    (tmp_path / CHAIN_FILE).write_bytes((tmp_path / "elsewhere" / CHAIN_FILE).read_bytes())
    assert spelled(Credential.load(tmp_path)) == spelled(following)
    assert not (tmp_path / NEXT_KEY_FILE).exists()
    assert spelled(Credential.load(tmp_path)) == spelled(following)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_the_bundle_on_disk_is_the_trust_anchor(ca: TinyCa, tmp_path: Path) -> None:
    """What a join proved by its pin is believed from here on, if it is still what its root signed."""
    save_bundle(ca.bundle_statement.raw, tmp_path)
    assert load_bundle(tmp_path) == ca.bundle
    assert ca_of(ca.bundle) == named(ca.ca_chain[0])
    (tmp_path / "bundle.statement").write_bytes(ca.bundle_statement.raw[:-1] + b"\0")
    with pytest.raises(LocalError, match="bundle"):
        load_bundle(tmp_path)
    with pytest.raises(LocalError, match="lockgate join"):
        load_bundle(tmp_path / "nowhere")


def test_a_certificate_without_one_spiffe_id_is_nobodys() -> None:
    """The name on disk is read as strictly as one off the wire."""
    with pytest.raises(RemoteError):
        named(b"junk")
    with pytest.raises(RemoteError):
        named(tiny_ca().bundle.roots[0])
