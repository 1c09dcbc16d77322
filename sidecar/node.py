"""One node, composed: what its parts need of each other, and nothing else.

    policy, roster, locks ──> Member ──> apply(snapshot) ──> live table cuts, bindings follow, strangers are dropped
    local connection ──> AgentSide ──┐
    OPEN from a peer ──> ToolSide  ──┴──> Carrier ──> audit log

Gossip, control and reload reach the data path through a new snapshot only; the data path answers with records.
"""

import os
import pwd
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import structlog
import trio

from pki.bundle import TrustBundle
from pki.certificate import read
from pki.clock import Clock, Wall
from pki.errors import LocalError
from pki.ids import ID_BYTES, new_id
from pki.judge import Word
from pki.renewal import in_grace
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.statement import Revocation, Statement, Target, Terms, Wire, sign
from pki.verify import Identity, verify
from sidecar import defaults
from sidecar.address import Address
from sidecar.audit import record
from sidecar.audit.statements import records_of
from sidecar.audit.writer import AuditWriter
from sidecar.bindings import Bindings
from sidecar.certify import CaAccess, certify_session
from sidecar.config import NodeConfig
from sidecar.gossip.journal import Journal
from sidecar.gossip.links import Contact
from sidecar.gossip.member import Member
from sidecar.identity import Credential, ca_of
from sidecar.lifecycle import room_for_streams
from sidecar.net import dial_tcp
from sidecar.objects import Objects
from sidecar.overlay import Connection, Overlay, Standing
from sidecar.peering import Caps, Peering, contacts_of, dialable, is_member_identity
from sidecar.policy.model import Agent
from sidecar.proxy.agent import AgentSide, Kernel
from sidecar.proxy.carry import Carrier, Sight
from sidecar.proxy.pool import Pool
from sidecar.proxy.streams import Limits, LiveTable
from sidecar.proxy.tool import ToolSide
from sidecar.reasons import Reason
from sidecar.receipts import receipts
from sidecar.renewal import Spawn
from sidecar.session.cgroup import SessionCgroups
from sidecar.session.sessions import Session, Sessions
from sidecar.snapshot import Facts, Snapshot
from sidecar.traceparent import ROOT_ENTROPY, root

CUT_SECONDS = 5.0
"""How long a receipt waits for the streams that its statement cut."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seams:
    """What a node touches of the machine."""

    clock: Clock
    kernel: Kernel
    audit: AuditWriter
    journal: Journal
    objects: Objects
    cgroups: SessionCgroups | None = None


@dataclass(eq=False)
class Node:
    """The composition. :meth:`run` is in :mod:`sidecar.daemon`, which also owns its files."""

    config: NodeConfig
    credential: Credential
    bundle: TrustBundle
    seams: Seams
    draining: bool = False
    member: Member = field(init=False)
    peering: Peering = field(init=False)
    sessions: Sessions = field(init=False)
    bindings: Bindings = field(init=False)
    pool: Pool = field(init=False)
    carrier: Carrier = field(init=False)
    tool: ToolSide = field(init=False)
    agent: AgentSide = field(init=False)
    _outbox: trio.MemorySendChannel[list[bytes]] = field(init=False)
    _inbox: trio.MemoryReceiveChannel[list[bytes]] = field(init=False)

    def __post_init__(self) -> None:
        seams, limits = self.seams, self.config.limits
        self._identity = self._own_identity()
        self.sessions = Sessions(seams.cgroups)
        self._outbox, self._inbox = trio.open_memory_channel[list[bytes]](1_024)
        self.member = Member(seams.journal, seams.objects, self.bundle, seams.clock, self)
        overlay = Overlay(self.standing, dial_tcp)
        self.pool = Pool(overlay, seams.clock, lambda: self.credential.chain)
        self.carrier = Carrier(
            situation=self,
            table=LiveTable(),
            audit=seams.audit,
            clock=seams.clock,
            limits=Limits(limits.idle, limits.half_close_idle, limits.lifetime),
            max_streams=min(limits.streams, room_for_streams()),
        )
        caps = Caps(limits.handshakes, limits.handshakes_per_address)
        self.peering = Peering(self.credential.id, overlay, self.member, caps, self._serve_stream)
        self.tool = ToolSide(self, self.carrier, self.peering.refusals.note)
        self.agent = AgentSide(self, self.carrier, self.pool, self.sessions, seams.kernel)
        self.bindings = Bindings(self.name, self.agent.serve)

    # -- what the parts ask

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def trust_domain(self) -> str:
        return self.config.trust_domain

    @property
    def own_not_after(self) -> Wall:
        return self._identity.not_after

    def lineage(self) -> str:
        return self._identity.lineage

    def reconfigure(self, config: NodeConfig) -> None:
        """Take up what can change while serving."""
        self.config = config
        limits = config.limits
        streams = Limits(limits.idle, limits.half_close_idle, limits.lifetime)
        self.carrier.reconfigure(streams, min(limits.streams, room_for_streams()))

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
        policy = self.member.snapshot.policy
        entry = policy.agents.get(agent) if policy else None
        return None if entry is None else _uid_here(entry)

    def uid_fault(self, agent: str, uid: int) -> str:
        """Why no session of ``agent`` may start under this uid here; empty: it may.

        A policy is checked where the users are not: only here is known what number a name stands for.
        """
        policy = self.member.snapshot.policy
        if self.config.dev or policy is None:
            return ""
        if uid in (0, os.geteuid()):
            return "which is root's or the daemon's own"
        others = (one for one in policy.agents.values() if one.name != agent and self.name in one.nodes)
        shared = next((one.name for one in others if _uid_here(one) == uid), None)
        return f"which is agent {shared}'s too: they could not be told apart" if shared else ""

    def addresses_of(self, node: str) -> Iterable[Address]:
        entry = self.member.snapshot.roster.nodes.get(node)
        return dialable(entry.addresses) if entry else ()

    # -- what the member does through us

    def send(self, peer: str, message: Wire) -> None:
        self.peering.send(peer, message)

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        """Cut what ``snapshot`` ends; returns when those streams are dead, with their number by rule."""
        table, clock = self.carrier.table, self.seams.clock
        ended, counts = table.redecide(snapshot, self.member.moment(), clock.boot())
        self.peering.drop_strangers()
        await self.pool.drop_strangers()
        await self.bindings.follow(snapshot.policy)
        with trio.move_on_after(CUT_SECONDS):
            await self.carrier.until_gone(ended)
        # Last: a stream that was cut says why to its peer, on the very connection that ends here.
        await self.tool.drop_strangers()
        return counts

    async def merged(self, statement: Statement, word: Word) -> None:
        """Enter what is now in force in the audit log."""
        for one in records_of(statement, word, self.seams.clock.wall()):
            self.seams.audit.append(one)

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        now = self.seams.clock.wall()
        raws = receipts(self.credential, self.member.bundle.epoch, statements, cut, now)
        self._publish(raws)

    async def publish_own(self) -> None:
        """Hand our own statements to the member, outside of its own merge."""
        async for raws in self._inbox:
            for refusal in await self.member.take(raws, None):
                log.error("own statement refused", why=refusal)
                self._cut_ended()

    # -- sessions

    async def start_session(self, agent: str, uid: int) -> Session:
        """A new session of ``agent`` for ``uid``; raises what :func:`certify_session` does."""
        name = new_id(secrets.token_bytes(ID_BYTES))
        wanted = SpiffeId.for_agent(self.trust_domain, agent, self.name, name)
        identity, key = await certify_session(wanted, self.ca_access())
        trace = root(secrets.token_bytes(ROOT_ENTROPY))
        session = Session(identity, key, uid, self.seams.clock.wall(), trace)
        self._forget_ended()
        self.sessions.add(session)
        facts: record.Facts = {
            "uid": uid,
            "serial": identity.serial,
            "not_after": identity.not_after,
            "trace": trace,
        }
        self._note_session("started", session, facts)
        return session

    # -- certificates, as their renewal needs it

    def own_identity(self) -> Identity:
        return self._identity

    def ca_access(self) -> CaAccess:
        return CaAccess(self.config.ca, self.member.bundle, self.credential, self.seams.clock)

    def live_sessions(self) -> Iterable[Session]:
        """Those that can still do something. The others are kept until the next starts: refusals say what they were."""
        return [session for session in self.sessions if not self._is_over(session)]

    def take_up_node(self, credential: Credential, identity: Identity, spawn: Spawn) -> None:
        """The node's next certificate: for connections from now on, and proven on the streams that live."""
        self.credential, self._identity = credential, identity
        self._renewed(identity, credential, spawn)

    def take_up_session(self, session: Session, identity: Identity, key: Key, spawn: Spawn) -> None:
        """A session's next certificate. One that ended while the CA was asked stays ended."""
        held = self.sessions.find(session.id.session)
        if held is not None:
            renewed = replace(held, identity=identity, key=key)
            self.sessions.add(renewed)
            self._renewed(identity, renewed, spawn)

    def _renewed(self, identity: Identity, renewed: Credential | Session, spawn: Spawn) -> None:
        now = self.seams.clock.wall()
        one = record.renewal(now, "renewed", str(identity.id), identity.serial, identity.not_after)
        self.seams.audit.append(one)
        for _, arrival in list(self.carrier.arrivals.values()):
            spawn(arrival.show, renewed)
        self.carrier.refresh()

    # -- the end of a session

    def end_session(self, session: Session) -> None:
        """End it here at once and everywhere soon: a revocation of it, which its own node may sign."""
        self.sessions.remove(session.id.session)
        self._note_session("ended", session, {})
        now = self.seams.clock.wall()
        if session.identity.not_after <= now:
            return
        terms = Terms(self.member.bundle.epoch, now, session.identity.not_after + 5 * defaults.SKEW)
        body = Revocation(target=Target(kind="id", value=str(session.id)), message="session ended")
        raw = sign("revocation", body, terms, self.credential.key, self.credential.chain).raw
        self._publish([raw])

    def _note_session(self, what: str, session: Session, facts: record.Facts) -> None:
        now = self.seams.clock.wall()
        self.seams.audit.append(record.session(now, what, session.id.session, session.id.name, facts))

    def _cut_ended(self) -> None:
        """A session whose end could not be said to others (too many were) ends here all the same."""
        for live in list(self.carrier.table):
            session = live.request.session
            if session.node == self.name and self.sessions.find(session.session) is None:
                live.cut(Reason.REVOKED, "session ended")

    def _forget_ended(self) -> None:
        """Sessions that can do nothing any more must not make those of the same uid ambiguous."""
        for session in self.sessions:
            if self._is_over(session):
                self.sessions.remove(session.id.session)
                self._note_session("ended", session, {})

    def _is_over(self, session: Session) -> bool:
        facts = Facts(
            id=str(session.id),
            agent=session.id.name,
            session=session.id.session,
            nodes=(self.name,),
            serials=(session.identity.lineage, session.identity.serial),
        )
        revoked = self.member.snapshot.restrictions.revocation_of(facts)
        return revoked is not None or session.identity.not_after <= self.member.moment().now

    # -- loops of the daemon

    async def watch_streams(self) -> None:
        """Judge live streams again when time alone could end one, and once a second for their own limits."""
        table, clock = self.carrier.table, self.seams.clock
        while True:
            now = clock.boot()
            table.redecide(self.member.snapshot, self.member.moment(), now)
            table.overdue(now)
            self.carrier.cut_unrecorded()
            self.sessions.tidy()
            deadline = table.next_deadline()
            wait = 1.0 if deadline is None else (deadline - clock.boot()) / 1_000_000
            await trio.sleep(min(1.0, max(0.01, wait)))

    async def keep_warm(self) -> None:
        """Pre-warmed paths: idle connections to every node that a binding here may lead to."""
        async with trio.open_nursery() as nursery:  # One node that does not answer keeps no other waiting.
            while True:
                for node in sorted(self._nodes_in_reach()):
                    peer = SpiffeId.for_node(self.trust_domain, node)
                    nursery.start_soon(self.pool.warm, peer, tuple(self.addresses_of(node)))
                await trio.sleep(1.0)

    def contacts(self) -> Iterable[Contact]:
        """The roster's nodes and the CA."""
        yield from contacts_of(self.credential.id, self.member.snapshot)
        yield Contact(ca_of(self.member.bundle), (self.config.ca_control,))

    # -- inside

    def _nodes_in_reach(self) -> set[str]:
        policy = self.member.snapshot.policy
        bindings = policy.bindings_on(self.name) if policy else ()
        nodes = {node for one in bindings for node in (policy.services[one.service].nodes if policy else ())}
        return nodes - {self.name}

    async def _serve_stream(self, connection: Connection) -> None:
        await self.tool.serve(connection)

    def _publish(self, raws: list[bytes]) -> None:
        if raws:
            try:
                self._outbox.send_nowait(raws)
            except trio.WouldBlock:
                log.error("own statements dropped: too many are waiting")
                self._cut_ended()

    def _own_identity(self) -> Identity:
        """Our certificate as it is on disk. One that ended while we were down may be renewed in grace."""
        chain, now = self.credential.chain, self.seams.clock.wall()
        ended = read(chain[0]).not_after
        found = verify(chain, self.bundle, min(now, ended) if in_grace(ended, now) else now)
        if isinstance(found, Identity):
            return found
        raise LocalError(f"own certificate: {found}; join again with a new token: lockgate join")


def _uid_here(agent: Agent) -> int | None:
    """The number of the agent's user on this machine; None when there is no such user."""
    if isinstance(agent.uid, int):
        return agent.uid
    try:
        return pwd.getpwnam(agent.uid).pw_uid
    except KeyError:
        return None
