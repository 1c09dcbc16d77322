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
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar

from pki.errors import RemoteError
from sidecar.mcp import json
from sidecar.mcp.events import KEEP_ALIVE, Event, Reader
from sidecar.mcp.message import widest
from sidecar.mcp.methods import METHODS, PROMPTS_GET, RESOURCES_READ, SERVER_METHODS
from sidecar.policy.operation import TOOLS_CALL, Json, McpCall

MAX_LIST_BYTES = json.ANSWER.size
MAX_ITEMS = 1_000
"""In one list: each is decided on. A server with more has pages."""
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


T = TypeVar("T")


class View(Protocol):
    """Who looks."""

    def could_call(self, call: McpCall) -> bool:
        """Whether the session could be allowed this, with some arguments."""

    def sees_tool(self, tool: dict[str, Json]) -> bool:
        """Whether a tool is as it was pinned; a new one is pinned by this."""


class Aside(Protocol):
    """How what takes long is done: :func:`sidecar.mcp.aside.aside`."""

    async def __call__(self, work: Callable[[], T], size: int) -> T: ...


@dataclass(frozen=True, slots=True)
class Watch:
    """How an answer is looked at. ``listed``: what it lists, :data:`ANY_LIST`, or empty for what lists nothing."""

    view: View
    listed: str
    note: Callable[[str], None]
    """Takes the method of each message that the server sends of its own accord."""
    aside: Aside


class Pass:
    """A JSON answer that lists nothing: passes as it comes."""

    holds_head = True

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._seen = bytearray()
        self._size = 0

    async def feed(self, data: bytes) -> bytes:
        self._size += len(data)
        if self._size <= MAX_TAP_BYTES:
            self._seen += data
        return data

    async def end(self) -> bytes:
        if self._size <= MAX_TAP_BYTES:
            try:
                message = await _message(bytes(self._seen), self._watch)
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

    async def feed(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > MAX_LIST_BYTES:
            raise RemoteError(f"a list of over {MAX_LIST_BYTES} bytes")
        return b""

    async def end(self) -> bytes:
        if not self._held:
            return b""
        return json.render(_filtered(await _message(bytes(self._held), self._watch), self._watch))


class EventFilter:
    """An answer of events. A client of MCP reads those of type ``message``, so the others end here."""

    holds_head = False

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._reader = Reader()

    async def feed(self, data: bytes) -> bytes:
        return b"".join([await self._passed(event) for event in self._reader.feed(data)])

    async def end(self) -> bytes:
        """An event without its end is none."""
        return b""

    async def _passed(self, event: Event | None) -> bytes:
        if event is None:
            return KEEP_ALIVE
        if event.type not in ("", "message"):
            return b""
        if not event.data or (not self._watch.listed and len(event.data) > MAX_TAP_BYTES):
            return event.spelled()
        message = await _message(event.data.encode(), self._watch)
        _note(message, self._watch)
        spelled = json.render(_filtered(message, self._watch)).decode()
        return Event(spelled, event.type, event.id, event.retry).spelled()


async def _message(data: bytes, watch: Watch) -> dict[str, Json]:
    message = await watch.aside(partial(json.parse, data, json.ANSWER), len(data))
    if not isinstance(message, dict):
        raise RemoteError("an answer that is no JSON-RPC message")
    return message


def _filtered(message: dict[str, Json], watch: Watch) -> dict[str, Json]:
    result = message.get("result")
    if not isinstance(result, dict):
        return message
    for key in LISTS:
        if key in result and watch.listed in (key, ANY_LIST):
            result = _cut_down(result, key, watch.view)
    return {**message, "result": result}


def _cut_down(result: dict[str, Json], key: str, view: View) -> dict[str, Json]:
    items = result[key]
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise RemoteError(f"{key}: no list of at most {MAX_ITEMS}")
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


def _note(message: dict[str, Json], watch: Watch) -> None:
    result = message.get("result")
    asked = result.get("inputRequests") if isinstance(result, dict) else None
    embedded = asked.values() if isinstance(asked, dict) else ()
    for one in chain([message], embedded):
        method = one.get("method") if isinstance(one, dict) else None
        if isinstance(method, str):
            watch.note(method if method in SERVER_METHODS else UNKNOWN)
