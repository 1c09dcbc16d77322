"""Frames on a stream."""

from collections.abc import Iterable

import trio

from pki.errors import RemoteError
from pki.framing import Frame, FrameDecoder, Limits, encode

READ_BYTES = 131_072


class FrameStream:
    """Frames over a byte stream. One task sends and one receives at a time, as on the stream itself."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self.stream = stream
        self._decoder = FrameDecoder(limits)

    @property
    def limits(self) -> Limits:
        """What the peer may send from its next frame on. May be exchanged, as after a greeting."""
        return self._decoder.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._decoder.limits = limits

    @property
    def has_unread(self) -> bool:
        """Whether part of a frame, or whole ones, came that no receive has taken yet."""
        return not self._decoder.at_boundary

    async def send(self, frame_type: int, body: bytes | bytearray | memoryview = b"") -> None:
        """Send one frame; raises LocalError for one that cannot be encoded."""
        await self.stream.send_all(encode(frame_type, body))

    async def send_many(self, frames: Iterable[tuple[int, bytes | bytearray | memoryview]]) -> None:
        """Send frames, each a (type, body), in one write."""
        await self.stream.send_all(b"".join([encode(*frame) for frame in frames]))

    async def receive(self) -> Frame | None:
        """The next frame, None when the peer ended cleanly between two; cancelled, it loses nothing.

        Raises RemoteError for a frame beyond the limits and for an end inside a frame.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        frame = self._decoder.next_frame()
        if frame is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while frame is None:
            data = await self.stream.receive_some(READ_BYTES)
            if not data:
                self._check_end()
                return None
            self._decoder.feed(data)
            frame = self._decoder.next_frame()
        return frame

    def _check_end(self) -> None:
        if not self._decoder.at_boundary:
            raise RemoteError("frame: the peer ended inside a frame")
