import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.testing import capture_logs

from pki.http.server import Limits, error_body, serve_connection

Client = trio.StapledStream[Any, Any]


async def hello(request: Request) -> Response:
    return JSONResponse({"peer": request.scope.get("lockgate.peer"), "path": request.url.path})


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def crash(request: Request) -> Response:
    raise ZeroDivisionError("the secret is sesame")


async def hang(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def ticks(request: Request) -> Response:
    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield b"tick\n"
            await trio.sleep(100)

    return StreamingResponse(forever())


APP = Starlette(
    routes=[
        Route("/hello", hello),
        Route("/echo", echo, methods=["POST"]),
        Route("/crash", crash),
        Route("/hang", hang),
        Route("/ticks", ticks),
    ]
)


async def talk(
    sent: bytes, *, app: ASGIApp = APP, limits: Limits | None = None, extra: dict[str, Any] | None = None
) -> bytes:
    """All that the server says to a client that sends these bytes and then ends its side."""
    client, server = trio.testing.memory_stream_pair()
    said = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, app, extra=extra or {}, limits=limits))
        await client.send_all(sent)
        await client.send_eof()
        async for chunk in client:
            said += chunk
    return said


async def converse(
    play: Callable[[Client], Awaitable[None]], *, app: ASGIApp = APP, limits: Limits | None = None
) -> None:
    """Run ``play`` against a server, and leave when the server is done with the connection."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, app, extra={}, limits=limits))
        await play(client)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: ca", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def status_of(said: bytes | bytearray) -> int:
    return int(bytes(said).split(b" ", 2)[1])


def body_of(said: bytes) -> Any:
    return json.loads(said.partition(b"\r\n\r\n")[2])


async def test_the_identity_of_the_peer_comes_from_the_acceptor_only() -> None:
    """``extra`` is in the scope, and no header can put something there."""
    said = await talk(
        request("GET", "/hello", b"", "lockgate.peer: admin"), extra={"lockgate.peer": "node-1"}
    )
    assert body_of(said) == {"peer": "node-1", "path": "/hello"}
    said = await talk(request("GET", "/hello", b"", "lockgate.peer: admin"))
    assert body_of(said)["peer"] is None


async def test_one_connection_answers_many_requests_in_order() -> None:
    """Keep-alive, pipelined requests included."""
    said = await talk(request("POST", "/echo", b"first") + request("POST", "/echo", b"second"))
    assert said.count(b"HTTP/1.1 200") == 2
    assert said.index(b"first") < said.index(b"second")


async def test_a_chunked_body_arrives_whole() -> None:
    """Transfer-Encoding: chunked is decoded before the app sees it."""
    head = b"POST /echo HTTP/1.1\r\nHost: ca\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert (await talk(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")).endswith(b"\r\n\r\nabcde")


async def test_a_head_request_gets_no_body() -> None:
    """RFC 9110 section 9.3.2: the head of the GET response, and nothing after it."""
    said = await talk(request("HEAD", "/hello"))
    assert status_of(said) == 200
    assert said.endswith(b"\r\n\r\n")


async def test_a_client_that_waits_for_100_continue_is_told_to_go_on() -> None:
    """RFC 9110 section 10.1.1."""

    async def play(client: Client) -> None:
        head, body = request("POST", "/echo", b"abc", "Expect: 100-continue").split(b"\r\n\r\n")
        await client.send_all(head + b"\r\n\r\n")
        assert status_of(await client.receive_some()) == 100
        await client.send_all(body)
        assert status_of(await client.receive_some()) == 200
        await client.aclose()

    await converse(play)


async def test_an_upgrade_that_is_offered_is_ignored_and_the_connection_goes_on() -> None:
    """The server may decline an Upgrade by answering as if it were not there."""
    upgrade = request("GET", "/hello", b"", "Connection: upgrade", "Upgrade: h2c")
    assert (await talk(upgrade + request("GET", "/hello"))).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="a TLS hello"),
        pytest.param(b"hello\r\n\r\n", 400, id="one word"),
        pytest.param(b"GET /hello HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(b"GET /hello HTTP/1.1\r\nHost: ca\r\nContent-Length: ten\r\n\r\n", 400, id="no number"),
        pytest.param(request("CONNECT", "ca:22"), 400, id="CONNECT"),
        pytest.param(request("GET", "http://elsewhere/hello"), 400, id="a proxy request"),
        pytest.param(request("GET", "/%ff"), 400, id="not UTF-8"),
        pytest.param(request("GET", "/" + "x" * 5000), 431, id="a long line"),
        pytest.param(request("GET", "/", b"", f"a: {'x' * 900}", f"b: {'x' * 900}"), 431, id="a long head"),
        pytest.param(request("POST", "/echo", b"x" * 101), 413, id="a long body"),
        pytest.param(
            b"POST /echo HTTP/1.1\r\nHost: ca\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n"
            + b"x" * 0x65
            + b"\r\n",
            413,
            id="a long chunked body",
        ),
        pytest.param(
            b"POST /echo HTTP/1.1\r\nHost: ca\r\nContent-Length: 9\r\n\r\nshort", 400, id="a cut body"
        ),
    ],
)
async def test_bad_http_gets_one_error_and_the_end(sent: bytes, status: int) -> None:
    """After a request that is out of shape, or over a cap, nothing that follows is trusted."""
    with capture_logs() as logs:
        said = await talk(sent, limits=Limits(header_bytes=1024, body_bytes=100))
    assert status_of(said) == status
    assert said.count(b"HTTP/1.1") == 1
    assert b"onnection: close" in said
    assert set(body_of(said)["error"]) == {"reason", "message"}
    assert logs == []


async def test_a_request_after_a_refused_one_is_not_answered() -> None:
    """The smuggled second request of a broken first one stays unread."""
    said = await talk(b"GET /hello HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + request("GET", "/hello"))
    assert said.count(b"HTTP/1.1") == 1


async def test_an_exception_of_the_app_is_a_bare_500_logged_once() -> None:
    """The client learns nothing of the inside, and the log has the traceback."""
    with capture_logs() as logs:
        said = await talk(request("GET", "/crash?token=sesame-open"))
    assert status_of(said) == 500
    assert b"sesame" not in said
    assert [(entry["event"], entry["path"]) for entry in logs] == [("app failed", "/crash")]
    assert "sesame-open" not in str(logs)


async def raw_app_that_fails(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ZeroDivisionError


async def raw_app_that_stops_half_way(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ZeroDivisionError


async def raw_app_that_is_silent(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def raw_app_with_a_bad_header(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]})


@pytest.mark.parametrize("app", [raw_app_that_fails, raw_app_that_is_silent, raw_app_with_a_bad_header])
async def test_an_app_without_a_whole_answer_is_a_500(app: ASGIApp) -> None:
    """Nothing has left before the body begins, so the 500 is clean."""
    with capture_logs():
        said = await talk(request("GET", "/"), app=app)
    assert status_of(said) == 500


async def test_an_answer_that_breaks_off_half_way_is_never_completed() -> None:
    """The client sees fewer bytes than announced, and the end."""
    with capture_logs():
        said = await talk(request("GET", "/") + request("GET", "/"), app=raw_app_that_stops_half_way)
    assert said.endswith(b"half")


async def test_a_request_that_trickles_ends_at_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A slow client costs one task for the time of one request, however often it sends."""

    async def play(client: Client) -> None:
        for byte in request("GET", "/hello")[:20]:
            await client.send_all(bytes([byte]))
            await trio.sleep(1)
        assert status_of(await client.receive_some()) == 408
        await client.aclose()

    await converse(play, limits=Limits(request_seconds=10))


async def test_an_idle_connection_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """Between requests there is a deadline, too, and no error is sent: the client may be about to leave."""

    async def play(client: Client) -> None:
        await client.send_all(request("GET", "/hello"))
        assert status_of(await client.receive_some()) == 200
        start = trio.current_time()
        assert await client.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(60)

    await converse(play)


async def test_an_app_that_hangs_is_a_503(autojump_clock: trio.testing.MockClock) -> None:
    """The deadline of a request covers the app up to the start of its answer."""

    async def play(client: Client) -> None:
        await client.send_all(request("GET", "/hang"))
        assert status_of(await client.receive_some()) == 503
        await client.aclose()

    await converse(play)


async def test_a_streamed_answer_outlives_the_request_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A stream of records goes on while its client reads, and ends when its client leaves."""

    async def play(client: Client) -> None:
        await client.send_all(request("GET", "/ticks"))
        said = b""
        while said.count(b"tick") < 10:
            said += await client.receive_some()
        assert trio.current_time() > 30
        await client.aclose()

    with capture_logs() as logs:
        await converse(play)
    assert logs == []


async def test_a_client_that_never_reads_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    """A write that nobody takes ends the connection, quietly."""
    client, server = trio.testing.lockstep_stream_pair()
    start = trio.current_time()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: serve_connection(server, APP, extra={}))
            await client.send_all(request("GET", "/hello"))
    assert trio.current_time() - start == pytest.approx(60, abs=2)
    assert logs == []


async def test_a_flood_of_pipelined_requests_ends_a_streamed_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What a client sends while it is answered is kept up to the cap of one head, never without bound."""

    async def play(client: Client) -> None:
        await client.send_all(request("GET", "/ticks"))
        await client.receive_some()
        await client.send_all(request("GET", "/hello") * 1000)
        async for _ in client:
            pass

    await converse(play)


async def test_a_client_that_vanishes_is_not_an_error() -> None:
    """A connection that breaks at any point ends quietly."""
    whole = request("POST", "/echo", b"abc")
    with capture_logs() as logs:
        for length in range(len(whole) + 1):
            client, server = trio.testing.memory_stream_pair()
            await client.send_all(whole[:length])
            await client.aclose()
            await serve_connection(server, APP, extra={})
    assert logs == []


async def test_a_connection_that_breaks_ends_a_streamed_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A reset, as opposed to a clean end, is a client that left, too."""

    class Reset(trio.abc.Stream):
        def __init__(self) -> None:
            self.received = [request("GET", "/ticks")]

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            assert data
            await trio.lowlevel.checkpoint()

        async def wait_send_all_might_not_block(self) -> None: ...

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            await trio.sleep(10)
            if not self.received:
                raise trio.BrokenResourceError(max_bytes)
            return self.received.pop()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with capture_logs() as logs:
        await serve_connection(Reset(), APP, extra={})
    assert logs == []


async def test_only_cancellation_leaves_a_connection() -> None:
    """A stream that fails in a way nobody expects is logged and ends that one connection."""

    class Broken(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise ZeroDivisionError(max_bytes)

        async def aclose(self) -> None:
            raise ZeroDivisionError

    with capture_logs() as logs:
        await serve_connection(Broken(), APP, extra={})
    assert [entry["event"] for entry in logs] == ["connection failed"]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_get_an_answer_or_the_end(garbage: bytes, after_a_good_one: bool) -> None:
    """No bytes make the server raise, log, or answer with anything but HTTP."""

    async def main() -> None:
        with capture_logs() as logs:
            said = await talk(request("GET", "/hello") * after_a_good_one + garbage)
        assert logs == []
        assert said == b"" or said.startswith(b"HTTP/1.1 ")

    trio.run(main)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_request_with_changed_bytes_gets_an_answer_or_the_end(data: st.DataObject) -> None:
    """Mutations of a good request reach deeper into the parser than random bytes."""
    good = bytearray(
        request("POST", "/echo?a=b", b"body", "Transfer-Encoding: identity", "Expect: 100-continue")
    )
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))

    async def main() -> None:
        with capture_logs() as logs:
            said = await talk(bytes(good))
        assert logs == []
        assert said == b"" or said.startswith(b"HTTP/1.1 ")

    trio.run(main)


def test_an_error_is_json_with_a_reason_and_a_message() -> None:
    """The one shape of every refusal."""
    assert json.loads(error_body("limit", "too many")) == {
        "error": {"reason": "limit", "message": "too many"}
    }
