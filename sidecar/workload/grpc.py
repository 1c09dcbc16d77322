"""A gRPC server for one connection, as far as the Workload API needs it: an empty request, a stream of answers.

grpcio would bring threads of its own and does not tell who is at the other end of a Unix socket; grpclib needs asyncio.
HTTP/2 itself is h2's, which does no I/O. What is ours is the mapping (gRPC over HTTP2, "Requests" and "Responses"):

    HEADERS  POST /Service/Method, content-type application/grpc[+proto]
    DATA     one message: a byte that says not compressed, four of length; empty, and discarded
    ...      answered by HEADERS 200, a DATA for each message as flow control allows, HEADERS grpc-status

Any local user may connect, so everything is bounded: the time to say something, the time a peer may not read, calls
at a time and in all (a stream opened and reset costs us more than him, CVE-2023-44487), header and body bytes.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol
from urllib.parse import quote

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes

from pki.errors import LockgateError, RemoteError

MAX_CALLS_AT_A_TIME = 16
MAX_CALLS = 1_000
MAX_REQUEST_BYTES = 1_024
MAX_HEADER_BYTES = 8_192
READ_BYTES = 16_384
GREETING_SECONDS = 5.0
SEND_SECONDS = 10.0


class Status(IntEnum):
    """gRPC status codes (grpc/doc/statuscodes.md), those that are given here."""

    OK = 0
    INVALID_ARGUMENT = 3
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


class GrpcError(LockgateError):
    """Ends a call with this status and these words."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class Call(Protocol):
    """One call."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Names are lower-case; of a repeated one the last counts."""

    async def send(self, message: bytes) -> None:
        """One message of the answer, as fast as the caller takes it."""


Method = Callable[[Call], Awaitable[None]]


async def serve_grpc(stream: trio.abc.Stream, methods: Mapping[str, Method]) -> None:
    """Serve ``methods``, by path, until the caller leaves or breaks the protocol; closes ``stream``."""
    async with stream:
        try:
            async with trio.open_nursery() as calls:
                await _Connection(stream, methods, calls).run()
                calls.cancel_scope.cancel()
        except* (H2Error, RemoteError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # Its own fault, or it is gone.


@dataclass(eq=False, slots=True)
class _Call:
    id: int
    headers: Mapping[str, str]
    connection: "_Connection"
    received: int = 0
    started: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def send(self, message: bytes) -> None:
        await self.connection.send(self, message)


class _Connection:
    def __init__(self, stream: trio.abc.Stream, methods: Mapping[str, Method], calls: trio.Nursery) -> None:
        self._stream = stream
        self._methods = methods
        self._nursery = calls
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._calls: dict[int, _Call] = {}
        self._count = 0
        self._window = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Take what comes until the end of the connection."""
        self._h2.local_settings.update(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_CALLS_AT_A_TIME,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_BYTES,
            }
        )
        self._h2.initiate_connection()
        await self._flush()
        with trio.fail_after(GREETING_SECONDS):
            data = await self._stream.receive_some(READ_BYTES)
        while data:
            try:
                events = self._h2.receive_data(data)
            except H2Error:
                await self._flush()  # The GOAWAY that says why.
                raise
            for event in events:
                if not self._take(event):
                    return
            await self._flush()
            data = await self._stream.receive_some(READ_BYTES)

    async def send(self, call: _Call, message: bytes) -> None:
        """A message of ``call``, in pieces that fit the windows of stream and connection (RFC 9113, 5.2)."""
        if not call.started:
            call.started = True
            self._h2.send_headers(call.id, [(":status", "200"), ("content-type", "application/grpc")])
        rest = memoryview(b"\0" + len(message).to_bytes(4) + message)
        while rest:
            room = min(self._h2.local_flow_control_window(call.id), self._h2.max_outbound_frame_size)
            if room <= 0:
                with trio.fail_after(SEND_SECONDS):
                    await self._window.park()
                continue
            self._h2.send_data(call.id, bytes(rest[:room]))
            rest = rest[room:]
            await self._flush()

    def _take(self, event: Event) -> bool:
        """Act on ``event``; False at the end of the connection."""
        match event:
            case RequestReceived(stream_id=int(number), headers=headers):
                self._count += 1
                if self._count > MAX_CALLS:
                    raise RemoteError(f"more than {MAX_CALLS} calls on one connection")
                self._calls[number] = _Call(number, _texts(headers or ()), self)
            case DataReceived(stream_id=int(number), flow_controlled_length=int(length)):
                self._h2.acknowledge_received_data(length, number)
                self._count_bytes(number, length)
            case StreamEnded(stream_id=int(number)) if number in self._calls:
                self._nursery.start_soon(self._serve, self._calls[number])
            case StreamReset(stream_id=int(number)) if number in self._calls:
                self._calls.pop(number).scope.cancel()
            case WindowUpdated() | RemoteSettingsChanged():
                self._window.unpark_all()
            case ConnectionTerminated():
                return False
            case _:  # Pings and settings, which h2 answers, and what the other end may add.
                pass
        return True

    def _count_bytes(self, number: int, length: int) -> None:
        call = self._calls.get(number)
        if call is not None:
            call.received += length
            if call.received > MAX_REQUEST_BYTES:
                raise RemoteError(f"a request of more than {MAX_REQUEST_BYTES} bytes")

    async def _serve(self, call: _Call) -> None:
        with call.scope:
            try:
                await self._method(call)(call)
                status, words = Status.OK, ""
            except GrpcError as error:
                status, words = error.status, str(error)
            self._calls.pop(call.id, None)
            self._h2.send_headers(call.id, _trailers(status, words, started=call.started), end_stream=True)
            await self._flush()

    def _method(self, call: _Call) -> Method:
        path = call.headers.get(":path", "")
        if call.headers.get(":method") != "POST":
            raise GrpcError(Status.UNIMPLEMENTED, "a call is a POST")
        if not call.headers.get("content-type", "").startswith("application/grpc"):
            raise GrpcError(Status.INVALID_ARGUMENT, "the content type is not gRPC's")
        method = self._methods.get(path)
        if method is None:
            raise GrpcError(Status.UNIMPLEMENTED, f"no method {path[:100]}")
        return method

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._h2.data_to_send():
                with trio.fail_after(SEND_SECONDS):
                    await self._stream.send_all(data)


def _texts(headers: Iterable[tuple[str | bytes, str | bytes]]) -> dict[str, str]:
    """Raises RemoteError for what is no text: decoded by h2, it would be a UnicodeDecodeError past every handler."""
    try:
        return {_text(name): _text(value) for name, value in headers}
    except UnicodeDecodeError:
        raise RemoteError("a header that is not UTF-8") from None


def _text(given: str | bytes) -> str:
    return given if isinstance(given, str) else given.decode()


def _trailers(status: Status, words: str, *, started: bool) -> list[tuple[str, str]]:
    """The end of a call; of one without an answer they are its headers too ("Trailers-Only")."""
    first = [] if started else [(":status", "200"), ("content-type", "application/grpc")]
    said = [("grpc-message", quote(words, safe=" "))] if words else []
    return [*first, ("grpc-status", str(int(status))), *said]
