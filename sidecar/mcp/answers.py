"""What of an MCP server's answers an agent gets to see. Pure.

Lists are cut down to what the session could be allowed, so that a model is not shown tools that it may not use; a
tool whose definition has changed since it was pinned is not shown either. A definition is read by a model like any
other text: a changed one can say what to do with other tools. Cursors pass, so a page may come out empty.

    application/json      a list is held back, filtered and spelled anew; any other answer passes as it comes
    text/event-stream     every event is read, filtered where it lists, and spelled anew

A stream that a client resumes (GET, protocol 2025-11-25) may repeat the answer to any request, so there an answer is
filtered by its shape. Requests and notifications of the server pass; their methods are noted for the record.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from pki.errors import RemoteError
from sidecar.mcp import json
from sidecar.mcp.events import KEEP_ALIVE, Event, Reader
from sidecar.mcp.message import widest
from sidecar.mcp.methods import METHODS, PROMPTS_GET, RESOURCES_READ, SERVER_METHODS
from sidecar.policy.operation import TOOLS_CALL, Json, McpCall

MAX_LIST_BYTES = json.ANSWER.size
MAX_TAP_BYTES = 256 * 1024
"""Of an answer that passes as it comes: looked through for what the server asks back, if it is no longer."""

ANY_LIST = "*"
"""Whatever an answer lists, by its shape."""

UNKNOWN = "unknown"
"""A method of the server's own making: its words are not for the record."""
_CALLS = {
    "tools": (TOOLS_CALL, "name"),
    "prompts": (PROMPTS_GET, "name"),
    "resources": (RESOURCES_READ, "uri"),
    "resourceTemplates": (RESOURCES_READ, "uriTemplate"),
}
LISTS = tuple(sorted({known.listed for known in METHODS.values()} - {""}))


class View(Protocol):
    """Who looks."""

    def could_call(self, call: McpCall) -> bool:
        """Whether the session could be allowed this, with some arguments."""

    def sees_tool(self, tool: dict[str, Json]) -> bool:
        """Whether a tool is as it was pinned; a new one is pinned by this."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How an answer is looked at. ``listed``: what it lists, :data:`ANY_LIST`, or empty for what lists nothing."""

    view: View
    listed: str
    note: Callable[[str], None]
    """Takes the method of each message that the server sends of its own accord."""


class Pass:
    """A JSON answer that lists nothing: passes as it comes."""

    holds_head = True

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._seen = bytearray()
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size <= MAX_TAP_BYTES:
            self._seen += data
        return data

    def end(self) -> bytes:
        if self._size <= MAX_TAP_BYTES:
            try:
                message = json.parse(bytes(self._seen), json.ANSWER)
            except RemoteError:
                return b""
            _note(message, self._watch)
        return b""


class ListFilter:
    """A JSON answer that lists: held back until it is whole."""

    holds_head = True

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > MAX_LIST_BYTES:
            raise RemoteError(f"a list of over {MAX_LIST_BYTES} bytes")
        return b""

    def end(self) -> bytes:
        return json.render(_filtered(_message(bytes(self._held)), self._watch)) if self._held else b""


class EventFilter:
    """An answer of events. A client of MCP reads those of type ``message``, so the others end here."""

    holds_head = False

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._reader = Reader()

    def feed(self, data: bytes) -> bytes:
        return b"".join(map(self._passed, self._reader.feed(data)))

    def end(self) -> bytes:
        """An event without its end is none."""
        return b""

    def _passed(self, event: Event | None) -> bytes:
        if event is None:
            return KEEP_ALIVE
        if event.type not in ("", "message"):
            return b""
        if not event.data:
            return event.spelled()
        message = _message(event.data.encode())
        _note(message, self._watch)
        spelled = json.render(_filtered(message, self._watch)).decode()
        return Event(spelled, event.type, event.id, event.retry).spelled()


def _message(data: bytes) -> dict[str, Json]:
    message = json.parse(data, json.ANSWER)
    if not isinstance(message, dict):
        raise RemoteError("an answer that is no JSON-RPC message")
    return message


def _filtered(message: dict[str, Json], watch: Watch) -> dict[str, Json]:
    result = message.get("result")
    if not isinstance(result, dict):
        return message
    lists = LISTS if watch.listed == ANY_LIST else (watch.listed,)
    for key in lists:
        if key in result:
            result = _cut_down(result, key, watch.view)
    return {**message, "result": result}


def _cut_down(result: dict[str, Json], key: str, view: View) -> dict[str, Json]:
    items = result[key]
    if not isinstance(items, list):
        raise RemoteError(f"{key}: no list")
    shown: list[Json] = [item for item in items if isinstance(item, dict) and _is_shown(item, key, view)]
    cut = {**result, key: shown}
    if "cacheScope" in cut:
        cut["cacheScope"] = "private"  # It is this session's list now: no cache may give it to another.
    return cut


def _is_shown(item: dict[str, Json], key: str, view: View) -> bool:
    method, named = _CALLS[key]
    name = item.get(named)
    if not isinstance(name, str):
        return False
    # Pinned whether or not it is shown: what is granted later was seen from the start.
    as_pinned = key != "tools" or view.sees_tool(item)
    return as_pinned and view.could_call(
        McpCall(method, widest(name) if key == "resourceTemplates" else name)
    )


def _note(message: Json, watch: Watch) -> None:
    if not isinstance(message, dict):
        return
    result = message.get("result")
    asked = result.get("inputRequests") if isinstance(result, dict) else None
    embedded = asked.values() if isinstance(asked, dict) else ()
    for one in chain([message], embedded):
        method = one.get("method") if isinstance(one, dict) else None
        if isinstance(method, str):
            watch.note(method if method in SERVER_METHODS else UNKNOWN)
