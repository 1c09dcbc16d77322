import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing
from OpenSSL import SSL
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from pki.bundle import TrustBundle
from pki.clock import Boot, SystemClock, Wall
from pki.errors import RemoteError, UnreachableError
from pki.http import accept
from pki.http.client import HttpClient
from pki.spki import Key
from pki.tls.context import ClientCertificate, make_context, unverified_client_context
from pki.tls.stream import TlsStream
from tests.authority import TinyCa, new_key, tiny_ca


@pytest.fixture(scope="module")
def ca() -> TinyCa:
    """OpenSSL judges by the machine's clock, so this CA is of today."""
    return tiny_ca(at=SystemClock().wall())


@dataclass
class FixedClock:
    at: int

    def wall(self) -> Wall:
        return Wall(self.at)

    def boot(self) -> Boot:
        return Boot(0)


class MemoryListener(trio.abc.Listener[trio.abc.Stream]):
    """Accepts what a test connects, and fails first where a test says so."""

    def __init__(self) -> None:
        self.failures: list[OSError] = []
        self.accepted = 0
        self.closed = False
        self._send, self._receive = trio.open_memory_channel[trio.abc.Stream](1000)

    def connect(self) -> trio.StapledStream[Any, Any]:
        client, server = trio.testing.memory_stream_pair()
        self._send.send_nowait(server)
        return client

    async def accept(self) -> trio.abc.Stream:
        if self.failures:
            raise self.failures.pop()
        stream = await self._receive.receive()
        self.accepted += 1
        return stream

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


@dataclass
class Door:
    """A running server and the two ways in."""

    ca: TinyCa
    listener: MemoryListener = field(default_factory=MemoryListener)

    async def client(self, chain: tuple[bytes, ...] = (), key: Key | None = None) -> HttpClient:
        context = make_context(anchors=self.ca.bundle.roots, chain=chain, key=key, server_side=False)
        return await self.tls_client(context)

    async def tls_client(self, context: SSL.Context) -> HttpClient:
        stream = TlsStream(self.listener.connect(), context, server_side=False)
        await stream.do_handshake()
        return HttpClient(stream, name="test")


async def whoami(scope: Scope, receive: Receive, send: Send) -> None:
    peer = scope["lockgate.peer"]
    await JSONResponse(str(peer.id) if peer else None)(scope, receive, send)


@asynccontextmanager
async def serving(
    ca: TinyCa, at: int | None = None, bundle_of: Callable[[], TrustBundle] | None = None
) -> AsyncIterator[Door]:
    door = Door(ca)
    context = make_context(
        anchors=ca.bundle.roots,
        chain=ca.ca_chain,
        key=ca.ca_key,
        server_side=True,
        client_certificate=ClientCertificate.OPTIONAL,
    )
    clock = FixedClock(ca.at if at is None else at)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            accept.serve, [door.listener], whoami, lambda: context, bundle_of or (lambda: ca.bundle), clock
        )
        yield door
        nursery.cancel_scope.cancel()
    assert door.listener.closed


async def test_the_app_learns_who_calls(ca: TinyCa) -> None:
    """A member by its certificate; whoever shows none is nobody."""
    key = new_key()
    async with serving(ca) as door:
        for chain, own, seen in ((ca.issue(ca.node(), key), key, str(ca.node())), ((), None, None)):
            async with await door.client(chain, own) as client:
                assert (await client.request("GET", "/")).json == seen


async def turned_away(door: Door, chain: tuple[bytes, ...], key: Key) -> None:
    """The client is closed on without an answer."""
    async with await door.client(chain, key) as client:
        with pytest.raises(UnreachableError, match="ended before an answer"):
            await client.request("GET", "/")


async def test_a_certificate_that_our_judgement_rejects_is_worse_than_none(ca: TinyCa) -> None:
    """OpenSSL lets it pass, pki.verify does not: by the CA's clock it has expired."""
    key = new_key()
    with capture_logs() as logs:
        async with serving(ca, at=ca.at + 10**12) as door:
            await turned_away(door, ca.issue(ca.node(), key), key)
    assert [entry["counts"] for entry in logs] == [{"certificate refused: expired: leaf": 1}]


async def test_a_certificate_of_another_mesh_is_refused(ca: TinyCa) -> None:
    """Already by the handshake."""
    other, key = tiny_ca(at=ca.at), new_key()
    with capture_logs() as logs:
        async with serving(ca) as door:
            await turned_away(door, other.issue(other.node(), key), key)
    assert "TLS handshake" in str(logs)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x00" * 100, b"\x16\x03\x01\xff\xff"]
)
async def test_what_speaks_no_tls_is_closed_on(
    ca: TinyCa, garbage: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Plain HTTP, noise, and half a hello; the server goes on."""
    with capture_logs():
        async with serving(ca) as door:
            client = door.listener.connect()
            await client.send_all(garbage)
            async for _ in client:
                pass
            async with await door.client() as good:
                assert (await good.request("GET", "/")).json is None


async def test_tls_1_2_is_refused(ca: TinyCa) -> None:
    """There is one version."""
    context = unverified_client_context()
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    with capture_logs():
        async with serving(ca) as door:
            with pytest.raises(RemoteError, match="TLS handshake"):
                await door.tls_client(context)


async def test_half_open_handshakes_end_by_their_deadline(
    ca: TinyCa, autojump_clock: trio.testing.MockClock
) -> None:
    """The wait for a turn counts: more silent clients than turns are all gone after 5 s, in one log line."""
    with capture_logs() as logs:
        async with serving(ca) as door:
            clients = [door.listener.connect() for _ in range(accept.HANDSHAKES + 20)]
            start = trio.current_time()
            for client in clients:
                assert await client.receive_some() == b""
            assert trio.current_time() - start == pytest.approx(accept.HANDSHAKE_SECONDS)
    assert len(logs) == 1


async def test_half_open_handshakes_keep_nobody_out(
    ca: TinyCa, autojump_clock: trio.testing.MockClock
) -> None:
    """However many one address holds, the next client waits no longer than the oldest takes to stall."""
    with capture_logs():
        async with serving(ca) as door:
            for _ in range(500):
                door.listener.connect()
            await trio.testing.wait_all_tasks_blocked()
            start = trio.current_time()
            async with await door.client() as good:
                assert (await good.request("GET", "/")).json is None
            assert trio.current_time() - start < 1


async def test_one_address_has_a_share_of_the_connections(
    ca: TinyCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it, a connection is closed once its handshake is over; when others end, there is room again."""
    monkeypatch.setattr(accept, "CONNECTIONS_PER_ADDRESS", 3)
    with capture_logs():
        async with serving(ca) as door:
            clients = [await door.client() for _ in range(3)]
            async with await door.client() as another:
                with pytest.raises(UnreachableError):
                    await another.request("GET", "/")
            for client in clients:
                await client.aclose()
            await trio.testing.wait_all_tasks_blocked()
            async with await door.client() as good:
                assert (await good.request("GET", "/")).json is None


async def test_strangers_leave_room_for_members(ca: TinyCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many have no certificate, a node can still renew its own."""
    monkeypatch.setattr(accept, "STRANGERS", 2)
    key = new_key()
    with capture_logs():
        async with serving(ca) as door:
            strangers = [await door.client() for _ in range(2)]
            async with await door.client() as third:
                with pytest.raises(UnreachableError):
                    await third.request("GET", "/")
            async with await door.client(ca.issue(ca.node(), key), key) as member:
                assert (await member.request("GET", "/")).json == str(ca.node())
            for stranger in strangers:
                await stranger.aclose()
            await trio.testing.wait_all_tasks_blocked()
            async with await door.client() as good:
                assert (await good.request("GET", "/")).json is None


async def test_accepting_pauses_at_the_cap_of_all(
    ca: TinyCa, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """What cannot be attended waits in the kernel's queue, not in ours."""
    monkeypatch.setattr(accept, "CONNECTIONS", 3)
    with capture_logs():
        async with serving(ca) as door:
            clients = [door.listener.connect() for _ in range(5)]
            await trio.testing.wait_all_tasks_blocked()
            assert door.listener.accepted == 3
            await clients[0].aclose()
            await trio.testing.wait_all_tasks_blocked()
            assert door.listener.accepted == 4


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_accepting_goes_on_after_descriptors_ran_out(
    ca: TinyCa, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    """It pauses, and says so once, not ten times a second."""
    with capture_logs() as logs:
        async with serving(ca) as door:
            door.listener.failures = [OSError(code, "out of it")] * 50
            door.listener.connect()
            async with await door.client() as good:
                assert (await good.request("GET", "/")).json is None
    assert len(logs) == 1


async def test_a_listener_that_is_gone_is_an_error(ca: TinyCa) -> None:
    """The API must not be down without anyone knowing."""
    listener = MemoryListener()
    listener.failures = [OSError(errno.EINVAL, "Invalid argument")]
    with pytest.raises(ExceptionGroup) as caught:
        await accept.serve(
            [listener], whoami, lambda: SSL.Context(SSL.TLS_METHOD), lambda: ca.bundle, SystemClock()
        )
    assert caught.group_contains(OSError, match="Invalid argument", depth=1)
    assert listener.closed


async def test_what_fails_unexpectedly_ends_one_connection_only(ca: TinyCa) -> None:
    """Its siblings go on, and the log has it once."""
    key, calls = new_key(), 0

    def bundle_of() -> TrustBundle:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        return ca.bundle

    chain = ca.issue(ca.node(), key)
    with capture_logs() as logs:
        async with serving(ca, bundle_of=bundle_of) as door:
            await turned_away(door, chain, key)
            async with await door.client(chain, key) as client:
                assert (await client.request("GET", "/")).json == str(ca.node())
    assert [entry["event"] for entry in logs] == ["connection failed"]


async def test_the_address_of_a_socket_is_its_host() -> None:
    """All ports of one host share its cap."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.testing.open_stream_to_socket_listener(listeners[0])
    async with await listeners[0].accept() as server, client, listeners[0]:
        assert accept._address(server) == "127.0.0.1"
    assert accept._address(server) == ""
