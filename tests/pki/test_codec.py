from contextlib import suppress

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.errors import RemoteError


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    blob: bytes = b""


class Nest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pairs: list[Pair]


def decode(data: bytes, limit: int = 1_000) -> Pair:
    return codec.decode(data, Pair, limit=limit, what="pair")


@given(st.text(max_size=50), st.binary(max_size=50))
def test_what_is_encoded_decodes_to_an_equal_value(name: str, blob: bytes) -> None:
    """Bytes stay bytes and text stays text, inside containers too."""
    pair = Pair(name, blob)
    assert decode(codec.encode(pair)) == pair
    assert codec.decode(codec.encode(Nest([pair])), Nest, limit=1_000, what="nest") == Nest([pair])


def test_the_cap_is_on_the_bytes_before_decoding() -> None:
    """A message exactly at its limit passes, one byte more is refused unread."""
    data = codec.encode(Pair("x"))
    assert decode(data, limit=len(data)) == Pair("x")
    with pytest.raises(RemoteError, match=f"pair: {len(data)} bytes, at most {len(data) - 1}"):
        decode(data, limit=len(data) - 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81\xa4name",
        b"\x81\xa4name\xa1x\xc0",
        b"\x82\xa4name\xa1x\xa4name\xa1y",
        b"\x81\xa4name\xa1\xff",
        b"\x81\x01\xa1x",
        b"\x81\xc0\xa1x",
        b"\x81\xa4name\xd4\x05\x00",
        b"\x81\xa4name\xc7\x00\x05",
        b"\xd6\xff\x00\x00\x00\x00",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 900 + b"\xc1",
        msgpack.packb(list(range(codec.MAX_CONTAINER_ITEMS + 1))),
    ],
    ids=lambda data: f"{data[:12].hex()}-{len(data)}",
)
def test_what_two_parsers_could_read_differently_is_refused(data: bytes) -> None:
    """Torn, trailing, duplicate keys, odd keys, extension types, hostile lengths and depths."""
    with pytest.raises(RemoteError, match=r"^pair: not valid MessagePack\Z"):
        decode(data, limit=100_000)


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        None,
        {"name": 1},
        {"name": b"x"},
        {"name": "x", "blob": "text"},  # which is base64, too
        {"name": "x", "more": 1},
        {b"name": "x"},
        {"name": float("nan")},
    ],
    ids=repr,
)
def test_what_the_schema_does_not_name_is_refused(value: object) -> None:
    """Unknown keys, missing keys and other types: nothing is coerced, nothing ignored."""
    with pytest.raises(RemoteError, match=r"^pair: "):
        decode(msgpack.packb(value))


def test_bytes_are_base64_in_json_and_nowhere_else() -> None:
    """JSON has no bytes; in MessagePack a second spelling of them would make two messages of one."""
    value = {"name": "x", "blob": "dGV4dA=="}
    assert codec.convert(value, Pair, what="pair") == Pair("x", b"text")
    with pytest.raises(RemoteError, match="Expected `bytes`"):
        codec.convert_packed(value, Pair, what="pair")


def test_an_error_about_remote_bytes_is_one_short_printable_line() -> None:
    """The sender's own keys are quoted in errors, and errors go to logs and terminals."""
    with pytest.raises(RemoteError) as caught:
        decode(msgpack.packb({"name": "x", "\n\x1b[31m\u202eforged line " * 20: 1}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= len("pair: ") + codec.MAX_ERROR_CHARS


def test_a_value_nested_beyond_reason_is_refused() -> None:
    """Builtins too deep for the stack are the sender's fault, not a crash."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RemoteError, match=r"^deep: "):
        codec.convert(deep, Deep, what="deep")


class Deep(msgspec.Struct, frozen=True, array_like=True):
    inner: "Deep | None" = None


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_remote_error(data: bytes) -> None:
    """Nothing else gets out of the decoder."""
    with suppress(RemoteError):
        assert isinstance(decode(data), Pair)
