"""The frame: 1 type byte, 3 length bytes (big endian), a body of at most 256 KiB. What the types mean is not said here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pki.errors import LocalError, RemoteError

HEADER_BYTES = 4
MAX_FRAME_BODY = 262_144

Limits = Mapping[Any, int]
"""The most body bytes of each frame type (an int, or an IntEnum's member); a missing type is not spoken here."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame off the wire, its body at most its type's limit."""

    type: int
    body: bytes


def encode(frame_type: int, body: bytes | bytearray | memoryview) -> bytes:
    """The bytes of one frame; raises LocalError for a type beyond one byte or a body over MAX_FRAME_BODY."""
    if not 0 <= frame_type <= 255:
        raise LocalError("frame: the type does not fit one byte")
    if len(body) > MAX_FRAME_BODY:
        raise LocalError(f"frame: a body of {len(body)} bytes, over {MAX_FRAME_BODY}")
    return b"".join(((frame_type << 24 | len(body)).to_bytes(HEADER_BYTES), body))


class FrameDecoder:
    """Bytes in, in any pieces; frames out, the same whatever the pieces were.

    A frame of an unknown type or over its type's limit is refused at its header: its body is never waited for, so a
    peer cannot make us hold more than it may send. After that the decoder is spent: it keeps nothing more and raises
    the same error again. ``limits`` may be exchanged between two frames: they count from the next header on.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._buffer = bytearray()
        self._fault: str | None = None

    @property
    def pending(self) -> int:
        """How many bytes are held that belong to no frame handed out yet."""
        return len(self._buffer)

    @property
    def at_boundary(self) -> bool:
        """Whether the peer may stop here: no frame has begun, none was refused."""
        return not self._buffer and self._fault is None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes off the wire."""
        if self._fault is None:
            self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next whole frame, None when more bytes are needed; raises RemoteError for a frame that is not allowed."""
        if self._fault is not None:
            raise RemoteError(self._fault)
        if len(self._buffer) < HEADER_BYTES:
            return None
        header = int.from_bytes(self._buffer[:HEADER_BYTES])
        frame_type, end = header >> 24, HEADER_BYTES + (header & 0xFFFFFF)
        self._check(frame_type, end - HEADER_BYTES)
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as held:
            frame = Frame(frame_type, bytes(held[HEADER_BYTES:end]))
        del self._buffer[:end]  # moves the start, not the bytes behind it
        return frame

    def _check(self, frame_type: int, length: int) -> None:
        """Refuse by header alone."""
        limit = self.limits.get(frame_type)
        if limit is None:
            self._refuse(f"frame: type {frame_type} is not known here")
        elif length > min(limit, MAX_FRAME_BODY):
            self._refuse(f"frame: type {frame_type} with {length} bytes, over {min(limit, MAX_FRAME_BODY)}")

    def _refuse(self, fault: str) -> None:
        self._fault = fault
        self._buffer.clear()
        raise RemoteError(fault)
