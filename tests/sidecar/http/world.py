"""A relay between an agent and a tool that a test plays, with a judge that does as it is told."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio
import trio.testing

from sidecar.http.ends import AgentEnd, ToolEnd
from sidecar.http.headers import Identity
from sidecar.http.held import Budget
from sidecar.http.normal import Reading
from sidecar.http.plain import PlainHttp
from sidecar.http.relay import Relay, Settings
from sidecar.http.seams import Admission, Call, Dialect, MalformedError, Outcome
from sidecar.policy.decide import Decision
from sidecar.policy.model import Verdict
from sidecar.policy.operation import HttpCall, McpCall
from sidecar.proxy.arrival import EndedError
from sidecar.proxy.splice import Broken, Gate
from sidecar.reasons import Reason

HOST = "127.0.0.1:15001"
IDENTITY = Identity("researcher", "a" * 26, "b" * 26)
TRACEPARENT = f"00-{'1' * 32}-{'2' * 16}-01"
REQUEST_ID = "r" * 26

Serve = Callable[["Tool"], Awaitable[None]]


@dataclass
class FakeJudge:
    """Allows all but the paths under /no."""

    calls: list[Call] = field(default_factory=list)
    rejected: list[MalformedError] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    traces: list[bytes] = field(default_factory=list)
    retry_after: int | None = None

    def decide(self, call: Call) -> Decision:
        if isinstance(call, HttpCall) and call.path.startswith("/no"):
            return Decision(Verdict.DENY, Reason.NO_GRANT, "", 0, "no grant lets you")
        return Decision(Verdict.ALLOW, rule="read-wiki")

    def could(self, call: McpCall) -> bool:
        return self.decide(call).allowed

    async def admit(self, calls: Sequence[Call], traceparent: bytes) -> Admission:
        await trio.lowlevel.checkpoint()
        self.calls += calls
        self.traces.append(traceparent)
        decisions = [self.decide(call) for call in calls]
        decision = next((one for one in decisions if not one.allowed), decisions[0])
        return Admission(REQUEST_ID, decision, TRACEPARENT, self.retry_after)

    def reject(self, why: MalformedError) -> Admission:
        self.rejected.append(why)
        return Admission(REQUEST_ID, Decision(Verdict.DENY, why.reason, "", 0, why.hint))

    def ended(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


@dataclass
class Tool:
    """One connection to the tool, as the test plays it."""

    stream: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    heard: bytearray

    async def hear(self, end: bytes = b"\r\n\r\n") -> bytes:
        """Read to ``end``; what came since the last time."""
        got = b""
        while end not in got:
            data = await self.stream.receive_some(1)
            if not data:
                break
            got += data
        self.heard += got
        return got

    async def say(self, words: bytes) -> None:
        await self.stream.send_all(words)


async def answers(tool: Tool) -> None:
    """200 with three bytes, to every request without a body."""
    while await tool.hear():
        await tool.say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")


def says(*responses: bytes) -> Serve:
    """These responses, one to each request without a body, and then the end."""

    async def serve(tool: Tool) -> None:
        for response in responses:
            await tool.hear()
            await tool.say(response)
        await tool.stream.aclose()

    return serve


@dataclass
class World:
    """The agent's end of a running relay, and all that happened."""

    agent: trio.abc.HalfCloseableStream
    judge: FakeJudge = field(default_factory=FakeJudge)
    tools: list[Tool] = field(default_factory=list)
    broken: Broken | None = None
    done: trio.Event = field(default_factory=trio.Event)
    passed: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    buffered: bytes = b""
    budget: Budget = field(default_factory=Budget)

    async def ask(self, words: bytes) -> bytes:
        """Send, and read one response with a Content-Length (or none) to its end."""
        await self.agent.send_all(words)
        return await self.response()

    async def response(self, has_body: bool = True) -> bytes:
        while b"\r\n\r\n" not in self.buffered:
            if not await self._more():
                break
        head, _, rest = self.buffered.partition(b"\r\n\r\n")
        length = next(
            (int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0
        )
        while has_body and len(rest) < length and await self._more():
            rest = self.buffered.partition(b"\r\n\r\n")[2]
        length = length if has_body else 0
        self.buffered = rest[length:]
        return head + b"\r\n\r\n" + rest[:length] if head or rest else b""

    async def everything(self) -> bytes:
        """All to the end."""
        while await self._more():
            pass
        return self.buffered

    async def _more(self) -> bool:
        try:
            data = await self.agent.receive_some(65_536)
        except trio.BrokenResourceError:
            return False
        self.buffered += data
        return bool(data)

    @property
    def heard(self) -> bytes:
        return b"".join(bytes(tool.heard) for tool in self.tools)


@asynccontextmanager
async def relay(
    serve: Serve = answers,
    dialect: Dialect | None = None,
    settings: Settings | None = None,
    dials: int = 10,
    judge: FakeJudge | None = None,
) -> AsyncIterator[World]:
    """A relay at work; ``dials``: how often the tool answers the telephone."""
    mine, near = trio.testing.memory_stream_pair()
    world = World(mine, judge or FakeJudge())

    def passing(count: int, outwards: bool) -> bool:
        world.passed[outwards] += count
        return True

    gate = Gate(passing, lambda: None)
    async with trio.open_nursery() as nursery:

        async def dial() -> trio.abc.HalfCloseableStream:
            await trio.lowlevel.checkpoint()
            if len(world.tools) >= dials:
                raise EndedError(Reason.TARGET_UNREACHABLE, hint="it does not answer")
            far, theirs = trio.testing.memory_stream_pair()
            tool = Tool(theirs, bytearray())
            world.tools.append(tool)
            nursery.start_soon(play, tool)
            return far

        async def play(tool: Tool) -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await serve(tool)

        running = Relay(
            agent=AgentEnd(near, gate),
            tool=ToolEnd(await dial(), gate),
            dial=dial,
            judge=world.judge,
            dialect=dialect or PlainHttp(),
            budget=world.budget,
            settings=settings or Settings(IDENTITY, Reading(frozenset({HOST}))),
        )

        async def run() -> None:
            try:
                await running.run()
            except Broken as broken:
                world.broken = broken
            await trio.aclose_forcefully(near)
            world.done.set()

        nursery.start_soon(run)
        yield world
        nursery.cancel_scope.cancel()
