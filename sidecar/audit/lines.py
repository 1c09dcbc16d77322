"""The lines of a volume's file, forwards and backwards, in bounded memory however long a line was made.

A line ends in LF and nothing else: the other characters that Python's ``splitlines`` splits at stand
unescaped in RFC 8785 strings. Lines come without their LF, and one too long for any record comes clipped to
MAX_LINE_BYTES, which is still too long. What follows the last LF is torn, not a line.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sidecar.audit.chain import MAX_LINE_BYTES
from sidecar.disk import Disk

_BLOCK = 4 * MAX_LINE_BYTES


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of a volume at one moment; it may be growing."""

    complete: int
    """Up to and with the last LF."""
    torn: int
    """After it."""


def extent(disk: Disk, path: Path) -> Extent:
    """Look for the last LF from the end."""
    size = position = disk.size(path)
    while position > 0:
        offset = max(0, position - _BLOCK)
        if (at := disk.read(path, offset, position - offset).rfind(b"\n")) >= 0:
            return Extent(offset + at + 1, size - offset - at - 1)
        position = offset
    return Extent(0, size)


def forward(disk: Disk, path: Path, start: int, end: int) -> Iterator[bytes]:
    """The lines from ``start`` to ``end``, each where a line ends or 0."""
    head = b""
    for offset in range(start, end, _BLOCK):
        *parts, last = disk.read(path, offset, min(_BLOCK, end - offset)).split(b"\n")
        for part in parts:
            yield (head + part)[:MAX_LINE_BYTES]
            head = b""
        head = (head + last)[:MAX_LINE_BYTES]


def backward(disk: Disk, path: Path, end: int) -> Iterator[bytes]:
    """The lines before ``end``, where a line ends or 0; last first."""
    if end == 0:
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
