import errno
import os
import socket
from itertools import pairwise

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.errors import UnreachableError
from sidecar.address import Address
from sidecar.net import ACCEPT_PAUSE, accept_forever, dial_tcp, listen_tcp, tune


class ScriptedListener(trio.abc.Listener[trio.abc.Stream]):
    """Gives what it was scripted to, then nothing more."""

    def __init__(self, *script: trio.abc.Stream | OSError) -> None:
        self.script = list(script)

    async def accept(self) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        if not self.script:
            await trio.sleep_forever()
        given = self.script.pop(0)
        if isinstance(given, OSError):
            raise given
        return given

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def stream() -> trio.abc.Stream:
    return trio.testing.memory_stream_pair()[0]


async def test_out_of_descriptors_accepting_pauses_and_goes_on(autojump_clock: MockClock) -> None:
    """No busy loop, no death: it is told each time, and the next connection is taken."""
    full = [OSError(number, "full") for number in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)]
    wanted = stream()
    served: list[trio.abc.Stream] = []
    told: list[float] = []

    async def handle(one: trio.abc.Stream) -> None:
        served.append(one)

    async with trio.open_nursery() as nursery:
        listener = ScriptedListener(*full, wanted)
        nursery.start_soon(accept_forever, listener, handle, lambda: told.append(trio.current_time()))
        await trio.sleep(5 * ACCEPT_PAUSE)
        nursery.cancel_scope.cancel()
    assert served == [wanted]
    assert [later - first for first, later in pairwise(told)] == pytest.approx([ACCEPT_PAUSE] * 3)


async def test_another_error_of_a_listener_is_not_hidden() -> None:
    """A listener that cannot accept at all must not look as if it served."""
    broken = ScriptedListener(OSError(errno.EINVAL, "not listening"))
    with pytest.raises(ExceptionGroup) as caught:
        await accept_forever(broken, _serve_forever, _nobody_asked)
    assert caught.group_contains(OSError, match="not listening")


async def test_connections_may_outlive_their_listener() -> None:
    """Given to other tasks, they go on when accepting ends."""
    done = trio.Event()
    begun = trio.Event()

    async def handle(one: trio.abc.Stream) -> None:
        begun.set()
        await trio.testing.wait_all_tasks_blocked()
        done.set()

    async with trio.open_nursery() as streams, trio.open_nursery() as listeners:
        listener = ScriptedListener(stream())
        listeners.start_soon(accept_forever, listener, handle, _nobody_asked, streams)
        await begun.wait()
        listeners.cancel_scope.cancel()
    assert done.is_set()


async def test_who_does_not_answer_is_unreachable_by_name() -> None:
    """The address and the system's own words, not Trio's wrapping."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match=rf"127\.0\.0\.1:{port}: Connection refused"):
            await dial_tcp(Address("127.0.0.1", port))


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    """The resolver's words."""
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid:1: \w+"):
        await dial_tcp(Address("nowhere.invalid", 1))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_addresses_and_names_are_dialled(host: str) -> None:
    """An address of either family at once, a name by way of the resolver."""
    [listener, *_] = await listen_tcp(Address(host, _free_port()))
    async with listener, await dial_tcp(Address(host, _address_of(listener).port)) as dialled:
        accepted = await listener.accept()
        async with accepted:
            await dialled.send_all(b"hello")
            assert await accepted.receive_some() == b"hello"


async def test_a_dial_that_is_given_up_leaves_nothing_open() -> None:
    """A deadline ends the wait for a host that drops what it is sent, and the descriptor with it."""
    before = set(os.listdir("/proc/self/fd"))
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = Address("127.0.0.1", full.getsockname()[1])
        queue = [await dial_tcp(address)]  # the backlog has room for one; whoever comes after gets no answer
        with trio.move_on_after(0.05) as patience:
            queue.append(await dial_tcp(address))
        assert patience.cancelled_caught
        for one in queue:
            await one.aclose()
    assert set(os.listdir("/proc/self/fd")) == before


async def test_a_dialled_connection_is_watched() -> None:
    """Keepalive and a limit on unacknowledged bytes: a peer that died is noticed."""
    [listener] = await listen_tcp(Address("127.0.0.1", _free_port()))
    async with listener, await dial_tcp(_address_of(listener)) as dialled:
        assert dialled.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


async def test_a_socket_that_is_not_tcp_is_left_as_it_is() -> None:
    """Callers come over Unix sockets too."""
    near, far = trio.socket.socketpair()
    async with trio.SocketStream(near) as stream:
        tune(stream)
    far.close()


async def _serve_forever(one: trio.abc.Stream) -> None:
    await trio.sleep_forever()


def _nobody_asked() -> None:
    raise AssertionError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _address_of(listener: trio.SocketListener) -> Address:
    host, port = listener.socket.getsockname()[:2]
    return Address(host, port)
