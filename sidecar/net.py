"""Dial and listen: the seams to the network, with the socket options every connection of ours has."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import trio

from pki.errors import LocalError, UnreachableError
from sidecar.address import Address

BACKLOG = 1_024
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 30, 10, 3
USER_TIMEOUT_MS = 60_000
"""How long sent bytes may stay unacknowledged (RFC 5482) before the kernel gives the peer up."""

ACCEPT_PAUSE = 0.1

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def dial_tcp(address: Address) -> trio.SocketStream:
    """A TCP connection to ``address``; raises UnreachableError."""
    try:
        stream = await _connect(address)
    except OSError as error:
        raise UnreachableError(f"{address}: {_why(error)}") from None
    tune(stream)
    return stream


async def listen_tcp(address: Address) -> list[trio.SocketListener]:
    """Listeners on ``address``; raises OSError, naming nothing: the caller knows what it asked for."""
    return await trio.open_tcp_listeners(address.port, host=address.host, backlog=BACKLOG)


def listen_unix(path: Path, mode: int) -> trio.SocketListener:
    """A listener at ``path`` with ``mode``, in place of a leftover; raises LocalError.

    A socket that still answers belongs to a running daemon and is left alone, and so is a file that is no socket.
    """
    if path.exists() and not path.is_socket():
        raise LocalError(f"{path}: a file is there that is no socket; choose another path")
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        raise LocalError(f"{path}: another daemon serves it; stop that one first")
    fresh = path.with_name(path.name + ".new")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        fresh.unlink(missing_ok=True)
        listener.bind(str(fresh))
        fresh.chmod(mode)
        listener.listen(BACKLOG)
        fresh.rename(path)  # Never there with the wrong mode, never there and not listening.
    except OSError as error:
        listener.close()
        raise LocalError(f"{path}: {error.strerror or error}") from None
    listener.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def tune(stream: trio.SocketStream) -> None:
    """Small frames leave at once, and a dead peer is noticed."""
    with suppress(OSError):
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)


async def _connect(address: Address) -> trio.SocketStream:
    """An IP address is dialled at once; only a name needs Trio's resolver and its race of addresses.

    That is a nursery, two tasks and several turns of the loop for each stream to a tool.
    """
    try:
        family = _FAMILIES[ip_address(address.host).version]
    except ValueError:
        return await trio.open_tcp_stream(address.host, address.port)
    await trio.lowlevel.checkpoint_if_cancelled()
    dialling = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        fault = dialling.connect_ex((address.host, address.port))
        if fault == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(dialling)
            fault = dialling.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise OSError(fault, os.strerror(fault))
    except BaseException:
        dialling.close()
        raise
    return trio.SocketStream(trio.socket.from_stdlib_socket(dialling))


def _why(error: OSError) -> str:
    """The system's words. Trio puts its own around them, and hangs those of several addresses below."""
    group = error.__cause__
    first = group.exceptions[0] if isinstance(group, BaseExceptionGroup) else error
    if isinstance(first, OSError) and first.errno and not isinstance(first, socket.gaierror):
        return os.strerror(first.errno)
    return getattr(first, "strerror", None) or "cannot be reached"


async def accept_forever(
    listener: trio.abc.Listener[trio.abc.Stream],
    handle: Callable[[trio.abc.Stream], Awaitable[None]],
    on_full: Callable[[], object],
    tasks: trio.Nursery | None = None,
) -> None:
    """Accept until cancelled. Each connection is a task of its own, which must not raise.

    Out of descriptors, accepting pauses and ``on_full`` is told: no log line for each failure, no busy loop.
    Connections end with the accepting, unless they are given to ``tasks``.
    """
    async with trio.open_nursery() as own:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                on_full()
                await trio.sleep(ACCEPT_PAUSE)
            else:
                (tasks or own).start_soon(handle, stream)
