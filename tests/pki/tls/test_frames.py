from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from pki.errors import LocalError, RemoteError
from pki.framing import MAX_FRAME_BODY, Frame, encode
from pki.tls.frames import FrameStream
from tests.pki.tls.members import secured

LIMITS = {1: 5, 2: MAX_FRAME_BODY}


def frame_streams() -> tuple[FrameStream, FrameStream]:
    near, far = trio.testing.memory_stream_pair()
    return FrameStream(near, LIMITS), FrameStream(far, LIMITS)


async def test_frames_cross_tls_whole_and_in_order() -> None:
    """Small ones, empty ones and the greatest, alone and gathered."""
    near, far = (FrameStream(stream, LIMITS) for stream in await secured())
    great = bytes(range(256)) * 1024
    sent = [Frame(1, b"hello"), Frame(1, b""), Frame(2, great), Frame(1, b"last")]
    await near.send(1, b"hello")
    await near.send_many([(1, b""), (2, memoryview(great)), (1, bytearray(b"last"))])
    assert [await far.receive() for _ in sent] == sent


async def test_gathered_frames_leave_in_one_write() -> None:
    """A proof and the opening that needs it cost one system call."""
    near, far = trio.testing.memory_stream_pair()
    await FrameStream(near, LIMITS).send_many([(1, b"a"), (1, b"b")])
    assert await far.receive_some() == encode(1, b"a") + encode(1, b"b")


async def test_an_end_between_two_frames_is_clean() -> None:
    """None, again and again, after the frames that came before it."""
    near, far = frame_streams()
    await near.send(1, b"bye")
    await near.stream.aclose()
    assert [await far.receive() for _ in range(3)] == [Frame(1, b"bye"), None, None]


@pytest.mark.parametrize("sent", [b"\x01", b"\x01\x00\x00\x02", b"\x01\x00\x00\x02a"])
async def test_an_end_inside_a_frame_is_the_peers_fault(sent: bytes) -> None:
    """Half a frame never counts for a clean end."""
    near, far = frame_streams()
    await near.stream.send_all(sent)
    await near.stream.aclose()
    with pytest.raises(RemoteError):
        await far.receive()


async def test_a_frame_beyond_the_limits_is_refused_before_its_body_is_there() -> None:
    """The peer need not send it for us to say no."""
    near, far = frame_streams()
    await near.stream.send_all(b"\x01\x00\x00\x06")
    with pytest.raises(RemoteError):
        await far.receive()


async def test_a_frame_that_cannot_be_encoded_is_not_sent() -> None:
    """Neither it nor those gathered with it."""
    near, far = frame_streams()
    with pytest.raises(LocalError):
        await near.send_many([(1, b"good"), (2, bytes(MAX_FRAME_BODY + 1))])
    await near.send(1, b"next")
    assert await far.receive() == Frame(1, b"next")


async def test_limits_may_change_after_a_greeting() -> None:
    """For what comes next, even if it came in the same read."""
    near, far = frame_streams()
    await near.send_many([(1, b"hello"), (9, b"more")])
    assert await far.receive() == Frame(1, b"hello")
    far.limits = {9: 4}
    assert await far.receive() == Frame(9, b"more")
    assert far.limits == {9: 4}


async def test_a_cancelled_receive_loses_no_frame() -> None:
    """Neither one that is there already nor one that is half there."""
    near, far = frame_streams()
    await near.send_many([(1, b"a"), (1, b"b")])
    await near.stream.send_all(encode(1, b"c")[:3])
    assert await far.receive() == Frame(1, b"a")
    await cancelled(far.receive)
    assert await far.receive() == Frame(1, b"b")
    await cancelled(far.receive)
    await near.stream.send_all(encode(1, b"c")[3:])
    assert await far.receive() == Frame(1, b"c")


async def test_every_receive_lets_others_run() -> None:
    """A peer that sends many small frames in one read cannot keep the loop to itself."""
    near, far = frame_streams()
    await near.send_many([(1, b"a"), (1, b"b")])
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await far.receive()


async def cancelled(call: Callable[[], Awaitable[object]]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught
