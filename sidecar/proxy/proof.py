r"""The proof that an agent's session stands behind a stream, bound to one connection.

The session's key signs what only the two ends of this very TLS connection can know, so a captured proof is
worthless anywhere else; and the tool's node takes it only from the node that the session is bound to, so a node
speaks for its own sessions alone.

    message = "lockgate/prove/v1\0" || exporter || SHA-256(body as received)
    exporter = TLS-Exporter("EXPORTER-lockgate-prove-v1", SHA-256(opener SPKI || acceptor SPKI), 32)

A child of a session is proven by its session's certificate and the steps that lead from there to the child
(:mod:`sidecar.session.narrowing`). They are part of the body, so the proof of a child is never one of its session.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import codec
from pki.bundle import TrustBundle
from pki.clock import Wall
from pki.errors import RemoteError
from pki.spiffe import IdKind
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar.policy.narrowing import Narrowing
from sidecar.session import narrowing
from sidecar.wire import STREAM_LIMITS, FrameType, Prove, ProveBody

EXPORTER_LABEL = b"EXPORTER-lockgate-prove-v1"
PREFIX = b"lockgate/prove/v1\0"


ProofRole = Literal["session", "node"]


@dataclass(frozen=True, slots=True)
class Proven:
    """A session or its child, or a renewed node: what was verified of it."""

    identity: Identity
    narrowing: Narrowing | None = None
    """What is left of the session for its child; None: it is the session itself."""

    @property
    def name(self) -> str:
        """The id that an OPEN names it by."""
        return self.narrowing.children[-1] if self.narrowing else self.identity.id.session

    @property
    def parents(self) -> tuple[str, ...]:
        """Of a child: the ids above it, the session's first."""
        return (self.identity.id.session, *self.narrowing.children[:-1]) if self.narrowing else ()


def prove(
    key: Key,
    chain: tuple[bytes, ...],
    exporter: bytes,
    role: ProofRole = "session",
    steps: Sequence[bytes] = (),
) -> Prove:
    """The PROVE of a key and its chain (leaf first, DER) on the connection that ``exporter`` is of.

    ``steps``: bodies of the narrowings from the session to the child that is to be proven.
    """
    body = codec.encode(ProveBody(role=role, chain=list(chain), narrowings=narrowing.sign(steps, key)))
    return Prove(body=body, signature=key.sign(_message(body, exporter), ec.ECDSA(hashes.SHA256())))


def check(proof: Prove, exporter: bytes, peer: Identity, bundle: TrustBundle, at: Wall) -> Proven:
    """The session or child, or the renewed peer, that ``proof`` proves; raises RemoteError naming what is wrong."""
    body = codec.decode(proof.body, ProveBody, limit=STREAM_LIMITS[FrameType.PROVE], what="PROVE body")
    identity = verify(body.chain, bundle, at)
    if not isinstance(identity, Identity):
        raise RemoteError(f"PROVE: {identity}")
    if body.role == "session":
        _require_session(identity, peer)
    elif (identity.id, identity.lineage) != (peer.id, peer.lineage) or body.narrowings:
        raise RemoteError(f"PROVE: {identity.id} is not the peer's next certificate")
    try:
        identity.public_key.verify(proof.signature, _message(proof.body, exporter), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise RemoteError(f"PROVE: not signed by {identity.id} on this connection") from None
    # Last: each step costs a signature of its own.
    return Proven(identity, narrowing.check(body.narrowings, identity) if body.narrowings else None)


def _require_session(identity: Identity, peer: Identity) -> None:
    if identity.id.kind is not IdKind.AGENT:
        raise RemoteError(f"PROVE: {identity.id} is no session")
    # A rogue node that got hold of another node's session key must still not be able to use it.
    if identity.id.node != peer.id.name:
        raise RemoteError(f"PROVE: {identity.id} is not bound to node {peer.id.name}")


def _message(body: bytes, exporter: bytes) -> bytes:
    return PREFIX + exporter + hashlib.sha256(body).digest()
