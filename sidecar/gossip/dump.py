r"""All signed statements that a member holds, as one file: what `ca recover` reads back from the nodes. Pure.

    lockgate-statements/1 HOLDER\n   then per statement: 4 bytes length, big-endian, and the envelope

Nothing in it is believed for being there: each statement is judged by its own signature.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pki.errors import RemoteError
from pki.spiffe import is_name
from pki.statement import MAX_STATEMENT_BYTES

MAGIC = b"lockgate-statements/1 "
MAX_DUMP_BYTES = 1 << 30
HEADER_BYTES = len(MAGIC) + 64


@dataclass(frozen=True, slots=True)
class Dump:
    """What ``holder`` (a node's name, or that of the CA) has handed over."""

    holder: str
    envelopes: tuple[bytes, ...]


def encode(dump: Dump) -> bytes:
    """``dump`` as a file."""
    frames = (len(raw).to_bytes(4, "big") + raw for raw in dump.envelopes)
    return b"".join([MAGIC, dump.holder.encode(), b"\n", *frames])


def decode(data: bytes) -> Dump:
    """A file as the dump that it is; raises RemoteError."""
    if len(data) > MAX_DUMP_BYTES:
        raise RemoteError(f"statements: {len(data)} bytes, at most {MAX_DUMP_BYTES} are read")
    line, newline, _ = data[:HEADER_BYTES].partition(b"\n")
    holder = line.removeprefix(MAGIC).decode("ascii", "replace")
    if not newline or not line.startswith(MAGIC) or not is_name(holder):
        raise RemoteError("statements: not a file of `lockgate statements`")
    return Dump(holder, tuple(_frames(data, len(line) + 1)))


def sources(envelope: bytes, adoptions: Iterable[bytes]) -> tuple[bytes, ...]:
    """What to hand over of one entry. An adoption has its original in it, whose signer may be long gone."""
    return tuple(adoptions) or (envelope,)


def _frames(data: bytes, start: int) -> Iterator[bytes]:
    while start < len(data):
        size = int.from_bytes(data[start : start + 4], "big")
        raw = data[start + 4 : start + 4 + size]
        if not 0 < size <= MAX_STATEMENT_BYTES or len(raw) != size:
            raise RemoteError(f"statements: cut off or damaged at byte {start}")
        yield raw
        start += 4 + size
