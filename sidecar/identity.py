"""Who this process is in the mesh: its SPIFFE ID, its key and its certificate chain, kept in one folder."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509

from pki import chain as chains
from pki import keys
from pki.bundle import TrustBundle, key_of, open_pinned
from pki.certificate import read
from pki.errors import LocalError, LockgateError, RemoteError
from pki.spiffe import SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import parse

KEY_FILE = "key.pem"
NEXT_KEY_FILE = "key.next.pem"
CHAIN_FILE = "chain.pem"
BUNDLE_FILE = "bundle.statement"

_RESTORE = "restore it from a copy, or join again in an empty folder"


@dataclass(frozen=True, slots=True)
class Credential:
    """A key and the chain (leaf first, DER) that says whose it is."""

    id: SpiffeId
    chain: tuple[bytes, ...]
    key: Key = field(repr=False)

    @classmethod
    def load(cls, folder: Path, passphrase: bytes | None = None) -> Self:
        """The credential in ``folder``; raises LocalError when it is missing, bad or readable by others."""
        path = folder / CHAIN_FILE
        try:
            chain = chains.from_pem(path.read_bytes())
            name = named(chain[0])
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror}; run: lockgate join") from None
        except RemoteError as error:
            raise LocalError(f"{path}: {error}; {_RESTORE}") from None
        return cls(name, chain, _fitting_key(folder, chain[0], passphrase))

    def save(self, folder: Path, passphrase: bytes | None = None) -> None:
        """Write both files, the key first: a chain without its key would be a dead credential."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        keys.save(self.key, folder / KEY_FILE, passphrase)
        keys.save_private(chains.to_pem(self.chain), folder / CHAIN_FILE)


class NextKey:
    """The key of a node's next certificate: on disk before it is used, so that no answer of the CA is ever lost."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> Key:
        """The key that the next certificate is asked for with; the same one until that certificate is here."""
        path = self._folder / NEXT_KEY_FILE
        if path.exists():
            return keys.load(path)
        key = keys.generate()
        keys.save(key, path)
        return key

    def take_up(self, credential: Credential) -> None:
        """The next certificate is here: its chain first, then its key in the old one's place.

        A crash between the two leaves a chain whose key is found under its other name.
        """
        keys.save_private(chains.to_pem(credential.chain), self._folder / CHAIN_FILE)
        (self._folder / NEXT_KEY_FILE).rename(self._folder / KEY_FILE)


def _fitting_key(folder: Path, leaf: bytes, passphrase: bytes | None) -> Key:
    """The key of ``leaf``; one that was renewed when the machine went down has its key under the other name."""
    path, following = folder / KEY_FILE, folder / NEXT_KEY_FILE
    if not path.exists():
        raise LocalError(f"{path}: the key is gone; {_RESTORE}")
    key = keys.load(path, passphrase)
    wanted = spki_sha256(key_of(leaf))
    if spki_sha256(key.public_key()) != wanted and following.exists():
        key = keys.load(following, passphrase)
        following.rename(path)
    if spki_sha256(key.public_key()) != wanted:
        raise LocalError(f"{path}: not the key of {CHAIN_FILE} beside it; {_RESTORE}")
    return key


def named(certificate: bytes) -> SpiffeId:
    """The SPIFFE ID in a DER certificate, unjudged; raises RemoteError."""
    extension = read(certificate).extension(x509.SubjectAlternativeName)
    names = extension.value.get_values_for_type(x509.UniformResourceIdentifier) if extension else []
    if len(names) != 1:
        raise RemoteError("certificate: not exactly one SPIFFE ID")
    return SpiffeId.parse(names[0])


def ca_of(bundle: TrustBundle) -> SpiffeId:
    """The CA that a bundle speaks of: the name in its statement keys."""
    return named(bundle.statement_keys[0])


def save_bundle(raw: bytes, folder: Path) -> None:
    """Keep the bundle that a join proved by its pin: from here on it is this machine's trust anchor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys.save_private(raw, folder / BUNDLE_FILE)


def load_bundle(folder: Path) -> TrustBundle:
    """The trust anchor that a join left in ``folder``; raises LocalError."""
    return load_bundle_file(folder / BUNDLE_FILE)


def load_bundle_file(path: Path) -> TrustBundle:
    """The trust anchor in a file, which is trusted because of where it lies; raises LocalError."""
    try:
        statement = parse(path.read_bytes())
        pins = frozenset({spki_sha256(key_of(statement.envelope.chain[0]))})
        return open_pinned(statement, pins)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}; run: lockgate join") from None
    except LockgateError as error:
        raise LocalError(f"{path}: {error}; {_RESTORE}") from None
