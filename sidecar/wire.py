"""Every frame that travels between members, with its byte limit (docs/wire.md has the same table).

A frame is 1 type byte, 3 length bytes and a body (:mod:`pki.framing`). DATA and END carry no schema; every other
body is MessagePack by the structs below. What a schema does not name is an error, but for HELLO, whose unknown
keys and features are ignored so that versions can meet.
"""

from enum import IntEnum
from typing import Annotated, Literal, TypeVar

import msgspec

from pki import codec
from pki.errors import LocalError, RemoteError
from pki.fields import Certificates, Id, Sequence, Sha256Hex, Text, Wire
from pki.framing import MAX_FRAME_BODY

VERSION = 1
KIB = 1024

MAX_CHILD_DEPTH = 4
"""Steps from a session to its furthest child."""
MAX_NARROWING_BYTES = 4 * KIB
MAX_NARROWING_SERVICES = 32
MAX_NARROWING_OPERATIONS = 16
MAX_OPERATION_CHARS = 200

T = TypeVar("T")


class FrameType(IntEnum):
    """1-15 travel on stream connections, 16-31 on control links; HELLO opens both."""

    HELLO = 1
    PROVE = 2
    OPEN = 3
    ACCEPTED = 4
    REFUSED = 5
    DATA = 6
    END = 7
    RESET = 8
    STATEMENTS = 16
    SUMMARY = 17
    IDS = 18
    WANT = 19
    FETCH = 20
    OBJECT = 21


HELLO_LIMITS = {FrameType.HELLO: 4 * KIB}

STREAM_LIMITS = {
    FrameType.PROVE: 32 * KIB,
    FrameType.OPEN: 1 * KIB,
    FrameType.ACCEPTED: 64,
    FrameType.REFUSED: 8 * KIB,
    FrameType.DATA: MAX_FRAME_BODY,
    FrameType.END: 0,
    FrameType.RESET: 64,
}

IDLE_LIMITS = {kind: STREAM_LIMITS[kind] for kind in (FrameType.PROVE, FrameType.OPEN, FrameType.RESET)}
"""Of an opener between two streams: thousands of idle connections must not hold 256 KiB each."""

CONTROL_LIMITS = {
    FrameType.STATEMENTS: MAX_FRAME_BODY,
    FrameType.SUMMARY: 128,
    FrameType.IDS: MAX_FRAME_BODY,
    FrameType.WANT: MAX_FRAME_BODY,
    FrameType.FETCH: 128,
    FrameType.OBJECT: MAX_FRAME_BODY,
}


class Feature:
    """Names for HELLO, the roster and a policy's ``requires``. A name is never re-used for another meaning."""

    TCP = "tcp"
    CHILDREN = "children"
    ALL = (TCP, CHILDREN)


ReasonWord = Annotated[str, msgspec.Meta(pattern=r"^[a-z_]{0,32}\Z")]
"""A :class:`sidecar.reasons.Reason`, or a newer version's word for one; empty where an end just went away."""

ServiceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
# What a peer sends here ends up in records and on terminals: nothing but the one form of W3C Trace Context 00.
Traceparent = Annotated[str, msgspec.Meta(pattern=r"^(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})?\Z")]


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """First frame each way. ``opens``: whether the sender is the side that opens streams here."""

    version: int
    features: Annotated[list[Text], msgspec.Meta(max_length=64)]
    role: Literal["control", "stream"]
    opens: bool


class Prove(Wire, frozen=True):
    """``signature`` is by the session's key over the proof message of :mod:`sidecar.proxy.proof`."""

    body: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]


class Narrowed(Wire, frozen=True):
    """One step from a session to its child. ``signature`` is by the session's key (:mod:`sidecar.session.narrowing`)."""

    body: Annotated[bytes, msgspec.Meta(max_length=MAX_NARROWING_BYTES)]
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]


class NarrowingBody(Wire, frozen=True):
    """What the ``body`` of a step decodes to: which session or child it narrows, and what it leaves.

    ``parent`` is an id. ``operations`` None: all that the services offer. ``nonce`` keeps two equal children apart.
    """

    parent: Id
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    services: Annotated[list[ServiceName], msgspec.Meta(min_length=1, max_length=MAX_NARROWING_SERVICES)]
    operations: (
        Annotated[
            list[Annotated[str, msgspec.Meta(max_length=MAX_OPERATION_CHARS)]],
            msgspec.Meta(max_length=MAX_NARROWING_OPERATIONS),
        ]
        | None
    )
    not_after: Sequence


class ProveBody(Wire, frozen=True, omit_defaults=True):
    """What a PROVE's ``body`` decodes to: who proves itself, and its certificate chain, leaf first, DER.

    ``session``: the opener proves a session of its node, or a child of it by the steps that lead to that child.
    ``node``: either end proves its own renewed certificate.
    """

    role: Literal["session", "node"]
    chain: Certificates
    narrowings: Annotated[list[Narrowed], msgspec.Meta(max_length=MAX_CHILD_DEPTH)] = msgspec.field(
        default_factory=list
    )


class Open(Wire, frozen=True):
    """Ask for one stream. ``ordinal`` counts the OPENs of a connection from 0."""

    ordinal: Sequence
    stream: Id
    session: Id
    service: ServiceName
    traceparent: Traceparent = ""


class Accepted(Wire, frozen=True):
    """The stream is open: admitted, decided, recorded and connected at the tool's node."""

    ordinal: Sequence


class Refused(Wire, frozen=True):
    """The stream is not open, and why. The connection stays usable."""

    ordinal: Sequence
    reason: ReasonWord
    rule: Text = ""
    hint: Text = ""


class Reset(Wire, frozen=True):
    """The stream ends at once and the connection with it."""

    reason: ReasonWord


class Statements(Wire, frozen=True):
    """Envelopes, as many as fit."""

    envelopes: Annotated[list[bytes], msgspec.Meta(max_length=4096)]


class Summary(Wire, frozen=True):
    """SHA-256 over the sorted ids of all statements held. Equal means there is nothing to repair."""

    digest: Sha256Hex


class Ids(Wire, frozen=True):
    """All ids held, in parts of at most 8,192, 16 bytes each in one string; ``last`` marks the last part."""

    ids: bytes
    last: bool


class Want(Wire, frozen=True):
    """Ids whose statements the peer is asked for, 16 bytes each in one string."""

    ids: bytes


class Fetch(Wire, frozen=True):
    """Ask for an object (a policy's text) by its SHA-256, from ``offset`` on."""

    digest: Sha256Hex
    offset: Sequence


class Object(Wire, frozen=True):
    """A part of an object. ``total`` is its whole size; 0 says that it is not held here."""

    digest: Sha256Hex
    offset: Sequence
    total: Sequence
    data: bytes


BODIES: dict[int, type[Wire]] = {
    FrameType.PROVE: Prove,
    FrameType.OPEN: Open,
    FrameType.ACCEPTED: Accepted,
    FrameType.REFUSED: Refused,
    FrameType.RESET: Reset,
    FrameType.STATEMENTS: Statements,
    FrameType.SUMMARY: Summary,
    FrameType.IDS: Ids,
    FrameType.WANT: Want,
    FrameType.FETCH: Fetch,
    FrameType.OBJECT: Object,
}
_TYPES = {schema: FrameType(frame_type) for frame_type, schema in BODIES.items()}
_LIMITS = {**HELLO_LIMITS, **STREAM_LIMITS, **CONTROL_LIMITS}


def encode(message: Wire) -> tuple[int, bytes]:
    """The frame type and body of ``message``; raises LocalError for one that its peer would have to refuse."""
    kind = _TYPES[type(message)]
    body = codec.encode(message)
    if len(body) > _LIMITS[kind]:
        raise LocalError(f"{kind.name}: {len(body)} bytes, at most {_LIMITS[kind]} may be sent")
    return kind, body


def decode(frame_type: int, body: bytes) -> Wire:
    """The message in a frame; raises RemoteError. DATA, END and HELLO are not messages of this table."""
    schema = BODIES.get(frame_type)
    if schema is None:
        raise RemoteError(f"frame type {frame_type} carries no message")
    return decode_as(schema, body, FrameType(frame_type))


def decode_as(schema: type[T], body: bytes, kind: FrameType) -> T:
    """``body`` by ``schema``, within the limit of its frame type; raises RemoteError."""
    return codec.decode(body, schema, limit=_LIMITS[kind], what=kind.name)
