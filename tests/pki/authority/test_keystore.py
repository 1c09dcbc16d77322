import os
from pathlib import Path

import pytest

from pki import keys
from pki.authority import keystore
from pki.authority.keystore import Authority
from pki.authority.register import Register
from pki.certificate import read
from pki.clock import DAY
from pki.errors import LocalError
from pki.judge import Trust, judge
from pki.spiffe import SpiffeId
from pki.statement import Lock, Signer, Target, Terms, sign
from pki.verify import Identity, verify
from tests.authority import NOW

CA = SpiffeId.for_ca("example.org", "ca-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "lib" / "authority"
    keystore.create(folder, CA, b"correct horse", NOW, os.urandom)
    return folder


def test_a_new_ca_is_whole(folder: Path) -> None:
    """It opens, its bundle is proven by its root, its register is there, and no draft is left beside it."""
    authority = keystore.open_online(folder)
    assert authority.id == CA
    assert (authority.bundle.epoch, authority.bundle.sequence) == (1, 1)
    assert authority.bundle_statement.payload.expires == read(authority.bundle.roots[0]).not_after
    assert authority.pins == {keys.spki_sha256(read_key(authority.bundle.roots[0]))}
    Register.open(folder / keystore.REGISTER_FILE).close()
    assert [path.name for path in folder.parent.iterdir()] == ["authority"]


def read_key(certificate: bytes) -> keys.PublicKey:
    key = read(certificate).key
    assert key is not None
    return key


def test_the_tls_leaf_proves_the_ca_until_its_end(folder: Path) -> None:
    """Members that dial the CA accept it by the one judgement that they use for all."""
    authority = keystore.open_online(folder)
    judgement = verify((authority.tls.certificate,), authority.bundle, NOW)
    assert isinstance(judgement, Identity)
    assert judgement.id == CA
    assert judgement.not_after == NOW + 90 * DAY


def test_the_statement_key_speaks_for_the_ca(folder: Path) -> None:
    """What it signs is judged to be the CA's word."""
    authority = keystore.open_online(folder)
    lock = Lock(target=Target(kind="all"))
    pair = authority.statement
    statement = sign("lock", lock, Terms(1, NOW, NOW + DAY, number=1), pair.key, (pair.certificate,))
    word = judge(statement, Trust(authority.bundle, lambda _: None), NOW)
    assert word.signers == {Signer.CA}


def test_all_that_is_secret_is_for_the_owner_only(folder: Path) -> None:
    """The folder is 0700 and every file in it 0600."""
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_the_root_key_needs_its_passphrase(folder: Path) -> None:
    """On disk it is encrypted when a passphrase was given."""
    with pytest.raises(LocalError, match="a passphrase is needed"):
        keys.load(folder / "root.key")
    assert (
        read_key(keystore.open_online(folder).bundle.roots[0])
        == keys.load(folder / "root.key", b"correct horse").public_key()
    )


def test_a_root_without_passphrase_is_possible(tmp_path: Path) -> None:
    """For a demo, which says so."""
    keystore.create(tmp_path / "authority", CA, None, NOW, os.urandom)
    keys.load(tmp_path / "authority" / "root.key")


def test_the_ca_serves_without_its_root_key(folder: Path) -> None:
    """The root may be kept offline."""
    (folder / "root.key").unlink()
    assert isinstance(keystore.open_online(folder), Authority)


def test_a_ca_is_never_overwritten(folder: Path) -> None:
    """Not even by half: nothing in the folder changes."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LocalError, match="a CA is there already"):
        keystore.create(folder, CA, None, NOW, os.urandom)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_creation_that_broke_off_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """No half of a CA can be taken for a whole one, and the next try begins anew."""

    def fail(size: int) -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(LocalError, match="No space left"):
        keystore.create(tmp_path / "authority", CA, None, NOW, fail)
    assert not (tmp_path / "authority").exists()
    keystore.create(tmp_path / "authority", CA, None, NOW, os.urandom)
    assert [path.name for path in tmp_path.iterdir()] == ["authority"]


def test_a_ca_has_a_ca_name(tmp_path: Path) -> None:
    """No other SPIFFE ID may serve the CA's API."""
    with pytest.raises(LocalError, match="/ca/"):
        keystore.create(tmp_path / "authority", SpiffeId.for_node("td", "a"), None, NOW, os.urandom)


@pytest.mark.parametrize("name", ["issuer.key", "statement.key", "tls.key"])
def test_a_key_that_others_can_read_is_refused(folder: Path, name: str) -> None:
    """The one line says which file, and the command that cures it."""
    (folder / name).chmod(0o640)
    with pytest.raises(LocalError, match=f"{name}: mode 0640 lets others read it; run: chmod 0600"):
        keystore.open_online(folder)


@pytest.mark.parametrize(
    "name",
    [
        "root.pem",
        "issuer.pem",
        "issuer.key",
        "statement.pem",
        "statement.key",
        "tls.pem",
        "tls.key",
        "bundle.statement",
    ],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """A CA with a part gone does not start."""
    (folder / name).unlink()
    with pytest.raises(LocalError, match=f"{name}: No such file"):
        keystore.open_online(folder)


@pytest.mark.parametrize("name", ["root.pem", "issuer.pem", "tls.pem", "bundle.statement"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"x" * 100_000])
def test_a_damaged_file_is_refused(folder: Path, name: str, content: bytes) -> None:
    """What cannot be read is never skipped."""
    (folder / name).write_bytes(content)
    with pytest.raises(LocalError, match=str(folder)):
        keystore.open_online(folder)


@pytest.mark.parametrize(
    ("name", "other", "why"),
    [
        ("issuer.pem", "tls.pem", "do not belong together"),
        ("root.pem", "tls.pem", "not signed by a root"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(folder: Path, name: str, other: str, why: str) -> None:
    """A mixed-up restore shows at the start, not in certificates that nobody accepts."""
    (folder / name).write_bytes((folder / other).read_bytes())
    with pytest.raises(LocalError, match=why):
        keystore.open_online(folder)


def test_a_file_with_two_certificates_is_refused(folder: Path) -> None:
    """Which of them counts is not guessed."""
    path = folder / "tls.pem"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(LocalError, match=r"tls\.pem: 2 certificates, not one"):
        keystore.open_online(folder)


@pytest.mark.parametrize("name", ["issuer", "statement"])
def test_keys_of_another_ca_are_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """A pair that is whole in itself, and not in this bundle."""
    keystore.create(tmp_path / "other", CA, None, NOW, os.urandom)
    for suffix in (".key", ".pem"):
        (folder / (name + suffix)).write_bytes((tmp_path / "other" / (name + suffix)).read_bytes())
    with pytest.raises(LocalError, match="not those of its trust bundle"):
        keystore.open_online(folder)


def test_a_tls_leaf_that_is_no_ca_is_refused(folder: Path) -> None:
    """The CA's own name is read from it."""
    for suffix in (".key", ".pem"):
        (folder / f"tls{suffix}").write_bytes((folder / f"issuer{suffix}").read_bytes())
    with pytest.raises(LocalError, match=r"tls\.pem is not a certificate of a CA"):
        keystore.open_online(folder)
