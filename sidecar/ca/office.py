"""What the CA decides: what it adopts, what it lifts, and its word once a second. Policies have a desk of their own.

Rules:

1. What the CA owes is read off the store, never off a queue: a restriction without a number of ours is to be
   adopted, a revocation is to be banned. So a crash, a full disk or a full queue only puts it off.
2. One lift at a time: what a demand was judged by is still so when the lift is signed.
3. A demand works once: each id it names must be in force, and is not any more afterwards.
4. All signing happens in one thread, off the loop, and only while the time is known (:mod:`sidecar.ca.steady`).
"""

from collections.abc import Callable
from typing import TypeVar

import structlog
import trio

from pki.authority.signer import Span, StatementSigner
from pki.clock import DAY, SECOND, Clock, Wall
from pki.errors import LocalError, LockgateError, RefusedError, RemoteError
from pki.fields import Wire
from pki.judge import Trust, Word, judge
from pki.spiffe import SpiffeId
from pki.statement import Demand, Heartbeat, Lift, Lock, Revocation, Statement, Target, parse
from pki.verify import Identity
from sidecar import defaults
from sidecar.audit.record import Record
from sidecar.audit.statements import records_of
from sidecar.audit.witness import Heads
from sidecar.ca import policies
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
        self._news = trio.Event()
        self._banned: set[str] = set()
        self._put_off: set[str] = set()
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
            *self._heads.records_of(statement, word, now, self.volume()),
        ):
            self.record(one)
        if isinstance(statement.body, Revocation):
            await self._ban(statement)
        try:
            await self.policies.keep(statement)
        except LocalError as error:
            log.error("a policy is in force, and not in the register yet", why=str(error))
        self._news.set()

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
        facts = Facts(operator=identity.id.name, serials=(identity.lineage, identity.serial))
        restrictions = self.member.snapshot.restrictions
        if restrictions.revocation_of(facts) or restrictions.is_locked(
            "operator", identity.id.name, self.member.floor
        ):
            return frozenset()
        if entry is None or bytes.fromhex(entry.key) != identity.spki_sha256:
            return frozenset()
        return frozenset(entry.roles)

    async def publish(self, statement: Statement) -> None:
        """Take our own statement into the store, durably, and spread it; raises LocalError when that fails."""
        refusals = await self.member.take([statement.raw], None)
        if refusals or self.member.unready:
            raise LocalError(f"statement not published: {refusals[0] if refusals else self.member.unready}")

    async def lift(self, envelope: bytes, identity: Identity) -> dict[str, object]:
        """Judge an operator's demand, and publish the unlock that it asks for."""
        demand = parse(envelope)
        async with self._turn:
            now = self.clock.wall()
            body = self._judged(demand, identity, now)
            entries = [self._liftable(name, identity.id) for name in body.ids]
            span = Span(now, Wall(max(now + 1, *(entry.ends for entry in entries))))
            lifted = Lift(ids=body.ids, demand=envelope)
            statement = await self.in_thread(self._signer.lift, "unlock", lifted, span)
            await self.publish(statement)
        return {"id": statement.id, "lifted": body.ids}

    async def order(self, body: Lock | Revocation, life: int) -> Statement:
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
            now = self.clock.wall()
            entry = self._liftable(name, None)
            span = Span(now, Wall(max(now + 1, entry.ends)))
            statement = await self.in_thread(self._signer.lift, "unlock", Lift(ids=[name]), span)
            log.warning("ordered by root on this host", kind="unlock", target=name)
            await self.publish(statement)
        return statement

    # -- loops

    async def adopt_all(self) -> None:
        """Take over what others restrict, as soon as it is here, and again where that failed."""
        while True:
            self._news = trio.Event()
            await self.adopt_due()
            with trio.move_on_after(RETRY_SECONDS):
                await self._news.wait()

    async def adopt_due(self) -> None:
        """Ban what is revoked, and number and re-sign restrictions of others, so that they outlive their signer."""
        for entry in list(self.member.store.in_force(self.member.floor)):
            if isinstance(entry.statement.body, Revocation) and entry.statement.id not in self._banned:
                await self._ban(entry.statement)
            if not entry.numbered:
                await self._adopt(entry)

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
        if demand.body.action != "unlock":
            # Without the cutoff that goes with it, it would revive every stolen certificate of that name.
            raise RefusedError(f"{demand.body.action}: this version lifts locks only")
        return demand.body

    def _liftable(self, name: str, by: SpiffeId | None) -> Entry:
        """The lock that ``by`` may lift; None: root on this host, who may lift any."""
        held = (one for one in self.member.store.in_force(self.member.floor) if one.statement.id == name)
        entry = next(held, None)
        if entry is None or not isinstance(entry.statement.body, Lock):
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

    async def _ban(self, revocation: Statement) -> None:
        body = revocation.body
        if not isinstance(body, Revocation):
            return
        try:
            await self.in_thread(self._signer.register.ban, body.target, revocation.id, self._clock.wall())
            if body.target.kind == "serial":
                await self._revoke_line(body, revocation.payload.expires)
        except LocalError as error:
            log.error("a revocation is in force, and not in the register yet", why=str(error))
        else:
            self._banned.add(revocation.id)

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
