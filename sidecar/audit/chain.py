"""The hash chain of a volume. Pure.

    chain_n = SHA-256( chain_(n-1) as 32 bytes || canonical(record_n) )
    line_n  = canonical(record_n) with `,"chain":"<64 lower-case hex>"}` in place of its closing brace, and LF

A volume's first line is its header: kind ``volume``, seq 0, its own file's name, and ``previous``, which is
one of

    null                     the first volume: its chain starts from 32 zero bytes
    {volume, seq, chain}     it goes on from that volume's last record, and its chain starts from that value
    {volume, broken}         that volume could not be continued (why: ``broken``); starts from 32 zero bytes

Lines are compared byte for byte. A record has exactly one spelling, so whatever a parser would forgive
(another order of keys, a duplicate key, an escape, a space, upper-case hex, CRLF) is a fault: forgiven
bytes could be changed unseen.

What a chain cannot show: that its end was cut off, or that all of it from some record on was computed anew.
Both need a head that somebody else kept.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pki.errors import LocalError, RemoteError
from sidecar.audit.record import MAX_RECORD_BYTES, SCHEMA, Facts, Kind, Value, canonical, encode

GENESIS = bytes(32)

_SUFFIX_BYTES = len(',"chain":""}') + 64
MAX_LINE_BYTES = MAX_RECORD_BYTES + _SUFFIX_BYTES
"""A line with its LF."""

_LINE = re.compile(rb'(\{.*),"chain":"([0-9a-f]{64})"\}', re.DOTALL)
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Head:
    """A record's place and chain value: who holds one can tell whether the log up to it is still the same."""

    volume: str
    seq: int
    chain: bytes

    def facts(self) -> Facts:
        return {"volume": self.volume, "seq": self.seq, "chain": self.chain.hex()}


@dataclass(frozen=True, slots=True)
class Broken:
    """A volume that could not be continued, and why."""

    volume: str
    what: str

    def facts(self) -> Facts:
        return {"volume": self.volume, "broken": self.what}


Previous = Head | Broken | None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A line taken apart: the record, its canonical bytes and the chain value it states (not yet checked)."""

    body: dict[str, Value]
    canonical: bytes
    chain: bytes


def start(previous: Previous) -> bytes:
    """The chain value that a header with this ``previous`` builds on."""
    return previous.chain if isinstance(previous, Head) else GENESIS


def link(previous: bytes, record: bytes) -> bytes:
    """The chain value of the canonical bytes ``record`` after ``previous`` (32 bytes)."""
    return hashlib.sha256(previous + record).digest()


def seal(previous: bytes, body: Mapping[str, Value]) -> tuple[bytes, bytes]:
    """The line (with LF) of a checked record after the chain value ``previous``, and its own chain value."""
    record = encode(body)
    chain = link(previous, record)
    return b'%s,"chain":"%s"}\n' % (record[:-1], chain.hex().encode()), chain


def unseal(line: bytes) -> Sealed:
    """Take a line (without LF) apart; raises RemoteError unless it is spelled as `seal` spells it."""
    if len(line) >= MAX_LINE_BYTES:
        raise RemoteError(f"longer than {MAX_LINE_BYTES} bytes")
    if (parts := _LINE.fullmatch(line)) is None:
        raise RemoteError("does not end in a chain value")
    record = parts[1] + b"}"
    body = _parse(record)
    if "chain" in body or _canonical(body) != record:
        raise RemoteError("is not in canonical form")
    if _integer(body, "schema") != SCHEMA:
        raise RemoteError(f"is not of schema {SCHEMA}, the one this version reads")
    return Sealed(body, record, bytes.fromhex(parts[2].decode()))


class VolumeCheck:
    """Checks the volume called ``name`` line by line; :attr:`head` is the last record that was right."""

    def __init__(self, name: str, after: Sealed | None = None) -> None:
        """Begin at the header or, to judge the end of a volume alone, take the record ``after`` for right."""
        self.name = name
        self.previous: Previous = None
        self.head: Head | None = None
        if after is not None:
            self.head = Head(name, _seq(after), after.chain)

    def feed(self, line: bytes) -> Sealed:
        """Check the next line (without LF); raises RemoteError that says what is wrong with it."""
        sealed = unseal(line)
        if self.head is None:
            self.previous = _header(sealed, self.name)
            before, seq = start(self.previous), 0
        else:
            before, seq = self.head.chain, self.head.seq + 1
            if sealed.body.get("kind") == Kind.VOLUME:
                raise RemoteError("is a second header")
        if (found := _seq(sealed)) != seq:
            raise RemoteError(f"record {found} stands where record {seq} belongs")
        if link(before, sealed.canonical) != sealed.chain:
            raise RemoteError("its chain value does not fit it and what stands before it")
        self.head = Head(self.name, seq, sealed.chain)
        return sealed


def _header(sealed: Sealed, name: str) -> Previous:
    if sealed.body.get("kind") != Kind.VOLUME:
        raise RemoteError("is not a header")
    if sealed.body.get("volume") != name:
        raise RemoteError("is the header of another volume")
    return previous_of(sealed)


def previous_of(header: Sealed) -> Previous:
    """What a volume with this header goes on from; raises RemoteError when it does not say."""
    match header.body.get("previous"):
        case None:
            return None
        case {"volume": str(volume), "seq": int(seq), "chain": str(chain)} if _HEX.fullmatch(chain):
            return Head(volume, seq, bytes.fromhex(chain))
        case {"volume": str(volume), "broken": str(what)}:
            return Broken(volume, what)
        case _:
            raise RemoteError("does not say what it goes on from")


def _seq(sealed: Sealed) -> int:
    seq = _integer(sealed.body, "seq")
    if seq is None:
        raise RemoteError("has no place in the volume")
    return seq


def _integer(body: Mapping[str, Any], key: str) -> int | None:
    value = body.get(key)
    return value if type(value) is int else None  # to isinstance and ==, true is 1


def _parse(record: bytes) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(record.decode(), parse_float=_no_float, parse_constant=_no_float)
    except (ValueError, RecursionError):
        raise RemoteError("is not JSON of the kind a record is") from None
    return body  # an object: it begins with a brace


def _canonical(body: Facts) -> bytes:
    try:
        return canonical(body)
    except LocalError as error:
        raise RemoteError(f"cannot be a record ({error})") from None


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{text[:32]} is no integer")
