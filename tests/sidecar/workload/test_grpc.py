"""The other end is h2's client, which keeps to the protocol, and now and then bytes that do not."""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import pytest
import trio
import trio.testing
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived
from hypothesis import given
from hypothesis import strategies as st

from sidecar.workload.grpc import (
    GREETING_SECONDS,
    MAX_CALLS,
    MAX_REQUEST_BYTES,
    SEND_SECONDS,
    Call,
    GrpcError,
    Status,
    serve_grpc,
)

EMPTY = bytes(5)
BIG = b"x" * 200_000


async def greet(call: Call) -> None:
    """Two messages, the second with a word of the caller's."""
    await call.send(b"one")
    await call.send(call.headers.get("word", "").encode())


async def refuse(call: Call) -> None:
    raise GrpcError(Status.PERMISSION_DENIED, "not you: 100 %")


async def pour(call: Call) -> None:
    """More than a window of bytes."""
    await call.send(BIG)


async def wait(call: Call) -> None:
    """A stream that stays open."""
    await call.send(b"first")
    await trio.sleep_forever()


METHODS = {"/s/Greet": greet, "/s/Refuse": refuse, "/s/Pour": pour, "/s/Wait": wait}


class Client:
    """An HTTP/2 client that collects what comes, by stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.headers: dict[int, dict[str, str]] = defaultdict(dict)
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.takes = True
        """Whether windows are opened again for what has come."""

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def call(
        self, path: str, body: bytes = EMPTY, changed: Mapping[str, str] = MappingProxyType({})
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":authority": "localhost",
            ":path": path,
            "content-type": "application/grpc",
            "te": "trailers",
        }
        self.h2.send_headers(number, [*{**headers, **changed}.items()])
        self.h2.send_data(number, body, end_stream=True)
        await self.flush()
        return number

    async def step(self) -> bool:
        """Take what comes next; False at the end of the connection."""
        data = await self.stream.receive_some()
        for event in self.h2.receive_data(data) if data else ():
            match event:
                case ResponseReceived() | TrailersReceived():
                    self.headers[event.stream_id] |= {str(name): str(value) for name, value in event.headers}
                case DataReceived():
                    self.data[event.stream_id] += event.data
                    if self.takes:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded():
                    self.ended.add(event.stream_id)
                case _:
                    pass
        if data:
            await self.flush()
        return bool(data)

    async def answer(self, number: int) -> tuple[dict[str, str], list[bytes]]:
        while number not in self.ended:
            assert await self.step(), "the connection ended first"
        return self.headers[number], messages(self.data[number])


def messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        length = int.from_bytes(data[1:5])
        assert data[0] == 0
        found.append(data[5 : 5 + length])
        data = data[5 + length :]
    return found


@asynccontextmanager
async def client() -> AsyncIterator[Client]:
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_grpc, far, METHODS)
        one = Client(near)
        one.h2.initiate_connection()
        await one.flush()
        yield one
        await near.aclose()


async def test_a_call_is_answered_message_by_message() -> None:
    """Then its status."""
    async with client() as one:
        headers, answers = await one.answer(await one.call("/s/Greet", changed={"word": "two"}))
    assert answers == [b"one", b"two"]
    assert (headers[":status"], headers["grpc-status"]) == ("200", "0")


@pytest.mark.parametrize(
    ("path", "changed", "status"),
    [
        ("/s/Refuse", {}, Status.PERMISSION_DENIED),
        ("/s/Unknown", {}, Status.UNIMPLEMENTED),
        ("/s/Greet", {":method": "GET"}, Status.UNIMPLEMENTED),
        ("/s/Greet", {"content-type": "application/json"}, Status.INVALID_ARGUMENT),
    ],
)
async def test_a_refusal_is_a_status_with_words(path: str, changed: dict[str, str], status: Status) -> None:
    """And the connection goes on."""
    async with client() as one:
        headers, answers = await one.answer(await one.call(path, changed=changed))
        assert (headers[":status"], headers["grpc-status"], answers) == ("200", str(int(status)), [])
        assert headers["grpc-message"]
        assert (await one.answer(await one.call("/s/Greet")))[1][0] == b"one"


async def test_words_of_a_refusal_are_percent_encoded() -> None:
    """As gRPC demands of what is not printable ASCII, and of the percent sign."""
    async with client() as one:
        headers, _ = await one.answer(await one.call("/s/Refuse"))
    assert headers["grpc-message"] == "not you%3A 100 %25"


async def test_a_message_larger_than_the_window_waits_for_room() -> None:
    """It arrives whole, in frames as the caller takes them."""
    async with client() as one:
        _, answers = await one.answer(await one.call("/s/Pour"))
    assert answers == [BIG]


async def test_a_caller_that_takes_nothing_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """Its answers would stand in our memory for good."""
    async with client() as one:
        one.takes = False
        await one.call("/s/Pour")
        while await one.step():
            pass
    assert autojump_clock.current_time() >= SEND_SECONDS


async def test_a_caller_that_says_nothing_is_left(autojump_clock: trio.testing.MockClock) -> None:
    """Any user could hold descriptors so."""
    near, far = trio.testing.memory_stream_pair()
    await serve_grpc(far, METHODS)
    assert autojump_clock.current_time() == pytest.approx(GREETING_SECONDS)
    await near.aclose()


async def test_a_call_that_is_reset_ends() -> None:
    """And another on the same connection is served."""
    async with client() as one:
        number = await one.call("/s/Wait")
        while not one.data[number]:
            await one.step()
        one.h2.reset_stream(number, ErrorCodes.CANCEL)
        await one.flush()
        assert (await one.answer(await one.call("/s/Greet")))[1][0] == b"one"


@pytest.mark.parametrize("header", [(b"word", b"\xff\xfe"), (b"w\xc3", b"x")])
async def test_a_header_that_is_no_text_ends_the_connection_alone(header: tuple[bytes, bytes]) -> None:
    """Any local user may send one: decoding it must not be what ends the daemon."""
    async with client() as one:
        one.h2.config.validate_outbound_headers = False
        number = one.h2.get_next_available_stream_id()
        headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/Greet"), header]
        one.h2.send_headers(number, headers)
        await one.flush()
        while await one.step():
            pass


async def test_calls_of_one_connection_have_an_end() -> None:
    """A stream opened and reset at once costs us more than its caller (CVE-2023-44487)."""
    async with client() as one:
        for _ in range(MAX_CALLS):
            await one.answer(await one.call("/s/Refuse"))
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            await one.answer(await one.call("/s/Refuse"))


async def test_a_request_of_many_bytes_ends_the_connection() -> None:
    """All requests here are empty."""
    async with client() as one:
        with pytest.raises((trio.BrokenResourceError, AssertionError)):
            await one.answer(await one.call("/s/Greet", bytes(MAX_REQUEST_BYTES + 1)))


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_end_the_connection_at_most(junk: bytes, greeted: bool) -> None:
    """Never the daemon."""

    async def play() -> None:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_grpc, far, METHODS)
            if greeted:
                polite = H2Connection()
                polite.initiate_connection()
                await near.send_all(polite.data_to_send())
            await near.send_all(junk)
            await near.aclose()

    trio.run(play)
