"""One node, composed: what its parts need of each other, and nothing else.

    policy, roster, locks ──> Member ──> apply(snapshot) ──> live table cuts, bindings follow, strangers are dropped
    local connection ──> AgentSide ──┐
    OPEN from a peer ──> ToolSide  ──┴──> Carrier ──> audit log

Gossip, control and reload reach the data path through a new snapshot only; the data path answers with records.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog
import trio

from pki.bundle import TrustBundle
from pki.clock import SECOND, Clock, Wall
from pki.fields import Wire
from pki.judge import Word
from pki.statement import Finding, Statement
from sidecar.address import Address
from sidecar.aftermath import Aftermath, Receipted
from sidecar.audit import record
from sidecar.audit.checkpoint import Signatory
from sidecar.audit.overheard import Overheard
from sidecar.audit.record import Record
from sidecar.audit.statements import conflict_of, records_of
from sidecar.audit.witness import Heads, HeadTeller
from sidecar.audit.writer import AuditWriter
from sidecar.bindings import Bindings
from sidecar.certificates import Certificates
from sidecar.config import NodeConfig
from sidecar.gossip.editions import bundle_statement
from sidecar.gossip.journal import Journal
from sidecar.gossip.links import Contact
from sidecar.gossip.member import Member
from sidecar.identity import Credential, ca_of
from sidecar.invalidation.guard import Guard, sealed
from sidecar.lifecycle import room_for_streams
from sidecar.mcp.pinfile import PinFile
from sidecar.mcp.pins import Key, Pin
from sidecar.mcp.servers import Servers
from sidecar.net import dial_tcp
from sidecar.objects import Objects
from sidecar.observed import Observed
from sidecar.outbox import Outbox
from sidecar.overlay import Connection, Overlay, Standing
from sidecar.peering import Caps, Peering, contacts_of, dialable, is_member_identity
from sidecar.policy.decide import Request
from sidecar.proxy.agent import AgentSide, Kernel
from sidecar.proxy.carry import Carrier, Sight
from sidecar.proxy.local_tls import LocalTls
from sidecar.proxy.pool import Pool
from sidecar.proxy.rooms import Rooms
from sidecar.proxy.streams import Limits, LiveTable
from sidecar.proxy.tool import ToolSide
from sidecar.reasons import Reason
from sidecar.receipts import receipts
from sidecar.session.cgroup import SessionCgroups
from sidecar.session.children import ChildLife
from sidecar.session.life import SessionLife, Surroundings
from sidecar.session.refusals import RefusalRing
from sidecar.session.sessions import Session, Sessions
from sidecar.session.starts import Starts
from sidecar.session.users import Users
from sidecar.snapshot import Snapshot
from sidecar.telemetry.export import Telemetry
from sidecar.warmth import Warmth

FRESH = 10 * SECOND
"""How long without all of the CA's word until a node asks whether it has missed a rollover (us)."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seams:
    """What a node touches of the machine."""

    clock: Clock
    kernel: Kernel
    audit: AuditWriter
    journal: Journal
    objects: Objects
    keep_bundle: Callable[[bytes], None]
    """Makes a trust bundle what the next start begins with; raises OSError."""
    cgroups: SessionCgroups | None = None
    pins: PinFile | None = None


class Node:
    """The composition. :meth:`run` is in :mod:`sidecar.daemon`, which also owns its files."""

    def __init__(self, config: NodeConfig, credential: Credential, bundle: TrustBundle, seams: Seams) -> None:
        """Raises LocalError when no peer would take ``credential``."""
        self.config = config
        self.seams = seams
        self.draining = False
        limits = config.limits
        self.sessions = Sessions(seams.cgroups)
        self.refusals = RefusalRing()
        self.observed = Observed()
        self.telemetry: Telemetry | None = None
        self.member = Member(seams.journal, seams.objects, bundle, seams.clock, self)
        self.member.node = self.name
        overlay = Overlay(self.standing, dial_tcp)
        self.pool = Pool(overlay, seams.clock, lambda: self.credential.chain)
        self.carrier = Carrier(
            situation=self,
            table=LiveTable(),
            audit=Overheard(seams.audit, self._overhear),
            clock=seams.clock,
            limits=Limits(limits.idle, limits.half_close_idle, limits.lifetime),
            max_streams=min(limits.streams, room_for_streams()),
            rooms=Rooms(limits.read_requests, limits.mutate_requests),
            servers=Servers(seams.pins, self._note_drift),
        )
        self.certificates = Certificates(credential, self.member, self.carrier, config.ca)
        self.users = Users(self.name, lambda: self.member.snapshot.policy)
        self.outbox = Outbox(self.member, self._sealed, self._unsaid)
        self.guard = Guard(
            lambda: self.member.snapshot.policy, self._say_found, seams.audit.append, seams.clock
        )
        self.heads = Heads(self.name)
        self.bundle_statement = b""
        """The trust bundle as a join left it, for whoever composes us to say."""
        self.head_teller = HeadTeller(
            seams.audit, self.signatory, lambda: self.member.bundle.epoch, seams.clock, self.outbox.put
        )
        seams.audit.signatory = self.signatory
        seams.audit.keep(self.member.snapshot.bodies())
        self.aftermath = Aftermath(self.carrier.until_gone, self._give_receipts, self._drop_strangers)
        around = Surroundings(self.member, self.carrier, self.certificates, self.outbox)
        self.life = SessionLife(self.sessions, around)
        self.starts = Starts()
        self.children = ChildLife(self.sessions, self.carrier)
        caps = Caps(limits.handshakes, limits.handshakes_per_address)
        self.peering = Peering(credential.id, overlay, self.member, caps, self._serve_stream)
        self.tool = ToolSide(self, self.carrier, self.peering.refusals.note)
        self.local_tls = LocalTls(self)
        self.agent = AgentSide(self, self.carrier, self.pool, self.sessions, seams.kernel, self.local_tls)
        self.bindings = Bindings(self.name, self.agent.serve)
        self.warmth = Warmth(self, self.pool, self.carrier.cache)
        self.life.on_start = self.warmth.wake
        self.life.on_empty = self.children.end_empty

    def _overhear(self, one: Record) -> None:
        self.refusals.note(one)
        self.guard.hear(one, self.name)
        self.observed.note(one)
        if self.telemetry is not None:
            self.telemetry.note(one)

    # -- what the parts ask

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def trust_domain(self) -> str:
        return self.config.trust_domain

    @property
    def credential(self) -> Credential:
        return self.certificates.credential

    @property
    def own_not_after(self) -> Wall:
        return self.certificates.identity.not_after

    def is_fresh(self) -> bool:
        """Whether this node held all that was said a moment ago."""
        return self.member.moment().is_fresh(FRESH)

    def lineage(self) -> str:
        return self.certificates.identity.lineage

    def signatory(self) -> Signatory:
        """Who signs our log."""
        own, held = self.credential, bundle_statement(self.member.store, self.member.bundle.digest)
        return Signatory(own.id, own.chain, own.key, held or self.bundle_statement)

    def reconfigure(self, config: NodeConfig) -> None:
        """Take up what can change while serving."""
        self.config = config
        self.certificates.ca = config.ca
        limits = config.limits
        streams = Limits(limits.idle, limits.half_close_idle, limits.lifetime)
        self.carrier.reconfigure(streams, min(limits.streams, room_for_streams()))
        self.carrier.rooms.read, self.carrier.rooms.mutate = limits.read_requests, limits.mutate_requests

    def standing(self) -> Standing:
        snapshot = self.member.snapshot
        return Standing(
            credential=self.credential,
            bundle=self.member.bundle,
            now=self.member.moment().now,
            is_member=lambda identity: is_member_identity(identity, snapshot),
        )

    def sight(self) -> Sight:
        return Sight(self.member.snapshot, self.member.moment(), self.draining)

    def uid_of(self, agent: str) -> int | None:
        """The uid of an agent of the policy here; None when it has none."""
        return self.users.uid_of(agent)

    def uid_fault(self, agent: str, uid: int) -> str:
        """Why no session of ``agent`` may start under this uid here; empty: it may."""
        return "" if self.config.dev else self.users.fault(agent, uid)

    def addresses_of(self, node: str) -> Iterable[Address]:
        entry = self.member.snapshot.roster.nodes.get(node)
        return dialable(entry.addresses) if entry else ()

    def expected_of(self, session: Session) -> Request:
        """A request of ``session``, for whatever service."""
        return self.agent.expected(session)

    def sessions_here(self) -> Iterable[Session]:
        return self.life.live()

    # -- what the member does through us

    def send(self, peer: str, message: Wire) -> None:
        self.peering.send(peer, message)

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        """Cut what ``snapshot`` ends; the number of those streams by rule."""
        self.seams.audit.keep(snapshot.bodies())  # before anything is decided by it
        table, clock = self.carrier.table, self.seams.clock
        ended, counts = table.redecide(snapshot, self.member.moment(), clock.boot())
        self.peering.drop_strangers()
        await self.pool.drop_strangers()
        await self.bindings.follow(snapshot.policy)
        self.warmth.wake()
        await self.aftermath.cut(ended)
        return counts

    async def merged(self, statement: Statement, word: Word) -> None:
        """Enter what is now in force in the audit log."""
        audit, now = self.seams.audit, self.seams.clock.wall()
        volume = audit.head.volume if audit.head else ""
        others = self.member.store.conflicts(statement)
        for one in (
            *records_of(statement, word, now),
            *conflict_of(statement, others, now),
            *self.heads.records_of(statement, word, now, volume),
        ):
            audit.append(one)

    async def trusted(self, bundle: Statement) -> bool:
        try:
            await trio.to_thread.run_sync(self.seams.keep_bundle, bundle.raw)
        except OSError as error:
            log.error("the trust bundle cannot be kept, and is not in force", why=str(error))
            return False
        return True

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        self.aftermath.due(Receipted(statements, cut))

    def _give_receipts(self, due: Receipted) -> None:
        self.outbox.acknowledge(due.statements, due.cut)

    def _sealed(self, statements: list[Statement], cut: dict[str, int]) -> list[bytes]:
        now, epoch = self.seams.clock.wall(), self.member.bundle.epoch
        return receipts(self.credential, epoch, statements, cut, now)

    def _say_found(self, said: Finding, ttl: int) -> None:
        epoch, now = self.member.bundle.epoch, self.seams.clock.wall()
        self.outbox.put([sealed(said, ttl, self.credential, epoch, now)])

    def _note_drift(self, key: Key, pin: Pin) -> None:
        facts = {"service": key[0], "tool": key[1], "approved": pin.approved, "seen": pin.seen}
        self.seams.audit.append(record.finding(self.seams.clock.wall(), Reason.TOOL_DRIFT, facts))
        self.guard.drifted(key[0], self.name)

    async def _drop_strangers(self) -> None:
        await self.tool.drop_strangers()

    # -- loops of the daemon

    async def watch_streams(self) -> None:
        """Judge live streams again when time alone could end one, and once a second for their own limits."""
        table, clock = self.carrier.table, self.seams.clock
        while True:
            now = clock.boot()
            table.redecide(self.member.snapshot, self.member.moment(), now)
            table.overdue(now)
            self.life.watch(now)
            self.carrier.cut_unrecorded()
            self.guard.audit_lost(self.seams.audit.lost, self.name)
            self.carrier.quotas.forget_unused(now)
            self.children.tidy(self.member.moment().now)
            deadline = table.next_deadline()
            wait = 1.0 if deadline is None else (deadline - clock.boot()) / 1_000_000
            await trio.sleep(min(1.0, max(0.01, wait)))

    def contacts(self) -> Iterable[Contact]:
        """The roster's nodes and the CA."""
        yield from contacts_of(self.credential.id, self.member.snapshot)
        yield Contact(ca_of(self.member.bundle), (self.config.ca_control,))

    # -- inside

    async def _serve_stream(self, connection: Connection) -> None:
        await self.tool.serve(connection)

    def _unsaid(self) -> None:
        self.life.cut_ended()
