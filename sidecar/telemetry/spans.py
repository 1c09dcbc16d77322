"""From audit records to spans: what a stream, a request and a session did, as tracing tools show it. Pure.

    session                         invoke_agent researcher      from started to ended
      └─ stream, agent's node       stream wiki                  from admitted to closed, cut or denied
           └─ stream, tool's node   stream wiki                  the same there
                └─ request          GET /api/a, tools/call find  from its decision to its answer, or its refusal

The trace id is the session's, on all nodes and in all records. A request's span hangs below the span that the caller
said it was in, where that is one of the session's trace. Both nodes know a stream by one span id, the agent's node's;
the tool's node derives its own from it, so that two spans never have one id.

Names follow OpenTelemetry's semantic conventions for HTTP, MCP and generative AI (gen_ai.agent.name, gen_ai.tool.name,
gen_ai.conversation.id, mcp.method.name, http.request.method, url.path); what they have no name for is `lockgate.*`.
No span holds what no record holds: arguments, query values and bodies are in neither.
"""

import hashlib
from dataclasses import dataclass, field

from pki.clock import Wall
from sidecar.audit.record import Kind, Record, Value

MAX_OPEN = 16_384
"""Beginnings kept until their end comes: streams and requests are limited, sessions nearly so."""

Attributes = dict[str, str | int]

_ENDS = {Kind.CLOSED, Kind.CUT, Kind.SHED, Kind.DENIED}
_HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "WEBSOCKET"})


@dataclass(frozen=True, slots=True)
class Span:
    """One span. Ids are hex, of 16 and 8 bytes; ``parent`` is empty for a root. ``error``: the reason it failed."""

    name: str
    trace: str
    id: str
    parent: str
    start: Wall
    end: Wall
    attributes: Attributes = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Begun:
    at: Wall
    trace: str
    id: str
    parent: str
    fields: dict[str, Value]


class Spans:
    """Of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._begun: dict[tuple[str, str], _Begun] = {}
        """By what it is (session, stream, request) and its id; a stream has one request at a time."""

    def take(self, record: Record) -> Span | None:
        """The span that ``record`` completes."""
        fields = dict(record.fields)
        match record.kind:
            case Kind.SESSION:
                return self._session(record, fields)
            case Kind.ADMITTED:
                self._begin("stream", fields, record.at)
            case Kind.REQUEST:
                self._begin("request", fields, record.at)
            case Kind.ANSWERED:
                return self._end("request", fields, record.at)
            case Kind.DENIED if "request" in fields:
                return self._at_once("request", fields, record.at)
            case kind if kind in _ENDS:
                # Where a segment records no answers, nothing else ends its last request.
                self._begun.pop(_key("request", fields), None)
                return self._end("stream", fields, record.at) or self._at_once("stream", fields, record.at)
            case _:
                pass
        return None

    def _session(self, record: Record, fields: dict[str, Value]) -> Span | None:
        if fields.get("what") == "started":
            self._begin("session", fields, record.at)
            return None
        return self._end("session", fields, record.at) if fields.get("what") == "ended" else None

    def _begin(self, what: str, fields: dict[str, Value], at: Wall) -> None:
        begun = self._begun_as(what, fields, at)
        if begun is not None and len(self._begun) < MAX_OPEN:
            self._begun[_key(what, fields)] = begun

    def _end(self, what: str, fields: dict[str, Value], at: Wall) -> Span | None:
        begun = self._begun.pop(_key(what, fields), None)
        return self._span(what, begun, fields, at) if begun else None

    def _at_once(self, what: str, fields: dict[str, Value], at: Wall) -> Span | None:
        """What was refused has no beginning of its own."""
        begun = self._begun_as(what, fields, at)
        return self._span(what, begun, fields, at) if begun else None

    def _begun_as(self, what: str, fields: dict[str, Value], at: Wall) -> _Begun | None:
        trace, own = _context(_text(fields, "trace"))
        if not trace:
            return None
        if what == "session":
            return _Begun(at, trace, own, "", fields)
        if what == "request":
            stream = self._begun.get(("stream", _text(fields, "stream")))
            _, said = _context(_text(fields, "parent"))
            below = stream is not None and said == _context(_text(stream.fields, "trace"))[1]
            return _Begun(at, trace, own, stream.id if stream and below else said, fields)
        if fields.get("role") == "tool":
            return _Begun(at, trace, _derived(own), own, fields)
        session = self._begun.get(("session", _text(fields, "session")))
        return _Begun(at, trace, own, session.id if session else "", fields)

    def _span(self, what: str, begun: _Begun, fields: dict[str, Value], at: Wall) -> Span:
        known = begun.fields | fields
        failed = _text(fields, "reason") if what != "session" else ""
        attributes = _common(known) | {"lockgate.node": self._node} | _OF[what](known)
        if failed:
            attributes["error.type"] = failed
        return Span(
            name=_NAMES[what](known),
            trace=begun.trace,
            id=begun.id,
            parent=begun.parent,
            start=begun.at,
            end=max(begun.at, at),
            attributes={key: value for key, value in attributes.items() if value != ""},
            error=failed,
        )


def _key(what: str, fields: dict[str, Value]) -> tuple[str, str]:
    return what, _text(fields, "stream" if what == "request" else what)


def _common(fields: dict[str, Value]) -> Attributes:
    return {
        "gen_ai.agent.name": _text(fields, "agent"),
        "gen_ai.conversation.id": _text(fields, "session"),
        "lockgate.service": _text(fields, "service"),
        "lockgate.segment": _text(fields, "segment"),
        "lockgate.rule": _text(fields, "rule"),
        "lockgate.verdict": _text(fields, "verdict"),
    }


def _of_session(fields: dict[str, Value]) -> Attributes:
    return {"gen_ai.operation.name": "invoke_agent", "lockgate.ended": _text(fields, "why")}


def _of_stream(fields: dict[str, Value]) -> Attributes:
    counts: Attributes = {
        f"lockgate.{key}": value
        for key in ("bytes_in", "bytes_out", "count")
        if isinstance(value := fields.get(key), int)
    }
    return {
        "lockgate.stream": _text(fields, "stream"),
        "lockgate.role": _text(fields, "role"),
        "lockgate.peer": _text(fields, "peer"),
        **counts,
    }


def _of_request(fields: dict[str, Value]) -> Attributes:
    method, name = _operation(fields)
    status = fields.get("status")
    known: Attributes = {
        "lockgate.stream": _text(fields, "stream"),
        "lockgate.request": _text(fields, "request"),
        "lockgate.class": _text(fields, "operation_class"),
    }
    if isinstance(status, int) and status:
        known["http.response.status_code"] = status
    if method in _HTTP_METHODS:
        return known | {"http.request.method": "GET" if method == "WEBSOCKET" else method, "url.path": name}
    known |= {"mcp.method.name": method}
    match method:
        case "tools/call":
            return known | {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
        case "prompts/get":
            return known | {"gen_ai.prompt.name": name}
        case _:
            return known | {"mcp.resource.uri": name}


def _name_of_request(fields: dict[str, Value]) -> str:
    """The conventions want few different names: no paths."""
    method, name = _operation(fields)
    return f"{method} {name}" if method in ("tools/call", "prompts/get") else method or "request"


def _operation(fields: dict[str, Value]) -> tuple[str, str]:
    operation = fields.get("operation")
    if not isinstance(operation, dict):
        return "", ""
    return _text(operation, "method"), _text(operation, "name")


_OF = {"session": _of_session, "stream": _of_stream, "request": _of_request}
_NAMES = {
    "session": lambda fields: f"invoke_agent {_text(fields, 'agent')}",
    "stream": lambda fields: f"stream {_text(fields, 'service')}",
    "request": _name_of_request,
}


def _context(traceparent: str) -> tuple[str, str]:
    """Trace id and span id of a traceparent of ours; empty without one."""
    parts = traceparent.split("-")
    return (parts[1], parts[2]) if len(parts) == 4 else ("", "")


def _derived(span: str) -> str:
    """The tool's node's own span id for a stream that both nodes know by ``span``."""
    return hashlib.sha256(f"lockgate/tool-span/v1\0{span}".encode()).hexdigest()[:16]


def _text(fields: dict[str, Value], key: str) -> str:
    value = fields.get(key, "")
    return value if isinstance(value, str) else ""
