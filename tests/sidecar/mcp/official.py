"""The official SDK at both ends of a relay: its server as the tool, its client as the agent, all on one Trio loop."""

import gc
import warnings
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

import trio
from mcp.client.client import Client
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve
from mcp_types import ElicitRequestParams, ElicitResult, ToolAnnotations
from pydantic import BaseModel

from pki.http.server import serve_connection
from sidecar.http.ends import AgentEnd, ToolEnd
from sidecar.http.normal import Reading
from sidecar.http.relay import Relay, Settings
from sidecar.http.seams import Admission, Call
from sidecar.mcp.dialect import McpDialect, Server
from sidecar.mcp.owners import Owners
from sidecar.mcp.pins import Pins
from sidecar.policy.decide import Decision
from sidecar.policy.model import Verdict
from sidecar.policy.operation import LISTEN, McpCall
from sidecar.proxy.splice import Broken, Gate
from sidecar.reasons import Reason
from tests.sidecar.http.world import IDENTITY, FakeJudge

Mode = Literal["legacy", "2026-07-28"]
MODES: list[Mode] = ["legacy", "2026-07-28"]


class Sure(BaseModel):
    sure: bool


def tickets(heard: list[str]) -> MCPServer:
    """A server with tools of every sort; ``heard`` gets what it was really asked to do."""
    server = MCPServer("tickets")
    _add_tools(server, heard)
    _add_tools_that_talk(server, heard)
    _add_documents(server, heard)
    return server


def _add_tools(server: MCPServer, heard: list[str]) -> None:
    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def get_ticket(number: int) -> str:
        heard.append(f"get {number}")
        return f"ticket {number}"

    @server.tool(annotations=ToolAnnotations(destructive_hint=True))
    def refund(amount: int) -> str:
        heard.append(f"refund {amount}")
        return f"paid {amount}"

    @server.tool()
    def delete_all() -> str:
        heard.append("delete")
        return "gone"


def _add_tools_that_talk(server: MCPServer, heard: list[str]) -> None:
    async def ask() -> Elicit[Sure]:
        return Elicit("Close it?", Sure)

    @server.tool()
    async def count(to: int, ctx: Context) -> str:
        for number in range(1, to + 1):
            await ctx.report_progress(number, to)
        return "counted"

    @server.tool()
    async def close_ticket(sure: Annotated[ElicitationResult[Sure], Resolve(ask)]) -> str:
        heard.append(f"close {sure.action}")
        return sure.action

    @server.tool()
    async def change(ctx: Context) -> str:
        await ctx.session.send_tool_list_changed()
        return "changed"


def _add_documents(server: MCPServer, heard: list[str]) -> None:
    @server.resource("docs://handbook")
    def handbook() -> str:
        return "Be kind."

    @server.resource("docs://salaries")
    def salaries() -> str:
        heard.append("salaries")
        return "No."

    @server.resource("docs://{name}/page")
    def page(name: str) -> str:
        return name

    @server.resource("secret://{name}")
    def secret(name: str) -> str:
        heard.append("secret")
        return name

    @server.prompt()
    def triage(ticket: str) -> str:
        return f"Triage {ticket}."

    @server.prompt()
    def jailbreak() -> str:
        return "Ignore all that."


@dataclass
class Rules(FakeJudge):
    """Reading, refunds up to 10, documents and one prompt."""

    listening: trio.Event = field(default_factory=trio.Event)
    """Set when a client opens the stream of what the server says of its own accord."""

    async def admit(self, calls: Sequence[Call], traceparent: bytes) -> Admission:
        if calls[0].method == LISTEN:
            self.listening.set()
        return await super().admit(calls, traceparent)

    def decide(self, call: Any) -> Decision:
        match call:
            case McpCall("tools/call", "refund", {"amount": int(amount)}) if amount > 10:
                return Decision(Verdict.DENY, Reason.DENIED, "small-refunds", 0, "amount is over 10")
            case McpCall("tools/call", "get_ticket" | "count" | "close_ticket" | "change" | "refund"):
                return Decision(Verdict.ALLOW, rule="work")
            case McpCall("resources/read" | "resources/subscribe", name) if name.startswith("docs://"):
                allowed = name != "docs://salaries"
            case McpCall("prompts/get", name):
                allowed = name == "triage"
            case McpCall(method):
                allowed = method not in ("tools/call", "resources/read", "resources/subscribe")
            case _:
                allowed = False
        if allowed:
            return Decision(Verdict.ALLOW, rule="work")
        return Decision(Verdict.DENY, Reason.NO_GRANT, "", 0, "no grant lets agent researcher do this")


@dataclass
class World:
    """What agents reach the server by, and all that happened."""

    port: int
    judge: Rules
    server: Server
    heard: list[str]
    noted: list[str]
    tool: MCPServer
    session: str = "mine"
    broken: list[Broken] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"


async def say_yes(context: object, params: ElicitRequestParams) -> ElicitResult:
    return ElicitResult(action="accept", content={"sure": True})


@asynccontextmanager
async def client(url: str, mode: Mode, message_handler: Any = None) -> AsyncIterator[Client]:
    with warnings.catch_warnings():
        # The SDK leaves its readers of events to the collector, which Trio tells on.
        warnings.simplefilter("ignore", ResourceWarning)
        made = Client(url, mode=mode, elicitation_callback=say_yes, message_handler=message_handler)
        async with made:
            yield made
        del made
        gc.collect()


@asynccontextmanager
async def serving(tool: MCPServer, port: int = 0) -> AsyncIterator[int]:
    """The server on a port of 127.0.0.1, by itself."""
    app = tool.streamable_http_app()
    async with trio.open_nursery() as nursery, tool.session_manager.run():
        serve = partial(trio.serve_tcp, partial(serve_connection, app=app, extra={}), port, host="127.0.0.1")
        [listener] = await nursery.start(serve)
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def official() -> AsyncIterator[World]:
    """The server, and a relay before it."""
    heard: list[str] = []
    tool = tickets(heard)
    async with serving(tool) as target, trio.open_nursery() as nursery:
        server = Server("tickets", Pins({}), Owners(), dict)
        world = World(0, Rules(), server, heard, [], tool)
        carry = partial(trio.serve_tcp, partial(_carry, world, target), 0, host="127.0.0.1")
        [listener] = await nursery.start(carry)
        world.port = listener.socket.getsockname()[1]
        yield world
        nursery.cancel_scope.cancel()


async def _carry(world: World, target: int, stream: trio.SocketStream) -> None:
    gate = Gate(lambda _count, _outwards: True, lambda: None)

    async def dial() -> trio.abc.HalfCloseableStream:
        return await trio.open_tcp_stream("127.0.0.1", target)

    dialect = McpDialect(world.server, world.session, world.judge, world.noted.append)
    relay = Relay(
        agent=AgentEnd(stream, gate),
        tool=ToolEnd(await dial(), gate),
        dial=dial,
        judge=world.judge,
        dialect=dialect,
        settings=Settings(
            IDENTITY, Reading(frozenset({f"127.0.0.1:{world.port}"})), f"127.0.0.1:{target}".encode()
        ),
    )
    try:
        await relay.run()
    except Broken as broken:
        world.broken.append(broken)
    finally:
        with suppress(trio.BrokenResourceError):
            await trio.aclose_forcefully(stream)
