"""One stream's bytes inside a pooled connection, as a Trio stream.

DATA carries bytes, END a half-close, RESET a cut with its reason. After END both ways the connection is whole again
and goes back to its pool; after anything else it is closed, because nobody knows what is still in flight on it.

:meth:`FramedStream.reset` is how a stream is cut. ``aclose`` is the graceful end of Trio's contract, an END and then
the connection's: whoever would use it for a cut would pass a truncated stream off as a complete one.
"""

import operator
from contextlib import suppress

import trio

from pki.errors import RemoteError
from pki.framing import HEADER_BYTES, MAX_FRAME_BODY
from sidecar.overlay import Connection
from sidecar.wire import FrameType, Prove, Reset, decode_as, encode

CHUNK_BYTES = 8 * 16_384 - HEADER_BYTES
"""Payload of one DATA frame: with its header it fills eight TLS records, and one read of 128 KiB, exactly."""

LAST_WORD_SECONDS = 0.5
"""How long a stream that ends waits for a peer that does not read, to say END or RESET."""


class ResetByPeer(trio.BrokenResourceError):
    """The peer cut the stream. ``reason`` is its word, empty when its caller just went away."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the peer cut the stream: {reason}")
        self.reason = reason


class FramedStream(trio.abc.HalfCloseableStream):
    """A stream between OPEN and the end of both directions. One task sends and one receives at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rest = memoryview(b"")
        self._ended_out = False
        self._ended_in = False
        self._closed = False
        self._cut: ResetByPeer | None = None
        self._proving = trio.Lock()
        self._sent = trio.lowlevel.ParkingLot()

    @property
    def whole(self) -> bool:
        """Whether both directions ended cleanly, so that the connection may carry the next stream."""
        return self._ended_in and self._ended_out and not self._closed

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._require_sending()
        if not data:
            await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            for at in range(0, len(view), CHUNK_BYTES):
                await self._send(FrameType.DATA, view[at : at + CHUNK_BYTES])

    async def wait_send_all_might_not_block(self) -> None:
        self._require_sending()
        await self._connection.tls.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._require_open()
        if self._ended_out:
            await trio.lowlevel.checkpoint()
            return
        await self._send(FrameType.END)
        # Only now: a connection whose END is half sent must not go back to the pool.
        self._ended_out = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See trio.abc.ReceiveStream. Raises ResetByPeer for a cut, RemoteError for a frame that is no stream's."""
        limit = MAX_FRAME_BODY if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        self._require_open()
        if self._rest or self._ended_in:
            await trio.lowlevel.checkpoint()
        else:
            body = await self._next()
            if len(body) <= limit:
                return body
            self._rest = memoryview(body)
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return bytes(data)

    async def prove(self, proof: Prove) -> None:
        """Send a PROVE in the middle of the stream, between two frames of whoever sends on it.

        Nothing happens once our direction has ended: the peer does not listen any more.
        """
        async with self._proving:
            while not self._ended_out and not self._closed:
                try:
                    await self._connection.frames.send(*encode(proof))
                except trio.BusyResourceError:
                    await self._sent.park()
                else:
                    return

    async def reset(self, reason: str) -> None:
        """Cut the stream: say why at best effort, then drop the connection with all that is queued on it."""
        if self._closed:
            return
        self._closed = True
        self._sent.unpark_all()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(LAST_WORD_SECONDS), _PEER_IS_GONE:
                await self._connection.frames.send(*encode(Reset(reason=reason)))
            await self._connection.aclose()

    async def aclose(self) -> None:
        """End the stream. A connection that is whole stays open, for its pool; any other is closed."""
        is_whole, was_closed, self._closed = self.whole, self._closed, True
        self._sent.unpark_all()
        try:
            if is_whole or was_closed:
                await trio.lowlevel.checkpoint()
            elif not self._ended_out:
                with trio.move_on_after(LAST_WORD_SECONDS), _PEER_IS_GONE:
                    await self._connection.frames.send(FrameType.END)
        finally:
            if not is_whole:
                await self._connection.aclose()

    async def _send(self, frame_type: FrameType, body: bytes | memoryview = b"") -> None:
        if self._proving.locked():  # A PROVE that waits for its turn goes first.
            async with self._proving:
                self._require_sending()
        try:
            await self._connection.frames.send(frame_type, body)
        finally:
            self._sent.unpark_all()

    async def _next(self) -> bytes:
        """The next bytes; empty at the end."""
        if self._cut is not None:
            raise self._cut
        frame = await self._connection.frames.receive()
        while frame is not None and frame.type == FrameType.PROVE and self._connection.on_prove is not None:
            self._connection.on_prove(frame.body)
            frame = await self._connection.frames.receive()
        if frame is None:
            raise trio.BrokenResourceError("the peer left in the middle of a stream")
        if frame.type == FrameType.DATA and frame.body:
            return frame.body
        if frame.type == FrameType.END:
            self._ended_in = True
            return b""
        if frame.type == FrameType.RESET:
            self._cut = ResetByPeer(decode_as(Reset, frame.body, FrameType.RESET).reason)
            raise self._cut
        # An empty DATA too: it would keep us busy with nothing.
        raise RemoteError(
            f"frame type {frame.type} with {len(frame.body)} bytes does not belong inside a stream"
        )

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")

    def _require_sending(self) -> None:
        self._require_open()
        if self._ended_out:
            raise trio.ClosedResourceError("this stream has sent its end")


# Busy: a frame of another task's is half sent, and nothing may go between. Closing says enough in each case.
_PEER_IS_GONE = suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
