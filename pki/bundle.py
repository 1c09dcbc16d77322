"""The trust bundle: whom this mesh trusts, signed by its root and by nothing below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pki.certificate import read
from pki.errors import RemoteError
from pki.spiffe import is_trust_domain
from pki.spki import PublicKey, spki_sha256
from pki.statement import Bundle, Statement, signature_holds


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """Certificates as DER. A newer bundle has a higher (epoch, sequence)."""

    trust_domain: str
    epoch: int
    sequence: int
    roots: tuple[bytes, ...]
    issuers: tuple[bytes, ...]
    statement_keys: tuple[bytes, ...]
    digest: str
    """Hex SHA-256 of the statement that carried it."""

    def newer_than(self, other: TrustBundle) -> bool:
        return (self.epoch, self.sequence) > (other.epoch, other.sequence)


def open_pinned(statement: Statement, pins: frozenset[bytes]) -> TrustBundle:
    """The first bundle a member ever sees, by the SHA-256 of its root's SPKI; raises RemoteError."""
    return _open(statement, lambda root: spki_sha256(key_of(root)) in pins)


def open_successor(statement: Statement, current: TrustBundle) -> TrustBundle:
    """A bundle signed by a root of the one in force; raises RemoteError.

    Rollback is not judged here: the caller keeps whichever is newer.
    """
    bundle = _open(statement, lambda root: root in current.roots)
    if bundle.trust_domain != current.trust_domain:
        raise RemoteError("trust bundle: of another trust domain")
    return bundle


def key_of(certificate: bytes) -> PublicKey:
    """The public key of a DER certificate; raises RemoteError unless it is a P-256 key."""
    key = read(certificate).key
    if key is None:
        raise RemoteError("certificate: not a P-256 key")
    return key


def _open(statement: Statement, trusted: Callable[[bytes], bool]) -> TrustBundle:
    body = statement.body
    if not isinstance(body, Bundle):
        raise RemoteError("trust bundle: the statement is of another kind")
    root = statement.envelope.chain[0]
    # The signer must stand in the bundle that it signs, too: a root cannot write itself out and stay in charge.
    if not trusted(root) or root not in body.roots:
        raise RemoteError("trust bundle: not signed by a root that is trusted here")
    if not signature_holds(statement, key_of(root)):
        raise RemoteError("trust bundle: bad signature")
    if not is_trust_domain(body.trust_domain) or not body.issuers or not body.statement_keys:
        raise RemoteError("trust bundle: empty, or no trust domain name")
    return TrustBundle(
        trust_domain=body.trust_domain,
        epoch=statement.payload.epoch,
        sequence=body.sequence,
        roots=tuple(body.roots),
        issuers=tuple(body.issuers),
        statement_keys=tuple(body.statement_keys),
        digest=statement.digest.hex(),
    )
