"""What the tests of the data path share: a small policy, a log in memory, a clock that goes with Trio's, scripted ends."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import trio
import trio.testing

from pki.clock import HOUR, SECOND, Boot, Wall
from pki.ids import new_id
from pki.spiffe import SpiffeId
from sidecar.audit.chain import Head
from sidecar.audit.record import Caller, Kind, Record, Role, Subject
from sidecar.audit.writer import AuditUnavailableError
from sidecar.policy.decide import Decision, Request
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.proxy.carry import Carrier, Sight
from sidecar.proxy.splice import Gate, splice
from sidecar.proxy.streams import Limits, Live, LiveTable
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LockInForce,
    Moment,
    NodeMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
)
from tests.authority import NOW, SESSION, TRUST_DOMAIN

NODES = ("agents-1", "tools-1", "tools-2")
UID = 1001
LOCK = new_id(b"a-lock-statement")
REVOCATION = new_id(b"revoking-one-ses")

ENDS = (Kind.CLOSED, Kind.CUT)


def policy(port: int = 8001) -> Policy:
    """``wiki`` best-effort on tools-1, ``tickets`` audit-required on two nodes, ``vault`` granted to nobody."""
    target = f'target = "127.0.0.1:{port}"'
    services = "".join(
        f'[services.{name}]\nsegment = "{segment}"\nnodes = {nodes}\n{target}\n'
        for name, segment, nodes in (
            ("wiki", "retrieval", '["tools-1"]'),
            ("tickets", "action", '["tools-1", "tools-2"]'),
            ("vault", "high-risk", '["tools-1"]'),
            ("notes", "retrieval", '["agents-1"]'),
        )
    )
    rest = f"""
[agents.researcher]
nodes = ["agents-1"]
uid = {UID}

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[grants]]
id = "read-wiki"
agents = ["researcher"]
services = ["wiki", "tickets", "notes"]
"""
    return load_policy((services + rest).encode(), "policy.toml")


@dataclass
class LoopClock:
    """Wall and boot time that go with Trio's clock, so that a virtual second is one second of each."""

    started: Wall = NOW
    ahead: int = 0
    """Boot and wall time that passed while the machine slept: Trio's clock did not see it."""
    zero: float | None = None
    """Trio's time at the first look: it starts anywhere."""

    def wall(self) -> Wall:
        return Wall(self.started + self._passed())

    def boot(self) -> Boot:
        return Boot(SECOND + self._passed())

    def _passed(self) -> int:
        now = trio.current_time()
        self.zero = now if self.zero is None else self.zero
        return self.ahead + round((now - self.zero) * SECOND)


@dataclass
class LogBook:
    """The audit log: what was written, in order, with what other parts ``note``. ``hold`` keeps a commit waiting."""

    available: bool = True
    lost: int = 0
    commits_fail: bool = False
    hold: trio.Event | None = None
    records: list[Record] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    head: Head | None = None
    bodies: list[bytes] = field(default_factory=list)

    def keep(self, bodies: Sequence[bytes]) -> None:
        self.bodies += bodies

    def append(self, record: Record) -> None:
        self.records.append(record)
        self.note(record.kind)

    async def commit(self, record: Record) -> None:
        self.note("commit")
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        if self.commits_fail:
            raise AuditUnavailableError("audit log: the disk is full")
        self.append(record)

    def note(self, event: str) -> None:
        self.events.append(event)

    def of(self, *kinds: Kind) -> list[Record]:
        return [one for one in self.records if one.kind in kinds]

    @property
    def kinds(self) -> list[Kind]:
        return [one.kind for one in self.records]

    @property
    def end(self) -> Record:
        """The one closed or cut record."""
        [record] = self.of(*ENDS)
        return record


@dataclass
class Scene:
    """What a node decides by, open to change while streams live."""

    clock: LoopClock = field(default_factory=LoopClock)
    policy: Policy | None = field(default_factory=policy)
    restrictions: Restrictions = field(default_factory=Restrictions)
    nodes: tuple[str, ...] = NODES
    draining: bool = False
    on_sight: Callable[[], None] | None = None

    def snapshot(self) -> Snapshot:
        roster = Roster({name: NodeMember(name, (), "", (), ()) for name in self.nodes}, {})
        return Snapshot.of(
            policy=self.policy, bundle_digest="", roster=roster, restrictions=self.restrictions
        )

    def sight(self) -> Sight:
        sight = Sight(self.snapshot(), self.moment(), self.draining)
        if self.on_sight is not None:
            self.on_sight()
        return sight

    def moment(self) -> Moment:
        now = self.clock.wall()
        return Moment(now, now, now)

    def lock(self, kind: str = "all", value: str = "") -> None:
        until = Wall(self.clock.wall() + HOUR)
        self.restrictions = Restrictions([LockInForce(LOCK, Target(kind, value), until, "alice", "")])

    def drain(self) -> None:
        self.draining = True

    def revoke(self, kind: str = "agent", value: str = "researcher") -> None:
        self.restrictions = Restrictions((), [RevocationInForce(REVOCATION, Target(kind, value), "alice")])


def carrier(scene: Scene, log: LogBook, limits: Limits | None = None, max_streams: int = 100) -> Carrier:
    return Carrier(
        situation=scene,
        table=LiveTable(),
        audit=log,
        clock=scene.clock,
        limits=limits or Limits(),
        max_streams=max_streams,
    )


def apply(carrier: Carrier, scene: Scene) -> dict[str, int]:
    """What a node does with a new snapshot: streams cut, by rule."""
    _, counts = carrier.table.redecide(scene.snapshot(), scene.moment(), scene.clock.boot())
    return counts


def request(service: str = "wiki", not_after: int = NOW + HOUR) -> Request:
    session = SpiffeId.for_agent(TRUST_DOMAIN, "researcher", "agents-1", SESSION)
    return Request(session, service, "tools-1", ("ab", "cd"), Wall(not_after))


def subject(service: str = "wiki", stream: bytes = b"one-stream-16-by") -> Subject:
    return Subject(
        stream=new_id(stream), role=Role.TOOL, session=SESSION, agent="researcher", service=service
    )


Step = Callable[[Live], Awaitable[None]]


async def _nothing(live: Live) -> None:
    await trio.lowlevel.checkpoint()


@dataclass(eq=False)
class FailingReceive(trio.abc.ReceiveStream):
    """Every read fails."""

    error: Exception

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - Trio's
        await trio.lowlevel.checkpoint()
        raise self.error

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@dataclass(eq=False)
class ScriptedArrival:
    """An arrival whose every step a test may replace. ``client`` and ``target`` are the test's ends of its streams."""

    log: LogBook
    request: Request = field(default_factory=request)
    subject: Subject = field(default_factory=subject)
    caller: Caller | None = None
    near_fault: Reason | None = None
    far_fault: Reason = Reason.TARGET_UNREACHABLE
    on_connect: Step = _nothing
    on_opened: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    on_finish: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    refusal: Decision | None = None
    finished: list[tuple[bool, Reason | None, bool]] = field(default_factory=list)
    """(whether there was a far end, reason, clean) of each finish."""

    def __post_init__(self) -> None:
        self.near: trio.abc.HalfCloseableStream
        self.client, self.near = trio.testing.memory_stream_pair()
        self.far, self.target = trio.testing.memory_stream_pair()

    def of(self, service: str) -> "ScriptedArrival":
        self.request = replace(self.request, service=service)
        self.subject = replace(self.subject, service=service)
        return self

    def break_reading(self, error: Exception) -> None:
        """Each read from the near end fails like this."""
        self.near = trio.StapledStream(self.near, FailingReceive(error))

    def current(self) -> Request:
        return self.request

    async def show(self, renewed: object) -> None:
        """Nobody relies on a certificate here."""

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        self.log.note("connect")
        await self.on_connect(live)
        return self.far

    async def opened(self) -> None:
        await self.on_opened()

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:  # noqa: ARG002 - the seam's
        await splice(self.near, far, gate)

    async def refuse(self, decision: Decision) -> None:
        self.refusal = decision
        await trio.lowlevel.checkpoint()

    async def finish(
        self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None, *, clean: bool
    ) -> None:
        self.log.note("finish")
        self.finished.append((far is not None, reason, clean))
        for end in (far, self.near):
            if end is not None:
                await trio.aclose_forcefully(end)
        await self.on_finish()
