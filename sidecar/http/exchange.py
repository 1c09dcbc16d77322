"""One admitted request and its response, both streamed, with the memory of a few chunks.

Theory of operation. The request's body and the response are carried at the same time, by a task each: a tool may
answer before it has read everything, or while it reads. Each waits for its sink before it reads on from its source,
so a slow end slows the other one down and nothing piles up. When the request has been forwarded its task goes on
listening to the agent, for one read: an agent that goes away ends the exchange, and what it sends in advance waits.

How it can end:

1. The response is complete. If the request is not, the tool did not want the rest: its connection is dropped, and the
   relay sees what to do with what the agent still sends.
2. The tool fails before the response began: :class:`ToolFailedError`, which the relay answers with a refusal.
3. Anything breaks later: :class:`~sidecar.proxy.splice.Broken`. Both sides are cut hard, since a truncated message
   must not look like a whole one.
4. A 101: from there on the bytes are spliced, and the stream ends with them.
"""

from dataclasses import dataclass, field, replace

import h11
import trio

from pki.errors import RemoteError
from sidecar.http import headers
from sidecar.http.ends import AgentEnd, ToolEnd
from sidecar.http.held import FULL, Held
from sidecar.http.seams import Asked, Dialect, Fields, Filter, Head, MalformedError, Outcome
from sidecar.proxy.splice import Broken, Gate, splice
from sidecar.reasons import Reason

SWITCHING = 101


class ToolFailedError(Exception):
    """The tool gave no response that could be passed on. ``silent``: it broke the connection and said nothing."""

    def __init__(self, hint: str, *, silent: bool = False) -> None:
        super().__init__(hint)
        self.hint = hint
        self.silent = silent


@dataclass(eq=False, slots=True)
class Tally:
    """What became of a request so far (:class:`~sidecar.http.seams.Outcome`)."""

    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    reason: Reason | None = None
    hint: str = ""

    def outcome(self) -> Outcome:
        return Outcome(self.status, self.bytes_in, self.bytes_out, self.reason, self.hint)


@dataclass(eq=False)
class Exchange:
    """What is under way. ``fields`` are those to forward."""

    agent: AgentEnd
    tool: ToolEnd
    head: Head
    asked: Asked
    dialect: Dialect
    held: Held
    request: str
    fields: Fields
    tally: Tally
    switched: bool = False
    _failure: Broken | ToolFailedError | None = field(default=None)

    async def carry(self) -> None:
        """To the response's end; raises ToolFailedError, Broken, and MalformedError before anything was forwarded."""
        try:
            await self._carry()
        finally:
            self.held.release()

    async def _carry(self) -> None:
        await self._send_head()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_upload, nursery.cancel_scope)
            try:
                await self._download()
            except (Broken, ToolFailedError) as error:
                # What the agent broke explains what broke after it.
                self._failure = self._failure or error
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        if self.switched:
            await self._splice()

    async def _send_head(self) -> None:
        event = h11.Request(method=self.head.method, target=self.head.target, headers=list(self.fields))
        pieces = [self.tool.messages.write(event)]
        if self.asked.body is not None:
            pieces += self._upload_whole(self.asked.body)
        elif self.agent.messages.is_complete:
            pieces.append(self.tool.messages.write(h11.EndOfMessage()))
        else:
            pieces += self._passed_on(*self.agent.parts_now())  # What came with the head leaves with it.
        try:
            await self.tool.send(b"".join(pieces))
        except Broken:
            raise ToolFailedError("the tool closed the connection", silent=True) from None

    # -- the request's body

    async def _run_upload(self, scope: trio.CancelScope) -> None:
        try:
            await self._upload()
            if not self.switched:
                await self._listen()
        except MalformedError as error:
            self._failure = Broken(near=True, cause=error)
        except Broken as error:
            if not error.near:
                return  # The tool reads no more; it may have said why.
            self._failure = error
        if self._failure is not None:
            scope.cancel()

    async def _upload(self) -> None:
        while self.asked.body is None and not self.agent.messages.is_complete:
            found, ended = await self.agent.parts()
            await self.tool.send(b"".join(self._passed_on(found, ended=ended)))

    def _upload_whole(self, body: bytes) -> list[bytes]:
        self.tally.bytes_in += len(body)
        data = [self.tool.messages.write(h11.Data(data=body))] if body else []
        return [*data, self.tool.messages.write(h11.EndOfMessage())]

    def _passed_on(self, found: list[bytearray | bytes], ended: bool) -> list[bytes]:
        self.tally.bytes_in += sum(map(len, found))
        pieces = [self.tool.messages.write(h11.Data(data=bytes(one))) for one in found]
        return [*pieces, self.tool.messages.write(h11.EndOfMessage())] if ended else pieces

    async def _listen(self) -> None:
        if self.agent.messages.is_idle and not self.agent.messages.ended and not self.head.upgrades:
            await self.agent.read()

    # -- the response

    async def _download(self) -> None:
        response = await self._response()
        if response.status_code == SWITCHING:
            await self._switch(response)
            return
        fields = tuple((bytes(name), bytes(value)) for name, value in response.headers)
        try:
            looking = self.dialect.filter(self.asked, response.status_code, fields)
        except RemoteError as error:
            raise ToolFailedError(f"the tool's response is refused: {error}") from None
        if looking is not None:
            fields = tuple((name, value) for name, value in fields if name != b"content-length")
        kept = headers.response_fields(fields, self.request)
        start = h11.Response(
            status_code=response.status_code, headers=list(kept), reason=bytes(response.reason)
        )
        if looking is None:
            await self._pass_on(start)
        else:
            await self._filter(start, looking)

    async def _response(self) -> h11.Response | h11.InformationalResponse:
        """The final response's head, or 101; others are passed on as they come."""
        while True:
            try:
                head = await self.tool.response()
            except MalformedError as error:
                silent = self.tool.messages.ended and self.tool.messages.is_idle
                raise ToolFailedError(
                    f"the tool's response is refused: {error.hint}", silent=silent
                ) from None
            except Broken as error:
                raise ToolFailedError("the tool closed the connection", silent=not error.near) from None
            if not isinstance(head, h11.InformationalResponse):
                return head
            if head.status_code == SWITCHING:  # h11 refuses one that nobody asked for.
                return head
            if self.asked.body is None:
                fields = headers.response_fields(_fields(head), self.request)
                event = h11.InformationalResponse(status_code=head.status_code, headers=list(fields))
                await self.agent.send(self.agent.messages.write(event))

    async def _pass_on(self, start: h11.Response) -> None:
        """The response as it comes; its head leaves with the first of its body that is there."""
        try:
            found, ended = self.tool.parts_now()
        except MalformedError as error:
            raise ToolFailedError(f"the tool's response is refused: {error.hint}") from None
        self.tally.status = start.status_code
        pieces = [self.agent.messages.write(start), *self._given(found, ended=ended)]
        await self.agent.send(b"".join(pieces))
        while not ended:
            found, ended = await self._more()
            await self.agent.send(b"".join(self._given(found, ended=ended)))

    async def _filter(self, start: h11.Response, looking: Filter) -> None:
        """The head is held back until something of the body may pass, unless it cannot wait."""
        ended = False
        if not looking.holds_head:
            self.tally.status = start.status_code
            await self.agent.send(self.agent.messages.write(start))
        while not ended:
            try:
                found, ended = await self._more()
                if not self.held.hold(looking.held + sum(map(len, found))):
                    raise RemoteError(FULL)
                passed = b"".join([await looking.feed(bytes(one)) for one in found])
                passed += await looking.end() if ended else b""
            except RemoteError as error:
                if not self.tally.status:
                    raise ToolFailedError(f"the tool's response is refused: {error}") from None
                raise Broken(near=False, cause=error) from None
            pieces: list[bytes] = []
            if not self.tally.status and (passed or ended):
                self.tally.status = start.status_code
                pieces.append(self.agent.messages.write(start))
            pieces += self._given([passed] if passed else [], ended=ended)
            await self.agent.send(b"".join(pieces))

    async def _more(self) -> tuple[list[bytearray | bytes], bool]:
        try:
            return await self.tool.parts()
        except MalformedError as error:
            raise Broken(near=False, cause=error) from None

    def _given(self, found: list[bytearray | bytes], ended: bool) -> list[bytes]:
        self.tally.bytes_out += sum(map(len, found))
        pieces = [self.agent.messages.write(h11.Data(data=bytes(one))) for one in found]
        return [*pieces, self.agent.messages.write(h11.EndOfMessage())] if ended else pieces

    # -- another protocol

    async def _switch(self, response: h11.InformationalResponse | h11.Response) -> None:
        fields = headers.response_fields(_fields(response), self.request)
        upgrade = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
        event = h11.InformationalResponse(status_code=SWITCHING, headers=[*fields, *upgrade])
        self.tally.status, self.switched = SWITCHING, True
        await self.agent.send(self.agent.messages.write(event))

    async def _splice(self) -> None:
        early = self.agent.messages.unread()
        await self.tool.send(early)
        first = self.tool.messages.unread()
        await self.agent.send(first)
        self.tally.bytes_in += len(early)
        self.tally.bytes_out += len(first)
        await splice(self.agent.stream, self.tool.stream, _counting(self.agent.gate, self.tally))


def _counting(gate: Gate, tally: Tally) -> Gate:
    """``gate``, and what passes is counted for the request too."""

    def passing(count: int, outwards: bool) -> bool:
        if outwards:
            tally.bytes_in += count
        else:
            tally.bytes_out += count
        return gate.passing(count, outwards)

    return replace(gate, passing=passing)


def _fields(head: h11.InformationalResponse | h11.Response) -> Fields:
    return tuple((bytes(name), bytes(value)) for name, value in head.headers)
