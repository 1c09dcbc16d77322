from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing

from pki.errors import RemoteError
from pki.framing import HEADER_BYTES
from pki.tls.frames import FrameStream
from pki.tls.stream import RECORD_BYTES
from sidecar.overlay import Connection
from sidecar.proxy.framed import CHUNK_BYTES, LAST_WORD_SECONDS, FramedStream, ResetByPeer
from sidecar.reasons import Reason
from sidecar.wire import STREAM_LIMITS, FrameType, Prove, Reset, encode

Pair = tuple[FramedStream, FramedStream]


@dataclass(eq=False)
class FakeConnection:
    """The part of a connection that a stream uses, over any transport."""

    tls: trio.abc.Stream
    frames: FrameStream = field(init=False)
    on_prove: Callable[[bytes], None] | None = None

    def __post_init__(self) -> None:
        self.frames = FrameStream(self.tls, STREAM_LIMITS)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.tls)


def framed(transport: trio.abc.Stream) -> FramedStream:
    return FramedStream(cast(Connection, FakeConnection(transport)))


def frames_of(stream: FramedStream) -> FrameStream:
    return stream._connection.frames


async def open_pair() -> Pair:
    near, far = trio.testing.memory_stream_pair()
    return framed(near), framed(far)


async def clogged_pair() -> Pair:
    """A send waits until its bytes are received."""
    near, far = trio.testing.lockstep_stream_pair()
    return framed(near), framed(far)


async def test_it_is_a_half_closeable_stream_as_trio_has_it() -> None:
    """Trio's own conformance check, two-way and half-close, with room in between and without."""
    await trio.testing.check_half_closeable_stream(open_pair, clogged_pair)


async def test_a_connection_is_whole_after_an_end_each_way() -> None:
    """Only then may it carry the next stream; and closing the stream leaves it open for that."""
    near, far = await open_pair()
    await near.send_all(b"question")
    await near.send_eof()
    assert await far.receive_some() == b"question"
    assert await far.receive_some() == b""
    assert (near.whole, far.whole) == (False, False)
    await far.send_eof()
    assert (near.whole, far.whole) == (False, True)
    assert await near.receive_some() == b""
    assert (near.whole, far.whole) == (True, True)
    await near.aclose()
    await frames_of(near).send(FrameType.DATA, b"next stream")
    assert (await frames_of(far).receive()) is not None


async def test_a_connection_whose_end_is_half_sent_is_not_whole() -> None:
    """Its next stream would begin inside a frame."""
    near, far = await clogged_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.send_eof)
        assert await near.receive_some() == b""
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.send_eof()
    assert not near.whole


async def test_bulk_is_cut_into_frames() -> None:
    """Each within its limit, together what was sent."""
    near, far = await open_pair()
    sent = bytes(range(256)) * 3_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, memoryview(sent))
        received = b""
        sizes = []
        while len(received) < len(sent):
            sizes.append(len(part := await far.receive_some()))
            received += part
    assert received == sent
    assert set(sizes[:-1]) == {CHUNK_BYTES}
    assert (CHUNK_BYTES + HEADER_BYTES) % RECORD_BYTES == 0  # no record is sent half empty


async def test_a_frame_is_read_in_pieces_as_small_as_wanted() -> None:
    """What is left of it comes next."""
    near, far = await open_pair()
    await near.send_all(b"abcdef")
    assert [await far.receive_some(4), await far.receive_some(4)] == [b"abcd", b"ef"]


async def test_a_cut_names_its_reason_on_the_other_side() -> None:
    """Whoever reads on is told again; what was sent before is still read first."""
    near, far = await open_pair()
    await near.send_all(b"half a ")
    await near.reset(Reason.REVOKED)
    assert await far.receive_some() == b"half a "
    for _ in range(2):
        with pytest.raises(ResetByPeer, match="revoked") as caught:
            await far.receive_some()
        assert caught.value.reason == "revoked"
    assert not far.whole


async def test_a_cut_closes_the_connection_and_is_never_a_clean_end() -> None:
    """A truncated stream must not look complete, even to who has read its END before."""
    near, far = await open_pair()
    await near.reset(Reason.LOCKED)
    await near.reset(Reason.LOCKED)
    await near.aclose()
    assert not near.whole
    with pytest.raises(trio.ClosedResourceError):
        await near.send_all(b"more")
    with pytest.raises(ResetByPeer):
        await far.receive_some()


async def test_a_cut_waits_for_no_peer(autojump_clock: trio.testing.MockClock) -> None:
    """One that does not read loses the connection without a word."""
    near, far = await clogged_pair()
    started = trio.current_time()
    await near.reset(Reason.LOCKED)
    assert trio.current_time() - started == LAST_WORD_SECONDS
    with pytest.raises((trio.BrokenResourceError, RemoteError)):
        await far.receive_some()


async def test_a_cut_in_the_middle_of_a_frame_says_nothing_more() -> None:
    """RESET would land inside the half sent DATA: the connection ends, and that is no clean end either."""
    near, far = await clogged_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, near)
        await trio.testing.wait_all_tasks_blocked()
        await near.reset(Reason.LOCKED)
    assert await far.receive_some() == b"stuck"
    with pytest.raises(trio.BrokenResourceError):
        await far.receive_some()


async def expect_closed(stream: FramedStream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"stuck")


async def test_a_cut_outlives_the_cancellation_that_brought_it() -> None:
    """The scope of a stream is cancelled to cut it, and its peer is told all the same."""
    near, far = await open_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.reset(Reason.REVOKED)
    with pytest.raises(ResetByPeer, match="revoked"):
        await far.receive_some()


async def test_a_close_that_is_not_whole_closes_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """At once for who sent its end already; after a moment where the peer does not read."""
    near, far = await open_pair()
    await near.send_eof()
    await near.aclose()
    assert await far.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"too late")
    stuck, _ = await clogged_pair()
    started = trio.current_time()
    await stuck.aclose()
    assert trio.current_time() - started == LAST_WORD_SECONDS


async def test_a_peer_that_leaves_in_the_middle_broke_the_stream() -> None:
    """Only END is an end."""
    near, far = await open_pair()
    await near._connection.aclose()
    with pytest.raises(trio.BrokenResourceError, match="left in the middle"):
        await far.receive_some()


@pytest.mark.parametrize(
    ("frame_type", "body"),
    [
        (FrameType.OPEN, b"x"),
        (FrameType.PROVE, b"x"),
        (FrameType.ACCEPTED, b""),
        (FrameType.DATA, b""),
        (FrameType.RESET, b"no reset"),
    ],
)
async def test_what_does_not_belong_inside_a_stream_is_the_peers_fault(
    frame_type: FrameType, body: bytes
) -> None:
    """An empty DATA too: it would keep us busy with nothing."""
    near, far = await open_pair()
    await frames_of(near).send(frame_type, body)
    with pytest.raises(RemoteError):
        await far.receive_some()


async def test_an_end_may_follow_data_in_one_read() -> None:
    """Frames come in whatever pieces the network makes."""
    near, far = await open_pair()
    await frames_of(near).send_many([(FrameType.DATA, b"all"), (FrameType.END, b"")])
    assert [await far.receive_some(), await far.receive_some(), await far.receive_some()] == [
        b"all",
        b"",
        b"",
    ]


async def test_a_reset_after_an_end_is_for_the_next_reader() -> None:
    """The direction has ended; nothing more is read on behalf of this stream."""
    near, far = await open_pair()
    await frames_of(near).send_many([(FrameType.END, b""), encode(Reset(reason=Reason.DRAINING))])
    assert await far.receive_some() == b""
    assert await far.receive_some() == b""


PROOF = Prove(body=b"renewed", signature=b"")


async def test_a_proof_may_come_in_the_middle_of_a_stream() -> None:
    """Its bytes are no one's data; whoever reads on gets what comes behind it."""
    near, far = await open_pair()
    proven: list[bytes] = []
    far._connection.on_prove = proven.append
    await near.send_all(b"before")
    await near.prove(PROOF)
    await near.send_all(b"after")
    assert [await far.receive_some(), await far.receive_some()] == [b"before", b"after"]
    assert proven == [encode(PROOF)[1]]


async def test_a_proof_that_nobody_expects_is_the_peers_fault() -> None:
    """Only while a stream is carried does anyone look at one."""
    near, far = await open_pair()
    await near.prove(PROOF)
    with pytest.raises(RemoteError, match="does not belong inside a stream"):
        await far.receive_some()


async def test_a_proof_that_is_refused_breaks_the_stream() -> None:
    """As a frame that does not belong there would."""

    def refuse(body: bytes) -> None:
        raise RemoteError(f"PROVE: {len(body)} bytes of nothing")

    near, far = await open_pair()
    far._connection.on_prove = refuse
    await near.prove(PROOF)
    with pytest.raises(RemoteError, match="of nothing"):
        await far.receive_some()


async def test_a_proof_waits_for_the_frame_that_is_being_sent_and_goes_before_the_next() -> None:
    """Nothing may land inside a frame, and a stream that never pauses must not starve its proof."""
    near, far = await clogged_pair()
    seen: list[bytes] = []
    far._connection.on_prove = seen.append
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, bytes(2 * CHUNK_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(near.prove, PROOF)
        received = 0
        while received < 2 * CHUNK_BYTES:
            part = await far.receive_some()
            received += len(part)
            seen.append(b"data")
    assert seen == [b"data", encode(PROOF)[1], b"data"]


@pytest.mark.parametrize("how", ["ended", "closed", "reset"])
async def test_after_the_end_nothing_is_proven(how: str) -> None:
    """The peer does not listen any more, and a frame of ours would be in the next stream's way."""
    near, far = await open_pair()
    if how == "ended":
        await near.send_eof()
    else:
        await (near.aclose() if how == "closed" else near.reset(""))
    await near.prove(PROOF)
    await near._connection.aclose()
    frames = []
    while (frame := await frames_of(far).receive()) is not None:
        frames.append(frame.type)
    assert frames == [FrameType.RESET if how == "reset" else FrameType.END]


async def test_a_proof_that_waits_is_given_up_with_its_stream() -> None:
    """A stream that is cut has nothing left to prove."""
    near, _ = await clogged_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, near)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(near.prove, PROOF)
        await trio.testing.wait_all_tasks_blocked()
        await near.reset(Reason.LOCKED)
