"""A member's place among its peers: it takes their connections, keeps links to them and ticks once a second.

Nodes and the CA do this alike; they differ in what they do with a stream connection.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog
import trio

from pki.errors import LockgateError
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Wire
from pki.verify import Identity
from sidecar.address import Address
from sidecar.gossip.links import Contact, Links
from sidecar.gossip.member import Member
from sidecar.log import Refusals
from sidecar.net import accept_forever
from sidecar.overlay import Connection, Overlay
from sidecar.snapshot import Facts, Snapshot

TICK_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caps:
    """How many handshakes may be under way, in all and from one address."""

    handshakes: int
    handshakes_per_address: int


class Peering:
    """Runs the overlay of one member."""

    def __init__(
        self,
        own: SpiffeId,
        overlay: Overlay,
        member: Member,
        caps: Caps,
        on_stream: Callable[[Connection], Awaitable[None]] | None,
    ) -> None:
        self.refusals = Refusals()
        self.links = Links(own, overlay, member.message, member.link_changed)
        self._own = own
        self._overlay = overlay
        self._member = member
        self._caps = caps
        self._on_stream = on_stream
        self._handshakes: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None

    async def run(
        self, listeners: Iterable[trio.SocketListener], contacts: Callable[[], Iterable[Contact]], boot_id: str
    ) -> None:
        """Serve until cancelled. ``contacts`` says, once a second, whom to keep links to."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for listener in listeners:
                nursery.start_soon(accept_forever, listener, self._accept, self._full)
            while True:
                self.links.contact(contacts(), nursery)
                await self._member.tick(secrets.token_bytes(8))
                await self._member.keep_time(boot_id)
                await trio.sleep(TICK_SECONDS)

    def send(self, peer: str, message: Wire) -> None:
        self.links.send(peer, message)

    def drop_strangers(self, snapshot: Snapshot) -> None:
        """End links to nodes that are no members any more."""
        gone = [peer for peer in self.links.peers if not is_member(SpiffeId.parse(peer), (), snapshot)]
        self.links.drop(gone)

    async def _accept(self, transport: trio.abc.Stream) -> None:
        address = _host(transport)
        if not self._enter(address):
            self.refusals.note("limit", "too many handshakes under way", address=address)
            await trio.aclose_forcefully(transport)
            return
        try:
            connection = await self._overlay.accept(transport)
        except LockgateError as error:
            self.refusals.note("handshake", str(error), address=address)
            return
        finally:
            self._handshakes[address] -= 1
        try:
            await self._serve(connection)
        except (LockgateError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.refusals.note("protocol", str(error), peer=str(connection.peer))
        except Exception:
            # One connection's bug must not end its siblings: they share a nursery.
            log.exception("connection failed", peer=str(connection.peer))
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()

    async def _serve(self, connection: Connection) -> None:
        if connection.role == "control":
            await self.links.run(connection)
        elif self._on_stream is not None and not connection.opens:
            await self._on_stream(connection)
        else:
            self.refusals.note("protocol", "no streams are served here", peer=str(connection.peer))

    def _enter(self, address: str) -> bool:
        if self._handshakes.total() >= self._caps.handshakes:
            return False
        if self._handshakes[address] >= self._caps.handshakes_per_address:
            return False
        self._handshakes += Counter({address: 1})
        return True

    def _full(self) -> None:
        self.refusals.note("limit", "no descriptors left, accepting pauses")


def is_member(who: SpiffeId, serials: tuple[str, ...], snapshot: Snapshot) -> bool:
    """Whether a peer may be one here: a node of the roster that is not revoked, or the CA."""
    if who.kind is IdKind.CA:
        return True
    if who.kind is not IdKind.NODE or who.name not in snapshot.roster.nodes:
        return False
    return snapshot.restrictions.revocation_of(Facts(nodes=(who.name,), serials=serials)) is None


def is_member_identity(identity: Identity, snapshot: Snapshot) -> bool:
    """The same for a presented certificate, whose lineage may be revoked too."""
    return is_member(identity.id, (identity.lineage, identity.serial), snapshot)


def contacts_of(own: SpiffeId, snapshot: Snapshot) -> Iterable[Contact]:
    """The nodes of the roster that can be dialled."""
    for node in snapshot.roster.nodes.values():
        who = SpiffeId.for_node(own.trust_domain, node.name)
        if who != own and is_member(who, (), snapshot):
            yield Contact(who, tuple(Address.parse(text) for text in node.addresses))


def _host(transport: trio.abc.Stream) -> str:
    if isinstance(transport, trio.SocketStream):
        try:
            return str(transport.socket.getpeername()[0])
        except OSError:
            return "gone"
    return "memory"
