"""MessagePack with a schema: one way to encode, one strict way to decode.

Decoding takes three steps, each of which can only narrow what the next one sees: a size cap on the bytes, a
parse with caps on every container (duplicate keys and extension types refused), and a schema in which every key
is named and no number is a float. Signatures are always checked over the bytes as received, never over a
re-encoding.
"""

from typing import Any, TypeVar

import msgpack
import msgspec

from pki.errors import RemoteError

T = TypeVar("T")

MAX_CONTAINER_ITEMS = 16_384
MAX_ERROR_CHARS = 200


def encode(value: object) -> bytes:
    """``value`` (a msgspec Struct, or builtins) as MessagePack."""
    packed: bytes = msgpack.packb(msgspec.to_builtins(value, builtin_types=(bytes,)), use_bin_type=True)
    return packed


def decode(data: bytes, schema: type[T], *, limit: int, what: str) -> T:
    """The value of ``data`` (at most ``limit`` bytes) by ``schema``; raises RemoteError naming ``what``."""
    if len(data) > limit:
        raise RemoteError(f"{what}: {len(data)} bytes, at most {limit} are allowed")
    return convert_packed(_unpack(data, limit, what), schema, what=what)


def convert_packed(value: object, schema: type[T], *, what: str) -> T:
    """Builtins out of MessagePack as a value of ``schema``; raises RemoteError naming the first bad field."""
    # Bytes come as bytes there. Text that passed for them, as base64, would be a second spelling of one message.
    return _convert(value, schema, what, (bytes,))


def convert(value: object, schema: type[T], *, what: str) -> T:
    """Builtins out of JSON, where bytes are base64, as a value of ``schema``; raises RemoteError likewise."""
    return _convert(value, schema, what, ())


def _convert(value: object, schema: type[T], what: str, as_they_are: tuple[type, ...]) -> T:
    try:
        return msgspec.convert(value, schema, strict=True, builtin_types=as_they_are)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RemoteError(f"{what}: {_one_line(str(error))}") from None


def _unpack(data: bytes, limit: int, what: str) -> object:
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=MAX_CONTAINER_ITEMS,
            max_map_len=MAX_CONTAINER_ITEMS,
            max_ext_len=0,
            object_pairs_hook=_unique,
            ext_hook=_no_extensions,
        )
    # msgpack also raises TypeError, OverflowError and BufferFull (not all of them ValueErrors) on hostile bytes.
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException, RecursionError):
        raise RemoteError(f"{what}: not valid MessagePack") from None


def _one_line(error: str) -> str:
    """msgspec quotes the sender's keys and values, which must not forge lines of a log or colour a terminal."""
    return "".join(char if char.isprintable() else "?" for char in error[:MAX_ERROR_CHARS])


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Two parsers that pick different ones of two equal keys would read two different messages."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


def _no_extensions(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} ({len(data)} bytes)")
