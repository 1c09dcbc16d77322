"""A socket's bytes with fewer turns of Trio's loop.

Trio lets the loop turn at every call of a stream, even where the kernel had an answer at once: a system call, a task
switch and a dozen Python frames that cost more than a small message itself. Here the loop turns where there is
something to wait for, and otherwise now and then:

1. A send tries the socket first. It nearly always has room.
2. A receive waits first: after a question there is nearly never an answer yet, and asking only to be told so costs a
   failed call and an exception. A read that was large says that more is there; then the next one tries first.
3. After EAGER_CALLS that did not wait, the loop turns all the same, so that one bulk stream cannot starve the others.
4. A call in a cancelled scope does nothing, as in Trio. One that did all it was asked never reports a cancellation.

So this is a Trio stream in all but rule 3: not every call is a point where other tasks run. With ``eager_calls`` of 0
it is one to the letter, and Trio's conformance tests hold it to that.
"""

import operator
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

EAGER_CALLS = 8
"""Of at most 256 KiB each: about two milliseconds of a bulk stream, encryption included."""

LARGE_READ = 32_768
READ_BYTES = 65_536

S = TypeVar("S", bound=trio.abc.Stream)


def direct(stream: S) -> "S | DirectStream":
    """``stream`` itself, or the fast way to the bytes of a socket. Whoever has it uses nothing else for them."""
    return DirectStream(stream) if isinstance(stream, trio.SocketStream) else stream


class DirectStream(trio.abc.HalfCloseableStream):
    """The bytes of ``inner``, which stays the owner of the socket."""

    def __init__(self, inner: trio.SocketStream, eager_calls: int = EAGER_CALLS) -> None:
        self._inner = inner
        self._socket = inner.socket
        self._eager_calls = self._left = eager_calls
        self._expects_more = False
        self._sending = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._start_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            sent = self._try_to_send(data)
            if sent == len(data):
                await self._moved()
                return
            with memoryview(data) as view:
                while sent < len(view):
                    await self._wait(trio.lowlevel.wait_writable)
                    with view[sent:] as rest:
                        sent += self._try_to_send(rest)
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        limit = READ_BYTES if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        data = None
        if self._expects_more:
            await trio.lowlevel.checkpoint_if_cancelled()
            data = self._try_to_receive(limit)
            if data is not None:
                await self._moved()
        while data is None:
            await self._wait(trio.lowlevel.wait_readable)
            data = self._try_to_receive(limit)
        self._expects_more = len(data) >= LARGE_READ
        return data

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        self._start_sending()
        try:
            await self._inner.wait_send_all_might_not_block()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """See trio.abc.HalfCloseableStream."""
        self._start_sending()
        try:
            await self._inner.send_eof()
        finally:
            self._sending = False

    async def aclose(self) -> None:
        """Close the socket."""
        await self._inner.aclose()

    def _try_to_send(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes the kernel took, maybe none."""
        if self._socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("this stream has sent its end")
        try:
            # Not the socket's own send: Trio's would turn the loop, and what is below it is private.
            return os.write(self._descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    def _try_to_receive(self, limit: int) -> bytes | None:
        """What has come, empty at the end, None if nothing has."""
        try:
            return os.read(self._descriptor(), limit)
        except BlockingIOError:
            return None
        except OSError as error:
            raise trio.BrokenResourceError(f"the connection broke: {error}") from error

    async def _wait(self, until_ready: Callable[[int], Awaitable[None]]) -> None:
        self._left = self._eager_calls
        await until_ready(self._descriptor())

    async def _moved(self) -> None:
        """Bytes went without waiting. The loop turns if that has happened often."""
        if self._left:
            self._left -= 1
        else:
            self._left = self._eager_calls
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _descriptor(self) -> int:
        """Asked for at every use: after a close the number may be another socket's."""
        number = self._socket.fileno()
        if number < 0:
            raise trio.ClosedResourceError("this socket was closed")
        return number

    def _start_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this socket")
        self._sending = True
