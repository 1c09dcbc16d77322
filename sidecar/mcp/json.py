"""JSON that has one reading (RFC 8259, within I-JSON, RFC 7493), and its spelling.

A message is decided on here and acted on by a server written in another language. Where two readers of the same bytes
can disagree, a caller could have one thing decided and another done. So this refuses, before or while parsing:

    size, depth, number   a parser's stack and memory are not the caller's to spend
    not UTF-8, a BOM      some readers guess the encoding, some skip the mark
    lone surrogates       they survive in some strings and become U+FFFD in others
    a key twice           the first wins in some readers, the last in others
    keys but for case     in requests: Go's encoding/json takes "Amount" for "amount"
    NaN, Infinity         Python's own; not JSON
    integers over 2^53    exact in some readers, rounded to a double in others
    numbers over 1e308    infinite in some readers, an error in others
    anything after it     a second value, which a streaming reader would take

What is left is spelled anew by :func:`render` and only that is forwarded: the reader behind us gets the value that was
decided on, whatever escapes and spacing the caller chose. Its output is ASCII, so nothing depends on a decoder.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import NoReturn

from pki.errors import RemoteError
from sidecar.http.held import MAX_VALUES
from sidecar.policy.operation import Json

EXACT = 2**53 - 1
"""The largest integer that a double holds exactly, as its neighbours."""
MAX_NUMBER_CHARS = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """What a document may cost: bytes as received, and nested brackets. ``strict``: what only requests must keep."""

    size: int
    depth: int
    strict: bool = True
    values: int = MAX_VALUES
    """4 MiB of ``[],`` are a hundred megabytes of lists."""


REQUEST = Limits(size=4 * 1024 * 1024, depth=64)
"""The official servers take as much."""
ANSWER = Limits(size=4 * 1024 * 1024, depth=128, strict=False, values=200_000)
"""Of a tool: a schema may say ``"maximum": 18446744073709551615``."""

_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{},]', re.DOTALL)
"""A string, or a bracket or comma outside of one. Possessive: linear whatever stands in it."""


def parse(data: bytes, limits: Limits = REQUEST) -> Json:
    """The value of ``data``; RemoteError where it is no JSON, or two readers could differ on it."""
    if len(data) > limits.size:
        raise RemoteError(f"JSON: over {limits.size} bytes")
    _check_shape(data, limits)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise RemoteError("JSON: not UTF-8") from None
    if text.startswith("\ufeff"):
        raise RemoteError("JSON: begins with a byte order mark")
    try:
        value: Json = _STRICT.decode(text) if limits.strict else _LENIENT.decode(text)
    except json.JSONDecodeError as error:
        raise RemoteError(f"JSON: {error.msg} at character {error.pos}") from None
    if r"\ud" in text.lower():  # Only an escape makes a surrogate: UTF-8 has none.
        _require_whole_characters(value)
    return value


def render(value: Json) -> bytes:
    """The spelling that is forwarded: compact ASCII, keys in their order."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def canonical(value: Json) -> bytes:
    """The spelling that is digested: compact, sorted by key. RFC 8785, but integers stay exact and keys sort by code point."""
    return json.dumps(
        value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False
    ).encode()


def digest(value: Json) -> str:
    """Hex SHA-256 of the canonical spelling."""
    return hashlib.sha256(canonical(value)).hexdigest()


def _check_shape(data: bytes, limits: Limits) -> None:
    """Nesting of brackets, whether or not they match, and how many values there can be; raises RemoteError."""
    opening = data.count(b"[") + data.count(b"{")
    if opening <= limits.depth and opening + data.count(b",") < limits.values:
        return
    depth, values = 0, 1
    for found in _MARK.finditer(data):
        token = found[0]
        if token in (b"[", b"{"):
            depth += 1
            values += 1
        elif token in (b"]", b"}"):
            depth -= 1
        elif token == b",":
            values += 1
        if depth > limits.depth:
            raise RemoteError(f"JSON: nested deeper than {limits.depth}")
        if values > limits.values:
            raise RemoteError(f"JSON: more than {limits.values} values")


def _object(pairs: list[tuple[str, Json]]) -> Json:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RemoteError("JSON: a key twice in one object")
    return made


def _distinct_object(pairs: list[tuple[str, Json]]) -> Json:
    made = _object(pairs)
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise RemoteError("JSON: two keys of one object that differ in case only")
    return made


def _integer(digits: str) -> int:
    if len(digits) > MAX_NUMBER_CHARS:
        raise RemoteError(f"JSON: a number of over {MAX_NUMBER_CHARS} characters")
    return int(digits)


def _exact_integer(digits: str) -> int:
    number = _integer(digits)
    if abs(number) > EXACT:
        raise RemoteError("JSON: an integer over 2^53, which readers round differently; send it as a string")
    return number


def _double(digits: str) -> float:
    if len(digits) > MAX_NUMBER_CHARS:
        raise RemoteError(f"JSON: a number of over {MAX_NUMBER_CHARS} characters")
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise RemoteError("JSON: a number that no double holds")
    return number


def _no_constant(name: str) -> NoReturn:
    raise RemoteError(f"JSON: {name} is not JSON")


_STRICT = json.JSONDecoder(
    object_pairs_hook=_distinct_object,
    parse_int=_exact_integer,
    parse_float=_double,
    parse_constant=_no_constant,
)
_LENIENT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_double, parse_constant=_no_constant
)


def _require_whole_characters(value: Json) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RemoteError("JSON: half of a character (a lone surrogate)") from None
