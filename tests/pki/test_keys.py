import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from pki import keys
from pki.errors import LocalError
from tests.authority import new_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.key"


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_a_new_key_is_on_p256() -> None:
    """One curve everywhere, so that no two members can disagree on another."""
    assert isinstance(keys.generate().curve, ec.SECP256R1)


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_saved_key_loads_as_itself(path: Path, passphrase: bytes | None) -> None:
    """With and without a passphrase, and over an older file."""
    path.write_bytes(b"old")
    key = new_key()
    keys.save(key, path, passphrase)
    assert keys.load(path, passphrase).private_numbers() == key.private_numbers()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_secret_is_private_whatever_the_umask_and_the_leftovers(path: Path) -> None:
    """Mode 0600 from its first moment, also over what a killed process left behind."""
    left = path.with_name(path.name + ".new")
    left.write_bytes(b"half a ke")
    left.chmod(0o644)
    before = os.umask(0)
    try:
        keys.save_private(b"secret", path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert keys.load_private(path) == b"secret"
    assert not left.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_key_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    """It may have been read already; the error says what to run."""
    keys.save(new_key(), path)
    path.chmod(mode)
    with pytest.raises(LocalError, match=f"chmod 0600 {path}"):
        keys.load(path)


def test_a_systemd_credential_may_show_the_mask_of_its_acl(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0440 is how systemd leaves one for a service that is not root; anybody else's bits, and writing, stay refused."""
    keys.save_private(b"secret", path)
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert keys.load_private(path) == b"secret"
    for mode in (0o444, 0o460):
        path.chmod(mode)
        with pytest.raises(LocalError, match="lets others read it"):
            keys.load_private(path)


@pytest.mark.parametrize(
    ("content", "passphrase", "problem"),
    [
        (b"", None, "not a PEM key"),
        (b"not a key", None, "not a PEM key"),
        (pem(new_key()), b"needless", "has no passphrase"),
        (pem(ec.derive_private_key(7, ec.SECP384R1())), None, "not a P-256 key"),
        (pem(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))), None, "not a P-256 key"),
        (bytes(keys.MAX_KEY_FILE_BYTES + 1), None, "larger than"),
    ],
    ids=["empty", "text", "needless-passphrase", "p384", "ed25519", "large"],
)
def test_a_file_without_a_usable_key_is_refused(
    path: Path, content: bytes, passphrase: bytes | None, problem: str
) -> None:
    """Each error names the file and what is wrong with it."""
    keys.save_private(content, path)
    with pytest.raises(LocalError, match=problem) as caught:
        keys.load(path, passphrase)
    assert str(path) in str(caught.value)


def test_an_encrypted_key_needs_its_own_passphrase(path: Path) -> None:
    """None and a wrong one are told apart."""
    keys.save(new_key(), path, b"right")
    with pytest.raises(LocalError, match="a passphrase is needed"):
        keys.load(path)
    with pytest.raises(LocalError, match="wrong passphrase"):
        keys.load(path, b"wrong")


def test_a_key_of_an_unknown_algorithm_is_refused(path: Path) -> None:
    """cryptography raises another exception for these than for nonsense."""
    known = pem(new_key())
    unknown = known.replace(b"MIGHAgEAMBMGByqGSM49AgEG", b"MIGHAgEAMBMGByqGSM49Ag8G")
    assert unknown != known
    keys.save_private(unknown, path)
    with pytest.raises(LocalError, match="not a PEM key"):
        keys.load(path)


@pytest.mark.parametrize("missing", [True, False], ids=["missing", "folder"])
def test_a_missing_key_is_a_local_error(path: Path, missing: bool) -> None:
    """One line that names the path, no traceback."""
    if not missing:
        path.mkdir(mode=0o700)
    with pytest.raises(LocalError, match=str(path)):
        keys.load(path)
