"""What every daemon of ours does between start and stop: sockets, signals, the boot it lives in."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from pki.errors import LocalError
from sidecar.address import Address
from sidecar.net import listen_tcp
from sidecar.paths import Paths

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this boot of the machine: CLOCK_BOOTTIME of another one means nothing."""
    return BOOT_ID.read_text().strip()


def make_folders(paths: Paths) -> None:
    """The three folders: state is for the daemon alone, run is to be reached by local callers."""
    try:
        paths.etc.mkdir(mode=0o755, parents=True, exist_ok=True)
        paths.lib.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.run.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise LocalError(f"{error.filename}: {error.strerror}") from None


async def listen_all(addresses: tuple[Address, ...], what: str) -> list[trio.SocketListener]:
    """Listeners on all addresses; raises LocalError naming the one that is taken."""
    listeners: list[trio.SocketListener] = []
    for address in addresses:
        try:
            listeners += await listen_tcp(address)
        except OSError as error:
            raise LocalError(f"{what} {address}: {error.strerror or error}; is another daemon running?") from None
    return listeners


@dataclass(frozen=True, slots=True)
class Signals:
    """What to do on which signal."""

    reload: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]]
    """SIGTERM. A second one, or SIGINT, ends the daemon at once."""


async def until_stopped(signals: Signals) -> None:
    """Return when the daemon is to stop."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await signals.drain()
                nursery.cancel_scope.cancel()

            draining = False
            async for number in received:
                if number == signal.SIGHUP:
                    await signals.reload()
                elif number == signal.SIGTERM and not draining:
                    draining = True
                    nursery.start_soon(drain)
                else:
                    nursery.cancel_scope.cancel()
                    return


def remove_sockets(*paths: Path) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()
