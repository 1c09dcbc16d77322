"""HTTP/1.1 between an agent and its tool, one request after the other. Only the tool's node runs this.

    read a head -> normal form -> read the call -> admit -> forward -> response -> next

Rules:

1. One request is in flight. What an agent sends in advance (pipelining) waits, a read of it at most.
2. Nothing of a request is forwarded before it is admitted; what is forwarded is what was decided on.
3. A refusal is an answer. The connection goes on after it if the request's body ends within 64 KiB and a second, and
   is closed otherwise, or when it is not sure where the next request begins.
4. The connection to the tool serves the next request too, if both sides are done with the last one and the tool has
   said nothing since. A tool that closes it meanwhile is no failure: a request that may be repeated (no body, and a
   method that changes nothing) is sent once more on a new connection.
5. A stream that is cut in the middle of an exchange cuts both ends hard.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import h11
import structlog
import trio

from pki.clock import SECOND
from pki.errors import LocalError, RemoteError
from sidecar.defaults import BODY
from sidecar.http import headers
from sidecar.http.ends import AgentEnd, ToolEnd
from sidecar.http.exchange import SWITCHING, Exchange, Tally, ToolFailedError
from sidecar.http.headers import Changes, Identity, Marks
from sidecar.http.held import FULL, Budget, Held
from sidecar.http.normal import Reading, normal_head
from sidecar.http.refusal import status_of
from sidecar.http.seams import (
    Admission,
    Answer,
    Asked,
    Dialect,
    Fields,
    Head,
    Judge,
    MalformedError,
    Refusal,
)
from sidecar.proxy.arrival import EndedError, end_reason
from sidecar.proxy.framed import ResetByPeer
from sidecar.proxy.splice import Broken
from sidecar.reasons import Reason

REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS"})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for one stream. ``host``: the service's own, empty for none."""

    identity: Identity
    reading: Reading
    host: bytes = b""
    credential: Callable[[], tuple[bytes, bytes]] | None = None
    """The header field that is added for the tool, read at each use; raises LocalError."""


@dataclass(eq=False)
class Relay:
    """One stream."""

    agent: AgentEnd
    tool: ToolEnd
    dial: Callable[[], Awaitable[trio.abc.HalfCloseableStream]]
    """Another connection to the same tool; raises EndedError."""
    judge: Judge
    dialect: Dialect
    settings: Settings
    budget: Budget = field(default_factory=Budget)
    """Of the node."""

    async def run(self) -> None:
        """To the end of the stream; raises Broken."""
        try:
            while await self._next():
                pass
            await self.agent.finish()
        finally:
            await self.tool.drop()

    async def _next(self) -> bool:
        """One request; whether another may follow."""
        try:
            request = await self.agent.request()
        except MalformedError as why:
            # Where the next request would begin is not known.
            return await self._refuse(_unread(self.judge.reject(why), why), None, may_go_on=False)
        if request is None:
            return False
        held = self.budget.share()
        try:
            return await self._answered(request, held)
        finally:
            held.release()

    async def _answered(self, request: h11.Request, held: Held) -> bool:
        try:
            head = self._head(request)
            asked = await self.dialect.read(head, _Body(self.agent, held))
        except MalformedError as why:
            return await self._refuse(_unread(self.judge.reject(why), why), None)
        traceparent = head.values(b"traceparent")
        calls = (asked.call, *asked.also)
        admission = await self.judge.admit(calls, traceparent[0] if len(traceparent) == 1 else b"")
        if not admission.decision.allowed:
            return await self._refuse(admission.refusal(), asked)
        return await self._carry(head, asked, admission)

    def _head(self, request: h11.Request) -> Head:
        fields = tuple((bytes(name), bytes(value)) for name, value in request.headers)
        return normal_head(bytes(request.method), bytes(request.target), fields, self.settings.reading)

    async def _carry(self, head: Head, asked: Asked, admission: Admission) -> bool:
        """An admitted request; what became of it is said whatever happens."""
        tally = Tally()
        try:
            refusal = await self._forward(head, asked, admission, tally)
            if refusal is not None:
                tally.status = status_of(refusal)
                tally.reason, tally.hint = refusal.reason, refusal.hint
        except Broken as broken:
            tally.reason = why(broken)
            raise
        finally:
            self.judge.ended(tally.outcome())
        if refusal is not None:
            return await self._refuse(refusal, asked)
        if tally.status == SWITCHING:
            return False
        messages = self.agent.messages
        return (messages.is_complete or await self.agent.discard()) and messages.next_exchange()

    async def _forward(self, head: Head, asked: Asked, admission: Admission, tally: Tally) -> Refusal | None:
        """Carry the exchange; a refusal if the tool gave no response that could be passed on. Raises Broken."""
        while True:
            try:
                fields = self._fields(head, asked, admission)
                await self._require_tool()
                exchange = Exchange(
                    agent=self.agent,
                    tool=self.tool,
                    head=head,
                    asked=asked,
                    dialect=self.dialect,
                    held=self.budget.share(),
                    request=admission.request,
                    fields=fields,
                    tally=tally,
                )
                await exchange.carry()
            except ToolFailedError as error:
                is_tired = error.silent and self.tool.has_served
                await self.tool.drop()
                if not (is_tired and head.method in REPEATABLE and not tally.bytes_in):
                    return Refusal(admission.request, Reason.TARGET_UNREACHABLE, hint=error.hint)
            except MalformedError as why:
                return Refusal(admission.request, Reason.BAD_REQUEST, hint=why.hint, status=why.status)
            except EndedError as ended:
                reason = ended.reason or Reason.TARGET_UNREACHABLE
                return Refusal(admission.request, reason, ended.rule, ended.hint)
            except LocalError as error:
                log.error("no credential to add", why=str(error))
                hint = "the credential that is added for this tool cannot be read; tell its operator"
                return Refusal(admission.request, Reason.TARGET_UNREACHABLE, hint=hint)
            else:
                await self.tool.served()
                return None

    async def _require_tool(self) -> None:
        """A connection that can carry an exchange; raises EndedError."""
        if not self.tool.may_serve:
            await self.tool.drop()
            self.tool = ToolEnd(await self.dial(), self.agent.gate)

    def _fields(self, head: Head, asked: Asked, admission: Admission) -> Fields:
        """What is forwarded; raises LocalError for a credential that cannot be read."""
        settings = self.settings
        credential = settings.credential() if settings.credential else None
        marks = Marks(settings.identity, admission.request, admission.traceparent, credential)
        length = None if asked.body is None else len(asked.body)
        changes = Changes(settings.host, length, plain=self.dialect.inspects)
        return headers.request_fields(head, marks, changes)

    async def _refuse(self, refusal: Refusal, asked: Asked | None, *, may_go_on: bool = True) -> bool:
        """Answer; whether the connection may go on."""
        messages = self.agent.messages
        # Who waits for a 100 may send its body yet, or may not: the next request's beginning is not known.
        goes_on = may_go_on and not messages.waits_for_go_on and await self.agent.discard()
        await self._answer(self.dialect.refusal(refusal, asked), closes=not goes_on)
        return goes_on and messages.next_exchange()

    async def _answer(self, answer: Answer, *, closes: bool) -> None:
        messages = self.agent.messages
        framing = [(b"Content-Length", b"%d" % len(answer.body))]
        framing += [(b"Connection", b"close")] if closes else []
        start = h11.Response(status_code=answer.status, headers=[*answer.fields, *framing])
        data = messages.write(start)
        if not messages.asks_for_head_only:
            data += messages.write(h11.Data(data=answer.body))
        await self.agent.send(data + messages.write(h11.EndOfMessage()))


class _Body:
    """A request's body, for a dialect that reads it."""

    def __init__(self, agent: AgentEnd, held: Held) -> None:
        self._agent = agent
        self._held = held

    async def whole(self, limit: int) -> bytes:
        messages = self._agent.messages
        if messages.waits_for_go_on:
            await self._agent.send(messages.write(h11.InformationalResponse(status_code=100, headers=[])))
        with trio.move_on_after(BODY / SECOND):
            return await self._read(limit)
        raise MalformedError(f"the body did not come within {BODY // SECOND} s", status=408)

    async def _read(self, limit: int) -> bytes:
        body = bytearray()
        ended = self._agent.messages.is_complete
        while not ended:
            found, ended = await self._agent.parts()
            body += b"".join(found)
            if len(body) > limit:
                raise MalformedError(f"the body is longer than {limit} bytes", status=413)
            if not self._held.hold(len(body)):
                raise MalformedError(FULL, status=503, reason=Reason.LIMIT)
        return bytes(body)


def why(broken: Broken) -> Reason | None:
    """An end of the stream broke; None: the agent went away."""
    if isinstance(broken.cause, ResetByPeer):
        return end_reason(broken.cause.reason)
    if not broken.near:
        return Reason.TARGET_UNREACHABLE
    return Reason.BAD_REQUEST if isinstance(broken.cause, RemoteError) else None


def _unread(admission: Admission, why: MalformedError) -> Refusal:
    return replace(admission.refusal(), hint=why.hint, status=why.status)
