"""The local entrances of agents: loopback listeners as the policy in force says. One bad one never stops a daemon.

An entrance that a policy drops stops listening at once. The streams that came through it go on: whether they may is
decided by grants, not by entrances.
"""

import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import trio

from pki.errors import LocalError
from sidecar.address import Address
from sidecar.lifecycle import remove_sockets
from sidecar.log import Refusals
from sidecar.net import accept_forever, listen_tcp, listen_unix
from sidecar.policy.model import Binding, Callers, Policy

RETRY_SECONDS = 5.0

SOCKET_MODE = 0o666
"""Who may use a binding is judged by who calls, and a stranger's call is a record, not a silent EACCES."""

_NO_IPV6 = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""A machine without IPv6, or without ::1."""

log = structlog.get_logger(__name__)

Serve = Callable[[trio.SocketStream, Binding], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Entrance:
    """One binding and the state of its listeners. ``problem`` is empty while it listens."""

    binding: Binding
    problem: str = "not listening yet"
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    tried: trio.Event = field(default_factory=trio.Event)
    closed: trio.Event = field(default_factory=trio.Event)


class Bindings:
    """Opens and closes entrances as policies come and go; a taken port is retried."""

    def __init__(self, node: str, serve: Serve) -> None:
        self.refusals = Refusals()
        self._node = node
        self._serve = serve
        self._entrances: dict[tuple[str, str, str, Callers], Entrance] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def entrances(self) -> list[Entrance]:
        return list(self._entrances.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the entrances open until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for entrance in self.entrances:
                    nursery.start_soon(self._keep_open, entrance, nursery)
                task_status.started()
                await trio.sleep_forever()
            finally:
                self._nursery = None  # While it still takes tasks: a policy may come even now.

    async def follow(self, policy: Policy | None) -> None:
        """Open what ``policy`` adds and close what it dropped; returns once each has been tried."""
        bindings = policy.bindings_on(self._node) if policy else ()
        wanted = {(one.agent, one.service, one.address, one.callers): one for one in bindings}
        gone = [self._entrances.pop(key) for key in self._entrances.keys() - wanted.keys()]
        for entrance in gone:
            entrance.scope.cancel()
        if self._nursery is not None:
            for entrance in gone:  # Its port may be wanted again, by another agent or service.
                await entrance.closed.wait()
        fresh = {key: Entrance(wanted[key]) for key in wanted.keys() - self._entrances.keys()}
        self._entrances |= fresh
        if self._nursery is not None:
            for entrance in fresh.values():
                self._nursery.start_soon(self._keep_open, entrance, self._nursery)
            for entrance in fresh.values():
                await entrance.tried.wait()

    async def _keep_open(self, entrance: Entrance, streams: trio.Nursery) -> None:
        try:
            with entrance.scope:
                while True:
                    try:
                        listeners = await _listen(entrance.binding)
                    except (OSError, LocalError) as error:
                        self._complain(entrance, error)
                        entrance.tried.set()
                        await trio.sleep(RETRY_SECONDS)
                    else:
                        entrance.problem = ""
                        entrance.tried.set()
                        await self._accept(entrance.binding, listeners, streams)
        finally:
            entrance.tried.set()  # Also for one that was closed before it was open.
            entrance.closed.set()

    async def _accept(
        self, binding: Binding, listeners: list[trio.SocketListener], streams: trio.Nursery
    ) -> None:
        async def handle(stream: trio.abc.Stream) -> None:
            if not isinstance(stream, trio.SocketStream):
                return
            try:
                await self._serve(stream, binding)
            except Exception:
                # One connection's bug must not end its siblings: they share a nursery.
                log.exception("stream failed", service=binding.service)
            finally:
                await trio.aclose_forcefully(stream)

        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(accept_forever, listener, handle, self._full, streams)
        finally:
            _close(listeners)
            if binding.path:
                remove_sockets(Path(binding.path))

    def _full(self) -> None:
        self.refusals.note("limit", "no descriptors left, accepting on bindings pauses")

    def _complain(self, entrance: Entrance, error: OSError | LocalError) -> None:
        binding = entrance.binding
        problem = str(error)
        if isinstance(error, OSError):
            problem = f"port {binding.port}: {error.strerror or error}"
        if problem != entrance.problem:
            log.error("binding is down", agent=binding.agent, service=binding.service, why=problem)
        entrance.problem = problem


async def _listen(binding: Binding) -> list[trio.SocketListener]:
    """A Unix socket, or IPv4 loopback and IPv6 loopback where the machine has it; raises OSError or LocalError."""
    if binding.path:
        return [listen_unix(Path(binding.path), SOCKET_MODE)]
    listeners = await listen_tcp(Address("127.0.0.1", binding.port))
    try:
        listeners += await listen_tcp(Address("::1", binding.port))
    except OSError as error:
        # A stranger who holds only [::1] would get half of those who dial "localhost".
        if error.errno not in _NO_IPV6:
            _close(listeners)
            raise
    except BaseException:
        _close(listeners)
        raise
    return listeners


def _close(listeners: list[trio.SocketListener]) -> None:
    for listener in listeners:
        listener.socket.close()
