"""A small HTTP/1.1 client over any Trio stream, and the way to the CA's API."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Self

import h11
import msgspec
import trio
from OpenSSL import SSL

from pki import codec, statement
from pki.bundle import TrustBundle, open_pinned, open_successor
from pki.clock import Clock
from pki.errors import (
    ConfigError,
    Fault,
    LocalError,
    LockgateError,
    RefusedError,
    RemoteError,
    UnreachableError,
)
from pki.spiffe import IdKind
from pki.spki import Key
from pki.statement import MAX_STATEMENT_BYTES, Statement
from pki.tls.context import make_context, unverified_client_context
from pki.tls.stream import TlsStream
from pki.verify import Identity, verify

CONNECT_SECONDS = 5.0
READ_BYTES = 65_536
MAX_MESSAGE_CHARS = 500
MAX_FAULTS = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may cost."""

    header_bytes: int = 16_384
    body_bytes: int = 4_194_304
    answer_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Response:
    """``json`` is the decoded body; None when there is none."""

    status: int
    json: Any


class HttpClient:
    """One connection to the server ``name``: one request at a time, closed for good by the first failure.

    The server closes it when it idles, so connect for a task at hand and keep it no longer.
    """

    def __init__(self, stream: trio.abc.Stream, *, name: str, limits: Limits | None = None) -> None:
        self._stream = stream
        self._name = name
        self._limits = limits or Limits()
        self._ended = False
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._limits.header_bytes)

    async def request(
        self, method: str, path: str, json: object = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """The answer to one request; ``json`` None sends no body.

        Raises RefusedError with the server's message for its refusal (ConfigError when it names faults in what we
        sent), UnreachableError when no whole answer comes in time, RemoteError for one that is no HTTP or no JSON.
        """
        body = b"" if json is None else msgspec.json.encode(json)
        try:
            with trio.fail_after(self._limits.answer_seconds):
                await self._send(method, path, body, headers or {})
                head, answer = await self._receive()
            return self._judge(head.status_code, answer)
        except trio.TooSlowError:
            raise UnreachableError(f"{self._name}: no answer in time; try again") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # TLS 1.3 tells a client at its first read only that its certificate was not accepted.
            raise self._ended_early(str(error)) from None
        except h11.RemoteProtocolError:
            if self._ended:
                raise self._ended_early() from None
            raise RemoteError(f"{self._name}: its answer is not valid HTTP") from None
        finally:
            await self._tidy()

    def exporter(self, label: bytes, context: bytes) -> bytes:
        """Keying material that only this TLS connection's two ends have; raises LocalError without TLS."""
        if not isinstance(self._stream, TlsStream):
            raise LocalError(f"{self._name}: not a TLS connection")
        return self._stream.exporter(label, context)

    async def aclose(self) -> None:
        with trio.move_on_after(1):
            await self._stream.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        if self._http.our_state is not h11.IDLE:
            raise trio.ClosedResourceError
        # HTTP/1.1 wants a host; who answers is settled by TLS.
        lines = list({"host": "lockgate", **headers}.items())
        if body:
            lines += [("content-type", "application/json"), ("content-length", str(len(body)))]
        events = [
            h11.Request(method=method, target=path, headers=lines),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ]
        await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))

    async def _receive(self) -> tuple[h11.Response, bytes]:
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._event()
        if not isinstance(head, h11.Response):
            raise trio.BrokenResourceError
        body = bytearray()
        while isinstance(event := await self._event(), h11.Data):
            body += event.data
            if len(body) > self._limits.body_bytes:
                raise RemoteError(f"{self._name}: its answer is longer than {self._limits.body_bytes} bytes")
        return head, bytes(body)

    async def _event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            data = await self._stream.receive_some(READ_BYTES)
            self._ended = not data
            self._http.receive_data(bytes(data))
        return event

    def _judge(self, status: int, body: bytes) -> Response:
        if status >= 400:
            raise self._error(status, body)
        if not body:
            return Response(status, None)
        try:
            return Response(status, msgspec.json.decode(body))
        except (msgspec.DecodeError, RecursionError):
            raise RemoteError(f"{self._name}: its answer is not valid JSON") from None

    def _error(self, status: int, body: bytes) -> LockgateError:
        try:
            error = msgspec.json.decode(body, type=_ErrorBody).error
        except (msgspec.DecodeError, RecursionError):
            return RemoteError(f"{self._name}: answered with HTTP status {status}")
        if error.faults:
            return ConfigError(
                Fault(*map(_printable, (each.where, each.what, each.hint))) for each in error.faults
            )
        return RefusedError(_printable(error.message))

    def _ended_early(self, why: str = "") -> UnreachableError:
        detail = f" ({why})" if why else ""
        return UnreachableError(f"{self._name}: the connection ended before an answer came{detail}")

    async def _tidy(self) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        else:
            # Whatever is left would be taken for the answer to the next request.
            self._http.send_failed()
            await trio.aclose_forcefully(self._stream)


_Text = Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE_CHARS)]


class _Fault(msgspec.Struct):
    where: _Text
    what: _Text
    hint: _Text = ""


class _Error(msgspec.Struct):
    message: _Text
    faults: Annotated[list[_Fault], msgspec.Meta(max_length=MAX_FAULTS)] = []


class _ErrorBody(msgspec.Struct):
    error: _Error


async def fetch_bundle(address: str, pins: frozenset[bytes]) -> tuple[Statement, TrustBundle]:
    """The trust bundle of the CA at ``address`` (``host:port``), proven by a pin and by nothing else.

    Raises UnreachableError, and RemoteError when what answers is not the CA that made the pins.
    """
    name = f"CA {address}"
    tls = await _open_tls(await _dial(address, name), unverified_client_context(), name)
    async with HttpClient(tls, name=name) as client:
        answer = await client.request("GET", "/v1/bundle")
    try:
        carried = statement.parse(codec.convert(answer.json, _BundleBody, what="trust bundle").bundle)
        return carried, open_pinned(carried, pins)
    except RemoteError as error:
        hint = "ask the admin of this CA for a token of its own"
        raise RemoteError(f"{name}: not the CA that made this token ({error}); {hint}") from None


async def fetch_bundles(address: str, current: TrustBundle) -> list[Statement]:
    """The trust bundles that came after ``current``, oldest first, each proven by a root of the one before.

    Whoever slept through a rollover cannot verify the CA's TLS certificate any more, and need not: the bundles carry
    their own proof. Raises UnreachableError and RemoteError.
    """
    name = f"CA {address}"
    tls = await _open_tls(await _dial(address, name), unverified_client_context(), name)
    async with HttpClient(tls, name=name) as client:
        query = f"epoch={current.epoch}&sequence={current.sequence}"
        answer = await client.request("GET", f"/v1/bundles?{query}")
    found = []
    for raw in codec.convert(answer.json, _BundlesBody, what="trust bundles").bundles:
        carried = statement.parse(raw)
        later = open_successor(carried, current)
        if not later.newer_than(current):
            raise RemoteError(f"{name}: its trust bundles are not in their order")
        found.append(carried)
        current = later
    return found


async def connect_ca(
    address: str, bundle: TrustBundle, chain: tuple[bytes, ...], key: Key | None, clock: Clock
) -> HttpClient:
    """The API of the CA at ``address`` (``host:port``), proven to be a ``/ca/`` of ``bundle``.

    ``chain`` and ``key`` are our own, or empty and None to join. Raises UnreachableError, and RemoteError when who
    answers cannot prove to be the CA.
    """
    name = f"CA {address}"
    context = make_context(anchors=bundle.roots, chain=chain, key=key, server_side=False)
    tls = await _open_tls(await _dial(address, name), context, name)
    judgement = verify(tls.peer_chain(), bundle, clock.wall())
    if isinstance(judgement, Identity) and judgement.id.kind is IdKind.CA:
        return HttpClient(tls, name=name)
    await trio.aclose_forcefully(tls)
    if isinstance(judgement, Identity):
        # A node behind a forged address must not be taken for the CA.
        raise RemoteError(f"{name}: it is {judgement.id}, not a CA; check the address")
    raise RemoteError(f"{name}: {judgement}")


class _BundleBody(msgspec.Struct):
    bundle: Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)]


class _BundlesBody(msgspec.Struct):
    bundles: Annotated[
        list[Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)]], msgspec.Meta(max_length=64)
    ]


def _printable(text: str) -> str:
    """It ends on a terminal, where control characters are commands."""
    return "".join(char if char.isprintable() else " " for char in text)


async def _dial(address: str, name: str) -> trio.abc.Stream:
    host, _, port = address.rpartition(":")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise LocalError(f'{name}: not an address "host:port"')
    try:
        with trio.fail_after(CONNECT_SECONDS):
            return await trio.open_tcp_stream(host.removeprefix("[").removesuffix("]"), int(port))
    except (OSError, ValueError, trio.TooSlowError):
        raise UnreachableError(f"{name}: cannot connect; check that `lockgate ca serve` runs there") from None


async def _open_tls(transport: trio.abc.Stream, context: SSL.Context, name: str) -> TlsStream:
    tls = TlsStream(transport, context, server_side=False)
    try:
        with trio.fail_after(CONNECT_SECONDS):
            await tls.do_handshake()
        return tls
    except RemoteError as error:
        problem: LockgateError = RemoteError(f"{name}: {error}")
    except (trio.BrokenResourceError, trio.TooSlowError):
        problem = UnreachableError(f"{name}: the TLS handshake was not completed; check the address")
    await trio.aclose_forcefully(transport)
    raise problem
