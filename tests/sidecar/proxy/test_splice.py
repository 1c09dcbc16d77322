from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from pki.errors import RemoteError
from sidecar.proxy.splice import LAST_WORD_SECONDS, Broken, Gate, splice

Stream = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


@dataclass
class Spliced:
    """Two ends, and the splice between them; ``caller`` and ``tool`` are the outsides."""

    caller: Stream
    near: Stream
    far: Stream
    tool: Stream
    passed: list[tuple[int, bool]] = field(default_factory=list)
    half_closed: int = 0
    is_open: bool = True

    async def run(self) -> None:
        await splice(self.near, self.far, Gate(self._passing, self._half_closed))

    def _passing(self, count: int, outwards: bool) -> bool:
        self.passed.append((count, outwards))
        return self.is_open

    def _half_closed(self) -> None:
        self.half_closed += 1


def spliced() -> Spliced:
    caller, near = trio.testing.memory_stream_pair()
    far, tool = trio.testing.memory_stream_pair()
    return Spliced(caller, near, far, tool)


async def broken(ends: Spliced) -> Broken:
    with pytest.raises(Broken) as caught:
        await ends.run()
    return caught.value


async def test_bytes_pass_both_ways_until_both_have_ended() -> None:
    """Each direction has its own end; the gate is asked for every chunk and told of each half-close."""
    ends = spliced()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.run)
        await ends.caller.send_all(b"question")
        assert await ends.tool.receive_some() == b"question"
        await ends.caller.send_eof()
        assert await ends.tool.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert ends.half_closed == 1
        await ends.tool.send_all(b"a long answer")
        assert await ends.caller.receive_some() == b"a long answer"
        await ends.tool.send_eof()
        assert await ends.caller.receive_some() == b""
    assert ends.passed == [(8, True), (13, False)]
    assert ends.half_closed == 2


async def test_the_tool_may_end_first() -> None:
    """A half-close from its side leaves the caller free to go on."""
    ends = spliced()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.run)
        await ends.tool.send_eof()
        assert await ends.caller.receive_some() == b""
        await ends.caller.send_all(b"the rest")
        assert await ends.tool.receive_some() == b"the rest"
        await ends.caller.send_eof()


@pytest.mark.parametrize("near", [True, False])
async def test_a_side_that_breaks_while_it_is_read_is_named(near: bool) -> None:
    """With how it broke."""
    ends = spliced()
    cause = trio.BrokenResourceError("gone")
    hook_receive(ends.near if near else ends.far, cause)
    error = await broken(ends)
    assert error.near is near
    assert error.cause is cause


@pytest.mark.parametrize("near", [True, False])
async def test_a_side_that_breaks_while_it_is_written_is_named(
    near: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Although the bytes came from the other one."""
    ends = spliced()
    cause = trio.BrokenResourceError("gone")
    hook_send(ends.near if near else ends.far, cause)
    await (ends.tool if near else ends.caller).send_all(b"x")
    error = await broken(ends)
    assert error.near is near
    assert error.cause is cause


async def test_a_side_that_breaks_at_the_half_close_is_named(autojump_clock: trio.testing.MockClock) -> None:
    """The end is sent like any byte."""
    ends = spliced()
    await ends.far.aclose()
    await ends.caller.send_eof()
    error = await broken(ends)
    assert error.near is False
    assert isinstance(error.cause, trio.ClosedResourceError)


async def test_what_a_side_said_before_it_went_tells_more_than_that_it_went() -> None:
    """A send to a peer that cut us fails; its last frame, still unread, says why."""
    ends = spliced()
    why = trio.BrokenResourceError("RESET: revoked")
    hook_send(ends.far, trio.BrokenResourceError("cannot send"), then=lambda: hook_receive(ends.far, why))
    await ends.caller.send_all(b"x")
    error = await broken(ends)
    assert error.near is False
    assert error.cause is why


async def test_a_side_that_says_nothing_more_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Longer than a moment."""
    ends = spliced()
    cause = trio.BrokenResourceError("cannot send")
    hook_send(ends.far, cause)
    await ends.caller.send_all(b"x")
    started = trio.current_time()
    assert (await broken(ends)).cause is cause
    assert trio.current_time() - started == LAST_WORD_SECONDS


async def test_a_peer_that_breaks_the_protocol_broke_its_side() -> None:
    """It is no bug of ours, and ends this stream only."""
    ends = spliced()
    hook_receive(ends.far, RemoteError("frame type 3 does not belong"))
    error = await broken(ends)
    assert error.near is False
    assert isinstance(error.cause, RemoteError)


async def test_a_closed_gate_lets_no_byte_through(autojump_clock: trio.testing.MockClock) -> None:
    """The chunk that met it waits with the rest until the scope of the stream is cancelled."""
    ends = spliced()
    ends.is_open = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.run)
        await ends.caller.send_all(b"secret")
        await ends.tool.send_all(b"answer")
        for outside in (ends.tool, ends.caller):
            with trio.move_on_after(60) as waiting:
                await outside.receive_some()
            assert waiting.cancelled_caught
        nursery.cancel_scope.cancel()
    assert sorted(ends.passed) == [(6, False), (6, True)]


async def test_a_bug_in_the_gate_is_not_taken_for_a_broken_side() -> None:
    """It is raised as what it is."""
    ends = spliced()
    ends.passed = None  # type: ignore[assignment]  # the bug
    await ends.caller.send_all(b"x")
    with pytest.RaisesGroup(AttributeError):
        await ends.run()


def hook_receive(stream: Stream, error: Exception) -> None:
    """The next receive fails; one that is under way gets a last byte before."""
    stream.receive_stream.receive_some_hook = failing(error)
    stream.receive_stream.put_data(b"x")


def hook_send(stream: Stream, error: Exception, then: Callable[[], None] = lambda: None) -> None:
    """The next send fails, and ``then`` happens."""
    stream.send_stream.send_all_hook = failing(error, then)


def failing(error: Exception, then: Callable[[], None] = lambda: None) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        then()
        raise error

    return fail
