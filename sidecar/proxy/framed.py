"""One stream's bytes inside a pooled connection, as a Trio stream.

DATA carries bytes, END a half-close, RESET a cut with its reason. After END both ways the connection is whole again
and goes back to its pool; after anything else it is closed, because nobody knows what is still in flight on it.
"""

import trio

from pki.errors import RemoteError
from pki.framing import MAX_FRAME_BODY
from sidecar.overlay import Connection
from sidecar.wire import FrameType, Reset, decode_as, encode


class ResetByPeer(trio.BrokenResourceError):
    """The peer cut the stream. ``reason`` is its word, empty when its caller just went away."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the peer cut the stream: {reason}")
        self.reason = reason


class FramedStream(trio.abc.HalfCloseableStream):
    """A stream between OPEN and the end of both directions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = b""
        self._ended_out = False
        self._ended_in = False
        self._closed = False

    @property
    def whole(self) -> bool:
        """Whether both directions ended cleanly, so that the connection may carry the next stream."""
        return self._ended_in and self._ended_out and not self._closed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._require_open_end()
        if not data:
            await trio.lowlevel.checkpoint()
        for at in range(0, len(data), MAX_FRAME_BODY):
            await self._connection.frames.send(FrameType.DATA, data[at : at + MAX_FRAME_BODY])

    async def wait_send_all_might_not_block(self) -> None:
        self._require_open_end()
        await self._connection.tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._require_open()
        if self._ended_out:
            await trio.lowlevel.checkpoint()
            return
        self._ended_out = True
        await self._connection.frames.send(FrameType.END)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        self._require_open()
        if not self._rest:
            if self._ended_in:
                await trio.lowlevel.checkpoint()
                return b""
            self._rest = await self._next()
        else:
            await trio.lowlevel.checkpoint()
        data = self._rest
        if max_bytes is not None and len(data) > max_bytes:
            data, self._rest = data[:max_bytes], data[max_bytes:]
        else:
            self._rest = b""
        return data

    async def reset(self, reason: str) -> None:
        """Cut the stream: say why at best effort, then drop the connection with all that is queued on it."""
        if not self._closed:
            self._closed = True
            with trio.move_on_after(0.5, shield=True):
                try:
                    await self._connection.frames.send(*encode(Reset(reason=reason)))
                except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                    pass  # The peer is gone, or a half-sent frame is in the way: closing says enough.
            await self._connection.aclose()

    async def aclose(self) -> None:
        """Give the stream up. A connection that is not whole is closed."""
        if not self._closed:
            self._closed = True
            if not (self._ended_in and self._ended_out):
                await self._connection.aclose()
        await trio.lowlevel.checkpoint()

    async def _next(self) -> bytes:
        while True:
            frame = await self._connection.frames.receive()
            if frame is None:
                raise trio.BrokenResourceError("the peer left in the middle of a stream")
            match frame.type:
                case FrameType.DATA if frame.body:
                    return frame.body
                case FrameType.DATA:
                    continue
                case FrameType.END:
                    self._ended_in = True
                    return b""
                case FrameType.RESET:
                    raise ResetByPeer(decode_as(Reset, frame.body, FrameType.RESET).reason)
                case _:
                    raise RemoteError(f"frame type {frame.type} does not belong inside a stream")

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _require_open_end(self) -> None:
        self._require_open()
        if self._ended_out:
            raise trio.ClosedResourceError("this stream has sent its end")
