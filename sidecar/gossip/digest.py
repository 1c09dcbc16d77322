"""Two digests over sets of statements: what a heartbeat promises, and what peers compare to repair."""

import base64
import hashlib
from collections.abc import Iterable

from pki.errors import RemoteError
from pki.ids import ID_BYTES, ID_CHARS, new_id


def of_numbered(items: Iterable[tuple[int, bytes]]) -> str:
    """Hex SHA-256 over the sorted (number, statement digest) pairs, 8 big-endian bytes and 32 bytes each."""
    whole = hashlib.sha256()
    for number, digest in sorted(items):
        whole.update(number.to_bytes(8, "big") + digest)
    return whole.hexdigest()


def of_ids(ids: Iterable[str]) -> str:
    """Hex SHA-256 over the sorted ids."""
    return hashlib.sha256(pack(sorted(ids))).hexdigest()


def pack(ids: Iterable[str]) -> bytes:
    """Ids as 16 bytes each."""
    return b"".join(base64.b32decode(name.upper() + "=" * (-ID_CHARS % 8)) for name in ids)


def unpack(packed: bytes) -> list[str]:
    """The ids in ``packed``; raises RemoteError unless it is whole ids."""
    if len(packed) % ID_BYTES:
        raise RemoteError("ids: not a multiple of 16 bytes")
    return [new_id(packed[at : at + ID_BYTES]) for at in range(0, len(packed), ID_BYTES)]
