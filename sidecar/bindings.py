"""The local entrances of agents: loopback listeners as the policy in force says. One bad one never stops a daemon."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
import trio

from sidecar.address import Address
from sidecar.net import accept_forever, listen_tcp
from sidecar.policy.model import Binding, Policy

RETRY_SECONDS = 5.0
LOOPBACK = ("127.0.0.1", "::1")

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Entrance:
    """One binding and the state of its listeners. ``problem`` is empty while it listens."""

    binding: Binding
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    problem: str = "not listening yet"
    ready: trio.Event = field(default_factory=trio.Event)


class Bindings:
    """Opens and closes entrances as policies come and go; a taken port is retried."""

    def __init__(self, node: str, serve: Callable[[trio.SocketStream, Binding], Awaitable[None]]) -> None:
        self._node = node
        self._serve = serve
        self._entrances: dict[tuple[str, str, int], Entrance] = {}
        self._nursery: trio.Nursery | None = None
        self._full = 0

    @property
    def entrances(self) -> list[Entrance]:
        return list(self._entrances.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the entrances open until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def follow(self, policy: Policy | None) -> None:
        """Open what ``policy`` adds and close what it dropped; returns once each has been tried."""
        wanted = {(b.agent, b.service, b.port): b for b in (policy.bindings_on(self._node) if policy else ())}
        for key in self._entrances.keys() - wanted.keys():
            self._entrances.pop(key).scope.cancel()
        fresh = []
        for key in wanted.keys() - self._entrances.keys():
            entrance = self._entrances[key] = Entrance(wanted[key])
            fresh.append(entrance)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep_open, entrance)
        for entrance in fresh:
            await entrance.ready.wait()

    async def _keep_open(self, entrance: Entrance) -> None:
        with entrance.scope:
            while True:
                try:
                    listeners = await self._listen(entrance.binding.port)
                except OSError as error:
                    self._complain(entrance, error)
                    entrance.ready.set()
                    await trio.sleep(RETRY_SECONDS)
                    continue
                entrance.problem = ""
                entrance.ready.set()
                await self._accept(entrance, listeners)

    async def _listen(self, port: int) -> list[trio.SocketListener]:
        """IPv4 loopback, and IPv6 loopback where the machine has it."""
        listeners = await listen_tcp(Address("127.0.0.1", port))
        with suppress(OSError):
            listeners += await listen_tcp(Address("::1", port))
        return listeners

    async def _accept(self, entrance: Entrance, listeners: list[trio.SocketListener]) -> None:
        async def handle(stream: trio.abc.Stream) -> None:
            if not isinstance(stream, trio.SocketStream):
                return
            try:
                await self._serve(stream, entrance.binding)
            except Exception:
                # One connection's bug must not end its siblings: they share a nursery.
                log.exception("stream failed", service=entrance.binding.service)
            finally:
                await trio.aclose_forcefully(stream)

        try:
            async with trio.open_nursery() as nursery:
                for listener in listeners:
                    nursery.start_soon(accept_forever, listener, handle, self._note_full)
        finally:
            for listener in listeners:
                listener.socket.close()

    def _note_full(self) -> None:
        self._full += 1
        if self._full == 1:
            log.warning("no descriptors left, accepting on bindings pauses")

    def _complain(self, entrance: Entrance, error: OSError) -> None:
        binding = entrance.binding
        problem = f"port {binding.port}: {error.strerror or error}"
        if problem != entrance.problem:
            log.error("binding is down", agent=binding.agent, service=binding.service, why=problem)
        entrance.problem = problem
