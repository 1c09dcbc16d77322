"""Texts as they travel: deflated (RFC 1950), and inflated under a cap. Pure; what is large belongs in a thread."""

import zlib

from pki.errors import RemoteError


def pack(text: bytes) -> bytes:
    """The text as it travels."""
    return zlib.compress(text)


def unpack(packed: bytes, limit: int) -> bytes:
    """The text in ``packed``, at most ``limit`` bytes of it; raises RemoteError for anything else.

    A thousandth of what it inflates to is enough to fill a memory, so no more than the limit is ever made.
    """
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(packed, limit + 1)
    except zlib.error:
        raise RemoteError("text: not deflated as it should be") from None
    if len(text) > limit:
        raise RemoteError(f"text: over {limit} bytes once inflated")
    if not stream.eof or stream.unused_data:
        raise RemoteError("text: cut short, or followed by something else")
    return text
