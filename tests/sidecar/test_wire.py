import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.errors import LocalError, RemoteError
from pki.fields import Wire
from pki.framing import MAX_FRAME_BODY
from pki.statement import MAX_STATEMENT_BYTES
from sidecar import wire
from sidecar.gossip.flood import BATCH_BYTES, IDS_PER_PART, MAX_BATCH_ITEMS
from sidecar.gossip.texts import PART_BYTES
from sidecar.policy.decide import MAX_HINT_CHARS
from sidecar.reasons import Reason
from sidecar.wire import FrameType

ID = "a" * 25 + "q"
LIMITS = wire.HELLO_LIMITS | wire.STREAM_LIMITS | wire.CONTROL_LIMITS
MOST = 2**53 - 1

LARGEST = [
    wire.Prove(body=bytes(30_000), signature=bytes(128)),
    wire.Open(
        ordinal=MOST,
        stream=ID,
        session=ID,
        service="s" * 63,
        traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01",
    ),
    wire.Accepted(ordinal=MOST),
    wire.Refused(ordinal=MOST, reason=max(Reason, key=len), rule="r" * 500, hint="\u20ac" * MAX_HINT_CHARS),
    wire.Reset(reason=max(Reason, key=len)),
    wire.Statements(envelopes=[bytes(BATCH_BYTES // MAX_BATCH_ITEMS)] * MAX_BATCH_ITEMS),
    wire.Statements(envelopes=[bytes(MAX_STATEMENT_BYTES)]),
    wire.Summary(digest="0" * 64),
    wire.Ids(ids=bytes(16 * IDS_PER_PART), last=False),
    wire.Want(ids=bytes(16 * IDS_PER_PART)),
    wire.Fetch(digest="0" * 64, offset=MOST),
    wire.Object(digest="0" * 64, offset=MOST, total=MOST, data=bytes(PART_BYTES)),
]


@pytest.mark.parametrize("message", LARGEST)
def test_the_largest_message_of_each_kind_fits_its_limit(message: Wire) -> None:
    """What we may have to say, our own limits let through."""
    frame_type, body = wire.encode(message)
    assert wire.decode(frame_type, body) == message


def test_every_message_has_a_largest_one_above() -> None:
    """A new frame type gets its size tested."""
    assert {type(message) for message in LARGEST} == set(wire.BODIES.values())


def test_every_frame_type_has_one_limit() -> None:
    """Each type travels in exactly one phase, and never beyond what a frame can hold."""
    phases = [wire.HELLO_LIMITS, wire.STREAM_LIMITS, wire.CONTROL_LIMITS]
    assert sorted(kind for phase in phases for kind in phase) == sorted(FrameType)
    assert max(LIMITS.values()) == MAX_FRAME_BODY


def test_a_message_beyond_its_limit_is_not_sent() -> None:
    """It would end the connection at the peer, which would be blamed for it."""
    with pytest.raises(LocalError, match="RESET: 110 bytes, at most 64"):
        wire.encode(wire.Reset(reason="x" * 100))


@pytest.mark.parametrize("frame_type", [FrameType.HELLO, FrameType.DATA, FrameType.END, 99])
def test_a_frame_without_a_schema_is_no_message(frame_type: int) -> None:
    """HELLO, DATA and END are read elsewhere; anything else unknown is an error."""
    with pytest.raises(RemoteError, match=f"frame type {int(frame_type)} carries no message"):
        wire.decode(frame_type, b"")


def test_unknown_keys_and_features_of_a_hello_are_ignored() -> None:
    """So that two versions can meet."""
    newer = {"version": 1, "features": ["tcp", "quic"], "role": "control", "opens": True, "mood": "good"}
    hello = wire.decode_as(wire.Hello, codec.encode(newer), FrameType.HELLO)
    assert hello == wire.Hello(version=1, features=["tcp", "quic"], role="control", opens=True)


def test_an_unknown_key_of_any_other_message_is_an_error() -> None:
    """What is not understood is not half obeyed."""
    with pytest.raises(RemoteError, match="ACCEPTED: Object contains unknown field"):
        wire.decode(FrameType.ACCEPTED, codec.encode({"ordinal": 1, "extra": 2}))


@pytest.mark.parametrize("word", [*Reason, "", "a_newer_reason"])
def test_a_reason_of_a_newer_version_can_be_read(word: str) -> None:
    """Its word is kept as it is; what it means here is for the reader to say."""
    assert wire.decode(*wire.encode(wire.Reset(reason=word))) == wire.Reset(reason=word)


@pytest.mark.parametrize("word", ["Bad", "bad reason", "\x1b[31m", "a" * 33])
def test_a_reason_is_a_word(word: str) -> None:
    """It goes to logs and terminals."""
    with pytest.raises(RemoteError, match="RESET"):
        wire.decode(FrameType.RESET, codec.encode({"reason": word}))


@given(st.sampled_from(sorted(wire.BODIES)), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_the_peers_fault(frame_type: int, body: bytes) -> None:
    """No body off the wire raises anything but RemoteError."""
    try:
        message = wire.decode(frame_type, body)
    except RemoteError:
        return
    assert isinstance(message, msgspec.Struct)
