from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError, RemoteError
from pki.framing import HEADER_BYTES, MAX_FRAME_BODY, Frame, FrameDecoder, encode

LIMITS = {0: 0, 1: 5, 2: MAX_FRAME_BODY, 3: 0xFFFFFF}

frames = st.lists(
    st.one_of(
        st.just(Frame(0, b"")),
        st.builds(Frame, st.just(1), st.binary(max_size=5)),
        st.builds(Frame, st.just(2), st.binary(max_size=40)),
    )
)
# Few different bytes, so that whole frames are often met by chance.
any_bytes = st.lists(st.sampled_from([0, 1, 2, 4, 5, 255]), max_size=60).map(bytes)


def outcome(pieces: Iterable[bytes]) -> list[Frame | str]:
    """The frames of some pieces, the error last if there is one, asked for after every piece."""
    decoder = FrameDecoder(LIMITS)
    seen: list[Frame | str] = []
    try:
        for piece in pieces:
            decoder.feed(piece)
            while frame := decoder.next_frame():
                seen.append(frame)
    except RemoteError as error:
        seen.append(str(error))
    return seen


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(frames, st.lists(st.integers(min_value=0)))
def test_what_is_encoded_is_decoded_however_it_is_cut(sent: list[Frame], places: list[int]) -> None:
    """Frames keep type, body and order through any fragmentation."""
    wire = b"".join(encode(frame.type, frame.body) for frame in sent)
    assert outcome(cut(wire, places)) == sent


@given(any_bytes, st.lists(st.integers(min_value=0)))
def test_any_bytes_mean_the_same_however_they_are_cut(data: bytes, places: list[int]) -> None:
    """Garbage gives the same frames, then the same RemoteError, and nothing else is ever raised."""
    assert outcome(cut(data, places)) == outcome([data])


@pytest.mark.parametrize("body", [b"body", bytearray(b"body"), memoryview(b"body")])
def test_the_header_is_one_type_byte_and_three_length_bytes(body: bytes | bytearray | memoryview) -> None:
    """The wire form is fixed, big endian, whatever buffer the body comes in."""
    assert encode(7, body) == b"\x07\x00\x00\x04body"


@pytest.mark.parametrize("frame_type", [-1, 256])
def test_a_type_beyond_one_byte_is_our_own_fault(frame_type: int) -> None:
    """It can never be sent."""
    with pytest.raises(LocalError):
        encode(frame_type, b"")


def test_a_body_over_the_format_limit_is_never_sent() -> None:
    """The limit is 256 KiB to the byte, and a longer body is our own fault."""
    assert len(encode(2, bytes(MAX_FRAME_BODY))) == HEADER_BYTES + MAX_FRAME_BODY
    with pytest.raises(LocalError):
        encode(2, bytes(MAX_FRAME_BODY + 1))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"\x09\x00\x00\x00", id="an unknown type"),
        pytest.param(b"\x00\x00\x00\x01", id="a body where none may be"),
        pytest.param(b"\x01\x00\x00\x06", id="one byte over the limit of its type"),
        pytest.param(b"\x03\x04\x00\x01", id="one byte over 256 KiB, whatever its type says"),
        pytest.param(b"\x02\xff\xff\xff", id="16 MiB announced"),
    ],
)
def test_a_bad_frame_is_refused_at_its_header(header: bytes) -> None:
    """A peer cannot make us wait for, or hold, a body that it may not send."""
    decoder = FrameDecoder(LIMITS)
    decoder.feed(header[:3])
    assert decoder.next_frame() is None
    decoder.feed(header[3:])
    with pytest.raises(RemoteError):
        decoder.next_frame()
    assert decoder.pending == 0


def test_a_spent_decoder_keeps_nothing_and_repeats_its_error() -> None:
    """After a bad frame nothing can be read as if it had not been there, even a whole good one."""
    decoder = FrameDecoder(LIMITS)
    decoder.feed(b"\x09\x00\x00\x00")
    with pytest.raises(RemoteError) as first:
        decoder.next_frame()
    decoder.feed(encode(1, b"good"))
    with pytest.raises(RemoteError) as second:
        decoder.next_frame()
    assert (str(second.value), decoder.pending, decoder.at_boundary) == (str(first.value), 0, False)


def test_frames_before_a_bad_one_are_still_handed_out() -> None:
    """What the peer rightly sent counts, in order, even if the next header came in the same read."""
    assert outcome([encode(1, b"good") + b"\x09\x00\x00\x00"])[0] == Frame(1, b"good")


def test_the_boundary_tells_a_clean_end_from_a_cut_one() -> None:
    """A peer may stop between two frames only: not inside a header, not inside a body."""
    decoder = FrameDecoder(LIMITS)
    seen = []
    for octet in encode(1, b"ab"):
        seen.append((decoder.pending, decoder.at_boundary))
        decoder.feed(bytes([octet]))
    assert seen == [(0, True), (1, False), (2, False), (3, False), (4, False), (5, False)]
    assert (decoder.next_frame(), decoder.at_boundary) == (Frame(1, b"ab"), True)


def test_new_limits_count_from_the_next_header_on() -> None:
    """A greeting may allow other frames after itself, even ones that came in the same read."""
    decoder = FrameDecoder({1: 5})
    decoder.feed(encode(1, b"hello") + encode(9, b"abc") + encode(1, b"hello"))
    assert decoder.next_frame() == Frame(1, b"hello")
    decoder.limits = {9: 3}
    assert decoder.next_frame() == Frame(9, b"abc")
    with pytest.raises(RemoteError):
        decoder.next_frame()


def test_many_small_frames_cost_no_more_than_their_bytes() -> None:
    """Taking frames off the front of a large buffer does not move what is behind them each time."""
    decoder = FrameDecoder(LIMITS)
    decoder.feed(encode(1, b"ab") * 200_000)
    count = 0
    while decoder.next_frame():
        count += 1
    assert count == 200_000
