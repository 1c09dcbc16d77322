"""The audit records, schema 1: what each kind holds, and the one way to spell it as bytes.

A record is one flat JSON object. Its values are strings, integers, booleans, null, lists and objects, its
keys ASCII, its integers exact in a double: within these limits sorted compact JSON *is* RFC 8785, so two
programs that agree on the content agree on the bytes. Everything else is refused, floats above all.

Every record has ``schema``, ``kind``, ``at`` (wall time, us), ``node`` and ``seq`` (its place in the
volume, from 0 at the header); :mod:`sidecar.audit.chain` adds ``chain``. A key whose value is unknown is
left out. Secrets never enter a record: argument and query values come as the results of named predicates.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType

from pki.clock import Wall
from pki.errors import LocalError
from sidecar.reasons import Reason

SCHEMA = 1
MAX_RECORD_BYTES = 64 * 1024
"""Canonical form of a whole record, without its chain value."""
ENVELOPE_BYTES = 256
"""What schema, kind, at, node and seq take of it at most."""
MAX_DEPTH = 8
MAX_INTEGER = 2**53 - 1
"""Beyond it a double is not exact, and RFC 8785 numbers are doubles."""

Value = str | int | bool | None | list["Value"] | dict[str, "Value"]
Facts = Mapping[str, Value]
NO_FACTS: Facts = MappingProxyType({})

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_RESERVED = frozenset({"schema", "kind", "at", "node", "seq", "chain"})


class Kind(StrEnum):
    """What a record tells. Part of the schema: a closed list."""

    VOLUME = "volume"
    ADMITTED = "admitted"
    OPENED = "opened"
    REQUEST = "request"
    ANSWERED = "answered"
    DENIED = "denied"
    CLOSED = "closed"
    CUT = "cut"
    SHED = "shed"
    SESSION = "session"
    ESCALATION = "escalation"
    LOCK = "lock"
    REVOCATION = "revocation"
    POLICY = "policy"
    RENEWAL = "renewal"
    ROLLOVER = "rollover"
    RELOAD = "reload"
    FINDING = "finding"
    RECOVERY = "recovery"
    START = "start"
    STOP = "stop"
    RETENTION = "retention"
    CHECKPOINT = "checkpoint"
    WITNESS = "witness"


class Role(StrEnum):
    """Which end of the stream this node is."""

    AGENT = "agent"
    TOOL = "tool"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Record:
    """A record that can be written, less its place in the log; LocalError for what schema 1 cannot hold."""

    kind: Kind
    at: Wall
    fields: Facts = field(default_factory=dict)
    size: int = field(init=False)
    """Bytes of the fields in canonical form."""

    def __post_init__(self) -> None:
        """Copy and check, so that nobody can change a record between its making and its writing."""
        if taken := _RESERVED & self.fields.keys():
            raise LocalError(f"audit record {self.kind}: {min(taken)} is not for the caller to set")
        checked = _checked(self.fields, MAX_DEPTH)
        object.__setattr__(self, "fields", checked)
        object.__setattr__(self, "size", len(encode(checked)))
        if self.size > MAX_RECORD_BYTES - ENVELOPE_BYTES:
            raise LocalError(f"audit record {self.kind}: over {MAX_RECORD_BYTES} bytes")

    def body(self, node: str, seq: int) -> dict[str, Value]:
        """The whole record at its place, to be sealed."""
        place: dict[str, Value] = {
            "schema": SCHEMA,
            "kind": self.kind,
            "at": self.at,
            "node": node,
            "seq": seq,
        }
        return place | dict(self.fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose stream it is: what every record of one stream repeats. Empty: not known (yet)."""

    stream: str
    role: Role
    session: str = ""
    parents: tuple[str, ...] = ()
    """Of a child session: the ids above it, the certified session's first."""
    agent: str = ""
    on_behalf_of: str = ""
    """The user whom the session runs for, by the CA's word."""
    service: str = ""
    segment: str = ""
    peer: str = ""
    """The other node, verified."""
    trace: str = ""
    """Its traceparent (W3C Trace Context)."""


@dataclass(frozen=True, slots=True)
class Caller:
    """How the local process was known, and what the kernel said of it."""

    method: str
    uid: int | None
    cgroup: int | None = None
    over: str = ""
    """``ipv4``, ``ipv6`` or ``unix``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A decision and all that it read, enough to make it again."""

    verdict: str
    """``allow``, ``deny`` or ``would_deny``."""
    reason: Reason | None = None
    rule: str = ""
    hint: str = ""
    decision: Facts = field(default_factory=dict)
    """What was asked; for a cached answer, its first decision."""
    moment: Facts = field(default_factory=dict)
    """Wall, floor and as_of (us)."""
    snapshot: str = ""
    """The snapshot's digest, hex."""
    engine: str = ""
    """Version of the code that decided."""
    facts: Facts = field(default_factory=dict)
    """Verified facts: ids, issuers, serials, notAfters."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream was ended: by which rule or statement, and what helps who reads it."""

    reason: Reason
    rule: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes: ``bytes_in`` from the agent to the tool, ``bytes_out`` back."""

    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """One request inside an http or mcp stream: its id, and what it asks for as far as a decision reads it."""

    request: str
    operation: Facts = field(default_factory=dict)
    operation_class: str = ""
    parent: str = ""
    """The traceparent that the caller continues, if it is of the session's trace."""
    arguments: str = ""
    """Hex SHA-256 of the canonical JSON of an MCP call's arguments."""
    also: list[Value] = field(default_factory=list)
    """What else an admitted request is about, each as ``operation``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of an admitted request. ``bytes_*`` of the bodies; ``status`` 0: none; ``latency`` in microseconds."""

    request: str
    status: int
    latency: int
    bytes_in: int
    bytes_out: int
    reason: Reason | None = None
    hint: str = ""
    unasked: Facts = field(default_factory=dict)
    """How many messages an MCP server sent of its own accord meanwhile, by method."""


def volume(at: Wall, name: str, previous: Facts | None) -> Record:
    """The header, record 0 of the volume ``name``; :mod:`sidecar.audit.chain` says what ``previous`` is."""
    return Record(Kind.VOLUME, at, {"volume": name, "previous": None if previous is None else dict(previous)})


def admitted(at: Wall, subject: Subject, ruling: Ruling, caller: Caller | None = None) -> Record:
    """A stream that was let in by ``ruling``; exactly one closed or cut follows it on this node."""
    return _of_stream(Kind.ADMITTED, at, subject, _present(ruling) | _attribution(caller))


def opened(at: Wall, subject: Subject) -> Record:
    """The tool's end is connected: bytes may flow."""
    return _of_stream(Kind.OPENED, at, subject)


def request(at: Wall, subject: Subject, ruling: Ruling, asked: Requested) -> Record:
    """One request inside an http or mcp stream that was let in by ``ruling``."""
    return _of_stream(Kind.REQUEST, at, subject, _present(ruling) | _present(asked))


def answered(at: Wall, subject: Subject, what: Answered) -> Record:
    """The end of a request that was let in."""
    return _of_stream(Kind.ANSWERED, at, subject, _present(what))


def request_denied(at: Wall, subject: Subject, ruling: Ruling, asked: Requested) -> Record:
    """A refused request: like any refusal, it is folded with those that are like it."""
    return _of_stream(Kind.DENIED, at, subject, _present(ruling) | _present(asked))


def denied(at: Wall, subject: Subject, ruling: Ruling, caller: Caller | None = None) -> Record:
    """A refusal. The caller's ``uid`` stands at the top too: of a wrong_caller it is all that is known."""
    uid: dict[str, Value] = {} if caller is None or caller.uid is None else {"uid": caller.uid}
    return _of_stream(Kind.DENIED, at, subject, _present(ruling) | _attribution(caller) | uid)


def closed(at: Wall, subject: Subject, traffic: Traffic) -> Record:
    """A stream that ended by itself."""
    return _of_stream(Kind.CLOSED, at, subject, _present(traffic))


def cut(at: Wall, subject: Subject, why: Ending, traffic: Traffic) -> Record:
    """A stream that was ended by another than its two ends, or could not be opened."""
    return _of_stream(Kind.CUT, at, subject, _present(why) | _present(traffic))


def shed(at: Wall, subject: Subject, reason: Reason) -> Record:
    """A stream this node had no room for: capacity, not policy."""
    return _of_stream(Kind.SHED, at, subject, {"reason": reason})


def folded(last: Record, count: int, since: Wall) -> Record:
    """``count`` like refusals since ``since`` as one record: the last of them, with their number."""
    return Record(last.kind, last.at, {**last.fields, "count": count, "since": since})


def session(at: Wall, what: str, name: str, agent: str, facts: Facts = NO_FACTS) -> Record:
    """A session was started, exported, ended."""
    return _event(Kind.SESSION, at, what, {"session": name, "agent": agent, **facts})


def lock(at: Wall, what: str, statement: str, target: str, facts: Facts = NO_FACTS) -> Record:
    """A lock on ``target`` (``kind:value``) came into force, was lifted, ran out. ``statement``: its id."""
    return _event(Kind.LOCK, at, what, {"statement": statement, "target": target, **facts})


def revocation(at: Wall, what: str, statement: str, target: str, facts: Facts = NO_FACTS) -> Record:
    """The same of a revocation."""
    return _event(Kind.REVOCATION, at, what, {"statement": statement, "target": target, **facts})


def policy(at: Wall, what: str, sequence: int, digest: str, facts: Facts = NO_FACTS) -> Record:
    """A policy came into force or was refused."""
    return _event(Kind.POLICY, at, what, {"sequence": sequence, "digest": digest, **facts})


def renewal(at: Wall, what: str, spiffe_id: str, serial: str, not_after: Wall) -> Record:
    """A leaf got its next certificate. ``serial`` in hex."""
    return _event(Kind.RENEWAL, at, what, {"id": spiffe_id, "serial": serial, "not_after": not_after})


def escalation(at: Wall, what: str, request: str, facts: Facts = NO_FACTS) -> Record:
    """A request for more was made, approved, refused, or granted; ``request`` is its id."""
    return _event(Kind.ESCALATION, at, what, {"request": request, **facts})


def rollover(at: Wall, what: str, sequence: int, facts: Facts) -> Record:
    """A step of a rollover of the CA's keys; ``sequence`` is that of the trust bundle that came of it."""
    return _event(Kind.ROLLOVER, at, what, {"sequence": sequence, **facts})


def reload(at: Wall, what: str, facts: Facts = NO_FACTS) -> Record:
    """A reload took effect, or failed and changed nothing."""
    return _event(Kind.RELOAD, at, what, facts)


def finding(at: Wall, what: str, facts: Facts = NO_FACTS) -> Record:
    """Something looks wrong."""
    return _event(Kind.FINDING, at, what, facts)


def recovery(at: Wall, what: str, facts: Facts = NO_FACTS) -> Record:
    """Something was wrong and was dealt with."""
    return _event(Kind.RECOVERY, at, what, facts)


def retention(at: Wall, volume: str, facts: Facts) -> Record:
    """A volume is removed, and all before it are: which records those were, and why."""
    return _event(Kind.RETENTION, at, "removed", {"volume": volume, **facts})


def start(at: Wall, version: str, facts: Facts = NO_FACTS) -> Record:
    """The daemon started, at this version."""
    return Record(Kind.START, at, {"version": version, **facts})


def stop(at: Wall, why: str) -> Record:
    """The daemon stops; a log that ends without one was killed."""
    return Record(Kind.STOP, at, {"why": why})


def canonical(value: Facts) -> bytes:
    """RFC 8785 bytes of an object; raises LocalError for a value outside the limits above."""
    return encode(_checked(value, MAX_DEPTH))


def encode(checked: Value | Facts) -> bytes:
    """RFC 8785 bytes of a value that is known to keep the limits."""
    return _ENCODER.encode(checked).encode()


def _checked(value: object, depth: int) -> Value:
    """A copy that keeps the limits, in plain types."""
    match value:
        case None | bool():
            return value
        case str():
            return _text(value)
        case int() if abs(value) <= MAX_INTEGER:
            return int(value)
        case list() | tuple() if depth:
            return [_checked(item, depth - 1) for item in value]
        case Mapping() if depth:
            return {_key(key): _checked(item, depth - 1) for key, item in value.items()}
    raise LocalError(f"audit record: {type(value).__name__} out of the limits of schema {SCHEMA}")


def _text(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise LocalError("audit record: a lone surrogate has no UTF-8 form") from None
    return str(text)


def _key(key: object) -> str:
    if not isinstance(key, str) or not key.isascii():
        raise LocalError("audit record: a key is not an ASCII string")
    return str(key)


def _of_stream(kind: Kind, at: Wall, subject: Subject, more: Facts = NO_FACTS) -> Record:
    return Record(kind, at, _present(subject) | dict(more))


def _attribution(caller: Caller | None) -> dict[str, Value]:
    return {} if caller is None else {"attribution": _present(caller)}


def _event(kind: Kind, at: Wall, what: str, facts: Facts) -> Record:
    return Record(kind, at, {"what": what, **facts})


def _present(
    part: Subject | Caller | Ruling | Ending | Traffic | Requested | Answered,
) -> dict[str, Value]:
    """The fields of ``part`` that say something: not None, not empty; 0 says something."""
    values = {one.name: getattr(part, one.name) for one in fields(part)}
    return {name: value for name, value in values.items() if value not in (None, "", {}, (), [])}
