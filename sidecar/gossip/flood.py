"""Spread of statements over the links: flood what is new at once, repair the rest by digests.

Theory of operation: whatever a member newly holds it sends to every link but the one it came from. That alone
reaches everybody unless a link was down at the wrong moment, so once a second a member tells a few peers the
digest over all ids it holds. A peer whose digest differs answers with its ids; the first then sends what the peer
lacks and asks for what it lacks itself. A link that comes up starts the same exchange, so a joiner gets the whole
state. Nothing here is believed: every envelope is judged before the store sees it.

Rules:

1. A heartbeat is no part of the store. The newest is flooded, and given to each link that comes up.
2. What a peer holds and we refused is listed to *that* peer as if we held it: else its digest would differ from ours
   for ever, and each second it would be sent and refused again. To any other peer we say only what we hold.
3. A refusal is forgotten when who may say what has changed (a bundle, a roster entry, a lift), and once a minute,
   since time changes verdicts too. Nothing that an ordinary member can sign makes us judge its refused statements
   again.
4. A joiner lacks everything, and each of its peers has it all. So no more than FEW statements are sent unasked, a
   statement is asked of one peer at a time, and what came in bulk is not passed on: its other receivers compare too.
5. A peer is told all our ids at most once a second, sent at most MAX_BATCHES batches at a time, and may list at most
   MAX_IDS itself.

Pure: ``handle(event) -> effects``; the shell is :mod:`sidecar.gossip.links`.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from pki.errors import RemoteError
from pki.fields import Wire
from pki.ids import ID_BYTES
from sidecar.defaults import REPAIR_PEERS
from sidecar.gossip import digest
from sidecar.gossip.store import Store
from sidecar.wire import Ids, Statements, Summary, Want

IDS_PER_PART = 8_192
MAX_IDS = 262_144
BATCH_BYTES = 192 * 1024
MAX_BATCH_ITEMS = 1_024
MAX_BATCHES = 64
FEW = 32
ASKED_TICKS = 2
"""Seconds that a peer has to send what it was asked for. For as long again, only others are asked for it: one that
lists what it never sends keeps nothing from us."""
MAX_ASKED = 16_384
"""Ids asked of one peer and not come yet. It may list what nobody has: what we remember of that is bounded."""
MAX_REFUSED = 4_096
"""Refused ids remembered of one peer; beyond, the oldest is forgotten."""
RECONSIDER_TICKS = 60


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
    """New envelopes are held now; they came from ``source``, None for our own."""

    envelopes: tuple[bytes, ...]
    source: str | None


@dataclass(frozen=True, slots=True)
class Beaten:
    """A newer heartbeat than any before came from ``source``, None for our own."""

    envelope: bytes
    source: str | None


@dataclass(frozen=True, slots=True)
class Declined:
    """``peer`` holds these; they were judged and refused, and asking for them again would never end."""

    peer: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reconsidered:
    """Who may say what has changed: what was refused may be accepted now."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """A second has passed; ``entropy`` picks the peers to compare with."""

    entropy: bytes


Event = LinkUp | LinkDown | Arrived | Merged | Beaten | Declined | Reconsidered | Ticked


@dataclass(frozen=True, slots=True)
class Send:
    peer: str
    message: Wire


@dataclass(slots=True)
class _Peer:
    """What is known of one link's other end: the part of its ids that came so far, and what of it we refused."""

    listed: bytearray = field(default_factory=bytearray)
    refused: dict[str, None] = field(default_factory=dict)
    told: int = -1
    """The tick in which it was told all our ids."""


class Flood:
    """The links, and what goes over them. Holds no statements of its own but the newest heartbeat."""

    def __init__(self, store: Store, heartbeat: bytes | None = None) -> None:
        self.heartbeat = heartbeat
        self._store = store
        self._peers: dict[str, _Peer] = {}
        self._asked: dict[str, tuple[str, int]] = {}
        self._ticks = 0

    @property
    def links(self) -> list[str]:
        """The peers with a link, sorted."""
        return sorted(self._peers)

    def handle(self, event: Event) -> list[Send]:
        """What to send because of ``event``; raises RemoteError when a peer breaks the protocol."""
        match event:
            case LinkUp(peer):
                self._peers[peer] = _Peer()
                newest = [self.heartbeat] if self.heartbeat else []
                return [*_statements(peer, newest), self._summary(peer)]
            case LinkDown(peer):
                self._peers.pop(peer, None)
                return []
            case Arrived(peer, message):
                # A message that was under way when its link ended is nobody's.
                return self._arrived(peer, self._peers[peer], message) if peer in self._peers else []
            case Merged(envelopes, source):
                is_bulk = source is not None and len(envelopes) > FEW
                return [] if is_bulk else self._pass_on(envelopes, source)
            case Beaten(envelope, source):
                self.heartbeat = envelope
                return self._pass_on((envelope,), source)
            case Declined(peer, ids):
                self._decline(peer, ids)
                return []
            case Reconsidered():
                self._reconsider()
                return []
            case Ticked(entropy):  # pragma: no branch - the last of them
                return self._tick(entropy)

    def _arrived(self, peer: str, known: _Peer, message: Wire) -> list[Send]:
        match message:
            case Summary():
                ours = {self._store.ids_digest(), self._digest_for(peer)}
                return [] if message.digest in ours else self._tell(peer, known)
            case Ids():
                return self._compare(peer, known, message)
            case Want():
                # Each once: 16 bytes named over and over would bring a whole statement every time.
                held = (self._store.raw(name) for name in dict.fromkeys(digest.unpack(message.ids)))
                return list(_statements(peer, (raw for raw in held if raw is not None)))
            case _:
                raise RemoteError(f"{type(message).__name__} is no part of a repair exchange")

    def _compare(self, peer: str, known: _Peer, message: Ids) -> list[Send]:
        known.listed += message.ids
        if len(known.listed) > MAX_IDS * ID_BYTES:
            raise RemoteError(f"IDS: more than {MAX_IDS} ids")
        if not message.last:
            return []
        listed, known.listed = known.listed, bytearray()
        theirs = set(digest.unpack(bytes(listed)))
        known.refused = {name: None for name in known.refused if name in theirs}
        lacking = [name for name in self._store.ids() if name not in theirs]
        wants = [Send(peer, Want(ids=digest.pack(part))) for part in _chunks(self._missing(peer, theirs))]
        if len(lacking) > FEW:
            return [*wants, *self._tell(peer, known)]
        raws = (self._store.raw(name) for name in lacking)
        return [*_statements(peer, (raw for raw in raws if raw is not None)), *wants]

    def _missing(self, peer: str, theirs: set[str]) -> list[str]:
        """What to ask a peer for that holds ``theirs``."""
        refused = self._peers[peer].refused
        pending = sum(asked[0] == peer for asked in self._asked.values())
        unknown = (
            name
            for name in sorted(theirs)
            if name not in self._store and name not in refused and not self._is_asked(name, peer)
        )
        missing = list(islice(unknown, max(0, MAX_ASKED - pending)))
        self._asked |= dict.fromkeys(missing, (peer, self._ticks))
        return missing

    def _is_asked(self, name: str, peer: str) -> bool:
        asked = self._asked.get(name)
        return asked is not None and (asked[0] == peer or self._ticks - asked[1] < ASKED_TICKS)

    def _summary(self, peer: str) -> Send:
        return Send(peer, Summary(digest=self._digest_for(peer)))

    def _digest_for(self, peer: str) -> str:
        if not self._peers[peer].refused:
            return self._store.ids_digest()
        return digest.of_ids(self._listed_to(peer))

    def _listed_to(self, peer: str) -> list[str]:
        refused = (name for name in self._peers[peer].refused if name not in self._store)
        return [*self._store.ids(), *refused]

    def _tell(self, peer: str, known: _Peer) -> list[Send]:
        """All ids held, unless the peer was told in this very second."""
        if known.told == self._ticks:
            return []
        known.told = self._ticks
        parts = list(_chunks(self._listed_to(peer))) or [[]]
        last = len(parts) - 1
        return [Send(peer, Ids(ids=digest.pack(part), last=at == last)) for at, part in enumerate(parts)]

    def _pass_on(self, envelopes: tuple[bytes, ...], source: str | None) -> list[Send]:
        return [send for peer in self.links if peer != source for send in _statements(peer, envelopes)]

    def _decline(self, peer: str, ids: Iterable[str]) -> None:
        if peer not in self._peers:
            return
        refused = self._peers[peer].refused
        refused.update(dict.fromkeys(ids))
        while len(refused) > MAX_REFUSED:
            del refused[next(iter(refused))]

    def _reconsider(self) -> None:
        for peer in self._peers.values():
            peer.refused.clear()

    def _tick(self, entropy: bytes) -> list[Send]:
        self._ticks += 1
        oldest = self._ticks - 2 * ASKED_TICKS
        self._asked = {name: asked for name, asked in self._asked.items() if asked[1] > oldest}
        if self._ticks % RECONSIDER_TICKS == 0:
            self._reconsider()
        # Picked by hash, so that over time every pair compares, whatever the names are.
        order = sorted(self._peers, key=lambda peer: hashlib.sha256(entropy + peer.encode()).digest())
        return [self._summary(peer) for peer in order[:REPAIR_PEERS]]


def _statements(peer: str, envelopes: Iterable[bytes]) -> Iterator[Send]:
    return (Send(peer, Statements(envelopes=batch)) for batch in islice(_batches(envelopes), MAX_BATCHES))


def _batches(envelopes: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for raw in envelopes:
        if batch and (size + len(raw) > BATCH_BYTES or len(batch) >= MAX_BATCH_ITEMS):
            yield batch
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        yield batch


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    return (ids[at : at + IDS_PER_PART] for at in range(0, len(ids), IDS_PER_PART))
