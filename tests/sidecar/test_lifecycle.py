import gc
import os
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from pki.errors import LocalError
from sidecar.address import Address
from sidecar.lifecycle import (
    Signals,
    boot_id,
    listen_all,
    make_folders,
    quietly,
    remove_sockets,
    room_for_streams,
    set_heap_aside,
    until_stopped,
    use_all_descriptors,
)
from sidecar.paths import Paths


def test_state_is_for_the_daemon_alone(tmp_path: Path) -> None:
    """The run folder is for local callers to reach; made again, nothing changes."""
    paths = Paths.below(tmp_path / "d")
    for _ in range(2):
        make_folders(paths)
    modes = [path.stat().st_mode & 0o777 for path in (paths.lib, paths.run)]
    assert modes == [0o700, 0o755]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """One line: which, and why."""
    (tmp_path / "lib").touch()
    with pytest.raises(LocalError, match=r"lib: File exists"):
        make_folders(Paths.below(tmp_path))


@pytest.mark.parametrize(
    ("limit", "streams"), [(1_048_576, 524_032), (4_096, 1_792), (1_024, 384), (2, 1), (-1, 1_000_000)]
)
def test_streams_leave_descriptors_for_all_else(
    limit: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two each, and room for listeners, links and control sockets whatever the machine allows."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit) if what else (0, 0))
    assert room_for_streams() == streams


def test_a_daemon_uses_all_the_descriptors_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit of a shell is no limit of ours; where it may not be raised, it stays."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1_024, 4_096) if what else (0, 0))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: asked.append(limits) if what else None)
    use_all_descriptors()
    assert asked == [(4_096, 4_096)]

    def refuse(what: int, limits: tuple[int, int]) -> None:
        raise ValueError(f"{what}: {limits}")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    use_all_descriptors()


def test_what_is_set_aside_is_not_walked_again() -> None:
    """A full collection has only what came since."""
    kept: list[object] = [[]]
    try:
        set_heap_aside()
        assert all(one is not kept for one in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(one is kept for one in gc.get_objects())


def test_the_boot_has_a_name() -> None:
    """The same for as long as the machine is up."""
    assert boot_id() == boot_id() != ""


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A daemon that stops ignores further signals; later tests, and their children, must not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_port_in_use_is_named() -> None:
    """With what is probably using it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(LocalError, match=rf"overlay port {address}: .* is another daemon running\?"):
            await listen_all((address,), "overlay port")


async def test_a_daemon_listens_on_all_its_addresses() -> None:
    """Or on none."""
    [listener] = await listen_all((Address("127.0.0.1", free_port()),), "port")
    await listener.aclose()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Watch:
    """A daemon that waits to be stopped, and what the signals led to. ``drained`` lets its drain end."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.drained = trio.Event()

    async def reload(self) -> None:
        self.said.append("reload")

    async def drain(self) -> None:
        self.said.append("drain")
        await self.drained.wait()

    async def until_stopped(self, *numbers: signal.Signals) -> None:
        """Send these, one after the other; return when the daemon has stopped."""
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_stopped, Signals(self.reload, self.drain))
                for number in numbers:
                    await trio.testing.wait_all_tasks_blocked()
                    os.kill(os.getpid(), number)


async def test_hup_reloads_and_goes_on() -> None:
    """As often as it comes."""
    watch = Watch()
    await watch.until_stopped(signal.SIGHUP, signal.SIGHUP, signal.SIGINT)
    assert watch.said == ["reload", "reload"]


async def test_term_drains_first() -> None:
    """And the daemon stops when that is done."""
    watch = Watch()
    watch.drained.set()
    await watch.until_stopped(signal.SIGTERM)
    assert watch.said == ["drain"]


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
async def test_told_twice_it_stops_at_once(again: signal.Signals) -> None:
    """Whoever is in a hurry does not wait for the drain."""
    watch = Watch()
    await watch.until_stopped(signal.SIGTERM, again)
    assert watch.said == ["drain"]


async def test_a_reload_that_is_refused_ends_no_daemon() -> None:
    """The log has said why; a bug is a bug."""

    async def refused() -> None:
        raise LocalError("bad file")

    async def broken() -> None:
        raise RuntimeError

    await quietly(refused)()
    with pytest.raises(RuntimeError):
        await quietly(broken)()


def test_sockets_are_removed_if_they_are_there(tmp_path: Path) -> None:
    """A second end of a daemon has nothing to do."""
    (tmp_path / "a.sock").touch()
    remove_sockets(tmp_path / "a.sock", tmp_path / "b.sock")
    assert os.listdir(tmp_path) == []
