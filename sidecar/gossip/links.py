"""Control links: one live connection to every peer, dialled from either end, and what is queued for it.

Both ends may dial at the same moment. The link that the lower name dialled is the one that both keep, so the two
sides never keep different ones.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
import trio

from pki.errors import LockgateError, RemoteError
from pki.fields import Wire
from pki.spiffe import SpiffeId
from sidecar import wire
from sidecar.address import Address
from sidecar.overlay import Connection, Overlay

QUEUE_MESSAGES = 1_024
QUEUE_BYTES = 8 * 1024 * 1024
"""Of policy texts, which are copied for each peer that asks; envelopes are the store's own."""
SEND_SECONDS = 10.0
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 1.0
QUIET_SECONDS = 10.0
"""Of one peer, no more than one end of its link is logged in this time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Contact:
    """A peer and where it may be dialled."""

    id: SpiffeId
    addresses: tuple[Address, ...]


@dataclass(eq=False, slots=True)
class Link:
    """One control link. A peer that does not read loses it; repair brings what was dropped."""

    connection: Connection
    outbox: trio.MemorySendChannel[Wire]
    inbox: trio.MemoryReceiveChannel[Wire]
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    replaced: bool = False
    queued: int = 0
    """Bytes of policy text in the outbox."""


class Links:
    """The links of one member. The callbacks run in the link's own task; an error in them ends that link only."""

    def __init__(
        self,
        own: SpiffeId,
        overlay: Overlay,
        on_message: Callable[[str, Wire], Awaitable[None]],
        on_change: Callable[[str, bool], Awaitable[None]],
        on_fault: Callable[[str, str], None],
    ) -> None:
        """``on_fault``: told the peer that broke the protocol, and how."""
        self._own = own
        self._overlay = overlay
        self._on_message = on_message
        self._on_change = on_change
        self._on_fault = on_fault
        self._links: dict[str, Link] = {}
        self._dialling: dict[str, trio.CancelScope] = {}
        self._contacts: dict[str, Contact] = {}
        self._logged: dict[str, float] = {}

    @property
    def peers(self) -> list[str]:
        return sorted(self._links)

    @property
    def connections(self) -> list[Connection]:
        return [link.connection for link in self._links.values()]

    def send(self, peer: str, message: Wire) -> None:
        """Queue a message; a link whose queue is full is dropped, its peer does not read."""
        link = self._links.get(peer)
        if link is None or link.scope.cancel_called:
            return
        try:
            link.queued += _weight(message)
            if link.queued > QUEUE_BYTES:
                raise trio.WouldBlock
            link.outbox.send_nowait(message)
        except trio.WouldBlock:
            self._on_fault(peer, "it does not read what it asked for")
            link.scope.cancel()

    def drop(self, gone: Iterable[str]) -> None:
        """End the links to peers that are no members any more."""
        for peer in gone:
            if peer in self._links:
                self._links[peer].scope.cancel()

    def contact(self, contacts: Iterable[Contact], nursery: trio.Nursery) -> None:
        """Keep dialling these peers, and no others."""
        self._contacts = {str(c.id): c for c in contacts if c.id != self._own and c.addresses}
        for peer in self._dialling.keys() - self._contacts.keys():
            self._dialling.pop(peer).cancel()
        for peer in self._contacts:
            if peer not in self._dialling:
                scope = self._dialling[peer] = trio.CancelScope()
                nursery.start_soon(self._keep_dialling, peer, scope)

    async def run(self, connection: Connection) -> None:
        """Serve one established connection to its end."""
        peer = str(connection.peer)
        outbox, inbox = trio.open_memory_channel[Wire](QUEUE_MESSAGES)
        link = Link(connection, outbox, inbox)
        if not self._take_place(peer, link):
            await connection.aclose()
            return
        try:
            with link.scope:
                await self._serve(peer, link)
        except* (
            LockgateError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            trio.TooSlowError,
        ) as group:
            self._note_end(peer, group)
        except* Exception:  # One link's bug must not end the others: they share a nursery.
            log.exception("link failed", peer=peer)
        finally:
            await self._give_place(peer, link)

    def _note_end(self, peer: str, group: BaseExceptionGroup[BaseException]) -> None:
        why, now = _why(group), trio.current_time()
        if group.subgroup((RemoteError, trio.TooSlowError)):
            self._on_fault(peer, why)
        elif now - self._logged.get(peer, -QUIET_SECONDS) >= QUIET_SECONDS:
            # A peer that comes and goes all the time must not fill the log.
            self._logged[peer] = now
            log.info("link ended", peer=peer, why=why)

    async def _serve(self, peer: str, link: Link) -> None:
        # Only now, when a revocation would find the link in its place, is it sure that none is missed.
        if not self._overlay.admits(link.connection):
            raise RemoteError(f"{peer} is no member any more")
        await self._on_change(peer, True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all, link)
            await self._receive_all(peer, link)
            nursery.cancel_scope.cancel()

    def _take_place(self, peer: str, link: Link) -> bool:
        """Whether this link is the one to keep; it replaces any other of the same peer."""
        other = self._links.get(peer)
        if other is not None:
            lower_dials = str(self._own) < peer
            if other.connection.dialled == lower_dials != link.connection.dialled:
                return False
            other.replaced = True
            other.scope.cancel()
        self._links[peer] = link
        return True

    async def _give_place(self, peer: str, link: Link) -> None:
        with trio.CancelScope(shield=True):
            await link.connection.aclose()
            if not link.replaced:
                del self._links[peer]
                await self._on_change(peer, False)

    async def _send_all(self, link: Link) -> None:
        async for message in link.inbox:
            with trio.fail_after(SEND_SECONDS):
                await link.connection.frames.send(*wire.encode(message))
            link.queued -= _weight(message)

    async def _receive_all(self, peer: str, link: Link) -> None:
        while (frame := await link.connection.frames.receive()) is not None:
            await self._on_message(peer, wire.decode(frame.type, frame.body))

    async def _keep_dialling(self, peer: str, scope: trio.CancelScope) -> None:
        try:
            with scope:
                wait = FIRST_RETRY_SECONDS
                while True:
                    if peer not in self._links and await self._dial_once(peer):
                        wait = FIRST_RETRY_SECONDS
                    await trio.sleep(wait)
                    wait = min(wait * 2, LAST_RETRY_SECONDS)
        finally:
            if self._dialling.get(peer) is scope:
                del self._dialling[peer]

    async def _dial_once(self, peer: str) -> bool:
        contact = self._contacts[peer]
        for address in contact.addresses:
            with suppress(LockgateError):
                connection = await self._overlay.dial(address, contact.id, "control")
                await self.run(connection)
                return True
        return False


def _why(group: BaseExceptionGroup[BaseException]) -> str:
    """The first cause, in words; a nursery wraps it."""
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return str(cause) or type(cause).__name__


def _weight(message: Wire) -> int:
    return len(message.data) if isinstance(message, wire.Object) else 0
