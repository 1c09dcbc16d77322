"""Stream connections to peers, made before they are needed and used again and again.

A connection carries one stream at a time: nothing is multiplexed, so no stream waits for another. The handshake is
paid once for many streams; what a stream pays for is one OPEN. A session is proven once on each connection.

A connection is judged whenever it is taken or given back, never trusted for having been good before: a revocation,
a renewed certificate, a peer that hung up or age may have ended it while nobody looked.

Only so many handshakes with one peer are under way at once; further streams wait their turn, in order. All at once,
a burst of a thousand streams would let each handshake take longer than its deadline allows, and the peer turn most
of them out (:mod:`pki.tls.threshold`). Whoever waited while a dial failed and none succeeded does not try again:
behind a peer that swallows packets a queue would wait for one deadline after the other.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from pki.clock import HOUR, Boot, Clock
from pki.errors import LockgateError, UnreachableError
from pki.spiffe import SpiffeId
from sidecar.address import Address
from sidecar.defaults import CONNECTION_PROOFS, HANDSHAKES_PER_ADDRESS
from sidecar.overlay import Connection, Overlay

MAX_STREAMS = 1_000
MAX_AGE = HOUR
MAX_BYTES = 64 * 1024**3
SPARE = 2
"""Idle connections kept ready for each peer that a binding here may lead to."""
MAX_IDLE = 64
DIALS = HANDSHAKES_PER_ADDRESS // 2
"""Handshakes under way with one peer: what it allows by default, less room for others behind our address."""


@dataclass(eq=False, slots=True)
class Pooled:
    """A stream connection that we open streams on."""

    connection: Connection
    made: Boot
    made_of: object
    """Our certificate when it was made: after a renewal it is retired."""
    proven: dict[str, str] = field(default_factory=dict)
    """By session: the serial of the certificate that was proven."""
    peer_proofs: int = 0
    """How often the peer proved a certificate of its own."""
    ordinal: int = 0
    carried: int = 0
    """Payload bytes, both ways."""
    has_waited: bool = False
    """It was idle, so its peer may have left it without our knowing."""

    @property
    def peer(self) -> str:
        return self.connection.peer.name


@dataclass(eq=False, slots=True)
class _Door:
    """Dials to one peer: whose turn it is, and how they ended so far."""

    turns: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(DIALS))
    made: int = 0
    failed: int = 0

    @asynccontextmanager
    async def turn(self, peer: str) -> AsyncIterator[None]:
        """Around a dial; raises UnreachableError when those before it have shown that it is of no use."""
        made, failed = self.made, self.failed
        async with self.turns:
            if self.failed > failed and self.made == made:
                raise UnreachableError(f"node {peer}: it did not answer those that dialled before")
            yield


class Pool:
    """Idle connections by the *verified* peer node."""

    def __init__(self, overlay: Overlay, clock: Clock, made_of: Callable[[], object]) -> None:
        self._overlay = overlay
        self._clock = clock
        self._made_of = made_of
        self._idle: dict[str, list[Pooled]] = {}
        self._warming: set[str] = set()
        self._doors: dict[str, _Door] = {}
        self.dialled = 0
        self.reused = 0
        """Streams on a connection that had carried one before."""

    def idle(self, peer: str) -> int:
        return len(self._idle.get(peer, ()))

    async def take(self, peer: SpiffeId, addresses: Iterable[Address]) -> Pooled:
        """A connection to ``peer``, idle or new; raises UnreachableError, or RemoteError for an impostor."""
        if (pooled := await self._take_idle(peer.name)) is not None:
            return pooled
        async with self._door(peer.name).turn(peer.name):
            # Another stream may have ended while this one waited.
            return await self._take_idle(peer.name) or await self._dial(peer, addresses)

    async def dial(self, peer: SpiffeId, addresses: Iterable[Address]) -> Pooled:
        """A new connection, whatever is idle."""
        async with self._door(peer.name).turn(peer.name):
            return await self._dial(peer, addresses)

    def _door(self, peer: str) -> _Door:
        return self._doors.setdefault(peer, _Door())

    async def _take_idle(self, peer: str) -> Pooled | None:
        while idle := self._idle.get(peer):
            pooled = idle.pop()
            if self._usable(pooled):
                self.reused += pooled.ordinal > 0
                return pooled
            await pooled.connection.aclose()
        return None

    async def _dial(self, peer: SpiffeId, addresses: Iterable[Address]) -> Pooled:
        door = self._door(peer.name)
        problem: LockgateError = UnreachableError(f"node {peer.name}: the roster has no address for it")
        made_of = self._made_of()
        for address in addresses:
            try:
                connection = await self._overlay.dial(address, peer, "stream", opens=True)
            except LockgateError as error:
                problem = error
            else:
                self.dialled += 1
                door.made += 1
                return Pooled(connection, self._clock.boot(), made_of)
        door.failed += 1
        raise problem

    async def release(self, pooled: Pooled) -> None:
        """Take a whole connection back."""
        if self._usable(pooled) and self.idle(pooled.peer) < MAX_IDLE:
            self._shelf(pooled).append(pooled)
        else:
            await pooled.connection.aclose()

    async def warm(self, peer: SpiffeId, addresses: Iterable[Address]) -> None:
        """Bring the idle connections to ``peer`` up to SPARE; quietly, it is only preparation."""
        if peer.name in self._warming:
            return
        self._warming.add(peer.name)
        try:
            await self._drop(peer.name, self._usable)
            while self.idle(peer.name) < SPARE:
                pooled = await self.dial(peer, addresses)
                self._shelf(pooled).insert(0, pooled)  # Those that carried streams are taken first.
        except LockgateError:
            return
        finally:
            self._warming.discard(peer.name)

    async def drop_strangers(self) -> None:
        """Close the idle connections to nodes that are no members any more."""
        for peer in list(self._idle):
            await self._drop(peer, lambda pooled: self._overlay.admits(pooled.connection))

    async def _drop(self, peer: str, is_good: Callable[[Pooled], bool]) -> None:
        idle = self._idle.get(peer, [])
        bad = [one for one in idle if not is_good(one)]
        for one in bad:  # First all of them out of reach, then the waiting.
            idle.remove(one)
        for one in bad:
            await one.connection.aclose()

    def _shelf(self, pooled: Pooled) -> list[Pooled]:
        """Where it waits for its next stream."""
        pooled.has_waited = True
        return self._idle.setdefault(pooled.peer, [])

    def _usable(self, pooled: Pooled) -> bool:
        return (
            pooled.ordinal < MAX_STREAMS
            and len(pooled.proven) < CONNECTION_PROOFS
            and pooled.carried < MAX_BYTES
            and self._clock.boot() - pooled.made < MAX_AGE
            and pooled.made_of == self._made_of()
            and self._overlay.admits(pooled.connection)
            and pooled.connection.is_quiet()
        )
