"""What of an MCP server's answers an agent gets to see. Pure.

Lists are cut down to what the session could be allowed, so that a model is not shown tools that it may not use; a
tool whose definition has changed since it was pinned is not shown either. A definition is read by a model like any
other text: a changed one can say what to do with other tools. Cursors pass, so a page may come out empty.

    application/json      held back until it is whole, read, filtered where it lists, and spelled anew
    text/event-stream     the same with every event

A stream that a client resumes (GET, protocol 2025-11-25) may repeat the answer to any request, so there an answer is
filtered by its shape. Anywhere else a result is that of the request it answers, or refused. Requests and notifications of the server pass; their methods are noted for the record.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar

from pki.errors import RemoteError
from sidecar.mcp import json
from sidecar.mcp.events import KEEP_ALIVE, Event, Reader
from sidecar.mcp.message import widest
from sidecar.mcp.methods import METHODS, PROMPTS_GET, RESOURCES_READ, SERVER_METHODS
from sidecar.mcp.refusal import RequestId
from sidecar.policy.operation import TOOLS_CALL, Json, McpCall

MAX_ITEMS = 1_000
"""In one list: each is decided on. A server with more has pages."""
PAUSE_ITEMS = 20
"""After so many the other streams have their turn: a thousand take some 50 ms."""

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
    number: RequestId | None
    """The id of the request that is answered, None for what has no answer."""
    note: Callable[[str], None]
    """Takes the method of each message that the server sends of its own accord."""
    aside: Aside
    pause: Callable[[], Awaitable[None]]


class JsonFilter:
    """An answer of one message: held back until it is whole."""

    holds_head = True

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._held = bytearray()

    @property
    def held(self) -> int:
        return len(self._held)

    async def feed(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > json.ANSWER.size:
            raise RemoteError(f"an answer of over {json.ANSWER.size} bytes")
        return b""

    async def end(self) -> bytes:
        held, self._held = bytes(self._held), bytearray()
        return await _looked_into(held, self._watch) if held else b""


class EventFilter:
    """An answer of events. A client of MCP reads those of type ``message``, so the others end here."""

    holds_head = False

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._reader = Reader()

    @property
    def held(self) -> int:
        return self._reader.held

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
        if not event.data:
            return event.spelled()
        spelled = await _looked_into(event.data.encode(), self._watch)
        return Event(spelled.decode(), event.type, event.id, event.retry).spelled()


async def _looked_into(data: bytes, watch: Watch) -> bytes:
    """One message of the server, filtered and spelled anew; raises RemoteError."""
    message = await watch.aside(partial(json.parse, data, json.ANSWER), len(data))
    if not isinstance(message, dict):
        raise RemoteError("an answer that is no JSON-RPC message")
    _require_answer(message, watch)
    _note(message, watch)
    filtered = await _filtered(message, watch)
    return await watch.aside(partial(json.render, filtered), len(data))


def _require_answer(message: dict[str, Json], watch: Watch) -> None:
    """A client takes a result by its id, over whatever it came: another request's list would be one that nobody filtered."""
    if "result" not in message or watch.listed == ANY_LIST:
        return
    number = message.get("id")
    if watch.number is None or number != watch.number or type(number) is not type(watch.number):
        raise RemoteError("the answer to another request than this one")


async def _filtered(message: dict[str, Json], watch: Watch) -> dict[str, Json]:
    result = message.get("result")
    if not isinstance(result, dict):
        return message
    for key in LISTS:
        if key in result and watch.listed in (key, ANY_LIST):
            result = await _cut_down(result, key, watch)
    return {**message, "result": result}


async def _cut_down(result: dict[str, Json], key: str, watch: Watch) -> dict[str, Json]:
    items = result[key]
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise RemoteError(f"{key}: no list of at most {MAX_ITEMS}")
    shown: list[Json] = []
    for count, item in enumerate(items, 1):
        if isinstance(item, dict) and _is_shown(item, key, watch.view):
            shown.append(item)
        if count % PAUSE_ITEMS == 0:
            await watch.pause()
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
