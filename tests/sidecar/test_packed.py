import contextlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.packed import pack, unpack

TEXT = b"[[grants]]\n" * 1_000


@given(st.binary(max_size=2_000))
def test_what_is_packed_is_unpacked(text: bytes) -> None:
    """Under the smallest cap that it fits."""
    assert unpack(pack(text), len(text)) == text


@given(st.binary(max_size=200))
def test_any_bytes_are_a_text_or_a_remote_error(data: bytes) -> None:
    """Whatever a peer sends."""
    with contextlib.suppress(RemoteError):
        assert len(unpack(data, 100)) <= 100


def test_a_bomb_is_never_inflated_beyond_the_cap() -> None:
    """A kilobyte that would be a megabyte."""
    with pytest.raises(RemoteError, match="over 1000 bytes"):
        unpack(pack(bytes(2**20)), 1_000)


@pytest.mark.parametrize("packed", [pack(TEXT)[:-1], pack(TEXT) + b"x", b"", pack(TEXT)[:20]])
def test_one_text_from_the_first_byte_to_the_last(packed: bytes) -> None:
    """Cut short or with something behind it, it is another text than the one that was packed."""
    with pytest.raises(RemoteError):
        unpack(packed, len(TEXT))


def test_only_the_one_format_is_read() -> None:
    """Neither gzip nor raw deflate: one text has one way to travel."""
    raw = zlib.compressobj(wbits=-15)
    with pytest.raises(RemoteError):
        unpack(raw.compress(TEXT) + raw.flush(), len(TEXT))
