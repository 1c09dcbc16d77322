"""One member's share of the mesh's state: judge, merge, make durable, apply, pass on, acknowledge.

    take(envelopes) -> parse -> judge -> merge -> flood -> [restrictions act] -> fsync -> [permissions act]
                    -> streams cut -> receipt

Rules:

1. A restriction (lock, revocation) acts from memory before it is durable, and goes on acting when it cannot be made
   so; it is written as soon as the disk takes it again. A permission (policy, roster entry, lift, bundle) acts only
   once it is on disk; one that cannot be written is forgotten, and repair brings it again.
2. A receipt means: durable here, in force here, and the streams it ended are dead. None is given for less.
3. A node is fresh only while all it holds is durable: else a crash would lose what its freshness rests on.
4. One batch is taken in whole or, where its link dies under it, still in whole: nothing is left half done.
5. A policy is compiled outside the lock: a kill switch never waits behind it.
6. Which policy is due here, the newest or a canary that names this node, is for :mod:`sidecar.gossip.editions`.

Both nodes and the CA are members; what only the CA does hangs on ``Outlet.merged``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import trio

from pki.bundle import TrustBundle, open_successor
from pki.clock import Clock, Wall
from pki.errors import RemoteError
from pki.fields import Wire
from pki.judge import Word
from pki.spiffe import SpiffeId
from pki.statement import Edition, Heartbeat, Operator, Statement, parse
from sidecar import assemble
from sidecar.escalation.book import Ground as Standing
from sidecar.escalation.book import in_snapshot
from sidecar.escalation.machine import Escalation
from sidecar.gossip.editions import counts_as, due, due_entry
from sidecar.gossip.escalations import cut_by, escalations
from sidecar.gossip.flood import (
    Arrived,
    Beaten,
    Declined,
    Flood,
    LinkDown,
    LinkUp,
    Merged,
    Reconsidered,
    Send,
    Ticked,
)
from sidecar.gossip.freshness import Beat, Freshness, InForce
from sidecar.gossip.intake import Ground, admit, is_acknowledged, later_bundle, original_of
from sidecar.gossip.journal import Journal
from sidecar.gossip.ledger import Ledger
from sidecar.gossip.outlet import Outlet
from sidecar.gossip.policies import Loaded, Policies
from sidecar.gossip.standing import witnessed
from sidecar.gossip.store import Store, is_restriction, stages
from sidecar.objects import Objects
from sidecar.policy.model import Policy as CompiledPolicy
from sidecar.snapshot import Moment, Snapshot
from sidecar.wire import Fetch, Ids, Object, Statements, Summary, Want

_PERMITTING = {"bundle", "member", "unlock", "unrevoke"}
"""What changes who may say what, once it is durable. Only the CA and the root sign it."""

_ESCALATING = {"request", "approval", "lease"}
"""What may let a session do more, once it is durable."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A statement that was merged, and what a receipt is due for once it is durable; None: nothing."""

    word: Word
    acknowledged: Statement | None

    @property
    def statement(self) -> Statement:
        return self.word.statement


class Member:
    """The state. One task at a time merges; readers take :attr:`snapshot` and :meth:`moment`."""

    def __init__(
        self, journal: Journal, objects: Objects, bundle: TrustBundle, clock: Clock, outlet: Outlet
    ) -> None:
        self.store = Store()
        self.store.trust(bundle.statement_keys, bundle.epoch)
        self.freshness = Freshness()
        self.bundle = bundle
        self.loaded = Loaded()
        self.node = ""
        """Which node this is, for whoever composes it to say; the CA is none."""
        self.declined = 0
        self.snapshot = Snapshot.of(
            policy=None,
            bundle_digest=bundle.digest,
            roster=assemble.roster(()),
            restrictions=assemble.restrictions(()),
        )
        self._flood = Flood(self.store)
        self._ledger = Ledger(journal)
        self._policies = Policies(objects, outlet.send)
        self._clock = clock
        self._outlet = outlet
        self._lock = trio.Lock()
        self._policy_lock = trio.Lock()
        self._roster = self.snapshot.roster
        self._next_end: int | None = None
        self._pending: dict[str, _Taken] = {}
        self._cut: dict[str, int] = {}
        self._to_announce: list[Word] = []

    # -- reading

    def moment(self) -> Moment:
        return self.freshness.moment(self._clock.wall(), self._clock.boot())

    @property
    def unready(self) -> str:
        """Why statements cannot be made durable now; empty while they can."""
        return self._ledger.unready

    @property
    def floor(self) -> Wall:
        return self.freshness.floor(self._clock.boot())

    def operator(self, name: str) -> Operator | None:
        """The roster's entry of an operator."""
        entry = self.store.newest("member", f"operator/{name}")
        member = getattr(entry.statement.body, "member", None) if entry else None
        return member if isinstance(member, Operator) else None

    def offer(self, policy: CompiledPolicy) -> None:
        """What is about to be published here is compiled already."""
        self._policies.offer(policy)

    # -- start

    async def restore(self, boot_id: str) -> None:
        """Take up what was durable before a restart; raises LocalError when it is damaged."""
        for entry in await self._ledger.entries():
            self.store.restore(entry)
        self._ledger.discard(self.store.settle(self.store.ids()))
        newest = await self._ledger.recall(self.freshness, boot_id)
        if newest is not None:
            self._flood.handle(Beaten(newest.raw, None))
        wanted = due(self.store, self.node)
        if wanted is not None:
            await self._policies.check(wanted)
        async with self._lock:
            await self._permit()
        await self._bring_policy()

    # -- events

    async def link_changed(self, peer: str, up: bool) -> None:
        self._send(self._flood.handle(LinkUp(peer) if up else LinkDown(peer)))
        self._policies.ask(self._flood.links)

    async def message(self, peer: str, message: Wire) -> list[str]:
        """A message from a control link; why statements in it were refused.

        Raises RemoteError when the peer breaks the protocol.
        """
        match message:
            case Statements():
                return await self.take(message.envelopes, peer)
            case Summary() | Ids() | Want():
                self._send(self._flood.handle(Arrived(peer, message)))
            case Fetch():
                await self._policies.serve(peer, message)
            case Object():
                if await self._policies.receive(peer, message, self._flood.links):
                    await self._bring_policy()
            case _:
                raise RemoteError(f"{type(message).__name__} does not belong on a control link")
        return []

    async def tick(self, entropy: bytes) -> None:
        """Once a second: compare with a few peers, write what waits, delete what ended long ago, end what ends."""
        self._send(self._flood.handle(Ticked(entropy)))
        self._policies.ask(self._flood.links)
        async with self._lock:
            with trio.CancelScope(shield=True):
                if self._pending:
                    await self._make_durable()
                self._ledger.discard(self.store.expire(self.floor))
                await self._forget_untrusted()
                await self._ledger.sweep()
                if self._next_end is not None and self._next_end <= self.floor:
                    await self._publish()
        await self._announce()
        await self._bring_policy()

    async def take(self, envelopes: Iterable[bytes], source: str | None) -> list[str]:
        """Judge and take in envelopes from ``source`` (None: our own). Why each refused one was refused, ``id: why``.

        Raises RemoteError when bytes do not even parse: that peer breaks the protocol.
        """
        statements = [parse(raw) for raw in envelopes]
        refusals: dict[str, str] = {}
        async with self._lock:
            with trio.CancelScope(shield=True):
                for stage in stages(statements):
                    await self._take_stage(stage, source, refusals)
                self._confirm()
        await self._announce()
        await self._bring_policy()
        return [f"{name}: {why}" for name, why in refusals.items()]

    async def keep_time(self, boot_id: str) -> None:
        """Make the newest heartbeats durable, so that floor and freshness survive a restart."""
        await self._ledger.keep(self.freshness, boot_id)

    # -- taking in

    async def _take_stage(self, stage: list[Statement], source: str | None, refusals: dict[str, str]) -> None:
        taken: list[_Taken] = []
        for statement in stage:
            if statement.id in self.store or self.freshness.is_old(statement):
                continue
            try:
                one = self._admit(statement, source)
            except RemoteError as error:
                refusals[statement.id] = str(error)
                self.declined += 1
                self._decline(statement, source)
            else:
                taken += [one] if one else []
            # Each costs signatures, and a joiner gets thousands: let others run in between.
            await trio.lowlevel.checkpoint()
        if taken:
            await self._take_in(taken, source, refusals)

    def _admit(self, statement: Statement, source: str | None) -> _Taken | None:
        """Judge and merge one; None when that was all there is to do. Raises RemoteError when it is refused."""
        moment = self.moment()
        seen = partial(witnessed, self.store)
        ground = Ground(self.bundle, self.operator, self.snapshot.restrictions, moment, seen)
        word = admit(statement, ground)
        if isinstance(statement.body, Heartbeat):
            self._observe(statement, statement.body, source)
            return None
        original = original_of(statement)
        due = original or statement
        is_new = due.id not in self.store
        if not self.store.merge(word, original, moment.now):
            self._decline(statement, source)
            return None
        return _Taken(word, due if is_new and is_acknowledged(due) else None)

    async def _take_in(self, taken: list[_Taken], source: str | None, refusals: dict[str, str]) -> None:
        raws = tuple(one.statement.raw for one in taken)
        self._send(self._flood.handle(Merged(raws, source)))
        self._pending |= {one.statement.id: one for one in taken}
        if any(is_restriction(one.statement) for one in taken):
            await self._publish()
        await self._make_durable()
        for one in taken:
            if one.statement.id not in self.store and self.unready:
                refusals[one.statement.id] = f"not durable here: {self.unready}"

    async def _make_durable(self) -> None:
        """Write what waits. Then what permits takes effect, and receipts are due."""
        due = list(self._pending.values())
        held = [self.store.entry(one.statement.id) for one in due]
        entries = {entry.statement.id: entry for entry in held if entry is not None}
        if not await self._ledger.append(entries.values()):
            lost = [name for name, one in self._pending.items() if not is_restriction(one.statement)]
            self.store.forget(lost)
            for name in lost:
                del self._pending[name]
            return
        self._pending.clear()
        self._ledger.discard(self.store.settle(entries))
        if any(one.statement.kind in _PERMITTING for one in due):
            await self._permit()
        elif any(one.statement.kind in _ESCALATING for one in due):
            await self._publish()
        self._acknowledge([one.acknowledged for one in due if one.acknowledged is not None])
        for one in due:
            self._cut.pop(one.statement.id, None)  # What is not acknowledged.
        self._to_announce += [one.word for one in due]

    async def _permit(self) -> None:
        """What is durable now may permit: put it in force, and judge anew what was refused without it."""
        await self._take_up_bundle()
        self._roster = assemble.roster(self.store.members())
        await self._publish()
        self._flood.handle(Reconsidered())

    def _acknowledge(self, statements: list[Statement]) -> None:
        cut = {one.id: self._cut.pop(cut_by(one), 0) for one in statements}
        if statements:
            self._outlet.acknowledge(statements, cut)

    async def _announce(self) -> None:
        """Outside the lock: whoever hears of a statement may answer with one."""
        with trio.CancelScope(shield=True):
            while self._to_announce:
                word = self._to_announce.pop(0)
                await self._outlet.merged(word.statement, word)

    async def _take_up_bundle(self) -> None:
        """The newest trust bundle, once it is where the next start finds it."""
        entry = later_bundle(self.store, self.bundle)
        if entry is not None and await self._outlet.trusted(entry.statement):
            self.bundle = open_successor(entry.statement, self.bundle)
            self.store.trust(self.bundle.statement_keys, self.bundle.epoch)

    async def _forget_untrusted(self) -> None:
        """Once all that the CA says under the keys of now is here, what it permitted under others goes."""
        complete = self.freshness.confirmed
        is_complete = complete is not None and complete.body.bundle_digest == self.bundle.digest
        gone = self.store.purge() if is_complete else []
        self._ledger.discard(gone)
        if gone or later_bundle(self.store, self.bundle):
            await self._permit()

    def escalations(self) -> dict[str, Escalation]:
        """Where each escalation stands at this moment, by request id."""
        ground = Standing(self.snapshot.policy, self.snapshot.roster, self.snapshot.restrictions)
        return escalations(self.store, ground, self.moment().now)

    async def _publish(self) -> None:
        """Put in force what is held, unless nothing changed. What it cuts is counted for the next receipts."""
        own = str(SpiffeId.for_node(self.bundle.trust_domain, self.node)) if self.node else ""
        restrictions, self._next_end = assemble.in_force(self.store, self.floor, own)
        ground = Standing(self.loaded.policy, self._roster, restrictions)
        standing = escalations(self.store, ground, self.moment().now)
        snapshot = Snapshot.of(
            policy=ground.policy,
            bundle_digest=self.bundle.digest,
            roster=ground.roster,
            restrictions=ground.restrictions,
            leases=in_snapshot(standing.values()),
        )
        if snapshot.digest == self.snapshot.digest:
            return
        self.snapshot = snapshot
        for rule, count in (await self._outlet.apply(snapshot)).items():
            if rule in self.store:
                self._cut[rule] = self._cut.get(rule, 0) + count

    # -- heartbeats

    def _observe(self, statement: Statement, body: Heartbeat, source: str | None) -> None:
        if self.freshness.observe(Beat(statement, body, self._clock.boot()), self._clock.wall()):
            self.store.named = body.policy_digest
            self._send(self._flood.handle(Beaten(statement.raw, source)))

    def _confirm(self) -> None:
        beat = self.freshness.newest
        if beat is None or beat is self.freshness.confirmed or self._pending:
            return
        policy = counts_as(self.store, self.node, (self.loaded.sequence, self.loaded.digest))
        if policy is None:
            return
        bundle = self.bundle
        in_force = InForce(bundle.epoch, *policy, bundle.sequence, bundle.digest)
        self.freshness.confirm(in_force, self.store.numbered_digest(beat.issued, beat.body.number))

    # -- policies

    async def _bring_policy(self) -> None:
        """Put the policy that is due in force, if its text is here and good."""
        wanted = due(self.store, self.node)
        if wanted is None or not self._policies.is_due(wanted, self.loaded):
            return
        async with self._policy_lock:
            while (wanted := due(self.store, self.node)) and self._policies.is_due(wanted, self.loaded):
                loaded = await self._policies.prepare(wanted, self.loaded, self._flood.links)
                if loaded is not None:
                    await self._load(wanted, loaded)

    async def _load(self, wanted: Edition, loaded: Loaded) -> None:
        async with self._lock:
            with trio.CancelScope(shield=True):
                entry = due_entry(self.store, self.node)
                if entry is None or entry.statement.body != wanted:
                    return
                self.loaded = loaded
                await self._publish()
                self._confirm()
                self._acknowledge([] if loaded.fault else [entry.statement])

    # -- plumbing

    def _decline(self, statement: Statement, source: str | None) -> None:
        if source is not None:
            self._flood.handle(Declined(source, (statement.id,)))

    def _send(self, sends: list[Send]) -> None:
        for send in sends:
            self._outlet.send(send.peer, send.message)
