"""MCP over streamable HTTP, as the relay carries it: which call a request makes, and how its answer is looked at.

    POST    one JSON-RPC message; read whole, decided on, and forwarded in our spelling
    GET     the stream of what the server says of its own accord (2025-11-25)
    DELETE  ends the client's session at the server (2025-11-25)

Nothing else of the server is reachable: one path, these three methods. The rest of a message's life is the relay's
(:mod:`sidecar.http.seams`). One :class:`McpDialect` serves one stream, whose requests come one after the other.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from pki.errors import RemoteError
from sidecar.http.refusal import json_answer
from sidecar.http.seams import Answer, Asked, Body, Fields, Filter, Head, Judge, MalformedError, Refusal
from sidecar.mcp import headers, json, message
from sidecar.mcp.answers import ANY_LIST, EventFilter, JsonFilter, Watch
from sidecar.mcp.aside import aside
from sidecar.mcp.message import Kind, Message, Unread
from sidecar.mcp.owners import Owners
from sidecar.mcp.pins import Pins
from sidecar.mcp.refusal import Sender, answer
from sidecar.policy.operation import CLOSE, LISTEN, RESPONSE, Json, McpCall

GONE = 404
"""Says that a session of the server is over (2025-11-25, "Session Management")."""

JSON, EVENTS = "application/json", "text/event-stream"

_STREAMS = {b"GET": LISTEN, b"DELETE": CLOSE}


@dataclass(frozen=True, slots=True)
class McpAsked(Asked):
    """``message`` is None for what has no body."""

    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """What this node knows of one service's server, and keeps over streams. ``policy`` are the pins now in force."""

    service: str
    pins: Pins
    owners: Owners
    policy: Callable[[], Mapping[tuple[str, str], str]]
    endpoint: str = "/mcp"


@dataclass(eq=False)
class McpDialect:
    """``session`` is the stream's. ``note`` takes the method of each message that the server sends unasked."""

    server: Server
    session: str
    judge: Judge
    note: Callable[[str], None]
    inspects = True
    _unread: Unread | None = field(default=None, init=False)

    async def read(self, head: Head, body: Body) -> Asked:
        """What is asked; raises MalformedError for what cannot be read."""
        self._unread = None
        if head.call.path != self.server.endpoint:
            raise MalformedError(f"the MCP endpoint is {self.server.endpoint}", status=GONE)
        if head.call.query:
            raise MalformedError("the MCP endpoint takes no query")
        if head.method == b"POST":
            return await self._posted(head, await body.whole(json.REQUEST.size))
        if head.method not in _STREAMS or head.upgrades:
            raise MalformedError("MCP has POST, GET and DELETE", status=405)
        await body.whole(0)
        if fault := headers.check_head(head.fields):
            raise self._malformed(Unread(fault, Sender()))
        self._require_owner(head.fields)
        return McpAsked(McpCall(_STREAMS[head.method]))

    def refusal(self, refusal: Refusal, asked: Asked | None) -> Answer:
        """As a tool's error, a JSON-RPC error, or plain JSON where there is no JSON-RPC to answer."""
        if isinstance(asked, McpAsked) and asked.message is not None:
            return answer(refusal, asked.message.sender)
        if asked is None and self._unread is not None:
            return answer(refusal, self._unread.sender, self._unread.fault)
        return json_answer(refusal)

    def filter(self, asked: Asked, status: int, fields: Fields) -> Filter | None:
        """Lists are cut down, and what the server asks is noted. Raises RemoteError."""
        asked_of = asked.message if isinstance(asked, McpAsked) else None
        names = [name for name, _ in fields if name in (headers.SESSION, b"content-type")]
        if len(set(names)) != len(names):  # Clients differ in which they take.
            raise RemoteError("the MCP server says twice what it may say once")
        given = headers.one(fields, headers.SESSION) if 200 <= status < 300 else None
        if given is not None and not self.server.owners.learn(self.server.service, given, self.session):
            raise RemoteError("a session of the MCP server that another session of ours has")
        said = (headers.one(fields, b"content-type") or "").lower()
        media = said.partition(";")[0].strip()
        if any(name == b"content-encoding" and value.lower() != b"identity" for name, value in fields):
            raise RemoteError("the MCP server sends what was not asked for: a compressed answer")
        listed = asked_of.listed if asked_of else ANY_LIST
        number = asked_of.sender.id if asked_of else None
        watch = Watch(self, listed, number, self.note, aside, trio.lowlevel.checkpoint)
        if media == EVENTS:
            return EventFilter(watch)
        if media == JSON:
            return JsonFilter(watch)
        if JSON in said or EVENTS in said:  # Clients there are that look for the words anywhere in it.
            raise RemoteError("the MCP server gives its answer two types")
        if listed and asked.call.method != CLOSE and 200 <= status < 300:
            raise RemoteError("the MCP server answers a list neither in JSON nor in events")
        return None

    def could_call(self, call: McpCall) -> bool:
        """Whether the session could be allowed this, with some arguments."""
        return self.judge.could(call)

    def sees_tool(self, tool: dict[str, Json]) -> bool:
        """Whether a tool is as it was pinned."""
        return self.server.pins.see(self.server.service, tool, self.server.policy())

    async def _posted(self, head: Head, body: bytes) -> McpAsked:
        found = await aside(partial(message.read, body, head.fields), len(body))
        if isinstance(found, Unread):
            raise self._malformed(found)
        self._require_owner(head.fields)
        method = RESPONSE if found.kind is Kind.RESPONSE else found.sender.method
        first, *also = found.calls or (McpCall(method),)
        return McpAsked(first, found.forwarded, tuple(also), found)

    def _require_owner(self, fields: Fields) -> None:
        """Nothing is learnt from who presents an id: it may be a guess, or overheard."""
        number = headers.one(fields, headers.SESSION)
        if number is not None and self.server.owners.owner(self.server.service, number) != self.session:
            raise MalformedError("no such session of the MCP server; begin a new one", status=GONE)

    def _malformed(self, unread: Unread) -> MalformedError:
        self._unread = unread
        return MalformedError(unread.fault.hint)
