"""Accepting TLS connections for an HTTP API: who is at the other end, before a byte of HTTP is read.

Every connection has its own boundary and costs a bounded time before it has proven anything: the handshake, the
wait for its turn included, has one deadline, and gives way to others where too many are under way. A client without a certificate is let through as nobody
(``scope["lockgate.peer"]`` is None), one whose certificate :func:`pki.verify.verify` rejects is not let through.
"""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
import trio
from OpenSSL import SSL
from starlette.types import ASGIApp

from pki.bundle import TrustBundle
from pki.clock import Clock
from pki.errors import RefusedError, RemoteError
from pki.http.server import Limits, serve_connection
from pki.tls.stream import TlsStream
from pki.tls.threshold import Threshold
from pki.verify import Identity, Rejected, verify

HANDSHAKE_SECONDS = 5.0
HANDSHAKES = 64
HANDSHAKES_PER_ADDRESS = 32
CONNECTIONS = 1024
CONNECTIONS_PER_ADDRESS = 128
STRANGERS = 512
"""Connections without a certificate, of all addresses together: there is always room for members."""
REPORT_SECONDS = 10.0
OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_SECONDS = 0.1

STRANGER = Limits(body_bytes=65_536)
"""For a client that has proven nothing: many of them must not fill the memory."""
MEMBER = Limits(body_bytes=6_553_600)
"""A policy of 1 MiB in JSON, where a control character is six."""

log = structlog.get_logger("pki.http")

Listeners = Sequence[trio.abc.Listener[trio.abc.Stream]]


async def serve(
    listeners: Listeners,
    app: ASGIApp,
    context: Callable[[], SSL.Context],
    bundle_of: Callable[[], TrustBundle],
    clock: Clock,
) -> None:
    """Serve ``app`` until cancelled, then close ``listeners``. Context and bundle are asked for at each accept."""
    door = _Door(app, context, bundle_of, clock)
    async with trio.open_nursery() as nursery:
        for listener in listeners:
            nursery.start_soon(door.accept_from, listener, nursery)


class _Tally:
    """Clients turned away: counted, and logged once in a while, so that a flood of them does not fill the log."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._next_report = float("-inf")

    def add(self, why: str) -> None:
        self._counts[why] += 1
        if trio.current_time() >= self._next_report:
            self._next_report = trio.current_time() + REPORT_SECONDS
            log.warning("clients turned away", counts=dict(self._counts))
            self._counts.clear()


@dataclass(slots=True)
class _Door:
    app: ASGIApp
    context: Callable[[], SSL.Context]
    bundle_of: Callable[[], TrustBundle]
    clock: Clock
    _threshold: Threshold = field(default_factory=lambda: Threshold(HANDSHAKES, HANDSHAKES_PER_ADDRESS))
    _connections: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(CONNECTIONS))
    _by_address: Counter[str] = field(default_factory=Counter)
    _strangers: int = 0
    _turned_away: _Tally = field(default_factory=_Tally)

    async def accept_from(self, listener: trio.abc.Listener[trio.abc.Stream], nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                await self._connections.acquire()
                transport = await self._accept(listener)
                nursery.start_soon(self._attend, transport)

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream]) -> trio.abc.Stream:
        while True:
            try:
                return await listener.accept()
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    raise
                # Connections end by themselves; to give up accepting would be for good.
                self._turned_away.add("no descriptors left")
                await trio.sleep(PAUSE_SECONDS)

    async def _attend(self, transport: trio.abc.Stream) -> None:
        """One connection, first to last. Nothing but cancellation leaves here."""
        try:
            await self._receive(transport, _address(transport))
        except Exception:  # the boundary of this connection
            log.exception("connection failed")
        finally:
            self._connections.release()
            await trio.aclose_forcefully(transport)

    async def _receive(self, transport: trio.abc.Stream, address: str) -> None:
        admitted = await self._admit(transport, address)
        if admitted is None:
            return
        stream, peer = admitted
        is_stranger = peer is None
        if self._by_address[address] >= CONNECTIONS_PER_ADDRESS:
            self._turned_away.add("too many connections from one address")
            return
        if is_stranger and self._strangers >= STRANGERS:
            self._turned_away.add("too many connections without a certificate")
            return
        self._by_address[address] += 1
        self._strangers += is_stranger
        try:
            extra = {"lockgate.peer": peer, "lockgate.exporter": stream.exporter}
            await serve_connection(stream, self.app, extra=extra, limits=STRANGER if is_stranger else MEMBER)
        finally:
            self._by_address -= Counter({address: 1})
            self._strangers -= is_stranger

    async def _admit(
        self, transport: trio.abc.Stream, address: str
    ) -> tuple[TlsStream, Identity | None] | None:
        """The connection and who is at its other end; None for one that is not let through."""
        stream = TlsStream(transport, self.context(), server_side=True)
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                async with self._threshold.crossing(address):
                    await stream.do_handshake()
        except trio.TooSlowError:
            self._turned_away.add("TLS handshake: not completed in time")
            return None
        except trio.BrokenResourceError:
            self._turned_away.add("TLS handshake: the client left")
            return None
        except (RefusedError, RemoteError) as error:
            self._turned_away.add(str(error))
            return None
        chain = stream.peer_chain()
        if not chain:
            return stream, None
        judgement = verify(chain, self.bundle_of(), self.clock.wall())
        if isinstance(judgement, Rejected):
            self._turned_away.add(str(judgement))
            return None
        return stream, judgement


def _address(transport: trio.abc.Stream) -> str:
    """The client's host; empty for what is no socket, or is gone already."""
    if not isinstance(transport, trio.SocketStream):
        return ""
    try:
        peer = transport.socket.getpeername()
    except OSError:
        return ""
    return str(peer[0]) if isinstance(peer, tuple) else ""
