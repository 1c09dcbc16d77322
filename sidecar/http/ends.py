"""The two ends of a relay: a stream, its messages, and the gate that every chunk read from it passes.

How an end breaks is said as in a splice (:class:`sidecar.proxy.splice.Broken`): the path of a stream knows what to
record.
"""

import select
from contextlib import suppress
from dataclasses import dataclass, field

import h11
import trio

from pki.direct import direct
from pki.errors import RemoteError
from pki.tls.stream import TlsStream
from sidecar.http.messages import READ_BYTES, Head, Messages
from sidecar.http.seams import MalformedError
from sidecar.proxy.ends import close_hard
from sidecar.proxy.splice import Broken, Gate

HEAD_SECONDS = 30.0
"""From a request's first byte to the end of its head."""

LINGER_BYTES = 65_536
LINGER_SECONDS = 1.0
"""How much of a body that nobody wants is read, for how long, so that its sender gets to read why."""

_TROUBLE = (trio.BrokenResourceError, trio.ClosedResourceError, RemoteError)


@dataclass(eq=False)
class End:
    """One end. One task reads and one sends at a time."""

    stream: trio.abc.HalfCloseableStream
    gate: Gate
    outwards: bool
    """Whether what is read here goes to the tool."""
    messages: Messages = field(init=False)

    def __post_init__(self) -> None:
        self.messages = Messages(h11.SERVER if self.outwards else h11.CLIENT)
        self._bytes = direct(self.stream)

    async def read(self) -> int:
        """Feed the messages what comes next, and say how much it was; raises Broken."""
        try:
            data = bytes(await self._bytes.receive_some(READ_BYTES))
        except _TROUBLE as error:
            raise Broken(near=self.outwards, cause=error) from None
        if not data:
            self.gate.half_closed()
        elif not self.gate.passing(len(data), self.outwards):
            await trio.sleep_forever()  # The stream is being cut: its scope is cancelled.
        self.messages.feed(data)
        return len(data)

    async def send(self, data: bytes) -> None:
        """Raises Broken."""
        if not data:
            return
        try:
            await self._bytes.send_all(data)
        except _TROUBLE as error:
            raise Broken(near=self.outwards, cause=error) from None

    async def head(self) -> Head:
        """The next head; raises MalformedError, Broken."""
        while (head := self.messages.head()) is None:
            await self.read()
        return head

    async def parts(self) -> tuple[list[bytearray | bytes], bool]:
        """What there is of the body, at least something or its end; whether it has ended."""
        while True:
            found, ended = self.parts_now()
            if found or ended:
                return found, ended
            await self.read()

    def parts_now(self) -> tuple[list[bytearray | bytes], bool]:
        """The same without waiting, maybe nothing; raises MalformedError."""
        found: list[bytearray | bytes] = []
        while isinstance(part := self.messages.part(), h11.Data):
            found.append(part.data)
        return found, isinstance(part, h11.EndOfMessage)

    async def discard(self) -> bool:
        """Read the rest of a message that nobody wants, within bounds; whether it has ended. Raises Broken."""
        read = 0
        with trio.move_on_after(LINGER_SECONDS), suppress(MalformedError):
            while not self.messages.is_complete:
                _, ended = self.parts_now()
                if ended:
                    return True
                if read > LINGER_BYTES or self.messages.ended:
                    return False
                read += await self.read()
        return self.messages.is_complete


class AgentEnd(End):
    """Where requests come from."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, gate: Gate) -> None:
        super().__init__(stream, gate, outwards=True)

    async def request(self) -> h11.Request | None:
        """The next request's head; None at the agent's clean end. Raises MalformedError, Broken."""
        while self.messages.is_idle:
            if self.messages.ended:
                return None
            await self.read()
        with trio.move_on_after(HEAD_SECONDS):
            head = await self.head()
            return head if isinstance(head, h11.Request) else None
        raise MalformedError(f"the head did not come within {HEAD_SECONDS:.0f} s", status=408)

    async def finish(self) -> None:
        """End our direction, and give the agent a moment to do the same: a reset could cost it our last words."""
        try:
            await self.stream.send_eof()
            read = 0
            with trio.move_on_after(LINGER_SECONDS):
                while not self.messages.ended and read <= LINGER_BYTES:
                    data = await self._bytes.receive_some(READ_BYTES)
                    read += len(data)
                    self.messages.ended = not data
        except _TROUBLE as error:
            raise Broken(near=True, cause=error) from None


class ToolEnd(End):
    """A connection to the tool."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, gate: Gate) -> None:
        super().__init__(stream, gate, outwards=False)
        self.has_served = False
        """Whether an exchange went over it already: the tool may be tired of it."""
        self._dropped = False

    async def response(self) -> h11.Response | h11.InformationalResponse:
        """The next response's head; raises MalformedError, Broken."""
        head = await self.head()
        if isinstance(head, h11.Request):
            raise MalformedError("a request where a response is due")
        return head

    async def served(self) -> None:
        """An exchange went well; what the tool has not taken of the request it does not want."""
        self.has_served = True
        if not self.messages.next_exchange():
            await self.drop()

    async def drop(self) -> None:
        """Close the connection at once: what is under way on it must not look complete."""
        self._dropped = True
        await close_hard(self.stream)

    @property
    def may_serve(self) -> bool:
        """Whether it can carry an exchange, as far as can be seen.

        Bytes that nobody asked for would be taken for the next response (response splitting): not reused.
        """
        if self._dropped:
            return False
        return not self.has_served or (self.messages.is_idle and _is_quiet(self.stream))


def _is_quiet(stream: trio.abc.AsyncResource) -> bool:
    """Whether nothing has come, not even the end."""
    if isinstance(stream, TlsStream):
        return not stream.has_unread and _is_quiet(stream.transport)
    if not isinstance(stream, trio.SocketStream):
        return True
    waiting = select.poll()
    waiting.register(stream.socket, select.POLLIN)
    return not waiting.poll(0)
