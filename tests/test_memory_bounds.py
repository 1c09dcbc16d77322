"""What a stream costs a sidecar whose peer does not read, measured on real processes: a bound, and not a growing one.

The sizes are resident memory (Pss) of the two sidecars; what the kernel holds for sockets is its own.
"""

import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
import trio

from pki import framing
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


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A mesh with a service whose tool the test plays."""
    with story_mesh(tmp_path_factory.mktemp("memory") / "D") as story:
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
