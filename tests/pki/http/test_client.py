import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pki.clock import Boot, SystemClock, Wall
from pki.errors import (
    ConfigError,
    Fault,
    LocalError,
    LockgateError,
    RefusedError,
    RemoteError,
    UnreachableError,
)
from pki.http.accept import serve
from pki.http.client import HttpClient, Limits, connect_ca, fetch_bundle
from pki.http.server import serve_connection
from pki.spki import Key, spki_sha256
from pki.tls.context import ClientCertificate, make_context
from tests.authority import TinyCa, new_key, tiny_ca


async def mirror(request: Request) -> Response:
    return JSONResponse(
        {
            "method": request.method,
            "body": (await request.body()).decode(),
            "header": request.headers.get("x-test"),
        }
    )


APP = Starlette(
    routes=[
        Route("/mirror", mirror, methods=["GET", "POST"]),
        Route("/empty", lambda _: Response(status_code=204)),
        Route("/close", lambda _: JSONResponse({}, headers={"connection": "close"})),
    ]
)


@asynccontextmanager
async def talking_to(answer: bytes, limits: Limits | None = None) -> AsyncIterator[HttpClient]:
    """A client of a server that has said this, and ended."""
    client, server = trio.testing.memory_stream_pair()
    await server.send_all(answer)
    await server.send_eof()
    async with HttpClient(client, name="CA ca:7444", limits=limits) as http:
        yield http


async def test_requests_share_a_connection() -> None:
    """One after another, with and without a body."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, APP, extra={}))
        async with HttpClient(client, name="ca") as http:
            for json, body in (({"a": b"bytes"}, '{"a":"Ynl0ZXM="}'), (None, ""), ([], "[]")):
                answer = await http.request("POST", "/mirror", json=json, headers={"x-test": "yes"})
                assert answer.status == 200
                assert answer.json == {"method": "POST", "body": body, "header": "yes"}
            assert (await http.request("GET", "/empty")).json is None


async def test_a_connection_that_the_server_ends_is_not_used_again() -> None:
    """The next request on it fails at once instead of hanging."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, APP, extra={}))
        async with HttpClient(client, name="ca") as http:
            await http.request("GET", "/close")
            with pytest.raises(UnreachableError, match="ended before an answer"):
                await http.request("GET", "/mirror")


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        pytest.param(b"", UnreachableError, "ended before an answer", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", UnreachableError, "ended before an answer", id="half a head"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", RemoteError, "not valid HTTP", id="another protocol"),
        pytest.param(answer(200, b"body")[:-1], UnreachableError, "ended before an answer", id="half a body"),
        pytest.param(answer(200, b"body"), RemoteError, "not valid JSON", id="no JSON"),
        pytest.param(answer(200, b"[" * 10_000), RemoteError, "not valid JSON", id="deep JSON"),
        pytest.param(answer(200, b"x" * 1001), RemoteError, "longer than 1000 bytes", id="too long"),
        pytest.param(answer(502, b"<html>"), RemoteError, "HTTP status 502", id="no error body"),
        pytest.param(
            answer(403, b"[" * 10_000), RemoteError, "too long|HTTP status 403|longer", id="deep error"
        ),
        pytest.param(answer(403, b'{"error":{"message":1}}'), RemoteError, "HTTP status 403", id="odd error"),
        pytest.param(
            answer(403, b'{"error":{"reason":"banned","message":"no, ask alice"}}'),
            RefusedError,
            "^no, ask alice$",
            id="a refusal",
        ),
        pytest.param(
            answer(403, b'{"error":{"reason":"x","message":"\\u001b[2J\\nINFO ok"}}'),
            RefusedError,
            r"^ \[2J INFO ok$",
            id="a refusal for terminals",
        ),
    ],
)
async def test_each_failure_has_its_kind_and_one_line(
    said: bytes, error: type[LockgateError], message: str
) -> None:
    """Whose fault it is stands in the type, and no control character of the server reaches a terminal."""
    limits = Limits(body_bytes=10_000 if b"[[" in said else 1000)
    async with talking_to(said, limits) as http:
        with pytest.raises(error, match=message) as caught:
            await http.request("GET", "/")
    assert str(caught.value).isprintable()


async def test_faults_in_what_we_sent_come_back_one_by_one() -> None:
    """The CA finds all that is wrong with a policy, and the admin sees all of it."""
    body = b'{"error":{"reason":"faults","message":"2","faults":[{"where":"a:1","what":"b"},{"where":"c","what":"d\\n"}]}}'
    async with talking_to(answer(422, body)) as http:
        with pytest.raises(ConfigError) as caught:
            await http.request("GET", "/")
    assert caught.value.faults == (Fault("a:1", "b"), Fault("c", "d "))


async def test_a_server_that_is_silent_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    """After 30 s, and the connection is closed."""
    client, server = trio.testing.memory_stream_pair()
    with pytest.raises(UnreachableError, match="no answer in time"):
        await HttpClient(client, name="ca").request("GET", "/")
    await server.receive_some()
    assert await server.receive_some() == b""


async def test_a_late_answer_is_never_taken_for_the_next_one(autojump_clock: trio.testing.MockClock) -> None:
    """A request that failed ends the connection."""
    client, _ = trio.testing.memory_stream_pair()
    http = HttpClient(client, name="ca")
    with pytest.raises(UnreachableError):
        await http.request("GET", "/first")
    with pytest.raises(UnreachableError, match="ended"):
        await http.request("GET", "/second")


async def test_an_interim_answer_is_skipped() -> None:
    """A 1xx is not the answer (RFC 9110 section 15.2)."""
    async with talking_to(b"HTTP/1.1 103 Hints\r\n\r\n" + answer(200, b"7")) as http:
        assert (await http.request("GET", "/")).json == 7


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" * (len(tail) % 2) + tail))
def test_any_answer_is_a_value_or_an_expected_error(said: bytes) -> None:
    """No bytes of a server raise anything else."""

    async def main() -> None:
        async with talking_to(said) as http:
            with suppress(RemoteError, UnreachableError):
                await http.request("GET", "/")

    trio.run(main)


# The way to the CA


class ShiftedClock:
    """The machine's time, so many microseconds on."""

    def __init__(self, shift: int) -> None:
        self.shift = shift

    def wall(self) -> Wall:
        return Wall(SystemClock().wall() + self.shift)

    def boot(self) -> Boot:
        return SystemClock().boot()


@pytest.fixture(scope="module")
def ca() -> TinyCa:
    """OpenSSL judges by the machine's clock, so this CA is of today."""
    return tiny_ca(at=SystemClock().wall())


def pins_of(ca: TinyCa) -> frozenset[bytes]:
    return frozenset({spki_sha256(ca.root.key.public_key())})


@asynccontextmanager
async def api(
    ca: TinyCa, chain: tuple[bytes, ...], key: Key, bundle_body: object = None
) -> AsyncIterator[str]:
    """The address of a little API that presents ``chain``; who calls is mirrored."""

    async def whoami(request: Request) -> Response:
        peer = request.scope["lockgate.peer"]
        return JSONResponse({"peer": str(peer.id) if peer else None})

    async def bundle(_: Request) -> Response:
        return JSONResponse(bundle_body)

    app = Starlette(routes=[Route("/whoami", whoami), Route("/v1/bundle", bundle)])
    context = make_context(
        anchors=ca.bundle.roots,
        chain=chain,
        key=key,
        server_side=True,
        client_certificate=ClientCertificate.OPTIONAL,
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(listeners, app, lambda: context, lambda: ca.bundle, SystemClock()))
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_the_ca_and_its_caller_prove_themselves(ca: TinyCa) -> None:
    """A node is known to the CA by its certificate, a newcomer is nobody."""
    key = new_key()
    async with api(ca, ca.ca_chain, ca.ca_key) as address:
        for chain, own, seen in ((ca.issue(ca.node(), key), key, str(ca.node())), ((), None, None)):
            client = await connect_ca(address, ca.bundle, chain, own, SystemClock())
            async with client:
                assert (await client.request("GET", "/whoami")).json == {"peer": seen}


async def test_a_member_that_is_no_ca_is_not_taken_for_it(ca: TinyCa) -> None:
    """A node at the CA's address has a certificate of the same mesh, and is refused."""
    key = new_key()
    async with api(ca, ca.issue(ca.node(), key), key) as address:
        with pytest.raises(RemoteError, match="node/agents-1, not a CA"):
            await connect_ca(address, ca.bundle, (), None, SystemClock())


async def test_a_ca_of_another_mesh_is_refused(ca: TinyCa) -> None:
    """The trust bundle decides, not the address."""
    other = tiny_ca(at=ca.at)
    async with api(other, other.ca_chain, other.ca_key) as address:
        with pytest.raises(RemoteError, match=f"CA {address}: TLS handshake"):
            await connect_ca(address, ca.bundle, (), None, SystemClock())


async def test_a_ca_that_our_own_judgement_rejects_is_refused(ca: TinyCa) -> None:
    """TLS alone is not enough: here, it is expired by our clock only."""
    async with api(ca, ca.ca_chain, ca.ca_key) as address:
        with pytest.raises(RemoteError, match="certificate refused: expired"):
            await connect_ca(address, ca.bundle, (), None, ShiftedClock(10**15))


async def test_a_caller_with_a_foreign_certificate_is_told(ca: TinyCa) -> None:
    """TLS 1.3 lets the client finish first, so the word comes with the first request."""
    other, key = tiny_ca(at=ca.at), new_key()
    async with api(ca, ca.ca_chain, ca.ca_key) as address:
        client = await connect_ca(address, ca.bundle, other.issue(other.node(), key), key, SystemClock())
        async with client:
            with pytest.raises(UnreachableError, match="ended before an answer came"):
                await client.request("GET", "/whoami")


async def test_the_bundle_is_proven_by_a_pin(ca: TinyCa) -> None:
    """Fetched from anyone, believed only as the root of the pin signed it."""
    body = {"bundle": _base64(ca.bundle_statement.raw)}
    async with api(ca, ca.ca_chain, ca.ca_key, body) as address:
        statement, bundle = await fetch_bundle(address, pins_of(ca))
        assert (statement.raw, bundle) == (ca.bundle_statement.raw, ca.bundle)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({}, id="no bundle"),
        pytest.param({"bundle": "AAAA"}, id="no statement"),
        pytest.param({"bundle": 7}, id="no text"),
        pytest.param("foreign", id="of another root"),
    ],
)
async def test_a_bundle_that_the_pin_does_not_prove_is_refused(ca: TinyCa, said: object) -> None:
    """A token of another CA: one line that says so and what to do."""
    other = tiny_ca(at=ca.at)
    body = {"bundle": _base64(other.bundle_statement.raw)} if said == "foreign" else said
    async with api(ca, ca.ca_chain, ca.ca_key, body) as address:
        with pytest.raises(RemoteError, match=r"not the CA that made this token .* ask the admin"):
            await fetch_bundle(address, pins_of(ca))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_nobody_at_the_address_is_unreachable(ca: TinyCa) -> None:
    """With the address, and what to check."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    await listener.aclose()
    with pytest.raises(UnreachableError, match=f"CA {address}: cannot connect"):
        await connect_ca(address, ca.bundle, (), None, SystemClock())


@pytest.mark.parametrize("address", ["", "ca", "ca:", "ca:x", "ca:٣", "ca:123456"])
async def test_an_address_that_is_none_is_our_own_fault(ca: TinyCa, address: str) -> None:
    """It is named before anything is dialled."""
    with pytest.raises(LocalError, match='not an address "host:port"'):
        await fetch_bundle(address, pins_of(ca))


async def misbehave(play: Callable[[trio.SocketStream], Awaitable[None]]) -> str:
    """What a client is told by a CA whose socket does this instead of TLS."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def accept() -> None:
        async with listener, await listener.accept() as stream:
            await play(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with pytest.raises(LockgateError) as caught:
            await fetch_bundle(f"127.0.0.1:{listener.socket.getsockname()[1]}", frozenset())
        nursery.cancel_scope.cancel()
    return str(caught.value)


async def test_what_speaks_no_tls_is_told_from_what_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain HTTP server, one that hangs up, and one that is silent."""
    monkeypatch.setattr("pki.http.client.CONNECT_SECONDS", 0.05)

    async def plain(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await stream.receive_some()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    assert "TLS handshake: " in await misbehave(plain)
    assert "not completed" in await misbehave(hang_up)
    assert "not completed" in await misbehave(silent)
