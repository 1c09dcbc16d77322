import trio
import trio.testing

from sidecar.http.early import refuse_unread
from sidecar.http.ends import LINGER_BYTES
from sidecar.reasons import Reason


async def test_an_agent_is_told_before_anything_is_read() -> None:
    """A 403 at once, also to one that has not said a word."""
    agent, near = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse_unread, near, Reason.LOCKED, "a-lock", "all is locked")
        said = await agent.receive_some(65_536)
        assert said.startswith(b"HTTP/1.1 403 ")
        assert b'"locked"' in said
        assert b"a-lock" in said
        assert await agent.receive_some(1) == b""
        await agent.send_eof()


async def test_what_the_agent_says_is_discarded_within_bounds(autojump_clock: object) -> None:
    """For a second, and 64 KiB of it."""
    agent, near = trio.testing.memory_stream_pair()
    before = trio.current_time()
    await refuse_unread(near, Reason.LOCKED, "", "")
    assert trio.current_time() - before == 1
    agent, near = trio.testing.memory_stream_pair()
    await agent.send_all(bytes(LINGER_BYTES))
    before = trio.current_time()
    await refuse_unread(near, Reason.LOCKED, "", "")
    assert trio.current_time() == before


async def test_an_agent_that_has_left_costs_nothing() -> None:
    """Nobody is there to be told."""
    agent, near = trio.testing.memory_stream_pair()
    await agent.aclose()
    await refuse_unread(near, Reason.LOCKED, "", "")
