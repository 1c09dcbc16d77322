r"""Checkpoints: a node's signature over how much its log held, and the chain value of the last of it. Pure.

    signature = ECDSA P-256 with SHA-256 over "lockgate/audit-checkpoint/v1\0" || canonical({by, volume, count, head, at})

``count`` records stand before it in ``volume``, ``head`` is the chain value of the last of them, which stands for
all volumes before, too. The same note stands as a record in the log, and travels to the peers, who keep it in theirs
(:mod:`sidecar.audit.witness`). What a chain alone cannot show, these two do: that it was not computed anew, and that
its end was not cut off.

Each volume introduces its signers: the first checkpoint of a volume, and the first under a new certificate, carries the
chain and the trust bundle that vouches for it. So a log is checked with no more than the mesh's root.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki.bundle import TrustBundle, key_of, open_successor
from pki.certificate import MAX_CERTIFICATE_BYTES, read
from pki.clock import Wall
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId
from pki.spki import Key
from pki.statement import parse
from pki.verify import Identity, verify
from sidecar.audit.chain import Head
from sidecar.audit.record import Facts, Kind, Record, Value, canonical

EVERY_RECORDS = 1_000
EVERY_SECONDS = 10.0
"""A checkpoint is written after so many records, and so long after the first that has none behind it."""

PREFIX = b"lockgate/audit-checkpoint/v1\0"

_WRITERS = (IdKind.NODE, IdKind.CA)


@dataclass(frozen=True, slots=True)
class Signatory:
    """Who signs a log: its SPIFFE ID, chain and key, and the envelope of the trust bundle."""

    id: SpiffeId
    chain: tuple[bytes, ...]
    key: Key = field(repr=False)
    bundle: bytes = field(default=b"", repr=False)

    @property
    def leaf(self) -> str:
        return leaf_of(self.chain)


@dataclass(frozen=True, slots=True)
class Note:
    """What is signed. ``head``: the chain value of record ``count`` - 1 of ``volume``, hex."""

    by: str
    volume: str
    count: int
    head: str
    at: Wall
    signature: bytes = field(repr=False)
    leaf: str
    """Hex SHA-256 of the signer's certificate."""

    def facts(self) -> dict[str, Value]:
        return {
            "by": self.by,
            "volume": self.volume,
            "count": self.count,
            "head": self.head,
            "signed_at": self.at,
            "signature": base64.b64encode(self.signature).decode(),
            "leaf": self.leaf,
        }

    @property
    def message(self) -> bytes:
        """The signed bytes."""
        return PREFIX + canonical(
            {"by": self.by, "volume": self.volume, "count": self.count, "head": self.head, "at": self.at}
        )


class Sign(Protocol):
    """Makes the checkpoint after a record. ``introduced``: the certificate that the volume knows already."""

    def __call__(self, head: Head, introduced: str) -> tuple[Record, Note]: ...


@dataclass(frozen=True, slots=True)
class Pen:
    """Signs now. ``must``: even if few records have come since the last checkpoint."""

    signatory: Signatory
    at: Wall
    must: bool = False

    def __call__(self, head: Head, introduced: str) -> tuple[Record, Note]:
        note = sign(self.signatory, head, self.at)
        who = introduction(self.signatory.chain, self.signatory.bundle) if note.leaf != introduced else {}
        return Record(Kind.CHECKPOINT, self.at, {**note.facts(), **who}), note


def sign(signatory: Signatory, head: Head, at: Wall) -> Note:
    """The note over a log whose last record is ``head``."""
    plain = Note(str(signatory.id), head.volume, head.seq + 1, head.chain.hex(), at, b"", signatory.leaf)
    signature = signatory.key.sign(plain.message, ec.ECDSA(hashes.SHA256()))
    return Note(plain.by, plain.volume, plain.count, plain.head, at, signature, plain.leaf)


def introduction(chain: Iterable[bytes], bundle: bytes = b"") -> dict[str, Value]:
    """The fields that make a signer known."""
    certificates: list[Value] = [base64.b64encode(one).decode() for one in chain]
    vouched: dict[str, Value] = {"bundle": base64.b64encode(bundle).decode()} if bundle else {}
    return {"certificates": certificates, **vouched}


def leaf_of(chain: tuple[bytes, ...]) -> str:
    """Hex SHA-256 of the leaf: a short name for who signed, not an identity."""
    return hashlib.sha256(chain[0]).hexdigest()


def is_signed(note: Note, chain: tuple[bytes, ...]) -> bool:
    """Whether the key of this chain's leaf signed the note; whose that is, is not judged here."""
    try:
        key_of(chain[0]).verify(note.signature, note.message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def note_of(body: Facts) -> Note:
    """The note in a record; raises RemoteError when there is none."""
    match body:
        case {
            "by": str(by),
            "volume": str(volume),
            "count": int(count),
            "head": str(head),
            "signed_at": int(at),
            "signature": str(signature),
            "leaf": str(leaf),
        }:
            return Note(by, volume, count, head, Wall(at), _bytes(signature), leaf)
        case _:
            raise RemoteError("holds no signed head")


class Signers:
    """Who signs, as a log introduces them, judged by the mesh's own bundle and by those that its root signed."""

    def __init__(self, anchor: TrustBundle) -> None:
        self._anchor = anchor
        self._bundles = [anchor]
        self._chains: dict[str, tuple[bytes, ...]] = {}

    def learn(self, body: Facts) -> None:
        """Take up what a record introduces; raises RemoteError for what cannot be taken apart."""
        raw: Any = body.get("certificates")
        if isinstance(raw, list) and raw:
            chain = tuple(_bytes(one, MAX_CERTIFICATE_BYTES) for one in raw)
            self._chains[leaf_of(chain)] = chain
        if isinstance(bundle := body.get("bundle"), str):
            found = open_successor(parse(_bytes(bundle)), self._anchor)  # signed by a root that we trust
            if found not in self._bundles:
                self._bundles.append(found)

    def check(self, note: Note, node: str) -> None:
        """Whether ``node`` signed this; raises RemoteError that says why not."""
        chain = self._chains.get(note.leaf)
        if chain is None:
            raise RemoteError("is signed under a certificate that is not at hand")
        identity = self._identity(chain, note.at)
        if identity.id.kind not in _WRITERS or str(identity.id) != note.by or identity.id.name != node:
            raise RemoteError(f"is signed by {identity.id}, not by {node}")
        if not is_signed(note, chain):
            raise RemoteError("its signature does not hold")

    def _identity(self, chain: tuple[bytes, ...], at: Wall) -> Identity:
        leaf = read(chain[0])
        # The signer says itself when that was. One whose certificate has ended still keeps its log, under its key.
        at = Wall(max(leaf.not_before, min(at, leaf.not_after)))
        found = [verify(chain, bundle, at) for bundle in self._bundles]
        for one in found:
            if isinstance(one, Identity):
                return one
        raise RemoteError(f"is signed by nobody that the trust bundle knows: {found[-1]}")


def _bytes(text: Any, limit: int = 65_536) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * limit:
        raise RemoteError("holds bytes that are too many or none")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RemoteError("holds bytes that are not base64") from None
