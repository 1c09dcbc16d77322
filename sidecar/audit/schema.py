"""What stands in a record of each kind: one table, from which the JSON Schema and docs/audit.md are made. Pure.

The records of a stream hold the fields named here and no others. Those of events (a lock, a finding, a reload) hold
at least these: what else there is to say of one is in fields of its own, of the same few types.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from sidecar.audit.record import (
    MAX_INTEGER,
    SCHEMA,
    Answered,
    Caller,
    Ending,
    Kind,
    Requested,
    Role,
    Ruling,
    Subject,
    Traffic,
)
from sidecar.policy.model import OperationClass
from sidecar.reasons import Reason

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_INTEGER}
_TIME: Schema = {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
_ID: Schema = {"type": "string", "pattern": "^[a-z2-7]{26}$"}
_DIGEST: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_REASON: Schema = {"enum": [str(one) for one in Reason]}
_TRACE: Schema = {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_VALUE: Schema = {"$ref": "#/$defs/value"}
_FACTS: Schema = {"type": "object", "additionalProperties": _VALUE}
_OPERATION: Schema = {
    "type": "object",
    "properties": {"method": _TEXT, "name": _TEXT, "holds": _TEXTS, "arguments": _DIGEST},
    "required": ["method", "name"],
    "additionalProperties": False,
}

FIELDS: dict[str, tuple[Schema, str]] = {
    "schema": ({"const": SCHEMA}, "version of this schema"),
    "kind": ({"enum": [str(one) for one in Kind]}, "what the record tells"),
    "at": (_TIME, "wall time in microseconds since the Unix epoch, of the node that wrote it"),
    "node": (_TEXT, "the node, or the CA, that wrote it"),
    "seq": (_COUNT, "its place in the volume; 0 is the header"),
    "chain": (_DIGEST, "SHA-256 over the chain value before it and this record"),
    "stream": (_ID, "the stream's id, the same on both nodes"),
    "role": ({"enum": [str(one) for one in Role]}, "which end of the stream this node is"),
    "session": (_TEXT, "id of the session, or of the child session, whose it is"),
    "parents": (_TEXTS, "of a child session: the ids above it, the certified session's first"),
    "agent": (_TEXT, "the agent"),
    "on_behalf_of": (_TEXT, "the user whom the session runs for, by the CA's word"),
    "service": (_TEXT, "the service that was asked for"),
    "segment": (_TEXT, "its segment, or that of the request"),
    "peer": (_TEXT, "the other node, verified"),
    "trace": (_TRACE, "traceparent (W3C Trace Context)"),
    "attribution": ({"$ref": "#/$defs/attribution"}, "how the local caller was known"),
    "method": ({"enum": ["cgroup", "uid", "mtls", "kernel"]}, "by what: its cgroup, its uid, a certificate"),
    "uid": ({"type": "integer"}, "the caller's uid, from the kernel"),
    "cgroup": (_COUNT, "id of its cgroup"),
    "over": ({"enum": ["ipv4", "ipv6", "unix"]}, "what it connected over"),
    "verdict": ({"enum": ["allow", "deny", "would_deny"]}, "`would_deny`: let through while its segment is observed"),
    "reason": (_REASON, "why it was refused, or would have been, or ended"),
    "rule": (_TEXT, "the policy's rule, or the lease, lock or revocation"),
    "hint": (_TEXT, "the same in words"),
    "decision": (_FACTS, "what was asked: service, tool node; the rule's line; `first`: whose decision this repeats"),
    "moment": (_FACTS, "wall, floor and as_of that the decision read (us)"),
    "snapshot": (_DIGEST, "digest of all that was in force"),
    "engine": (_TEXT, "version of the code that decided"),
    "facts": (_FACTS, "what was verified: SPIFFE ID, lineage serials, earliest notAfter, narrowing"),
    "request": (_ID, "id of the request inside its stream"),
    "operation": (_OPERATION, "method and name that were decided on, and which predicates hold"),
    "operation_class": ({"enum": [str(one) for one in OperationClass]}, "read or mutate"),
    "parent": (_TRACE, "the traceparent that the caller continues"),
    "arguments": (_DIGEST, "SHA-256 of the canonical JSON of an MCP call's arguments"),
    "also": ({"type": "array", "items": _OPERATION}, "what else the request is about"),
    "status": (_COUNT, "of the answer; 0: there was none"),
    "latency": (_COUNT, "from the decision to the last byte of the answer (us)"),
    "bytes_in": (_COUNT, "payload from the agent to the tool"),
    "bytes_out": (_COUNT, "and back"),
    "unasked": (
        {"type": "object", "additionalProperties": _COUNT},
        "how often an MCP server sent which messages of its own accord",
    ),
    "count": (_COUNT, "how many like refusals this one stands for; of a signed head, how many records it stands for"),
    "since": (_TIME, "when the first of them was (us)"),
    "volume": (_TEXT, "this file's name, or the file that is meant"),
    "previous": (
        {"type": ["object", "null"], "additionalProperties": _VALUE},
        "what this volume goes on from: {volume, seq, chain}, {volume, broken}, or null for the first",
    ),
    "what": (_TEXT, "what happened, in a word or a few"),
    "statement": (_ID, "id of the statement that says so"),
    "target": (_TEXT, "what is stopped, as `kind:value`"),
    "sequence": (_COUNT, "of the policy"),
    "digest": (_TEXT, "of the policy's text"),
    "id": (_TEXT, "SPIFFE ID of the certificate"),
    "serial": (_TEXT, "its serial, hex"),
    "not_after": (_TIME, "its end (us)"),
    "version": (_TEXT, "of the software"),
    "why": (_TEXT, "what ended it, or why it was removed"),
    "records": (_COUNT, "how many records a removed volume held"),
    "last": (_DIGEST, "chain value of its last record"),
    "bytes": (_COUNT, "what it took on disk"),
    "of": (_TEXT, "the node whose head it is"),
    "by": (_TEXT, "who signed it: a SPIFFE ID"),
    "head": (_DIGEST, "chain value of the last record that the signature stands for"),
    "signed_at": (_TIME, "when it was signed, by the signer's clock (us)"),
    "signature": (_TEXT, "ECDSA P-256, DER, in base64"),
    "leaf": (_DIGEST, "SHA-256 of the signer's certificate"),
    "certificates": (_TEXTS, "its chain, DER in base64, leaf first, where the volume does not have it yet"),
    "bundle": (_TEXT, "the trust bundle's statement, in base64"),
}  # fmt: skip
"""Each field by its name: what may stand there, and what it means."""

PLACE = ("schema", "kind", "at", "node", "seq", "chain")
"""What every record has."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The fields of one kind, without its place. ``is_open``: there may be others."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    is_open: bool = False


def _names(part: type) -> tuple[str, ...]:
    return tuple(one.name for one in fields(part))


_SUBJECT = _names(Subject)[2:]
"""Whose stream it is; before it stand ``stream`` and ``role``."""


def _of_stream(required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> Shape:
    return Shape(("stream", "role", *required), (*_SUBJECT, *optional))


_RULING = tuple(name for name in _names(Ruling) if name != "verdict")
_ASKED = _names(Requested)
_FOLDED = ("count", "since")
_NOTE = ("by", "volume", "count", "head", "signed_at", "signature", "leaf")
_EVENT = Shape(("what",), is_open=True)

SHAPES: dict[Kind, Shape] = {
    Kind.VOLUME: Shape(("volume", "previous")),
    Kind.ADMITTED: _of_stream(("verdict",), (*_RULING, "attribution")),
    Kind.OPENED: _of_stream(),
    Kind.REQUEST: _of_stream(("verdict", "request"), (*_RULING, *_ASKED[1:])),
    Kind.ANSWERED: _of_stream(
        ("request", "status", "latency", "bytes_in", "bytes_out"), ("reason", "hint", "unasked")
    ),
    Kind.DENIED: _of_stream(("verdict", "reason"), (*_RULING, *_ASKED, "attribution", "uid", *_FOLDED)),
    Kind.CLOSED: _of_stream(_names(Traffic)),
    Kind.CUT: _of_stream(("reason", *_names(Traffic)), ("rule", "hint")),
    Kind.SHED: _of_stream(("reason",), _FOLDED),
    Kind.SESSION: Shape(("what", "session", "agent"), is_open=True),
    Kind.ESCALATION: _EVENT,
    Kind.LOCK: Shape(("what", "statement", "target"), is_open=True),
    Kind.REVOCATION: Shape(("what", "statement", "target"), is_open=True),
    Kind.POLICY: Shape(("what", "sequence", "digest"), is_open=True),
    Kind.RENEWAL: Shape(("what", "id", "serial", "not_after")),
    Kind.ROLLOVER: _EVENT,
    Kind.RELOAD: _EVENT,
    Kind.FINDING: _EVENT,
    Kind.RECOVERY: _EVENT,
    Kind.START: Shape(("version",), is_open=True),
    Kind.STOP: Shape(("why",)),
    Kind.RETENTION: Shape(("what", "volume", "records", "last", "bytes", "why")),
    Kind.CHECKPOINT: Shape(_NOTE, ("certificates", "bundle")),
    Kind.WITNESS: Shape(("of", *_NOTE), ("certificates",)),
}
"""Each kind's fields."""

PARTS = (Subject, Caller, Ruling, Ending, Traffic, Requested, Answered)
"""What records are made from: every field of these has its line in FIELDS."""


def schema() -> Schema:
    """The JSON Schema of one record, as it stands in the log."""
    return {
        "$schema": DIALECT,
        "title": f"Lockgate audit record, schema {SCHEMA}",
        "description": "One line of an audit volume (docs/audit.md).",
        "oneOf": [_kind(kind, shape) for kind, shape in SHAPES.items()],
        "$defs": {
            "attribution": _object(("method",), _names(Caller)[1:]),
            "value": _any_value(),
        },
    }


def schema_text() -> str:
    """The same as the file that is shipped."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def tables() -> str:
    """The fields of each kind, and what each field means, in Markdown."""
    subject = f"Whose stream it is: {', '.join(_SUBJECT)}."
    return "\n".join([*_kind_rows(), "", subject, "", *_field_rows()])


def _kind_rows() -> Iterator[str]:
    yield "| kind | always | where there is something to say |"
    yield "|---|---|---|"
    for kind, shape in SHAPES.items():
        more = [name for name in dict.fromkeys(shape.optional) if name not in _SUBJECT]
        more += ["whose stream it is"] if set(_SUBJECT) <= set(shape.optional) else []
        more += ["what else there is to say"] if shape.is_open else []
        yield f"| {kind} | {', '.join(shape.required)} | {', '.join(more)} |"


def _field_rows() -> Iterator[str]:
    yield "| field | meaning |"
    yield "|---|---|"
    for name, (_, meaning) in FIELDS.items():
        yield f"| `{name}` | {meaning} |"


def _kind(kind: Kind, shape: Shape) -> Schema:
    whole = _object((*PLACE, *shape.required), shape.optional)
    whole["properties"]["kind"] = {"const": str(kind)}
    if shape.is_open:
        whole["additionalProperties"] = _VALUE
    return {"title": str(kind), **whole}


def _object(required: tuple[str, ...], optional: tuple[str, ...]) -> Schema:
    names = dict.fromkeys((*required, *optional))
    properties = {name: {**FIELDS[name][0], "description": FIELDS[name][1]} for name in names}
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _any_value() -> Schema:
    """What canonical JSON has one spelling for: no floats, and integers that a double holds."""
    return {
        "anyOf": [
            {"type": ["string", "boolean", "null"]},
            {"type": "integer", "minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
            {"type": "array", "items": _VALUE},
            {"type": "object", "additionalProperties": _VALUE},
        ]
    }
