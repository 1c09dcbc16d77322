"""The story of a session, from the records of all nodes that saw it: what it did, what was decided, how long it took.

    Trace ── sessions ── streams ── requests
                └─ children, each a session again

How records of several nodes come together, without trusting that their clocks agree:

1. Records of one node stand in the order of its log. A stream's id is the same on all nodes, and so is a request's.
2. A session runs on one node, so its streams stand in the order of that node's log. Where that log is not at hand,
   in the order of whichever log names them first.
3. A request stands in the order of the log of the tool's node, which alone decides on requests.
4. Times shown are those of the node that wrote them; durations are between records of one node, or were measured there.

Records are taken as they are. Whether they are what was written is for :mod:`sidecar.audit.verify` to say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pki.clock import Wall
from sidecar.wire import MAX_CHILD_DEPTH

Line = Mapping[str, Any]
"""A record, decoded. It may be anybody's: nothing in it is relied on to be there."""

_NEAR = ("agent", "both")


@dataclass(slots=True)
class RequestPart:
    """One request inside a stream. ``latency`` in microseconds, from its decision to the last byte of its answer."""

    request: str
    at: Wall
    operation: str = ""
    operation_class: str = ""
    verdict: str = ""
    reason: str = ""
    rule: str = ""
    hint: str = ""
    trace: str = ""
    status: int | None = None
    latency: int | None = None
    count: int = 1
    """How many like refusals are folded into this one."""


@dataclass(slots=True)
class StreamPart:
    """One stream. Durations in microseconds; None: not known, or not yet."""

    stream: str
    at: Wall
    service: str = ""
    segment: str = ""
    verdict: str = ""
    reason: str = ""
    rule: str = ""
    hint: str = ""
    decided_by: str = ""
    """The node whose refusal it was."""
    open_latency: int | None = None
    duration: int | None = None
    ended: str = ""
    """closed, cut, shed, or empty for one that lives, or whose end is on another node's log."""
    ended_for: str = ""
    """The reason of a cut."""
    ended_by: str = ""
    """The rule or statement that cut it."""
    bytes_in: int = 0
    bytes_out: int = 0
    count: int = 1
    nodes: list[str] = field(default_factory=list)
    """Who has it on record, the agent's node first."""
    requests: list[RequestPart] = field(default_factory=list)


@dataclass(slots=True)
class SessionPart:
    """One session, or a child of one."""

    session: str
    agent: str = ""
    node: str = ""
    trace: str = ""
    """The trace id, 32 hex digits."""
    on_behalf_of: str = ""
    started: Wall | None = None
    ended: Wall | None = None
    why: str = ""
    parent: str = ""
    streams: list[StreamPart] = field(default_factory=list)
    children: list["SessionPart"] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """The sessions, those of no parent at hand on top, and the locks and revocations that ended something in them."""

    sessions: list[SessionPart] = field(default_factory=list)
    statements: list[Line] = field(default_factory=list)

    @property
    def actions(self) -> int:
        """Streams and requests in all, folded ones too."""
        return sum(map(_actions, self.sessions))


def trace_of(records: Iterable[Line]) -> Trace:
    """The story that ``records`` tell: those of one node in the order of its log, one node after the other."""
    reader = _Reader()
    for one in records:
        reader.take(one)
    return reader.trace()


class _Reader:
    def __init__(self) -> None:
        self._sessions: dict[str, SessionPart] = {}
        self._streams: dict[str, StreamPart] = {}
        self._near: dict[str, list[StreamPart]] = {}
        """By session, as the session's own node has them."""
        self._far: dict[str, list[StreamPart]] = {}
        self._requests: dict[str, RequestPart] = {}
        self._admitted: dict[tuple[str, str], Wall] = {}
        """By stream and node."""
        self._statements: dict[str, Line] = {}

    def take(self, one: Line) -> None:
        match one.get("kind"):
            case "session":
                self._take_session(one)
            case "lock" | "revocation":
                self._statements.setdefault(str(one.get("statement", "")), one)
            case "request" | "answered":
                self._take_request(one)
            case "denied" if "request" in one:
                self._take_request(one)
            case "admitted" | "opened" | "denied" | "closed" | "cut" | "shed":
                self._take_stream(one)
            case _:
                pass

    def trace(self) -> Trace:
        for name, part in self._sessions.items():
            near = self._near.get(name, [])
            seen = {one.stream for one in near}
            part.streams = near + [one for one in self._far.get(name, []) if one.stream not in seen]
        found = Trace()
        for part in self._sessions.values():
            above = self._sessions.get(part.parent)
            (found.sessions if above is None or self._is_too_deep(part) else above.children).append(part)
        rules = (name for one in self._streams.values() for name in (one.rule, one.ended_by))
        named = {*rules, *(one.rule for one in self._requests.values())}
        found.statements = [one for name, one in self._statements.items() if name in named]
        return found

    def _is_too_deep(self, part: SessionPart) -> bool:
        """Deeper than children can be: somebody made it up, perhaps in a circle."""
        above: SessionPart | None = part
        for _ in range(MAX_CHILD_DEPTH + 1):
            above = self._sessions.get(above.parent) if above else None
        return above is not None

    def _take_session(self, one: Line) -> None:
        part = self._session(one)
        part.node = _text(one, "node")
        if one.get("what") == "ended":
            part.ended, part.why = _time(one), _text(one, "why")
        else:
            part.started = _time(one) if part.started is None else part.started
            part.trace = _trace_id(one) or part.trace
            part.on_behalf_of = _text(one, "on_behalf_of") or part.on_behalf_of

    def _session(self, one: Line) -> SessionPart:
        name = _text(one, "session")
        part = self._sessions.setdefault(name, SessionPart(name))
        part.agent = part.agent or _text(one, "agent")
        part.trace = part.trace or _trace_id(one)
        parents = one.get("parents")
        if isinstance(parents, list) and parents:
            part.parent = str(parents[-1])
        return part

    def _take_stream(self, one: Line) -> None:
        part, node = self._stream(one), _text(one, "node")
        match one["kind"]:
            case "admitted":
                self._admitted[part.stream, node] = _time(one)
                if not part.reason:
                    part.verdict, part.rule = _text(one, "verdict"), _text(one, "rule")
                    part.hint = _text(one, "reason") if part.verdict == "would_deny" else ""
            case "opened" if _is_near(one):
                part.open_latency = self._since(part.stream, node, one)
            case "denied" | "shed":
                part.verdict = "deny"
                _say_why(part, one)
                part.decided_by = node
                part.ended = "shed" if one["kind"] == "shed" else part.ended
            case "closed" | "cut" if _is_near(one) or not part.ended:
                self._end(part, one)
            case _:
                pass

    def _end(self, part: StreamPart, one: Line) -> None:
        part.ended = str(one["kind"])
        part.bytes_in, part.bytes_out = _number(one, "bytes_in"), _number(one, "bytes_out")
        part.duration = self._since(part.stream, _text(one, "node"), one)
        part.ended_for, part.ended_by = _text(one, "reason"), _text(one, "rule")

    def _stream(self, one: Line) -> StreamPart:
        name, node = _text(one, "stream"), _text(one, "node")
        part = self._streams.get(name)
        if part is None:
            part = self._streams[name] = StreamPart(name, _time(one))
        session = self._session(one)
        there = (self._near if _is_near(one) else self._far).setdefault(session.session, [])
        if node not in part.nodes:
            part.nodes.insert(0 if _is_near(one) else len(part.nodes), node)
            there.append(part)
        if _is_near(one):
            session.node, part.at = node, min(part.at, _time(one))
        part.service = part.service or _text(one, "service")
        part.segment = part.segment or _text(one, "segment")
        return part

    def _take_request(self, one: Line) -> None:
        name = _text(one, "request")
        part = self._requests.get(name)
        if part is None:
            part = self._requests[name] = RequestPart(name, _time(one))
            self._stream(one).requests.append(part)
        if one["kind"] == "answered":
            part.status, part.latency = _number(one, "status"), _number(one, "latency")
            if one.get("reason"):
                _say_why(part, one)
            return
        operation = one.get("operation")
        words = [str(operation[key]) for key in ("method", "name") if key in operation] if operation else []
        part.operation, part.operation_class = " ".join(words), _text(one, "operation_class")
        part.verdict, part.trace = _text(one, "verdict"), _text(one, "trace")
        _say_why(part, one)

    def _since(self, stream: str, node: str, one: Line) -> int | None:
        began = self._admitted.get((stream, node))
        return None if began is None else max(0, _time(one) - began)


def _say_why(part: StreamPart | RequestPart, one: Line) -> None:
    part.reason, part.hint = _text(one, "reason"), _text(one, "hint")
    part.rule = _text(one, "rule") or part.rule
    part.count = _number(one, "count") or 1


def _actions(part: SessionPart) -> int:
    own = sum(one.count + sum(each.count for each in one.requests) for one in part.streams)
    return own + sum(map(_actions, part.children))


def _is_near(one: Line) -> bool:
    return one.get("role") in _NEAR


def _text(one: Line, key: str) -> str:
    value = one.get(key, "")
    return value if isinstance(value, str) else ""


def _number(one: Line, key: str) -> int:
    value = one.get(key, 0)
    return max(0, value) if isinstance(value, int) else 0


def _time(one: Line) -> Wall:
    return Wall(_number(one, "at"))


def _trace_id(one: Line) -> str:
    """The trace id of a traceparent (W3C Trace Context): 00-<trace id>-<span id>-<flags>."""
    parts = _text(one, "trace").split("-")
    return parts[1] if len(parts) == 4 else ""
