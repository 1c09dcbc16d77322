import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
import trio.testing

from pki.direct import EAGER_CALLS, LARGE_READ, DirectStream, direct

BULK = bytes(4 * 1_048_576)


def sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    near, far = trio.socket.socketpair()
    return trio.SocketStream(near), trio.SocketStream(far)


def streams(eager_calls: int = EAGER_CALLS) -> tuple[DirectStream, DirectStream]:
    near, far = sockets()
    return DirectStream(near, eager_calls), DirectStream(far, eager_calls)


async def a_pair() -> tuple[DirectStream, DirectStream]:
    return streams(eager_calls=0)


async def a_full_pair() -> tuple[DirectStream, DirectStream]:
    """Neither end has room left."""
    near, far = sockets()
    for one in (near, far):
        with suppress(BlockingIOError):
            while True:
                os.write(one.socket.fileno(), BULK)
    return DirectStream(near, 0), DirectStream(far, 0)


async def test_it_is_a_half_closeable_stream_as_trio_has_it() -> None:
    """All of Trio's own conformance checks, once every call lets the loop turn."""
    await trio.testing.check_two_way_stream(a_pair, a_full_pair)
    await trio.testing.check_half_closeable_stream(a_pair, a_full_pair)


async def test_only_a_socket_has_a_direct_way() -> None:
    """Any other stream stays what it is."""
    near, _ = trio.testing.memory_stream_pair()
    assert direct(near) is near
    one, other = sockets()
    async with one, other:
        assert isinstance(direct(one), DirectStream)


async def turns_of(*calls: Callable[[], Awaitable[object]]) -> list[int]:
    """How often the loop turned in each of the calls, made one after the other."""
    clock = Turns()
    trio.lowlevel.add_instrument(clock)
    found = []
    try:
        for call in calls:
            before = clock.count
            await call()
            found.append(clock.count - before)
    finally:
        trio.lowlevel.remove_instrument(clock)
    return found


class Turns(trio.abc.Instrument):
    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - Trio's signature
        self.count += 1


async def test_a_bulk_stream_lets_others_run() -> None:
    """Calls that never have to wait let the loop turn after every few of them."""
    near, far = streams()
    async with near, far:
        turns = await turns_of(*[partial(near.send_all, b"x")] * 2 * (EAGER_CALLS + 1))
        assert turns == ([0] * EAGER_CALLS + [1]) * 2


async def test_after_a_large_read_the_next_one_asks_first() -> None:
    """Bulk is read without a wait for each piece; what is small is waited for, since more is seldom there."""
    near, far = streams()
    async with near, far:
        await near.send_all(bytes(2 * LARGE_READ + 2))
        sizes = (LARGE_READ, LARGE_READ, 1, 1)
        assert await turns_of(*(partial(far.receive_some, size) for size in sizes)) == [1, 0, 0, 1]


async def test_what_is_not_there_is_waited_for() -> None:
    """A read that tried first and found nothing goes on to wait, in vain if it is cancelled."""
    near, far = streams()
    async with near, far:
        await near.send_all(bytes(LARGE_READ))
        await far.receive_some(LARGE_READ)
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await far.receive_some() == b"late"

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"late")


async def test_in_a_cancelled_scope_nothing_is_sent_or_taken() -> None:
    """A stream that was cut moves no byte more, not even one that there would be room for."""
    near, far = streams()
    async with near, far:
        await near.send_all(bytes(LARGE_READ + 1))
        await far.receive_some(LARGE_READ)
        with trio.CancelScope() as scope:
            scope.cancel()
            await near.send_all(b"too late")
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await far.receive_some()
        assert scope.cancelled_caught
        assert await far.receive_some() == b"\0"


async def test_bulk_arrives_whole() -> None:
    """More than the kernel holds, with a reader that is slower and one that is faster than the writer."""
    near, far = streams()
    received = bytearray()

    async def send() -> None:
        await near.send_all(BULK)
        await near.send_eof()

    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while data := await far.receive_some():
            received += data
    assert received == BULK


async def test_a_second_task_is_refused_not_queued() -> None:
    """Bytes of two senders would mix."""
    near, far = streams()
    async with near, far, trio.open_nursery() as nursery:
        nursery.start_soon(near.send_all, BULK)
        await trio.testing.wait_all_tasks_blocked()
        for call in (partial(near.send_all, b"x"), near.send_eof, near.wait_send_all_might_not_block):
            with pytest.raises(trio.BusyResourceError):
                await call()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_reset_breaks_both_directions() -> None:
    """A reset is trouble of the connection, never a clean end."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = DirectStream(await trio.open_tcp_stream(*listener.socket.getsockname()))
        far = await listener.accept()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await far.aclose()
        async with near:
            with pytest.raises(trio.BrokenResourceError):
                await near.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await near.send_all(b"x")


async def test_a_closed_socket_is_never_another_that_has_its_number() -> None:
    """The kernel gives a descriptor's number to the next socket: a stream that was closed must not write there."""
    near, far = streams()
    async with far:
        await near.aclose()
        one, other = sockets()
        async with one, other:
            for call in (partial(near.send_all, b"x"), near.receive_some):
                with pytest.raises(trio.ClosedResourceError):
                    await call()
            assert one.socket.fileno() >= 0


async def test_no_read_is_of_nothing() -> None:
    """A read of no bytes could not be told from the end."""
    near, far = streams()
    async with near, far:
        with pytest.raises(ValueError, match="at least 1"):
            await near.receive_some(0)
