"""Every frame that travels between members, with its byte limit (docs/wire.md has the same table).

A frame is 1 type byte, 3 length bytes and a body (:mod:`pki.framing`). DATA and END carry no schema; every other
body is MessagePack by the structs below. What a schema does not name is an error, but for HELLO, whose unknown
keys and features are ignored so that versions can meet.
"""

from enum import IntEnum
from typing import Annotated, Literal, TypeVar

import msgspec

from pki import codec
from pki.statement import Certificates, Id, Sequence, Sha256Hex, Text, Wire

VERSION = 1
KIB = 1024

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
    FrameType.REFUSED: 4 * KIB,
    FrameType.DATA: 256 * KIB,
    FrameType.END: 0,
    FrameType.RESET: 64,
}

CONTROL_LIMITS = {
    FrameType.STATEMENTS: 256 * KIB,
    FrameType.SUMMARY: 64,
    FrameType.IDS: 256 * KIB,
    FrameType.WANT: 256 * KIB,
    FrameType.FETCH: 128,
    FrameType.OBJECT: 256 * KIB,
}


class Feature:
    """Names for HELLO, the roster and a policy's ``requires``. A name is never re-used for another meaning."""

    TCP = "tcp"
    ALL = (TCP,)


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """First frame each way. ``opens``: whether the sender is the side that opens streams here."""

    version: int
    features: Annotated[list[Text], msgspec.Meta(max_length=64)]
    role: Literal["control", "stream"]
    opens: bool


class Prove(Wire):
    """``signature`` is by the session's key over the proof message of :mod:`sidecar.proxy.proof`."""

    body: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]


class ProveBody(Wire):
    """What a PROVE's ``body`` decodes to: the session's certificate chain, leaf first, DER."""

    chain: Certificates


class Open(Wire):
    """Ask for one stream. ``ordinal`` counts the OPENs of a connection from 0."""

    ordinal: Sequence
    stream: Id
    session: Id
    service: Text
    traceparent: Annotated[str, msgspec.Meta(max_length=55)] = ""


class Accepted(Wire):
    """The stream is open: admitted, decided, recorded and connected at the tool's node."""

    ordinal: Sequence


class Refused(Wire):
    """The stream is not open, and why. The connection stays usable."""

    ordinal: Sequence
    reason: Text
    rule: Text = ""
    hint: Text = ""


class Reset(Wire):
    """The stream ends at once and the connection with it."""

    reason: Text


class Statements(Wire):
    """Envelopes, as many as fit."""

    envelopes: Annotated[list[bytes], msgspec.Meta(max_length=4096)]


class Summary(Wire):
    """SHA-256 over the sorted ids of all statements held. Equal means there is nothing to repair."""

    digest: Sha256Hex


class Ids(Wire):
    """All ids held, in parts of at most 8,192, 16 bytes each in one string; ``last`` marks the last part."""

    ids: bytes
    last: bool


class Want(Wire):
    """Ids whose statements the peer is asked for, 16 bytes each in one string."""

    ids: bytes


class Fetch(Wire):
    """Ask for an object (a policy's text) by its SHA-256, from ``offset`` on."""

    digest: Sha256Hex
    offset: Sequence


class Object(Wire):
    """A part of an object. ``total`` is its whole size; 0 says that it is not held here."""

    digest: Sha256Hex
    offset: Sequence
    total: Sequence
    data: bytes


BODIES: dict[FrameType, type[Wire]] = {
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
_TYPES = {schema: frame_type for frame_type, schema in BODIES.items()}
_LIMITS = {**HELLO_LIMITS, **STREAM_LIMITS, **CONTROL_LIMITS}


def encode(message: Wire) -> tuple[int, bytes]:
    """The frame type and body of ``message``."""
    return _TYPES[type(message)], codec.encode(message)


def decode(frame_type: int, body: bytes) -> Wire:
    """The message in a frame; raises RemoteError. DATA, END and HELLO are not messages of this table."""
    kind = FrameType(frame_type)
    return decode_as(BODIES[kind], body, kind)


def decode_as(schema: type[T], body: bytes, kind: FrameType) -> T:
    """``body`` by ``schema``, within the limit of its frame type; raises RemoteError."""
    return codec.decode(body, schema, limit=_LIMITS[kind], what=kind.name)
