"""What the CA decides: which policy is published, what it adopts, what it lifts, and its word once a second."""

from collections.abc import Callable
from typing import TypeVar

import structlog
import trio

from pki.authority.signer import Span, StatementSigner
from pki.clock import DAY, Clock, Wall
from pki.errors import ConfigError, Fault, LocalError, RefusedError, RemoteError
from pki.judge import Trust, Word, judge
from pki.spiffe import SpiffeId
from pki.statement import Demand, Heartbeat, Lift, Lock, Revocation, Statement, Wire, parse
from pki.verify import Identity
from sidecar import defaults
from sidecar.gossip.member import Member
from sidecar.gossip.store import Entry
from sidecar.objects import Objects
from sidecar.peering import Peering
from sidecar.policy.check import Severity, check
from sidecar.policy.load import load_policy
from sidecar.snapshot import Snapshot

HEARTBEAT_LIFE = DAY
HEARTBEAT_SECONDS = defaults.HEARTBEAT_INTERVAL / 1_000_000

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Office:
    """The CA's side of the member's work. All signing happens in one thread, in order."""

    def __init__(self, signer: StatementSigner, objects: Objects, clock: Clock, *, dev: bool) -> None:
        self.member: Member | None = None
        self.peering: Peering | None = None
        self._signer = signer
        self._objects = objects
        self._clock = clock
        self._dev = dev
        self._thread = trio.CapacityLimiter(1)
        self._adopting, self._to_adopt = trio.open_memory_channel[Statement](4_096)

    # -- what the member does through us

    def send(self, peer: str, message: Wire) -> None:
        if self.peering is not None:
            self.peering.send(peer, message)

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        """The CA carries no streams."""
        return {}

    async def merged(self, statement: Statement, word: Word) -> None:
        """An operator's or node's restriction becomes the CA's own; a revocation is kept for good."""
        body = statement.body
        if isinstance(body, Revocation):
            await self._in_thread(self._ban, body, statement.id)
        if isinstance(body, Lift) and statement.kind == "unrevoke":
            for name in body.ids:
                await self._in_thread(self._signer.register.lift_ban, name, self._clock.wall())
        if isinstance(body, Lock | Revocation) and not statement.payload.number:
            self._adopting.send_nowait(statement)

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """The CA gives no receipts: it carries no streams."""

    # -- what the API asks

    def may_issue(self, node: str, agent: str) -> bool:
        """Whether the policy in force lets ``agent`` run on ``node``."""
        policy = self._held().snapshot.policy
        entry = policy.agents.get(agent) if policy else None
        return entry is not None and node in entry.nodes

    def roles_of(self, identity: Identity) -> frozenset[str]:
        """An operator's roles, under exactly the key that the roster names."""
        entry = self._held().operator(identity.id.name)
        if entry is None or bytes.fromhex(entry.key) != identity.spki_sha256:
            return frozenset()
        return frozenset(entry.roles)

    async def publish(self, statement: Statement) -> None:
        """Take our own statement into the store, durably, and spread it; raises LocalError when that fails."""
        member = self._held()
        refusals = await member.take([statement.raw], None)
        if refusals or member.unready:
            raise LocalError(f"statement not published: {refusals[0] if refusals else member.unready}")

    async def apply_policy(self, text: str, author: str) -> dict[str, object]:
        """Check a policy against the roster and put it in force; raises ConfigError with every fault."""
        data = text.encode()
        policy = await self._in_thread(load_policy, data, "policy")
        snapshot = self._held().snapshot
        findings = check(policy, snapshot.roster, dev=self._dev, now=self._clock.wall())
        errors = [one for one in findings if one.severity is Severity.ERROR]
        if errors:
            raise ConfigError([Fault(f"policy:{one.line}", one.what, one.hint) for one in errors])
        await self._in_thread(self._objects.put, data)
        statement = await self._in_thread(self._signer.policy, data, author, self._clock.wall())
        await self.publish(statement)
        warnings = [f"policy:{one.line}: {one.what}" for one in findings]
        return {"id": statement.id, "digest": policy.digest, "warnings": warnings}

    async def lift(self, envelope: bytes, identity: Identity) -> dict[str, object]:
        """Judge an operator's demand and publish the unlock or unrevoke that it asks for."""
        member = self._held()
        demand = parse(envelope)
        word = judge(demand, Trust(member.bundle, member.operator), self._clock.wall())
        if not isinstance(demand.body, Demand):
            raise RemoteError(f"a demand is needed, not a statement of kind {demand.kind}")
        if word.by != identity.id:
            raise RefusedError("the demand is signed by somebody else than who brings it")
        body = demand.body
        entries = [self._liftable(name, body.action, identity.id) for name in body.ids]
        span = Span(self._clock.wall(), Wall(max(entry.ends for entry in entries)))
        lifted = Lift(ids=body.ids, demand=envelope)
        statement = await self._in_thread(self._signer.lift, body.action, lifted, span)
        await self.publish(statement)
        return {"id": statement.id, "lifted": body.ids}

    # -- loops

    async def adopt_all(self) -> None:
        """Number and re-sign restrictions of others, so that they outlive their signer and count as heard."""
        async for original in self._to_adopt:
            entry = self._held().store.entry(original.id)
            if entry is not None and not entry.adoptions:
                span = Span(self._clock.wall(), Wall(entry.ends))
                if span.expires > span.issued:
                    await self.publish(await self._in_thread(self._signer.adoption, original, span))

    async def beat(self) -> None:
        """The heartbeat: all that the CA has said, in one digest, once a second."""
        while True:
            await self.beat_once()
            await trio.sleep(HEARTBEAT_SECONDS)

    async def beat_once(self) -> None:
        member, now = self._held(), self._clock.wall()
        body = Heartbeat(
            number=member.store.last_number(),
            policy_sequence=member.loaded.sequence,
            policy_digest=member.loaded.digest,
            bundle_sequence=member.bundle.sequence,
            bundle_digest=member.bundle.digest,
            digest=member.store.numbered_digest(now),
        )
        statement = await self._in_thread(self._signer.heartbeat, body, Span(now, Wall(now + HEARTBEAT_LIFE)))
        for refusal in await member.take([statement.raw], None):
            log.error("own heartbeat refused", why=refusal)

    # -- inside

    def _liftable(self, name: str, action: str, by: SpiffeId) -> Entry:
        entry = self._held().store.entry(name)
        kind = "lock" if action == "unlock" else "revocation"
        if entry is None or entry.statement.kind != kind:
            raise RefusedError(f"{action} {name}: no such {kind} is in force")
        body = entry.statement.body
        # Whoever stole one responder's key could lock all and unlock all at will: it takes two.
        if isinstance(body, Lock) and body.target.kind == "all" and entry.author == str(by):
            raise RefusedError(f"unlock {name}: `lock all` is lifted by another operator than the one who locked")
        return entry

    def _ban(self, body: Revocation, statement_id: str) -> None:
        self._signer.register.ban(body.target, statement_id, self._clock.wall())

    def _held(self) -> Member:
        if self.member is None:
            raise LocalError("the CA is not a member yet")
        return self.member

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)


