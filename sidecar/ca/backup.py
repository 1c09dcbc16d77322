"""A backup of the CA: one tar, encrypted to age recipients. Nothing in it signs anything, but for the root's own key.

| name | what it is |
|---|---|
| register.sqlite | bans, certificates, counters |
| statements | what the CA holds, as `lockgate statements` writes it (:mod:`sidecar.gossip.dump`) |
| root.key | the root's key as it lies on disk, under its passphrase; absent where it is kept elsewhere |
| ca.toml | the configuration |
| objects/SHA-256 | policy texts |

The online keys stay out: a CA that comes back gets new ones, since it cannot know what the old ones have signed.
"""

import io
import re
import tarfile
from collections.abc import Mapping, Sequence

import pyrage

from pki.errors import LocalError

REGISTER = "register.sqlite"
STATEMENTS = "statements"
ROOT_KEY = "root.key"
CONFIG = "ca.toml"
OBJECTS = "objects/"

MAX_FILES = 100_000
MAX_BYTES = 1 << 32

_NAME = re.compile(r"(register\.sqlite|statements|root\.key|ca\.toml|objects/[0-9a-f]{64})\Z")


def seal(files: Mapping[str, bytes], recipients: Sequence[str]) -> bytes:
    """``files`` for whoever has the key of one of ``recipients`` (age1... or ssh-ed25519 ...); raises LocalError."""
    try:
        readers = [_recipient(one) for one in recipients]
        sealed: bytes = pyrage.encrypt(_pack(files), readers)
    except (pyrage.RecipientError, pyrage.EncryptError) as error:
        raise LocalError(f"backup: {error}; a recipient is age1... or ssh-ed25519 ...") from None
    return sealed


def unseal(data: bytes, identities: bytes) -> dict[str, bytes]:
    """The files of a backup. ``identities``: an age key file, ``#`` begins a comment. Raises LocalError."""
    lines = [line.strip() for line in identities.decode("ascii", "replace").splitlines()]
    try:
        keys = [pyrage.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
        if not keys:
            raise LocalError("backup: no AGE-SECRET-KEY-1... in the key file")
        packed = pyrage.decrypt(data, keys)
    except (pyrage.IdentityError, pyrage.DecryptError) as error:
        raise LocalError(f"backup: {error}; damaged, or for another key") from None
    return _unpack(packed)


def _recipient(text: str) -> object:
    kind = pyrage.ssh.Recipient if text.startswith("ssh-") else pyrage.x25519.Recipient
    return kind.from_str(text)


def _pack(files: Mapping[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def _unpack(packed: bytes) -> dict[str, bytes]:
    """Never extracted to disk: whoever made the file does not choose where its parts go."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as tar:
            for entry in tar:
                total += entry.size
                if not entry.isreg() or not _NAME.match(entry.name) or entry.name in files:
                    raise LocalError(f"backup: {entry.name[:80]!r} does not belong in one")
                if len(files) >= MAX_FILES or total > MAX_BYTES:
                    raise LocalError("backup: too large")
                content = tar.extractfile(entry)
                files[entry.name] = content.read() if content else b""
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise LocalError(f"backup: damaged ({error})") from None
    if not {REGISTER, STATEMENTS} <= files.keys():
        raise LocalError("backup: the register or the statements are missing in it")
    return files
