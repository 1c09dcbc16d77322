"""Ids of sessions, streams and statements: 128 bits as 26 characters of lower-case base32."""

import base64
import re

ID_BYTES = 16
ID_CHARS = 26

_ID = re.compile(r"[a-z2-7]{25}[aeimquy4]")


def new_id(entropy: bytes) -> str:
    """The id of 16 random bytes; raises ValueError for any other length."""
    if len(entropy) != ID_BYTES:
        raise ValueError("an id is made of 16 bytes")
    return base64.b32encode(entropy).decode().rstrip("=").lower()


def digest_id(digest: bytes) -> str:
    """The id that stands for a SHA-256 digest: its first 128 bits."""
    return new_id(digest[:ID_BYTES])


def is_id(text: str) -> bool:
    """Whether ``text`` is an id in its one canonical spelling (the two spare bits are zero)."""
    return _ID.fullmatch(text) is not None
