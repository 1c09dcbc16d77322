r"""A child session's proof: the steps by which its rights were taken from its parent's. Pure.

    session ──step──> child ──step──> child of the child            at most 4 steps

A step is signed by the key of the session at the top, whose certificate stands beside it in a PROVE; the child has
neither key nor certificate, so nobody is asked when one starts, and the CA may be away.

    message = "lockgate/narrowing/v1\0" || body as received
    id      = the first 128 bits of SHA-256(body)

Rules:

1. A child's id is never carried inside: it *is* the step. Nobody can choose the id of a child, or take one from
   another session.
2. Each step names the id of what it narrows. A step that was left out, swapped, or taken from another session's chain
   names the wrong parent.
3. Each step only narrows. One that would leave more than its parent has, more services, operations or time, is no
   smaller right: the whole chain is refused. So the last step is the intersection of all.
4. Time is not judged here: a chain that has run out is still a true chain, and the decision refuses it.

A rogue node can leave steps out: it holds the session's key, and could use the session itself. Narrowing protects a
parent from its children, and no tool from a node.
"""

import hashlib
from collections.abc import Iterable, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import codec
from pki.clock import Wall
from pki.errors import RemoteError
from pki.ids import digest_id
from pki.spki import Key
from pki.verify import Identity
from sidecar.policy.narrowing import Narrowing, covers, is_operation
from sidecar.wire import MAX_CHILD_DEPTH, MAX_NARROWING_BYTES, Narrowed, NarrowingBody

PREFIX = b"lockgate/narrowing/v1\0"


def child_id(body: bytes) -> str:
    """The id of the child that a step makes."""
    return digest_id(hashlib.sha256(body).digest())


def make(parent: str, left: Narrowing, nonce: bytes) -> bytes:
    """The body of the step from ``parent`` (a session's or child's id) to a child with the rights in ``left``."""
    return codec.encode(
        NarrowingBody(
            parent=parent,
            nonce=nonce,
            services=sorted(left.services),
            operations=None if left.operations is None else list(left.operations),
            not_after=left.not_after,
        )
    )


def sign(bodies: Iterable[bytes], key: Key) -> list[Narrowed]:
    """The steps as a PROVE carries them, signed by the session's ``key``."""
    return [Narrowed(body=body, signature=key.sign(PREFIX + body, _ALGORITHM)) for body in bodies]


def check(steps: Sequence[Narrowed], identity: Identity) -> Narrowing:
    """What the steps, at least one, leave of the session ``identity``; raises RemoteError naming what is wrong."""
    for step in steps:
        try:
            identity.public_key.verify(step.signature, PREFIX + step.body, _ALGORITHM)
        except InvalidSignature:
            raise RemoteError(f"narrowing: a step is not signed by {identity.id}") from None
    return read([step.body for step in steps], identity.id.session)


def read(bodies: Sequence[bytes], session: str) -> Narrowing:
    """What the steps, at least one, leave of ``session``, whoever signed them; raises RemoteError."""
    if not 1 <= len(bodies) <= MAX_CHILD_DEPTH:
        raise RemoteError(f"narrowing: {len(bodies)} steps, 1 to {MAX_CHILD_DEPTH} are allowed")
    left = _narrow(bodies[0], session, None)
    for body in bodies[1:]:
        left = _narrow(body, session, left)
    return left


def require_narrower(left: Narrowing, child: Narrowing) -> None:
    """That ``child`` has no right that is not in ``left``; raises RemoteError naming what is more."""
    if more := child.services - left.services:
        raise RemoteError(f"narrowing: service {min(more)} is not its parent's")
    if not covers(left.operations, child.operations):
        raise RemoteError("narrowing: its operations are more than its parent's")
    if child.not_after > left.not_after:
        raise RemoteError("narrowing: it lasts longer than its parent")


_ALGORITHM = ec.ECDSA(hashes.SHA256())


def _narrow(body: bytes, session: str, left: Narrowing | None) -> Narrowing:
    """One step further down, from ``left`` (None: from the session itself)."""
    parent = left.children[-1] if left else session
    step = codec.decode(body, NarrowingBody, limit=MAX_NARROWING_BYTES, what="narrowing")
    if step.parent != parent:
        raise RemoteError(f"narrowing: a step is not of {parent}, which it would narrow")
    operations = None if step.operations is None else tuple(step.operations)
    if not all(map(is_operation, operations or ())):
        raise RemoteError("narrowing: an operation is not METHOD NAME with its wildcard at the end")
    children = (*left.children, child_id(body)) if left else (child_id(body),)
    child = Narrowing(frozenset(step.services), operations, Wall(step.not_after), children)
    if left is not None:
        require_narrower(left, child)
    return child
