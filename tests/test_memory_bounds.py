"""What a stream costs a sidecar whose peer does not read, measured on real processes: a bound, and not a growing one.

The sizes are resident memory (Pss) of the two sidecars; what the kernel holds for sockets is its own.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress

import pytest
import trio

from pki import framing
from sidecar.defaults import HELD_BYTES
from sidecar.dev.layout import free_ports
from sidecar.wire import STREAM_LIMITS, FrameType
from tests.bench.usage import memory_kib, wait_until_quiet
from tests.clients import ask, connect, read, tool
from tests.hostile.rogue import AGENTS, Rogue
from tests.story import NODES, Story, story_mesh

STREAMS = 60
PUSH = bytes(256 * 1024)
FULL_SECONDS = 0.5
"""How long no push may have got on before a path counts as full."""
PUSHED_KIB = 512
"""A stream has carried at least this much before it stood still: else nothing was measured."""
STREAM_KIB = 2_048
"""The bound for each stream, both sidecars together: about four chunks of 128 KiB each, in TLS and out of it."""
UNFINISHED = 200
UNFINISHED_KIB = 384
"""The bound for a connection with a first frame that does not end: TLS and its buffers, and 32 KiB of frame."""


HELD_REQUESTS = 100
HELD_KIB = HELD_BYTES // 1024 + HELD_REQUESTS * STREAM_KIB
"""The bound for messages that are read whole, of all streams together."""
MESSAGE_BYTES = 4 * 1024 * 1024

READ = """
[services.{name}]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{target}"
protocol = "{name}"

[[bindings]]
agent = "researcher"
service = "{name}"
listen = {listen}

[[grants]]
id = "all-of-{name}"
agents = ["researcher"]
services = ["{name}"]
{name} = [{what}]
"""
"""A service whose requests are read."""
WHAT = {"http": '{ methods = ["POST"], path = "/**" }', "mcp": '{ tools = ["*"] }'}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A mesh with services of each protocol, whose tools the test plays."""
    with story_mesh(tmp_path_factory.mktemp("memory") / "D") as story:
        policy = story.root / "own-policy.toml"
        for name, what in WHAT.items():
            story.entrance[name], story.target[name] = free_ports(2)
            ports = {"listen": story.entrance[name], "target": story.target[name]}
            policy.write_text(policy.read_text() + READ.format(name=name, what=what, **ports))
        applied = story.cli("policy", "apply", "--yes", str(policy), operator="alice")
        assert applied.code == 0, applied.err
        yield story


@pytest.mark.parametrize("reader", ["tool", "agent"])
def test_a_peer_that_stops_reading_costs_a_bounded_amount_of_memory(story: Story, reader: str) -> None:
    """Pushed at until nothing moves, a stream holds a few chunks; pushed at again, not one more. The rest still flow."""
    pids = [story.pid(node) for node in NODES]
    with tool(story.target["probe"]) as listener:
        with pairs(story, listener) as warm:
            assert len(warm) == STREAMS
        with pairs(story, listener) as opened:
            before = settled(pids)
            pushers = [ends[0] if reader == "tool" else ends[1] for ends in opened]
            pushed = fill(pushers)
            grown = settled(pids) - before
            assert min(pushed) > PUSHED_KIB * 1024
            assert fill(pushers) == [0] * STREAMS
            again = settled(pids) - before
            with connect(story.echo) as other:
                assert ask(other, b"not held up") == b"not held up"
    print(f"{reader} does not read: {grown / STREAMS:.0f} KiB a stream, both sidecars")  # noqa: T201 - pytest -s
    assert grown < STREAMS * STREAM_KIB
    assert again < STREAMS * STREAM_KIB


@pytest.mark.parametrize("reader", ["tool", "agent"])
def test_a_request_whose_peer_stops_reading_costs_no_more(story: Story, reader: str) -> None:
    """An upload that the tool takes no more of, a response that the agent does not: a few chunks, whatever its length."""
    pids = [story.pid(node) for node in NODES]
    with tool(story.target["http"]) as listener, requests(story, listener) as opened:
        before = settled(pids)
        pushers = [ends[0] if reader == "tool" else ends[1] for ends in opened]
        if reader == "agent":
            for pusher in pushers:
                pusher.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
        pushed = fill(pushers)
        grown = settled(pids) - before
        assert min(pushed) > PUSHED_KIB * 1024
        assert fill(pushers) == [0] * STREAMS
    print(f"{reader} does not read http: {grown / STREAMS:.0f} KiB a request, both sidecars")  # noqa: T201 - pytest -s
    assert grown < STREAMS * STREAM_KIB


def test_messages_that_are_read_whole_have_one_bound_together(story: Story) -> None:
    """A hundred calls of 4 MiB, all but their last byte: those that have no room are told so, and a small one is served."""
    pids = [story.pid("tools-1")]
    head = post("mcp", story, f"Content-Length: {MESSAGE_BYTES}\r\nContent-Type: application/json\r\n")
    with tool(story.target["mcp"]) as listener, ExitStack() as stack:
        before = settled(pids)
        callers = [stack.enter_context(connect(story.entrance["mcp"])) for _ in range(HELD_REQUESTS)]
        refused = 0
        for caller in callers:
            with suppress(ConnectionError):  # One that is refused reads no more.
                caller.sendall(head + bytes(MESSAGE_BYTES - 1))
        grown = settled(pids) - before
        for caller in callers:
            caller.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                refused += b" 503 " in caller.recv(64)
        assert 0 < refused < HELD_REQUESTS
        for caller in callers:
            caller.close()
        with connect(story.entrance["mcp"]) as small:
            small.sendall(ping(story))
            while hear(listener) != b"POST":
                pass  # A stream of one that is gone.
    print(f"calls read whole: {grown} KiB, {refused} of {HELD_REQUESTS} refused")  # noqa: T201 - pytest -s
    assert grown < HELD_KIB


def post(service: str, story: Story, fields: str) -> bytes:
    return f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{story.entrance[service]}\r\n{fields}\r\n".encode()


def hear(listener: socket.socket) -> bytes:
    with listener.accept()[0] as served, suppress(ConnectionError):
        return read(served, 4)
    return b""


def ping(story: Story) -> bytes:
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    fields = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
    return post("mcp", story, fields) + body


@contextmanager
def requests(story: Story, listener: socket.socket) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Uploads that have begun, both ends of each: the agent's, in a chunk that does not end, and the tool's."""
    with ExitStack() as stack:
        opened = []
        for _ in range(STREAMS):
            agent = stack.enter_context(connect(story.entrance["http"]))
            agent.sendall(post("http", story, "Transfer-Encoding: chunked\r\n") + b"fffffff0\r\n")
            served = stack.enter_context(listener.accept()[0])
            assert read(served, 4) == b"POST"
            opened.append((agent, served))
        yield opened


def test_first_frames_that_never_end_cost_a_bounded_amount_of_memory(story: Story) -> None:
    """As large as a first frame may be, all but its last byte sent: by a member, on as many connections as it likes."""
    rogue = Rogue.of(story, [AGENTS])
    victim = [story.pid("tools-1")]
    largest = STREAM_LIMITS[FrameType.PROVE]
    unfinished = framing.encode(FrameType.PROVE, bytes(largest))[:-1]

    async def play() -> int:
        async with AsyncExitStack() as stack:
            before = await trio.to_thread.run_sync(settled, victim)
            for _ in range(UNFINISHED):
                connection = await stack.enter_async_context(rogue.connection())
                await connection.tls.send_all(unfinished)
            return await trio.to_thread.run_sync(settled, victim) - before

    grown = trio.run(play)
    print(f"an unfinished first frame: {grown / UNFINISHED:.0f} KiB a connection")  # noqa: T201 - pytest -s
    assert grown < UNFINISHED * UNFINISHED_KIB


@contextmanager
def pairs(story: Story, listener: socket.socket) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Open streams, both ends of each: the agent's and the tool's."""
    with ExitStack() as stack:
        opened = []
        for _ in range(STREAMS):
            agent = stack.enter_context(connect(story.entrance["probe"]))
            agent.sendall(b"hello")
            served = stack.enter_context(listener.accept()[0])
            assert read(served, 5) == b"hello"
            opened.append((agent, served))
        yield opened


def fill(pushers: list[socket.socket]) -> list[int]:
    """Push at every stream until none has taken a byte for a while: the bytes that each took."""
    taken = dict.fromkeys(pushers, 0)
    with selectors.DefaultSelector() as selector:
        for one in pushers:
            one.setblocking(False)
            selector.register(one, selectors.EVENT_WRITE)
        while ready := selector.select(FULL_SECONDS):
            for key, _ in ready:
                assert isinstance(key.fileobj, socket.socket)
                taken[key.fileobj] += key.fileobj.send(PUSH)
    return list(taken.values())


def settled(pids: list[int]) -> int:
    """Memory once the processes have nothing left to do: KiB."""
    wait_until_quiet(pids)
    sizes = [memory_kib(pids)]
    while len(sizes) < 3 or sizes[-1] > sizes[-2] + STREAMS:
        time.sleep(0.1)  # noqa: TID251 - other processes tell nobody that they are done
        sizes.append(memory_kib(pids))
        assert len(sizes) < 100, sizes
    return sizes[-1]
