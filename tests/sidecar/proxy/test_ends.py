import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.errors import LocalError, UnreachableError
from sidecar.policy.target import Target
from sidecar.proxy import ends
from sidecar.proxy.arrival import EndedError
from sidecar.proxy.ends import TARGET_SECONDS, close_hard, dial_target
from sidecar.reasons import Reason
from tests.datapath import policy


async def connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return near, await listener.accept()


async def test_the_target_is_the_policys(nursery: trio.Nursery) -> None:
    """Whoever asks steers neither host nor port."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        service = policy(listener.socket.getsockname()[1]).services["wiki"]
        async with await dial_target(service), await listener.accept():
            pass


async def test_a_service_that_left_the_policy_has_no_target() -> None:
    """It may go between decision and dial."""
    with pytest.raises(EndedError) as caught:
        await dial_target(None)
    assert caught.value.reason is Reason.NO_GRANT


@pytest.mark.parametrize(
    "error", [UnreachableError("refused"), LocalError("tool.pem: No such file")], ids=["away", "our file"]
)
async def test_a_target_that_cannot_be_reached_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is the same for all; the hint says what to look at."""

    async def fail(target: Target) -> trio.abc.HalfCloseableStream:
        raise error

    monkeypatch.setattr(ends, "dial", fail)
    with pytest.raises(EndedError) as caught:
        await dial_target(policy().services["wiki"])
    assert caught.value.reason is Reason.TARGET_UNREACHABLE
    assert "wiki" in caught.value.hint


async def test_a_target_that_does_not_answer_is_given_up(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller does not wait for the kernel's own patience."""

    async def wait(target: Target) -> trio.abc.HalfCloseableStream:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(ends, "dial", wait)
    started = trio.current_time()
    with pytest.raises(EndedError):
        await dial_target(policy().services["wiki"])
    assert trio.current_time() - started == pytest.approx(TARGET_SECONDS)


@pytest.mark.parametrize("after", ["nothing", "bytes", "an end"])
async def test_a_hard_close_is_no_clean_end(after: str) -> None:
    """The peer sees a reset, whatever was sent before: it cannot take half an answer for a whole one."""
    near, far = await connected()
    async with far:
        if after == "bytes":
            await near.send_all(bytes(10_000))
        elif after == "an end":
            await near.send_eof()
            assert await far.receive_some() == b""
        await close_hard(near)
        with pytest.raises(trio.BrokenResourceError):
            await drain(far)


async def drain(stream: trio.SocketStream) -> None:
    await stream.send_all(b"anybody there?")
    while await stream.receive_some():
        pass
    await stream.send_all(b"still?")


async def test_what_is_closed_already_can_be_closed_hard() -> None:
    """Both sides of a splice may have failed."""
    near, far = await connected()
    async with far:
        await near.aclose()
        await close_hard(near)
    memory, _ = trio.testing.memory_stream_pair()
    await close_hard(memory)
    assert near.socket.fileno() == -1
