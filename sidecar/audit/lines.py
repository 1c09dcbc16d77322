"""The lines of a volume, forwards and backwards, in bounded memory however long a line was made.

A line ends in LF and nothing else: the other characters that Python's ``splitlines`` splits at stand
unescaped in RFC 8785 strings. Lines come without their LF, and one too long for any record comes clipped to
MAX_LINE_BYTES, which is still too long. What follows the last LF is torn, not a line.

A volume is meant by its own name, ``*.jsonl``. Where there is no such file, but one with ``.zst`` behind the name, that
is the same content in one zstd frame (:mod:`sidecar.audit.closed`). Offsets are those of the content either way, so a
reader's place stays its place when a volume is compressed. RemoteError says that such a file is damaged.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import zstandard

from pki.errors import RemoteError
from sidecar.audit.chain import MAX_LINE_BYTES
from sidecar.disk import Disk

PACKED = ".zst"
WINDOW_BYTES = 8 * 1024 * 1024
"""The most that a frame may ask for to be unpacked."""
MAX_BACKWARD_BYTES = 256 * 1024 * 1024
"""Of a compressed volume that is read from its end: it has to be unpacked whole."""

_BLOCK = 4 * MAX_LINE_BYTES
_SIP = 1024
"""Compressed bytes taken at once: a zstd bomb makes 128 KiB of 4 bytes, so at most 32 MiB of these."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a volume at one moment; it may be growing."""

    complete: int
    """Up to and with the last LF."""
    torn: int
    """After it."""


def is_packed(disk: Disk, path: Path) -> bool:
    """Whether the volume ``path`` is there in its compressed form only."""
    try:
        disk.size(path)
    except FileNotFoundError:
        disk.size(packed_path(path))  # neither: FileNotFoundError again
        return True
    return False


def packed_path(path: Path) -> Path:
    """Where the volume ``path`` is once compressed."""
    return path.with_name(path.name + PACKED)


def extent(disk: Disk, path: Path) -> Extent:
    """Look for the last LF from the end. Of a damaged compressed volume: as far as it can be unpacked."""
    try:
        size = position = disk.size(path)
        while position > 0:
            offset = max(0, position - _BLOCK)
            if (at := disk.read(path, offset, position - offset).rfind(b"\n")) >= 0:
                return Extent(offset + at + 1, size - offset - at - 1)
            position = offset
    except FileNotFoundError:
        return _packed_extent(disk, path)
    return Extent(0, size)


def forward(disk: Disk, path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines from ``start`` to ``end``, each where a line ends or 0."""
    head = b""
    for block in _blocks(disk, path, start, end):
        *parts, last = block.split(b"\n")
        for part in parts:
            yield (head + part)[:MAX_LINE_BYTES]
            head = b""
        head = (head + last)[:MAX_LINE_BYTES]


def backward(disk: Disk, path: Path, end: int) -> Iterator[bytes]:
    """The lines before ``end``, where a line ends or 0; last first."""
    if end == 0:
        return
    if is_packed(disk, path):
        yield from _packed_backward(disk, path, end)
        return
    position, tail = end - 1, b""
    while position > 0:
        offset = max(0, position - _BLOCK)
        first, *parts = disk.read(path, offset, position - offset).split(b"\n")
        for part in reversed(parts):
            yield (part + tail)[:MAX_LINE_BYTES]
            tail = b""
        tail = (first + tail)[:MAX_LINE_BYTES]
        position = offset
    yield tail


def unpacked(disk: Disk, path: Path) -> Iterator[bytes]:
    """The content of a compressed volume, in pieces; raises RemoteError where it is damaged."""
    packed = packed_path(path)
    frame = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES).decompressobj()
    for offset in range(0, disk.size(packed), _BLOCK):
        block = disk.read(packed, offset, _BLOCK)
        for at in range(0, len(block), _SIP):
            if frame.eof:  # bytes that unpack to nothing could be changed unseen
                raise RemoteError("stands in a compressed volume with something behind its end")
            try:
                yield frame.decompress(block[at : at + _SIP])
            except zstandard.ZstdError:
                raise RemoteError("cannot be unpacked: the compressed volume is damaged") from None
    if frame.unused_data:
        raise RemoteError("stands in a compressed volume with something behind its end")
    if not frame.eof:
        raise RemoteError("cannot be unpacked: the compressed volume ends too soon")


def _blocks(disk: Disk, path: Path, start: int, end: int) -> Iterator[bytes]:
    at = start
    with suppress(FileNotFoundError):  # it is compressed, or has just been
        while at < end and (block := disk.read(path, at, min(_BLOCK, end - at))):
            yield block
            at += len(block)
        return
    position = 0
    for piece in unpacked(disk, path):
        yield piece[max(0, at - position) : max(0, end - position)]
        position += len(piece)


def _packed_extent(disk: Disk, path: Path) -> Extent:
    size = complete = 0
    try:
        for piece in unpacked(disk, path):
            if (at := piece.rfind(b"\n")) >= 0:
                complete = size + at + 1
            size += len(piece)
    except RemoteError:
        return Extent(size, 0)  # who reads on to here is told
    return Extent(complete, size - complete)


def _packed_backward(disk: Disk, path: Path, end: int) -> Iterator[bytes]:
    if end > MAX_BACKWARD_BYTES:
        raise RemoteError(
            f"stands in a volume of {end} bytes, at most {MAX_BACKWARD_BYTES} are read backwards"
        )
    content = b"".join(_blocks(disk, path, 0, end))
    for line in reversed(content[:-1].split(b"\n")):
        yield line[:MAX_LINE_BYTES]
