"""The keys of a CA on disk: one folder, complete or absent.

    root.key root.pem             signs the bundle and all below; wanted for `ca init` and rollovers only
    issuer.key issuer.pem         signs members' certificates
    statement.key statement.pem   signs statements
    tls.key tls.pem               serves the CA's API as /ca/<name>
    bundle.statement              the trust bundle, as the root signed it
    spare-N.statement             the trust bundle of sequence N, signed beforehand for a rollover without the root
    standing.json                 which of these count after a rollover, and how far one in progress has come
    register.sqlite               what must never be forgotten

``root.key`` may be kept elsewhere: nothing that serves reads it. The folder is made under another name and then
renamed, so a crash in between leaves no half of a CA that would look like a whole one.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

from pki import keys, svid
from pki.authority.register import Register
from pki.authority.rollover import Phase
from pki.bundle import TrustBundle, key_of, open_pinned
from pki.certificate import read
from pki.chain import from_pem, to_pem
from pki.clock import DAY, Wall
from pki.errors import LocalError, RemoteError
from pki.profile import check_leaf
from pki.spiffe import IdKind, SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import MAX_STATEMENT_BYTES, Bundle, Statement, Terms, parse, sign
from pki.svid import SERIAL_ENTROPY_BYTES, CaPlan, LeafPlan, Signer

ROOT_LIFETIME = 3650 * DAY
ONLINE_LIFETIME = 90 * DAY
"""Of the issuer, the statement key and the CA's TLS leaf."""

BUNDLE_FILE = "bundle.statement"
STANDING_FILE = "standing.json"
REGISTER_FILE = "register.sqlite"

FileName = Annotated[str, msgspec.Meta(pattern=r"^[a-z]+(-[0-9]+)?\Z")]
Entropy = Callable[[int], bytes]
"""The seam for randomness: so many random bytes."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate (DER) and its private key."""

    certificate: bytes
    key: Key


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Under which file names the keys of one generation lie."""

    root: FileName = "root"
    issuer: FileName = "issuer"
    statement: FileName = "statement"
    tls: FileName = "tls"


class Standing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a rollover has come. ``other`` is the successor of ``active`` while prepared, the one before after that."""

    phase: Phase = Phase.IDLE
    active: Names = Names()
    other: Names | None = None
    spares: tuple[Names, ...] = ()
    """Successors that the root has signed beforehand, with the trust bundles of their phases."""
    reserved: int = 0
    """The highest sequence that such a bundle has: a root that signs another one goes on above."""


@dataclass(slots=True)
class Authority:
    """What a CA that serves holds in its hands. The root's key is not among it.

    One object for as long as it serves: a rollover changes what it holds.
    """

    id: SpiffeId
    bundle: TrustBundle
    bundle_statement: Statement
    issuer: Signer
    statement: Pair
    tls: Pair

    @property
    def pins(self) -> frozenset[bytes]:
        """SHA-256 of the SPKI of each root: what a token carries."""
        return frozenset(spki_sha256(key_of(root)) for root in self.bundle.roots)

    def take_up(self, successor: "Authority") -> None:
        """Hold what ``successor`` does: a key and its certificate change together."""
        self.issuer, self.statement, self.tls = successor.issuer, successor.statement, successor.tls
        self.bundle, self.bundle_statement = successor.bundle, successor.bundle_statement


@dataclass(frozen=True, slots=True)
class Birth:
    """What all certificates of one generation of a CA's keys have in common."""

    ca: SpiffeId
    at: Wall
    entropy: Entropy

    def authority(self, lifetime: int) -> CaPlan:
        return CaPlan(self.ca.trust_domain, self._serial(), self.at, lifetime)

    def leaf(self, key: Key) -> LeafPlan:
        return LeafPlan(self.ca, key.public_key(), self._serial(), self.at, ONLINE_LIFETIME)

    def _serial(self) -> int:
        return svid.serial_of(self.entropy(SERIAL_ENTROPY_BYTES))


def create(folder: Path, ca: SpiffeId, passphrase: bytes | None, at: Wall, entropy: Entropy) -> None:
    """A new CA called ``ca``, its root under ``passphrase`` if there is one; raises LocalError if one is there."""
    birth, key = Birth(ca, at, entropy), keys.generate()
    with complete_or_absent(folder) as draft:
        root = Signer(svid.root(birth.authority(ROOT_LIFETIME), key), key)
        keys.save(key, draft / "root.key", passphrase)
        _fill(draft, birth, root)


def create_below(folder: Path, birth: Birth, root: Signer) -> None:
    """A new CA under a root that there is already (:mod:`pki.authority.outside`), whose key stays where it is."""
    with complete_or_absent(folder) as draft:
        _fill(draft, birth, root)


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Where to make a CA: it is renamed to ``folder`` once whole. Raises LocalError if one is there."""
    if folder.exists() and any(folder.iterdir()):
        raise LocalError(f"{folder}: a CA is there already, and is never overwritten; choose another folder")
    draft = folder.with_name(folder.name + ".new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        yield draft
        draft.rename(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise LocalError(f"{folder}: {error.strerror}") from None


def open_online(folder: Path) -> Authority:
    """The CA in ``folder`` without its root key; raises LocalError naming what is missing, bad or too readable."""
    try:
        standing = read_standing(folder)
        names = standing.active
        roots = {names.root, standing.other.root} if standing.other else {names.root}
        pins = frozenset(spki_sha256(key_of(certificate(folder / f"{name}.pem"))) for name in roots)
        carried = parse(_public(folder / BUNDLE_FILE))
        bundle = open_pinned(carried, pins)
        issuer, statement, tls = (_pair(folder, name) for name in (names.issuer, names.statement, names.tls))
        ca, _ = check_leaf(read(tls.certificate), bundle.trust_domain)
    except RemoteError as error:
        raise LocalError(f"{folder}: {error}; restore the CA from a backup") from None
    if issuer.certificate not in bundle.issuers or statement.certificate not in bundle.statement_keys:
        raise LocalError(
            f"{folder}: its keys are not those of its trust bundle; restore the CA from a backup"
        )
    if ca is None or ca.kind is not IdKind.CA:
        raise LocalError(f"{folder}: tls.pem is not a certificate of a CA; restore the CA from a backup")
    return Authority(ca, bundle, carried, Signer(issuer.certificate, issuer.key), statement, tls)


def read_standing(folder: Path) -> Standing:
    """Which keys count; those of a new CA where no rollover ever began. Raises LocalError."""
    path = folder / STANDING_FILE
    if not path.exists():
        return Standing()
    try:
        return msgspec.json.decode(_public(path), type=Standing)
    except msgspec.DecodeError:
        raise LocalError(f"{path}: damaged; restore the CA from a backup") from None


def _fill(draft: Path, birth: Birth, root: Signer) -> None:
    if birth.ca.kind is not IdKind.CA:
        raise LocalError(f"{birth.ca}: a CA is called spiffe://<trust-domain>/ca/<name>")
    issuer_key, statement_key, tls_key = (keys.generate() for _ in range(3))
    issuer = svid.issuer(birth.authority(ONLINE_LIFETIME), issuer_key.public_key(), root)
    statement = svid.statement_key(birth.leaf(statement_key), root)
    bundle = Bundle(
        trust_domain=birth.ca.trust_domain,
        sequence=1,
        roots=[root.certificate],
        issuers=[issuer],
        statement_keys=[statement],
    )
    terms = Terms(epoch=1, issued=birth.at, expires=read(root.certificate).not_after)
    save_pair(draft, "issuer", Pair(issuer, issuer_key))
    save_pair(draft, "statement", Pair(statement, statement_key))
    save_pair(draft, "tls", Pair(svid.leaf(birth.leaf(tls_key), root), tls_key))
    keys.save_private(to_pem([root.certificate]), draft / "root.pem")
    keys.save_private(sign("bundle", bundle, terms, root.key, (root.certificate,)).raw, draft / BUNDLE_FILE)
    Register.create(draft / REGISTER_FILE)


def save_pair(folder: Path, name: str, pair: Pair, passphrase: bytes | None = None) -> None:
    """Write a key and its certificate under one name."""
    keys.save(pair.key, folder / f"{name}.key", passphrase)
    keys.save_private(to_pem([pair.certificate]), folder / f"{name}.pem")


def _pair(folder: Path, name: str) -> Pair:
    der = certificate(folder / f"{name}.pem")
    key = keys.load(folder / f"{name}.key")
    if key.public_key() != key_of(der):
        raise LocalError(f"{folder}: {name}.key and {name}.pem do not belong together")
    return Pair(der, key)


def certificate(path: Path) -> bytes:
    """The one certificate in a file, DER."""
    chain = from_pem(_public(path))
    if len(chain) != 1:
        raise LocalError(f"{path}: {len(chain)} certificates, not one; restore the CA from a backup")
    return chain[0]


def _public(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STATEMENT_BYTES + 1)
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}; restore the CA from a backup") from None
    if len(data) > MAX_STATEMENT_BYTES:
        raise LocalError(f"{path}: larger than {MAX_STATEMENT_BYTES} bytes")
    return data


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
