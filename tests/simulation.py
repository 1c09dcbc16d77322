"""Many members under one virtual clock: the real stores, floods, freshness and intake, with a network that is made up.

Deterministic by its seed. Each dials as many as in :mod:`sidecar.gossip.topology`; a message takes 1 to 20 ms, may be lost, and
is nobody's when its link or its receiver is down. A node that is down keeps what it held, as one that restarts does.
"""

import heapq
import random  # noqa: TID251 - a simulation is repeated by its seed
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pki.clock import SECOND, Boot, Wall
from pki.fields import Wire
from pki.statement import Heartbeat, Statement, parse
from sidecar import wire
from sidecar.gossip.flood import Arrived, Beaten, Flood, LinkDown, LinkUp, Merged, Send, Ticked
from sidecar.gossip.freshness import Beat, Freshness, InForce
from sidecar.gossip.intake import Ground, admit
from sidecar.gossip.store import Store
from sidecar.gossip.topology import RANDOM
from sidecar.snapshot import Restrictions
from sidecar.wire import Statements
from tests.authority import NOW
from tests.statements import Mint

MILLISECOND = 1_000


@dataclass(slots=True)
class Node:
    """One member. ``offset`` is how far its wall clock is off (us)."""

    name: str
    offset: int = 0
    up: bool = True
    store: Store = field(default_factory=Store)
    freshness: Freshness = field(default_factory=Freshness)
    heard: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By statement: when (virtual us) it came here first, and after how many hops."""
    received: int = 0
    """Bytes."""
    flood: Flood = field(init=False)

    def __post_init__(self) -> None:
        self.flood = Flood(self.store)


class Simulation:
    """``size`` nodes; ``loss`` is the share of messages that never come."""

    def __init__(self, size: int, *, seed: int = 1, loss: float = 0.0, skew: int = 0) -> None:
        self.random = random.Random(seed)  # noqa: S311 - the same
        self.mint = Mint()
        self.now = 0
        self.loss = loss
        names = tuple(f"n{n:05d}" for n in range(size))
        self.nodes = {name: Node(name, self.random.randint(-skew, skew)) for name in names}
        self.links = {frozenset((one, other)) for one in names for other in self._dials(one, names)}
        self.cut: set[frozenset[str]] = set()
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._turn = 0
        for pair in sorted(self.links, key=sorted):
            self._join(*sorted(pair))
        for name in names:
            self.at(self.random.randint(0, SECOND), self._ticker(name))

    def at(self, when: int, what: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._events, (when, self._turn, what))

    def run_until(self, condition: Callable[[], bool], within: int) -> int:
        """Run until it is so, asked every 10 ms; the virtual time that took (us). Fails after ``within``."""
        started = asked = self.now
        while self._events:
            when, _, what = heapq.heappop(self._events)
            self.now = when
            what()
            if self.now - asked >= 10 * MILLISECOND:
                asked = self.now
                if condition():
                    return self.now - started
            assert self.now - started < within, "it took too long"
        raise AssertionError("nothing left to happen")

    def say(self, name: str, statement: Statement) -> None:
        """A statement begins its way at a node."""
        node = self.nodes[name]
        node.heard[statement.id] = self.now, 0
        self._take(node, statement, None)

    def beat(self, name: str) -> None:
        """The CA's word of this moment over what ``name`` holds, given to the mesh there."""
        digest = self.nodes[name].store.numbered_digest(NOW + self.now)
        self._hear(self.nodes[name], self.mint.beats(digest, issued=NOW + self.now), None)

    def holds_all(self, ids: Iterable[str]) -> bool:
        """Whether every node that is up holds all of these."""
        return all(name in node.store for node in self.nodes.values() if node.up for name in ids)

    def down(self, name: str, duration: int) -> None:
        """A node is gone for a while, with what it held."""
        node = self.nodes[name]
        node.up = False
        for peer in self._peers(name):
            self._part(name, peer)
        self.at(self.now + duration, lambda: self._back(node))

    def partition(self, side: Iterable[str]) -> None:
        """Cut every link between ``side`` and the rest."""
        inside = set(side)
        for pair in self.links:
            if len(pair & inside) == 1:
                self.cut.add(pair)
                self._part(*sorted(pair))

    def heal(self) -> None:
        healed, self.cut = self.cut, set()
        for pair in sorted(healed, key=sorted):
            self._join(*sorted(pair))

    def _dials(self, own: str, names: tuple[str, ...]) -> set[str]:
        """As :func:`sidecar.gossip.topology.picked` does, without hashing every name for every other."""
        return set(self.random.sample(names, min(RANDOM + 1, len(names)))) - {own}

    def _peers(self, name: str) -> list[str]:
        return sorted(other for pair in self.links - self.cut if name in pair for other in pair - {name})

    def _back(self, node: Node) -> None:
        node.up = True
        for peer in self._peers(node.name):
            if self.nodes[peer].up:
                self._join(node.name, peer)

    def _join(self, one: str, other: str) -> None:
        for own, peer in ((one, other), (other, one)):
            self._send(own, self.nodes[own].flood.handle(LinkUp(peer)))

    def _part(self, one: str, other: str) -> None:
        self.nodes[one].flood.handle(LinkDown(other))
        self.nodes[other].flood.handle(LinkDown(one))

    def _ticker(self, name: str) -> Callable[[], None]:
        def tick() -> None:
            node = self.nodes[name]
            if node.up:
                self._send(name, node.flood.handle(Ticked(self.random.randbytes(8))))
            self.at(self.now + SECOND, tick)

        return tick

    def _send(self, own: str, sends: Iterable[Send]) -> None:
        for send in sends:
            if self.random.random() >= self.loss:
                when = self.now + self.random.randint(MILLISECOND, 20 * MILLISECOND)
                self.at(when, lambda send=send: self._deliver(own, send.peer, send.message))  # type: ignore[misc]  # mypy infers no lambda's default

    def _deliver(self, source: str, name: str, message: Wire) -> None:
        node = self.nodes[name]
        if not node.up or frozenset((source, name)) in self.cut or source not in node.flood.links:
            return
        node.received += len(wire.encode(message)[1])
        if not isinstance(message, Statements):
            self._send(name, node.flood.handle(Arrived(source, message)))
            return
        for statement in map(parse, message.envelopes):
            if isinstance(statement.body, Heartbeat):
                self._hear(node, statement, source)
            elif statement.id not in node.store:
                hops = self.nodes[source].heard[statement.id][1] + 1
                node.heard[statement.id] = self.now, hops
                self._take(node, statement, source)

    def _take(self, node: Node, statement: Statement, source: str | None) -> None:
        moment = node.freshness.moment(self._wall(node), Boot(self.now))
        word = admit(statement, Ground(self.mint.ca.bundle, lambda _: None, Restrictions(), moment))
        if node.store.merge(word, None, moment.now):
            node.store.settle([statement.id])
            self._send(node.name, node.flood.handle(Merged((statement.raw,), source)))

    def _hear(self, node: Node, statement: Statement, source: str | None) -> None:
        assert isinstance(statement.body, Heartbeat)
        if node.freshness.observe(Beat(statement, statement.body, Boot(self.now)), self._wall(node)):
            self._send(node.name, node.flood.handle(Beaten(statement.raw, source)))
        newest, bundle = node.freshness.newest, self.mint.ca.bundle
        if newest is not None:
            held = node.store.numbered_digest(newest.issued, newest.body.number)
            node.freshness.confirm(InForce(bundle.epoch, 0, "0" * 64, bundle.sequence, bundle.digest), held)

    def _wall(self, node: Node) -> Wall:
        return Wall(NOW + self.now + node.offset)
