"""Who uses what: agents, services and operations of a log, counted. Pure.

One line for each agent, service and kind of operation. Of a path the segments that name one thing (numbers, hex, ids)
stand as ``*``, as a rule would have them. A stream is counted once, whichever of its nodes' logs are read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pki.errors import LocalError

STREAM = "stream"
"""The operation of a service whose bytes are not read."""
MAX_LINES = 10_000
MAX_STREAMS = 1_000_000
"""Told apart, for memory's sake."""

_ONE_THING = re.compile(r"[0-9]+|[0-9a-fA-F-]{8,}|[a-z2-7]{26}|[^/]*[0-9]{4,}[^/]*")

Key = tuple[str, str, str]
"""Agent, service, operation."""


@dataclass(slots=True)
class Line:
    """How often one kind of operation was let through, passed only as observed, or refused. Times in microseconds."""

    agent: str
    service: str
    operation: str
    segment: str = ""
    operation_class: str = ""
    allowed: int = 0
    would_deny: int = 0
    denied: int = 0
    first: int = 0
    last: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    rules: set[str] = field(default_factory=set)
    """Of the policy and of leases, that let it through."""

    @property
    def is_covered(self) -> bool:
        """Whether a rule lets all of it through that passed."""
        return self.allowed > 0 and self.would_deny == 0


class Inventory:
    """Takes the records of one log after the other."""

    def __init__(self) -> None:
        self._lines: dict[Key, Line] = {}
        self._streams: set[str] = set()
        self._open: dict[str, Line] = {}
        """By the id of the stream or request that is under way."""

    @property
    def lines(self) -> list[Line]:
        """By agent, service and operation."""
        return [line for _, line in sorted(self._lines.items())]

    @property
    def rules(self) -> set[str]:
        """All that let something through."""
        return {rule for line in self._lines.values() for rule in line.rules}

    def take(self, record: dict[str, Any]) -> None:
        """Count a record; raises LocalError when there is too much to tell apart."""
        match record.get("kind"):
            case "admitted" if self._is_new(record):
                self._begin(record, _text(record, "stream"))
            case "request":
                self._begin(record, _text(record, "request"))
            case "denied":
                line = self._line(record)
                line.denied += _number(record, "count") or 1
            case "answered":
                self._end(record, _text(record, "request"))
            case "closed" | "cut":
                self._end(record, _text(record, "stream"))
            case _:
                pass

    def _is_new(self, record: dict[str, Any]) -> bool:
        stream = _text(record, "stream")
        if stream in self._streams:
            return False
        if len(self._streams) >= MAX_STREAMS:
            raise LocalError(f"inventory: over {MAX_STREAMS} streams; read fewer, with --since")
        self._streams.add(stream)
        return True

    def _begin(self, record: dict[str, Any], name: str) -> None:
        line = self._line(record)
        if record.get("verdict") == "would_deny":
            line.would_deny += 1
        else:
            line.allowed += 1
            line.rules.add(_text(record, "rule"))
        self._open[name] = line

    def _end(self, record: dict[str, Any], name: str) -> None:
        line = self._open.pop(name, None)
        if line is not None:
            line.bytes_in += _number(record, "bytes_in")
            line.bytes_out += _number(record, "bytes_out")

    def _line(self, record: dict[str, Any]) -> Line:
        key = _text(record, "agent"), _text(record, "service"), _operation(record)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= MAX_LINES:
                raise LocalError(f"inventory: over {MAX_LINES} kinds of operations; read fewer, with --since")
            line = self._lines[key] = Line(*key)
        at = _number(record, "at")
        line.first = min(line.first or at, at)
        line.last = max(line.last, at)
        line.segment = _text(record, "segment") or line.segment
        line.operation_class = _text(record, "operation_class") or line.operation_class
        return line


def shape(path: str) -> str:
    """A path with ``*`` for each segment that names one thing among many."""
    return "/".join("*" if one and _ONE_THING.fullmatch(one) else one for one in path.split("/"))


def unused(known: Iterator[str] | list[str], inventory: Inventory) -> list[str]:
    """The rules of a policy that let nothing through."""
    return sorted(set(known) - inventory.rules)


def _operation(record: dict[str, Any]) -> str:
    operation = record.get("operation")
    if not isinstance(operation, dict):
        return STREAM
    method, name = _text(operation, "method"), _text(operation, "name")
    return f"{method} {shape(name)}".rstrip() if name.startswith("/") else f"{method} {name}".rstrip()


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    return value if isinstance(value, str) else ""


def _number(body: dict[str, Any], key: str) -> int:
    value = body.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
