"""One member's share of the mesh's state: judge, merge, make durable, apply, pass on, acknowledge.

    take(envelopes) -> parse -> judge -> merge -> [restrictions act] -> flood -> fsync -> [permissions act]
                    -> streams cut -> receipt

A restriction (lock, revocation) acts from memory before it is durable; a permission (policy, roster, unlock) acts
only once it is on disk. Both nodes and the CA are members; what only the CA does hangs on ``on_merged``.
"""

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog
import trio

from pki.bundle import TrustBundle, open_successor
from pki.clock import Boot, Clock, Wall
from pki.errors import ConfigError, LocalError, LockgateError, RemoteError
from pki.judge import Trust, Word, judge
from pki.spiffe import IdKind, SpiffeId
from pki.statement import KINDS, Adoption, Bundle, Heartbeat, Operator, Policy, Signer, Statement, Wire, parse
from sidecar import assemble
from sidecar.gossip.flood import Arrived, Declined, Flood, LinkDown, LinkUp, Merged, Send, Ticked
from sidecar.gossip.freshness import SKEW, Beat, Freshness, InForce
from sidecar.gossip.journal import Journal
from sidecar.gossip.store import Entry, Store, is_restriction, merge_order
from sidecar.objects import MAX_OBJECT_BYTES, Objects
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy as CompiledPolicy
from sidecar.snapshot import Moment, Snapshot
from sidecar.wire import Fetch, Ids, Object, Statements, Summary, Want

OBJECT_PART_BYTES = 192 * 1024
NO_POLICY = "0" * 64

T = TypeVar("T")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Applied:
    """A snapshot took effect: ``cut`` counts the streams it ended, by the statement that ended them."""

    snapshot: Snapshot
    cut: dict[str, int]


class Outlet(Protocol):
    """What the rest of the process does for a member."""

    def send(self, peer: str, message: Wire) -> None:
        """Queue a message on a control link."""

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        """Let decisions read ``snapshot``; returns once the streams it cuts are dead, with their count by rule."""

    async def merged(self, statement: Statement, word: Word) -> None:
        """A statement was taken in, durable by now."""

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """These are in force here, durably: give receipts."""


@dataclass
class Loaded:
    """The policy in force: its statement's sequence, its digest, and its compiled form."""

    sequence: int = 0
    digest: str = NO_POLICY
    policy: CompiledPolicy | None = None
    fault: str = ""
    """Why a newer policy is not in force, if there is one."""


@dataclass
class _Download:
    digest: str
    size: int
    data: bytearray = field(default_factory=bytearray)


class Member:
    """The state. One task at a time merges; readers take :attr:`snapshot` and :meth:`moment`."""

    def __init__(
        self, journal: Journal, objects: Objects, bundle: TrustBundle, clock: Clock, outlet: Outlet
    ) -> None:
        self.store = Store()
        self.freshness = Freshness()
        self.bundle = bundle
        self.loaded = Loaded()
        self.unready = ""
        """Why statements cannot be made durable now; empty while they can."""
        self.declined = 0
        self._flood = Flood(self.store)
        self._journal = journal
        self._objects = objects
        self._clock = clock
        self._outlet = outlet
        self._lock = trio.Lock()
        self._threads = trio.CapacityLimiter(1)
        self._download: _Download | None = None
        self._roster = assemble.roster(())
        self.snapshot = self._assemble()

    # -- reading

    def moment(self) -> Moment:
        return self.freshness.moment(self._clock.wall(), self._clock.boot())

    @property
    def floor(self) -> Wall:
        return self.freshness.floor(self._clock.boot())

    def operator(self, name: str) -> Operator | None:
        entry = self.store.newest("member", f"operator/{name}")
        member = getattr(entry.statement.body, "member", None) if entry else None
        return member if isinstance(member, Operator) else None

    # -- start

    async def restore(self, boot_id: str) -> None:
        """Take up what was durable before a restart; raises LocalError when it is damaged."""
        for entry in await self._in_thread(self._journal.entries):
            self.store.restore(entry)
        kept = await self._in_thread(self._journal.heartbeat)
        if kept is not None:
            raw, boot, received, _ = kept
            statement = parse(raw)
            if isinstance(statement.body, Heartbeat):
                beat = Beat(statement, statement.body, Boot(received) if boot == boot_id else None)
                self.freshness.observe(beat, Wall(max(self._clock.wall(), beat.issued)))
                self._flood.heartbeat = raw
        await self._settle([entry.statement for entry in self._restored()], cutting=False)

    def _restored(self) -> list[Entry]:
        return [e for name in self.store.ids() if (e := self.store.entry(name)) is not None]

    # -- events

    async def link_changed(self, peer: str, up: bool) -> None:
        self._send(self._flood.handle(LinkUp(peer) if up else LinkDown(peer)))
        if up and self._download is not None:
            self._outlet.send(peer, Fetch(digest=self._download.digest, offset=len(self._download.data)))

    async def message(self, peer: str, message: Wire) -> None:
        """A message from a control link; raises RemoteError when the peer breaks the protocol."""
        match message:
            case Statements():
                await self.take(message.envelopes, peer)
            case Summary() | Ids() | Want():
                self._send(self._flood.handle(Arrived(peer, message)))
            case Fetch():
                await self._serve_object(peer, message)
            case Object():
                await self._receive_object(peer, message)
            case _:
                raise RemoteError(f"{type(message).__name__} does not belong on a control link")

    async def tick(self, entropy: bytes) -> None:
        """Once a second: compare with a few peers, delete what ended long ago, and let restrictions end."""
        self._send(self._flood.handle(Ticked(entropy)))
        async with self._lock:
            gone = self.store.expire(self.floor)
            if gone:
                await self._in_thread(self._journal.delete, gone)
            await self._refresh()

    # -- taking in

    async def take(self, envelopes: Iterable[bytes], source: str | None) -> list[str]:
        """Judge and take in envelopes from ``source`` (None: our own). Why each refused one was refused.

        Raises RemoteError when bytes do not even parse: that peer breaks the protocol.
        """
        statements = merge_order([parse(raw) for raw in envelopes])
        async with self._lock:
            refusals: list[str] = []
            taken: list[tuple[Statement, Word]] = []
            for statement in statements:
                if statement.id in self.store:
                    continue
                try:
                    word = self._judge(statement)
                    if isinstance(statement.body, Heartbeat):
                        self._beat(statement, source)
                    elif self._merge(word):
                        taken.append((statement, word))
                except RemoteError as error:
                    refusals.append(f"{statement.id}: {error}")
                    self._flood.handle(Declined((statement.id,)))
            self.declined += len(refusals)
            if taken:
                await self._taken(taken, source)
            elif any(isinstance(s.body, Heartbeat) for s in statements):
                await self._confirm()
        return refusals

    def _judge(self, statement: Statement) -> Word:
        now = self.moment().now
        if statement.payload.issued > now + SKEW:
            raise RemoteError(f"statement {statement.kind}: issued in the future")
        if isinstance(statement.body, Bundle):
            open_successor(statement, self.bundle)
            return Word(statement, frozenset({Signer.ROOT}), None)
        word = judge(statement, Trust(self.bundle, self.operator), now)
        if word.by is not None and self._is_revoked(word.by):
            raise RemoteError(f"statement {statement.kind}: its signer {word.by} is revoked")
        return word

    def _is_revoked(self, by: SpiffeId) -> bool:
        kinds = {IdKind.NODE: "node", IdKind.OPERATOR: "operator"}
        kind = kinds.get(by.kind)
        return kind is not None and self.snapshot.restrictions.revokes(kind, by.name)

    def _merge(self, word: Word) -> bool:
        body = word.statement.body
        original = None
        if isinstance(body, Adoption):
            original = parse(body.original)
            kind = KINDS.get(original.kind)
            if kind is None or not kind.restriction:
                raise RemoteError("statement adoption: only restrictions are adopted")
        return self.store.merge(word, original, self.moment().now)

    async def _taken(self, taken: list[tuple[Statement, Word]], source: str | None) -> None:
        statements = [statement for statement, _ in taken]
        self._send(self._flood.handle(Merged(tuple(s.raw for s in statements), source)))
        cut: dict[str, int] = {}
        if any(map(is_restriction, statements)):
            cut = await self._publish()
        entries = {e.statement.id: e for s in statements if (e := self.store.entry(s.id)) is not None}
        try:
            await self._in_thread(self._journal.append, list(entries.values()))
        except LocalError as error:
            self.unready = str(error)
            log.error("statements are not durable", why=str(error))
            self.store.forget(s.id for s in statements if not is_restriction(s))
            return
        self.unready = ""
        await self._settle(statements, cut=cut)
        for statement, word in taken:
            await self._outlet.merged(statement, word)

    async def _settle(
        self, statements: list[Statement], *, cut: dict[str, int] | None = None, cutting: bool = True
    ) -> None:
        """What permits takes effect: it is durable now."""
        self.store.settle(s.id for s in statements)
        bundle = self.store.newest("bundle")
        if bundle is not None and bundle.statement.digest.hex() != self.bundle.digest:
            self.bundle = open_successor(bundle.statement, self.bundle)
        self._roster = assemble.roster(self.store.members())
        await self._load_policy()
        counts = await self._publish()
        for name, count in (cut or {}).items():
            counts[name] = counts.get(name, 0) + count
        await self._confirm()
        if cutting:
            self._acknowledge(statements, counts)

    def _acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        due = []
        for statement in statements:
            original = statement
            if isinstance(statement.body, Adoption):
                continue
            kind = KINDS.get(original.kind)
            if kind is not None and kind.acknowledged and not self._policy_pending(original):
                due.append(original)
        if due:
            self._outlet.acknowledge(due, cut)

    def _policy_pending(self, statement: Statement) -> bool:
        return isinstance(statement.body, Policy) and statement.body.digest != self.loaded.digest

    async def _publish(self) -> dict[str, int]:
        snapshot = self._assemble()
        if snapshot.digest == self.snapshot.digest:
            return {}
        self.snapshot = snapshot
        return await self._outlet.apply(snapshot)

    async def _refresh(self) -> None:
        """Restrictions that ended by the floor leave the snapshot."""
        await self._publish()

    def _assemble(self) -> Snapshot:
        return Snapshot.of(
            policy=self.loaded.policy,
            bundle_digest=self.bundle.digest,
            roster=self._roster,
            restrictions=assemble.restrictions(self.store.in_force(self.floor)),
        )

    # -- heartbeats

    def _beat(self, statement: Statement, source: str | None) -> None:
        assert isinstance(statement.body, Heartbeat)
        beat = Beat(statement, statement.body, self._clock.boot())
        if self.freshness.observe(beat, self._clock.wall()):
            self._flood.heartbeat = statement.raw
            self._send(self._flood.handle(Merged((statement.raw,), source)))

    async def _confirm(self) -> None:
        beat = self.freshness.newest
        if beat is None or beat is self.freshness.confirmed:
            return
        in_force = InForce(
            self.bundle.epoch,
            self.loaded.sequence,
            self.loaded.digest,
            self.bundle.sequence,
            self.bundle.digest,
        )
        self.freshness.confirm(in_force, self.store.numbered_digest(beat.issued))

    async def keep_time(self, boot_id: str) -> None:
        """Make the newest heartbeat durable, so that the floor survives a restart."""
        beat = self.freshness.newest
        if beat is not None and beat.received is not None:
            complete = beat is self.freshness.confirmed
            await self._in_thread(
                self._journal.keep_heartbeat, beat.statement.raw, boot_id, beat.received, complete
            )

    # -- policy texts

    async def _load_policy(self) -> None:
        entry = self.store.newest("policy")
        body = entry.statement.body if entry else None
        if not isinstance(body, Policy) or body.digest == self.loaded.digest:
            return
        text = await self._in_thread(self._objects.read, body.digest)
        if text is None:
            if self._download is None or self._download.digest != body.digest:
                self._download = _Download(body.digest, body.size)
                self._ask_for_object()
            return
        try:
            compiled = await self._in_thread(load_policy, text, f"policy {body.sequence}")
        except ConfigError as error:
            self.loaded.fault = f"policy {body.sequence}: {error.faults[0]}"
            log.error("policy refused, the old one stays", sequence=body.sequence, why=self.loaded.fault)
            return
        self.loaded = Loaded(body.sequence, body.digest, compiled)

    def _ask_for_object(self) -> None:
        assert self._download is not None
        for peer in sorted(self._flood.links)[:3]:
            self._outlet.send(peer, Fetch(digest=self._download.digest, offset=len(self._download.data)))

    async def _serve_object(self, peer: str, wanted: Fetch) -> None:
        data = await self._in_thread(self._objects.read, wanted.digest) or b""
        part = data[wanted.offset : wanted.offset + OBJECT_PART_BYTES]
        self._outlet.send(peer, Object(digest=wanted.digest, offset=wanted.offset, total=len(data), data=part))

    async def _receive_object(self, peer: str, part: Object) -> None:
        download = self._download
        # A part that does not continue the one download under way is late or made up; only bytes we asked for count.
        if download is None or part.digest != download.digest or part.offset != len(download.data) or not part.data:
            return
        download.data += part.data
        if len(download.data) > min(download.size, MAX_OBJECT_BYTES):
            self._download = _Download(download.digest, download.size)
            raise RemoteError("OBJECT: longer than its statement says")
        if len(download.data) < download.size:
            self._outlet.send(peer, Fetch(digest=download.digest, offset=len(download.data)))
            return
        self._download = None
        data = bytes(download.data)
        if hashlib.sha256(data).hexdigest() != download.digest:
            self._download = _Download(download.digest, download.size)
            raise RemoteError("OBJECT: its content is not what its digest says")
        await self._in_thread(self._objects.put, data)
        async with self._lock:
            entry = self.store.newest("policy")
            await self._settle([entry.statement] if entry else [])

    # -- plumbing

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            self._outlet.send(send.peer, send.message)

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._threads)
