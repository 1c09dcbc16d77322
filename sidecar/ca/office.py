"""What the CA decides: what it adopts, what it lifts, and its word once a second. Policies have a desk of their own.

Rules:

1. What the CA owes is read off the store, never off a queue: a restriction without a number of ours is to be
   adopted, a revocation is to be banned. So a crash, a full disk or a full queue only puts it off.
2. One lift at a time: what a demand was judged by is still so when the lift is signed.
3. A demand works once: each id it names must be in force, and is not any more afterwards.
4. All signing happens in one thread, off the loop, and only while the time is known (:mod:`sidecar.ca.steady`).
"""

from collections.abc import Callable
from typing import Literal, TypeVar

import structlog
import trio

from pki.authority import bans
from pki.authority.signer import Span, StatementSigner
from pki.clock import DAY, SECOND, Clock, Wall
from pki.errors import LocalError, LockgateError, RefusedError, RemoteError
from pki.fields import Wire
from pki.judge import Trust, Word, judge
from pki.spiffe import SpiffeId
from pki.statement import (
    Cutoff,
    Demand,
    Finding,
    Heartbeat,
    Lift,
    Lock,
    Revocation,
    Signer,
    Statement,
    Target,
    parse,
)
from pki.verify import Identity
from sidecar import defaults
from sidecar.audit.record import Record
from sidecar.audit.statements import conflict_of, records_of
from sidecar.audit.witness import Heads
from sidecar.ca import policies
from sidecar.ca.invalidation import clone_locks, due_locks
from sidecar.ca.steady import SigningClock
from sidecar.gossip.member import Member
from sidecar.gossip.store import Entry
from sidecar.objects import Objects
from sidecar.peering import Peering
from sidecar.snapshot import Facts, Snapshot

HEARTBEAT_LIFE = DAY
HEARTBEAT_SECONDS = defaults.HEARTBEAT_INTERVAL / SECOND
RETRY_SECONDS = 1.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


def _unrecorded(_: Record) -> None:
    """Before there is a log."""


class Office:
    """The CA's side of the member's work. ``member`` and ``peering`` are set by who composes them."""

    member: Member
    peering: Peering

    def __init__(self, signer: StatementSigner, objects: Objects, clock: Clock, *, dev: bool) -> None:
        self.objects = objects
        self.record: Callable[[Record], None] = _unrecorded
        """Writes to the audit log; the daemon sets it."""
        self.volume: Callable[[], str] = str
        """The volume that it is writing; the same."""
        self.clock = SigningClock(clock, lambda: self.member.freshness)
        self._signer = signer
        self._clock = clock
        self._thread = trio.CapacityLimiter(1)
        desk = policies.Office(lambda: self.member, signer, objects, self.clock, self.publish, dev)
        self.policies = policies.PolicyDesk(desk, self._thread)
        self._heads = Heads("")
        self._turn = trio.Lock()
        self.news = trio.Event()
        """Set when something was said; another one stands here by then."""
        self._banned: set[str] = set()
        self._put_off: set[str] = set()
        self._cloned: set[str] = set()
        self._silent = False

    # -- what the member does through us

    def send(self, peer: str, message: Wire) -> None:
        self.peering.send(peer, message)

    async def apply(self, _: Snapshot) -> dict[str, int]:
        """The CA carries no streams; who is no member any more loses its link."""
        self.peering.drop_strangers()
        return {}

    async def merged(self, statement: Statement, word: Word) -> None:
        """A revocation is banned before whoever brought it hears that it was taken; adoption follows at once."""
        now = self._clock.wall()
        for one in (
            *records_of(statement, word, now),
            *conflict_of(statement, self.member.store.conflicts(statement), now),
            *self._heads.records_of(statement, word, now, self.volume()),
        ):
            self.record(one)
        if isinstance(statement.body, Revocation | Cutoff | Lift):
            await self._ban(statement)
        try:
            await self.policies.keep(statement)
        except LocalError as error:
            log.error("a policy is in force, and not in the register yet", why=str(error))
        said, self.news = self.news, trio.Event()
        said.set()

    async def trusted(self, _: Statement) -> bool:
        """The CA's own trust bundle lies beside its keys before it is published."""
        return True

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """The CA gives no receipts: it carries no streams."""

    # -- what the API asks

    def may_issue(self, node: str, agent: str) -> bool:
        """Whether the policy in force lets ``agent`` run on ``node``, and neither is revoked."""
        snapshot = self.member.snapshot
        if snapshot.restrictions.revocation_of(Facts(agent=agent, nodes=(node,))) is not None:
            return False
        entry = snapshot.policy.agents.get(agent) if snapshot.policy else None
        return entry is not None and node in entry.nodes

    def longest_session(self, agent: str) -> int | None:
        """How long a session of ``agent`` may live in all (us); None: as long as it is renewed."""
        policy = self.member.snapshot.policy
        entry = policy.agents.get(agent) if policy else None
        return entry.session_lifetime if entry else None

    def roles_of(self, identity: Identity) -> frozenset[str]:
        """An operator's roles, under exactly the key that the roster names; none once it is revoked, or while locked."""
        entry = self.member.operator(identity.id.name)
        serials = identity.lineage, identity.serial
        facts = Facts(operator=identity.id.name, serials=serials, issued=identity.issued)
        restrictions = self.member.snapshot.restrictions
        if restrictions.revocation_of(facts) or restrictions.is_locked(
            "operator", identity.id.name, self.member.floor
        ):
            return frozenset()
        if entry is None or bytes.fromhex(entry.key) != identity.spki_sha256:
            return frozenset()
        return frozenset(entry.roles)

    def note_clone(self, node: str) -> None:
        """A certificate of ``node``, or of a session there, was renewed by two keys."""
        self._cloned.add(node)
        self.news.set()

    async def publish(self, statement: Statement) -> None:
        """Take our own statement into the store, durably, and spread it; raises LocalError when that fails."""
        refusals = await self.member.take([statement.raw], None)
        if refusals or self.member.unready:
            raise LocalError(f"statement not published: {refusals[0] if refusals else self.member.unready}")

    async def lift(self, envelope: bytes, identity: Identity) -> dict[str, object]:
        """Judge an operator's demand, and publish the unlock or unrevoke that it asks for."""
        demand = parse(envelope)
        async with self._turn:
            body = self._judged(demand, identity, self.clock.wall())
            if body.action == "unlock":
                statement = await self._unlock(body.ids, identity.id, envelope)
            else:
                statement = await self._unrevoke(body.ids, mistake=body.mistake, demand=envelope)
        return {"id": statement.id, "lifted": body.ids}

    async def order(self, body: Lock | Revocation | Cutoff, life: int) -> Statement:
        """A stop by the CA itself, of anything, an admin too: root on its host holds the key anyway."""
        now = self.clock.for_stops()
        span = Span(now, Wall(now + life))
        statement = await self.in_thread(self._signer.restriction, body, span)
        log.warning("ordered by root on this host", kind=statement.kind, target=str(body.target))
        await self.publish(statement)
        return statement

    async def unlock_by_order(self, name: str) -> Statement:
        """The same for the end of a lock: it takes nobody else."""
        async with self._turn:
            log.warning("ordered by root on this host", kind="unlock", target=name)
            return await self._unlock([name], None)

    async def unrevoke_by_order(self, name: str, *, mistake: bool) -> Statement:
        """And for that of a revocation."""
        async with self._turn:
            log.warning("ordered by root on this host", kind="unrevoke", target=name)
            return await self._unrevoke([name], mistake=mistake)

    # -- loops

    async def adopt_all(self) -> None:
        """Take over what others restrict, as soon as it is here, and again where that failed."""
        while True:
            news = self.news
            await self.adopt_due()
            with trio.move_on_after(RETRY_SECONDS):
                await news.wait()

    async def adopt_due(self) -> None:
        """Ban what is revoked, and number and re-sign restrictions of others, so that they outlive their signer."""
        store, floor = self.member.store, self.member.floor
        for entry in list(store.in_force(floor)):
            if not entry.numbered:
                await self._adopt(entry)
        await self._lock_cloned()
        policy = self.member.snapshot.policy
        if policy is not None:
            for lock, ends in list(due_locks(store, policy, self.member.snapshot.roster, floor)):
                await self._answer(lock, ends)
        # A lift after what it lifts: the other way round, the register would go on refusing what nobody else does.
        for entry in [*store.of_kinds("revocation", "cutoff"), *store.of_kinds("unrevoke")]:
            if entry.statement.id not in self._banned:
                await self._ban(entry.statement)

    async def beat(self) -> None:
        """The heartbeat: all that the CA has said, in one digest, once a second."""
        while True:
            await self.beat_once()
            await trio.sleep(HEARTBEAT_SECONDS)

    async def beat_once(self) -> None:
        """One heartbeat, over what is held at this moment; none while the time is in doubt."""
        was_silent, self._silent = self._silent, bool(fault := self.clock.fault())
        if fault:
            if not was_silent:
                log.error("the CA signs nothing", why=fault)
            return
        member, now = self.member, self.clock.wall()
        body = Heartbeat(
            number=member.store.last_number(),
            policy_sequence=member.loaded.sequence,
            policy_digest=member.loaded.digest,
            bundle_sequence=member.bundle.sequence,
            bundle_digest=member.bundle.digest,
            digest=member.store.numbered_digest(now),
        )
        statement = await self.in_thread(self._signer.heartbeat, body, Span(now, Wall(now + HEARTBEAT_LIFE)))
        for refusal in await member.take([statement.raw], None):
            log.error("own heartbeat refused", why=refusal)

    # -- inside

    def _judged(self, demand: Statement, identity: Identity, now: Wall) -> Demand:
        """What is demanded, by whom it claims to be, and now; raises RemoteError or RefusedError."""
        word = judge(demand, Trust(self.member.bundle, self.member.operator), now)
        if not isinstance(demand.body, Demand):
            raise RemoteError(f"a demand is needed, not a statement of kind {demand.kind}")
        if word.by != identity.id:
            raise RefusedError("demand: signed by somebody else than who brings it")
        if demand.payload.expires <= now or demand.payload.issued > now + defaults.SKEW:
            raise RefusedError("demand: expired, or of the future; check the clocks, and sign a new one")
        # It revives certificates that may be in somebody else's hands: more than stopping, and so for more than those
        # who may stop.
        if demand.body.mistake and Signer.ADMIN not in word.signers:
            raise RefusedError("unrevoke: --mistake needs the role admin")
        return demand.body

    async def _lift(self, kind: Literal["unlock", "unrevoke"], entries: list[Entry], body: Lift) -> Statement:
        """It lives as long as the longest that it names: no unlock ever outruns its lock."""
        now = self.clock.wall()
        span = Span(now, Wall(max(now + 1, *(entry.ends for entry in entries))))
        statement = await self.in_thread(self._signer.lift, kind, body, span)
        await self.publish(statement)
        return statement

    async def _unlock(self, ids: list[str], by: SpiffeId | None, demand: bytes = b"") -> Statement:
        """With the findings that they were made of, which go on acting at their nodes otherwise."""
        entries = [self._liftable(name, by) for name in ids]
        bodies = [entry.statement.body for entry in entries]
        found = [body.evidence for body in bodies if isinstance(body, Lock) and body.evidence]
        return await self._lift("unlock", entries, Lift(ids=[*ids, *found], demand=demand))

    async def _unrevoke(self, ids: list[str], *, mistake: bool, demand: bytes = b"") -> Statement:
        """Names may come back, and certificates of before do not, unless it was a mistake."""
        for entry in [self._revoked(name, mistake=mistake) for name in ids]:
            if (
                not entry.numbered
            ):  # Else a joiner might get what lifts it, and never what it was cut down from.
                await self._adopt(entry)
        now = self.clock.wall()
        before = 0 if mistake else now - now % SECOND + SECOND  # A certificate knows whole seconds.
        entries = [self._revoked(name, mistake=mistake) for name in ids]
        body = Lift(ids=ids, demand=demand, before=before)
        statement = await self._lift("unrevoke", entries, body)
        if before:  # What is issued from now on is issued after it.
            await trio.sleep((before - now) / SECOND)
        return statement

    def _revoked(self, name: str, *, mistake: bool) -> Entry:
        """The revocation to be lifted; with ``mistake`` also what is left of one."""
        store, floor = self.member.store, self.member.floor
        whole = [one for one in store.in_force(floor) if isinstance(one.statement.body, Revocation)]
        left = [one for one, _ in store.cutoffs(floor)] if mistake else []
        entry = next((one for one in (*whole, *left) if one.statement.id == name), None)
        if entry is None:
            raise RefusedError(
                f"unrevoke {name}: no such revocation is in force; `lockgate revoke ls` lists them"
            )
        target = getattr(entry.statement.body, "target", None)
        if not mistake and target is not None and target.kind not in ("agent", "node", "operator"):
            what = f"unrevoke {name}: {target} has no other certificate to come back with"
            raise RefusedError(f"{what}; `--mistake` revives the one that it has")
        return entry

    def _liftable(self, name: str, by: SpiffeId | None) -> Entry:
        """The lock that ``by`` may lift; None: root on this host, who may lift any."""
        store, floor = self.member.store, self.member.floor
        held = [
            *store.in_force(floor),
            *(
                one
                for one in store.of_kinds("finding")
                if one.ends > floor and not store.is_lifted("finding", one.statement.id)
            ),
        ]
        entry = next((one for one in held if one.statement.id == name), None)
        if entry is None or not isinstance(entry.statement.body, Lock | Finding):
            raise RefusedError(f"unlock {name}: no such lock is in force; `lockgate lock ls` lists them")
        # Whoever stole one responder's key could lock all and unlock all at will: it takes two.
        if entry.statement.body.target.kind == "all" and entry.author == str(by):
            raise RefusedError(
                f"unlock {name}: `lock all` is lifted by another operator than the one who locked"
            )
        return entry

    async def _adopt(self, entry: Entry) -> None:
        """One that cannot be adopted stays in force by itself, and keeps no other from being adopted."""
        original, span = entry.statement, Span(self.clock.for_stops(), Wall(entry.ends))
        if span.expires <= span.issued:
            return
        try:
            await self.publish(await self.in_thread(self._signer.adoption, original, span))
        except LockgateError as error:
            if original.id not in self._put_off:
                log.error("not adopted yet", statement=original.id, why=str(error))
            self._put_off.add(original.id)
        else:
            self._put_off.discard(original.id)

    async def _answer(self, lock: Lock, ends: int) -> None:
        """A node's finding becomes a lock everywhere. One that fails is asked for again."""
        now = self.clock.for_stops()
        if ends <= now:
            return
        try:
            made = await self.in_thread(self._signer.restriction, lock, Span(now, Wall(ends)))
            await self.publish(made)
        except LockgateError as error:
            log.error("a finding is not locked everywhere yet", finding=lock.evidence, why=str(error))
        else:
            log.warning("locked on a finding", target=str(lock.target), why=lock.message)

    async def _lock_cloned(self) -> None:
        """Two hold the certificate of a node: lock it, where the policy says so. Nobody else could have found that."""
        cloned, self._cloned = self._cloned, set()
        snapshot = self.member.snapshot
        for lock, life in clone_locks(cloned, snapshot, self.member.floor):
            await self._answer(lock, self.clock.for_stops() + life)

    async def _ban(self, statement: Statement) -> None:
        """Enter in the register what it must refuse from now on, or need not any more."""
        body, register, now = statement.body, self._signer.register, self._clock.wall()
        try:
            if isinstance(body, Revocation):
                await self.in_thread(register.ban, body.target, statement.id, now)
                if body.target.kind == "serial":
                    await self._revoke_line(body, statement.payload.expires)
            elif isinstance(body, Cutoff):
                await self.in_thread(register.cut_off, bans.Cutoff(statement.id, body.target, body.before))
            elif isinstance(body, Lift) and statement.kind == "unrevoke":
                await self.in_thread(register.lift_bans, body.ids, body.before, now)
        except LocalError as error:
            log.error("a revocation is in force, and not in the register yet", why=str(error))
        else:
            self._banned.add(statement.id)

    async def _revoke_line(self, body: Revocation, expires: int) -> None:
        """Nodes know the first and the newest serial of a line; only the register knows all those in between."""
        line = await self.in_thread(self._signer.register.line_of, body.target.value)
        if line is None or self.member.snapshot.restrictions.revokes("serial", line):
            return
        whole = Revocation(target=Target(kind="serial", value=line), message=body.message)
        span = Span(self.clock.for_stops(), Wall(expires))
        await self.publish(await self.in_thread(self._signer.restriction, whole, span))

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """All that signs, one after the other."""
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)
