"""What every daemon of ours does between start and stop: sockets, signals, the boot it lives in."""

import gc
import resource
import signal
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from pki.errors import LocalError, LockgateError
from sidecar import systemd
from sidecar.address import Address
from sidecar.net import listen_tcp
from sidecar.paths import Paths
from sidecar.toml import Table

log = structlog.get_logger(__name__)

C = TypeVar("C", bound=Table)

SPARE_DESCRIPTORS = 512
"""For listeners, links, idle connections, handshakes, files and control sockets."""

MANY_STREAMS = 1_000_000

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Names this boot of the machine: CLOCK_BOOTTIME of another one means nothing."""
    return BOOT_ID.read_text().strip()


def use_all_descriptors() -> None:
    """Raise the soft limit to the hard one: a shell's usual 1,024 would be 500 streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def room_for_streams() -> int:
    """How many streams there are descriptors for, two each, with some left over for all else.

    Beyond it streams are shed in good order. Out of descriptors, the control sockets would not answer either.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MANY_STREAMS
    return max(1, (limit - min(SPARE_DESCRIPTORS, limit // 4)) // 2)


def set_heap_aside() -> None:
    """Call once, when all is loaded: the collector never again walks what a daemon keeps to its end.

    A full pass over the imports alone stops every stream for 35 ms; over what came since, for less than one.
    """
    gc.collect()
    gc.freeze()


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
            for listener in listeners:
                listener.socket.close()
            why = error.strerror or error
            raise LocalError(f"{what} {address}: {why}; is another daemon running?") from None
    return listeners


@contextmanager
def reloading() -> Iterator[list[str]]:
    """Around a reload, which fills in the keys that wait for a restart: tells the supervisor, and the log how it ended.

    A refusal goes on to whoever asked for it.
    """
    systemd.notify("RELOADING=1")
    waiting: list[str] = []
    try:
        yield waiting
    except LockgateError as error:
        log.error("reload refused, the old configuration stays", why=str(error))
        raise
    else:
        log.info("reloaded", needs_restart=waiting)
    finally:
        systemd.notify("READY=1")


def take_up(running: C, wanted: C, live: Collection[str], prefix: str = "") -> tuple[C, list[str]]:
    """``running`` with the ``live`` keys of ``wanted``, and the changed keys that wait for a restart.

    Keys are spelled as in the file: ``log-level``, ``limits.idle``.
    """
    update: dict[str, object] = {}
    waiting: list[str] = []
    for name, field in type(running).model_fields.items():
        key = prefix + (field.alias or name)
        old, new = getattr(running, name), getattr(wanted, name)
        if isinstance(old, Table):
            update[name], inner = take_up(old, new, live, f"{key}.")
            waiting += inner
        elif key in live:
            update[name] = new
        elif old != new:
            waiting.append(key)
    return running.model_copy(update=update), waiting


def quietly(reload: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
    """``reload`` for a signal: nobody waits for its answer, and the log has it."""

    async def on_signal() -> None:
        with suppress(LockgateError):
            await reload()

    return on_signal


@dataclass(frozen=True, slots=True)
class Signals:
    """What to do on which signal."""

    reload: Callable[[], Awaitable[None]]
    drain: Callable[[], Awaitable[None]]
    """SIGTERM. A second one, or SIGINT, ends the daemon at once."""


async def until_stopped(signals: Signals) -> None:
    """Return when the daemon is to stop. From then on no signal disturbs its stopping, which has deadlines of its own.

    A terminal's Ctrl-C reaches a daemon of `lockgate dev` twice: from the kernel, and from dev.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # What the receiver leaves behind when it closes.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                await signals.drain()
                nursery.cancel_scope.cancel()

            draining = False
            async for caught in received:
                if caught == signal.SIGHUP:
                    await signals.reload()
                elif caught == signal.SIGTERM and not draining:
                    draining = True
                    nursery.start_soon(drain)
                else:
                    nursery.cancel_scope.cancel()
                    return


def remove_sockets(*paths: Path) -> None:
    """Take Unix sockets away, so that a client hears at once that nobody serves them."""
    for path in paths:
        with suppress(OSError):
            path.unlink()
