"""Private keys: P-256, made here, kept in files that only their owner can read."""

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pki.errors import LocalError
from pki.spki import Key, PublicKey, spki, spki_sha256

# The pure part lives in pki.spki, so that the cores which need only that reach no file.
__all__ = [
    "Key",
    "PublicKey",
    "generate",
    "load",
    "load_private",
    "save",
    "save_private",
    "spki",
    "spki_sha256",
    "to_pem",
]

MAX_KEY_FILE_BYTES = 16_384


def generate() -> Key:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def save(key: Key, path: Path, passphrase: bytes | None = None) -> None:
    """Write ``key`` as :func:`to_pem` gives it, mode 0600, replaced atomically, durable on return."""
    save_private(to_pem(key, passphrase), path)


def to_pem(key: Key, passphrase: bytes | None = None) -> bytes:
    """``key`` as PKCS #8 PEM, encrypted where there is a passphrase."""
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        protection = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def save_private(data: bytes, path: Path) -> None:
    """Write ``data``, mode 0600 from its first moment on, replaced atomically, durable on return."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path, passphrase: bytes | None = None) -> Key:
    """The key in ``path``; raises LocalError if it is missing, bad, or readable by others."""
    try:
        key = serialization.load_pem_private_key(load_private(path), passphrase)
    except TypeError:
        problem = "is encrypted, a passphrase is needed" if passphrase is None else "has no passphrase"
        raise LocalError(f"key {path}: {problem}") from None
    except (ValueError, UnsupportedAlgorithm):
        problem = (
            "not a PEM key; restore it from a copy"
            if passphrase is None
            else "wrong passphrase, or not a PEM key"
        )
        raise LocalError(f"key {path}: {problem}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise LocalError(f"key {path}: not a P-256 key")
    return key


def load_private(path: Path) -> bytes:
    """The bytes of a secret file; raises LocalError if it is missing, too large, or readable by others."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & (0o037 if _is_systemd_credential(path) else 0o077):
                raise LocalError(f"{path}: mode {mode:04o} lets others read it; run: chmod 0600 {path}")
            data = file.read(MAX_KEY_FILE_BYTES + 1)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None
    if len(data) > MAX_KEY_FILE_BYTES:
        raise LocalError(f"{path}: larger than {MAX_KEY_FILE_BYTES} bytes")
    return data


def _is_systemd_credential(path: Path) -> bool:
    """systemd lets its service read one by an ACL, whose mask shows as the group's bits (systemd.exec(5))."""
    return str(path.parent) == os.environ.get("CREDENTIALS_DIRECTORY")
