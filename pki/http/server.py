"""HTTP/1.1 for small private APIs: one Trio stream, h11, an ASGI app.

Rules:

1. A request is read whole, within its caps and its deadline, before the app sees any of it. A client that
   trickles costs one task for a bounded time and no app code.
2. Who is at the other end comes in as ``extra``, merged into the ASGI scope last, by whoever accepted the
   stream. Nothing that a client sends can set or shadow it.
3. Bad HTTP gets one 4xx and the connection is closed: after a framing error nothing that follows is trusted
   (request smuggling).
4. An exception of the app is a bug: logged once, a bare 500 to the client. Only cancellation leaves
   :func:`serve_connection`, so one connection cannot take its siblings down.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

import h11
import msgspec
import structlog
import trio
from starlette.types import ASGIApp, Message, Scope

LINGER_BYTES = 65_536
LINGER_SECONDS = 1.0

log = structlog.get_logger("pki.http")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost."""

    header_bytes: int = 16_384
    body_bytes: int = 1_048_576
    request_seconds: float = 30.0
    """From a request's first byte to the start of its response."""
    idle_seconds: float = 60.0
    """Between two requests, and for a client that does not read its response on."""


async def serve_connection(
    stream: trio.abc.Stream, app: ASGIApp, *, extra: Mapping[str, Any], limits: Limits | None = None
) -> None:
    """Answer the requests of one connection until either side has enough, then close ``stream``."""
    wire = _Wire(stream, limits or Limits())
    try:
        try:
            while await _exchange(wire, app, extra):
                pass
        finally:
            await wire.close()
    except _ClientGoneError:
        pass
    except Exception:  # the boundary of rule 4
        log.exception("connection failed")


def error_body(reason: str, message: str) -> bytes:
    """The body of every refusal: ``{"error": {"reason", "message"}}``."""
    return msgspec.json.encode({"error": {"reason": reason, "message": message}})


class _ClientGoneError(Exception):
    """The client went away, or stopped reading."""


class _BadRequestError(Exception):
    """A request the app never sees."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class _Request:
    head: h11.Request
    body: bytes


async def _exchange(wire: "_Wire", app: ASGIApp, extra: Mapping[str, Any]) -> bool:
    """One request and its response; whether another may follow."""
    if not await wire.awaits_request():
        return False
    late = 408, "the request did not arrive in time"
    with trio.move_on_after(wire.limits.request_seconds) as patience:
        try:
            request = await wire.read_request()
            scope = {**_scope(request.head), **extra}
        except _BadRequestError as refusal:
            await wire.refuse(refusal.status, "bad_request", refusal.message)
            return False
        late = 503, "the answer is not ready in time; try again"
        await _run(app, scope, _Answer(wire, request, patience))
    if patience.cancelled_caught and wire.may_respond:
        await wire.refuse(late[0], "timeout", late[1])
    return wire.next_cycle()


async def _run(app: ASGIApp, scope: Scope, answer: "_Answer") -> None:
    wire = answer.wire
    try:
        await app(scope, answer.receive, answer.send)
    except Exception as error:
        if wire.gone:
            raise _ClientGoneError from None
        # The path, but never the query, headers or body: they may carry secrets.
        log.exception("app failed", method=scope["method"], path=scope["path"], error=type(error).__name__)
    if wire.may_respond:
        await wire.refuse(500, "internal", "internal error; see the log of the server")


def _scope(head: h11.Request) -> Scope:
    target, _, query = head.target.partition(b"?")
    if not target.startswith(b"/") or head.method == b"CONNECT":
        raise _BadRequestError(400, "the request target is not a path")
    try:
        path = unquote_to_bytes(target).decode()
    except UnicodeDecodeError:
        raise _BadRequestError(400, "the path is not UTF-8") from None
    return {
        "type": "http",
        # At 2.3, and not above, Starlette itself listens for a client that leaves a streamed response.
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head.http_version.decode(),
        "method": head.method.decode(),
        "scheme": "https",
        "path": path,
        "raw_path": target,
        "query_string": query,
        "root_path": "",
        "headers": list(head.headers),
        "client": None,
        "server": None,
    }


class _Wire:
    """h11 and the stream under it."""

    def __init__(self, stream: trio.abc.Stream, limits: Limits) -> None:
        self.limits = limits
        self.gone = False
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self._head_only = False
        self._refused = False

    async def awaits_request(self) -> bool:
        """Wait for a request's first byte; False when the client leaves or idles instead."""
        if self._http.trailing_data[0]:
            return True
        with trio.move_on_after(self.limits.idle_seconds):
            return await self._read()
        return False

    async def read_request(self) -> _Request:
        """The next request, whole; raises _BadRequestError or _ClientGoneError."""
        try:
            head = await self._event()
            if not isinstance(head, h11.Request):
                raise _ClientGoneError
            self._head_only = head.method == b"HEAD"
            # h11 looks at its cap only while a head is incomplete.
            if sum(len(name) + len(value) for name, value in head.headers) > self.limits.header_bytes:
                raise _BadRequestError(431, "the request's head is too long")
            # h11 has checked that the value is digits, and at most 20 of them.
            self._check_body(int(dict(head.headers).get(b"content-length", 0)))
            body = bytearray()
            while isinstance(event := await self._event(), h11.Data):
                body += event.data
                self._check_body(len(body))
            return _Request(head, bytes(body))
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            what = "the request's head is too long" if status == 431 else "this is not valid HTTP"
            raise _BadRequestError(status, what) from None

    async def write(self, *events: h11.Event) -> None:
        data = b"".join(
            self._http.send(event) or b""
            for event in events
            if not (self._head_only and isinstance(event, h11.Data))
        )
        try:
            with trio.fail_after(self.limits.idle_seconds):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            self.gone = True
            raise _ClientGoneError from None

    async def refuse(self, status: int, reason: str, message: str) -> None:
        """One error response, after which the connection is closed."""
        body = error_body(reason, message)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        self._refused = True
        start = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase)
        await self.write(start, h11.Data(data=body), h11.EndOfMessage())

    @property
    def may_respond(self) -> bool:
        return self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def next_cycle(self) -> bool:
        """Make ready for another request; False when this connection is to be closed."""
        if self._refused or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def disconnected(self) -> None:
        """Return when the client has closed its side."""
        # The next request may wait here, at the cost of one head: who sends more of them unasked is cut off.
        while len(self._http.trailing_data[0]) <= self.limits.header_bytes:
            try:
                if not await self._read():
                    return
            except _ClientGoneError:
                return

    async def close(self) -> None:
        with trio.move_on_after(LINGER_SECONDS):
            if self._refused and not self.gone:
                await self._linger()
            await self._stream.aclose()

    async def _linger(self) -> None:
        """Closing over unread input makes TCP reset the connection, and the client lose the refusal."""
        try:
            if isinstance(self._stream, trio.abc.HalfCloseableStream):
                await self._stream.send_eof()
            read = 0
            while read < LINGER_BYTES and (data := await self._stream.receive_some(LINGER_BYTES)):
                read += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            if self._http.they_are_waiting_for_100_continue:
                await self.write(h11.InformationalResponse(status_code=100, headers=[]))
            await self._read()
        return event

    async def _read(self) -> bool:
        """Feed h11 what comes next; False at the end of the stream."""
        try:
            data = await self._stream.receive_some(self.limits.header_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.gone = True
            raise _ClientGoneError from None
        self._http.receive_data(bytes(data))
        return bool(data)

    def _check_body(self, size: int) -> None:
        if size > self.limits.body_bytes:
            raise _BadRequestError(413, f"the body is longer than {self.limits.body_bytes} bytes")


@dataclass(slots=True)
class _Answer:
    """The ASGI side of one exchange."""

    wire: _Wire
    request: _Request
    patience: trio.CancelScope
    _body_given: bool = False
    # Held back until the body begins: one write for a small response, and a clean 500 if the app fails between.
    _start: h11.Response | None = field(default=None)

    async def receive(self) -> Message:
        if not self._body_given:
            self._body_given = True
            return {"type": "http.request", "body": self.request.body, "more_body": False}
        await self.wire.disconnected()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            status, headers = HTTPStatus(message["status"]), message.get("headers", [])
            self._start = h11.Response(status_code=status, headers=headers, reason=status.phrase)
            return
        events: list[h11.Event] = []
        if self._start is not None:
            events.append(self._start)
            self._start = None
            self.patience.deadline = float("inf")  # a stream of records may go on; each write has its own
        if body := message.get("body", b""):
            events.append(h11.Data(data=bytes(body)))
        if not message.get("more_body", False):
            events.append(h11.EndOfMessage())
        await self.wire.write(*events)
