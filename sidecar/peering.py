"""A member's place among its peers: it takes their connections, keeps links to them and ticks once a second.

Nodes and the CA do this alike; they differ in what they do with a stream connection.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import structlog
import trio

from pki.clock import Wall
from pki.errors import LocalError, LockgateError, RefusedError
from pki.fields import Wire
from pki.spiffe import IdKind, SpiffeId
from pki.tls.threshold import Threshold
from pki.verify import Identity
from sidecar.address import Address
from sidecar.gossip.links import Contact, Links
from sidecar.gossip.member import Member
from sidecar.gossip.rate import Rate
from sidecar.gossip.topology import neighbours
from sidecar.log import Refusals
from sidecar.net import accept_forever, tune
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
        self.links = Links(own, overlay, self._take, member.link_changed, self._fault)
        self._rates: dict[str, Rate] = {}
        """By peer. Kept when its link ends: dialling anew must not fill the bucket."""
        self._own = own
        self._overlay = overlay
        self._member = member
        self._on_stream = on_stream
        self._threshold = Threshold(caps.handshakes, caps.handshakes_per_address)

    async def run(
        self,
        listeners: Iterable[trio.SocketListener],
        contacts: Callable[[], Iterable[Contact]],
        boot_id: str,
    ) -> None:
        """Serve until cancelled. ``contacts`` says, once a second, whom to keep links to."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(accept_forever, listener, self._accept, self._full)
            while True:
                self.links.contact(contacts(), nursery)
                await self._member.tick(secrets.token_bytes(8))
                await self._member.keep_time(boot_id)
                await trio.sleep(TICK_SECONDS)

    def send(self, peer: str, message: Wire) -> None:
        self.links.send(peer, message)

    def drop_strangers(self) -> None:
        """End links to nodes that are no members any more."""
        linked = self.links.connections
        self.links.drop([str(one.peer) for one in linked if not self._overlay.admits(one)])

    async def _accept(self, transport: trio.abc.Stream) -> None:
        """One connection from its accept to its end. Raises nothing: its siblings share a nursery."""
        connection = await self._shake_hands(transport)
        if connection is None:
            return
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # To go away is no offence.
                await self._serve(connection)
        except LockgateError as error:
            self.refusals.note("protocol", str(error), peer=str(connection.peer))
        except Exception:
            log.exception("connection failed", peer=str(connection.peer))
        finally:
            with trio.CancelScope(shield=True):
                await connection.aclose()

    async def _shake_hands(self, transport: trio.abc.Stream) -> Connection | None:
        """The verified peer, or None with the transport closed and the refusal counted."""
        address = _host(transport)
        if isinstance(transport, trio.SocketStream):
            tune(transport)
        try:
            async with self._threshold.crossing(address):
                return await self._overlay.accept(transport)
        except RefusedError as error:
            self.refusals.note("limit", str(error), address=address)
            await trio.aclose_forcefully(transport)
        except LockgateError as error:
            self.refusals.note("handshake", str(error), address=address)
        except Exception:
            log.exception("handshake failed", address=address)
        return None

    async def _serve(self, connection: Connection) -> None:
        if connection.role == "control":
            await self.links.run(connection)
        elif self._on_stream is not None and not connection.opens:
            await self._on_stream(connection)
        else:
            self.refusals.note("protocol", "no streams are served here", peer=str(connection.peer))

    async def _take(self, peer: str, message: Wire) -> None:
        refused = await self._member.message(peer, message)
        for why in refused:
            self.refusals.note("statement", why, peer=peer)
        now = trio.current_time()
        wait = self._rates.setdefault(peer, Rate(now)).spend(message, len(refused), now)
        if (
            wait > 0
        ):  # On this link's own task: a peer that floods us is read more slowly, and nobody else is.
            await trio.sleep(wait)

    def _fault(self, peer: str, why: str) -> None:
        self.refusals.note("protocol", why, peer=peer)

    def _full(self) -> None:
        self.refusals.note("limit", "no descriptors left, accepting pauses")


def is_member(
    who: SpiffeId, serials: tuple[str, ...], snapshot: Snapshot, issued: Wall | None = None
) -> bool:
    """Whether a peer may be one here: a node of the roster that is not revoked, or the CA."""
    if who.kind is IdKind.CA:
        return True
    if who.kind is not IdKind.NODE or who.name not in snapshot.roster.nodes:
        return False
    return (
        snapshot.restrictions.revocation_of(Facts(nodes=(who.name,), serials=serials, issued=issued)) is None
    )


def is_member_identity(identity: Identity, snapshot: Snapshot) -> bool:
    """The same for a presented certificate, whose lineage may be revoked too."""
    return is_member(identity.id, (identity.lineage, identity.serial), snapshot, identity.issued)


def contacts_of(own: SpiffeId, snapshot: Snapshot) -> Iterable[Contact]:
    """The nodes of the roster to keep links to, with where they can be dialled."""
    for name in sorted(neighbours(own.name, snapshot)):
        who = SpiffeId.for_node(own.trust_domain, name)
        if who != own and is_member(who, (), snapshot):
            yield Contact(who, tuple(dialable(snapshot.roster.nodes[name].addresses)))


def dialable(addresses: Iterable[str]) -> Iterable[Address]:
    """Those of a roster's addresses that can be dialled. A bad one must not stop a node, whoever signed it."""
    for text in addresses:
        with suppress(LocalError):
            yield Address.parse(text)


def _host(transport: trio.abc.Stream) -> str:
    if isinstance(transport, trio.SocketStream):
        try:
            return str(transport.socket.getpeername()[0])
        except OSError:
            return "gone"
    return "memory"
