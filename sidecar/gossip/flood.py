"""Spread of statements over the links: flood what is new at once, repair the rest by digests.

Theory of operation: whatever a member newly holds it sends to every link but the one it came from. That alone
reaches everybody unless a link was down at the wrong moment, so once a second a member tells a few peers the
digest over all ids it holds. A peer whose digest differs answers with its ids; the first then sends what the peer
lacks and asks for what it lacks itself. A link that comes up starts the same exchange, so a joiner gets the whole
state. Nothing here is believed: every envelope goes through the judge before the store sees it.

Pure: ``handle(event) -> effects``; the shell is :mod:`sidecar.gossip.links`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pki.errors import RemoteError
from pki.statement import Wire
from sidecar.gossip import digest
from sidecar.gossip.store import Store
from sidecar.wire import Ids, Statements, Summary, Want

REPAIR_PEERS = 5
IDS_PER_PART = 8_192
MAX_IDS = 262_144
BATCH_BYTES = 192 * 1024
MAX_BATCH_ITEMS = 1_024
MAX_REFUSED = 4_096


@dataclass(frozen=True, slots=True)
class LinkUp:
    peer: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    peer: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A message of the repair exchange came from ``peer``."""

    peer: str
    message: Wire


@dataclass(frozen=True, slots=True)
class Merged:
    """New envelopes are held now (or a newer heartbeat is); they came from ``source``, None for our own."""

    envelopes: tuple[bytes, ...]
    source: str | None


@dataclass(frozen=True, slots=True)
class Declined:
    """These ids were judged and refused: asking for them again would never end."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ticked:
    """A second has passed; ``entropy`` picks the peers to compare with."""

    entropy: bytes


Event = LinkUp | LinkDown | Arrived | Merged | Declined | Ticked


@dataclass(frozen=True, slots=True)
class Send:
    peer: str
    message: Wire


@dataclass
class Flood:
    """The state: which links there are, and the parts of id lists that have come so far."""

    store: Store
    heartbeat: bytes | None = None
    links: set[str] = field(default_factory=set)
    _parts: dict[str, list[str]] = field(default_factory=dict)
    _refused: dict[str, None] = field(default_factory=dict)

    def handle(self, event: Event) -> list[Send]:
        """What to send because of ``event``; raises RemoteError when a peer breaks the protocol."""
        match event:
            case LinkUp(peer):
                self.links.add(peer)
                return [*self._statements(peer, [self.heartbeat] if self.heartbeat else []), self._summary(peer)]
            case LinkDown(peer):
                self.links.discard(peer)
                self._parts.pop(peer, None)
                return []
            case Arrived(peer, message):
                return self._arrived(peer, message)
            case Merged(envelopes, source):
                self._refused.clear()
                others = sorted(self.links - {source or ""})
                return [send for peer in others for send in self._statements(peer, envelopes)]
            case Declined(ids):
                self._decline(ids)
                return []
            case Ticked(entropy):
                return [self._summary(peer) for peer in self._some(entropy)]

    def _arrived(self, peer: str, message: Wire) -> list[Send]:
        match message:
            case Summary():
                return [] if message.digest == self.store.ids_digest() else list(self._ids(peer))
            case Ids():
                return self._compare(peer, message)
            case Want():
                held = (self.store.raw(name) for name in digest.unpack(message.ids))
                return list(self._statements(peer, [raw for raw in held if raw is not None]))
            case _:
                raise RemoteError(f"{type(message).__name__} does not belong on a control link")

    def _compare(self, peer: str, message: Ids) -> list[Send]:
        theirs = self._parts.setdefault(peer, [])
        theirs += digest.unpack(message.ids)
        if len(theirs) > MAX_IDS:
            raise RemoteError(f"IDS: more than {MAX_IDS} ids")
        if not message.last:
            return []
        known = set(self._parts.pop(peer))
        missing = [name for name in known if name not in self.store and name not in self._refused]
        lacking = (self.store.raw(name) for name in self.store.ids() if name not in known)
        sends = list(self._statements(peer, [raw for raw in lacking if raw is not None]))
        parts = _chunks(sorted(missing))
        return sends + [Send(peer, Want(ids=digest.pack(part))) for part in parts]

    def _summary(self, peer: str) -> Send:
        return Send(peer, Summary(digest=self.store.ids_digest()))

    def _ids(self, peer: str) -> Iterator[Send]:
        parts = list(_chunks(self.store.ids())) or [[]]
        for at, part in enumerate(parts):
            yield Send(peer, Ids(ids=digest.pack(part), last=at == len(parts) - 1))

    def _statements(self, peer: str, envelopes: Iterable[bytes]) -> Iterator[Send]:
        batch: list[bytes] = []
        size = 0
        for raw in envelopes:
            if batch and (size + len(raw) > BATCH_BYTES or len(batch) >= MAX_BATCH_ITEMS):
                yield Send(peer, Statements(envelopes=batch))
                batch, size = [], 0
            batch.append(raw)
            size += len(raw)
        if batch:
            yield Send(peer, Statements(envelopes=batch))

    def _decline(self, ids: Iterable[str]) -> None:
        self._refused.update(dict.fromkeys(ids))
        while len(self._refused) > MAX_REFUSED:
            del self._refused[next(iter(self._refused))]

    def _some(self, entropy: bytes) -> list[str]:
        return sorted(self.links, key=lambda peer: hashlib.sha256(entropy + peer.encode()).digest())[:REPAIR_PEERS]


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    return (ids[at : at + IDS_PER_PART] for at in range(0, len(ids), IDS_PER_PART))
