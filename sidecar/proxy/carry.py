"""The path of a stream, on either node and in every role, top to bottom.

    admit -> decide -> record -> prove and open (or dial the target) -> splice -> record

Where a stream comes from and goes to is its :class:`~sidecar.proxy.arrival.Arrival`. Everything that must be the same
for all of them is here, once. The rules:

1. A stream enters the live table BEFORE the decision, so that a revocation in between finds it.
2. Its admission is written before anything is dialled, durably where the segment requires that.
3. After admission exactly one closed or cut record follows, also when the daemon is cancelled or a bug strikes;
   a stream that was refused has one denied record instead, one that found no room a shed record.
4. Both ends are released before that record, and the stream leaves the table after it: who waits for that
   (:meth:`Carrier.until_gone`) knows that nothing of the stream is left.
5. Whoever cuts a stream sets the reason first (:meth:`Live.cut`); a cut scope without a reason does not exist.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from pki.clock import Clock
from pki.errors import RemoteError
from sidecar.audit import record
from sidecar.audit.record import Ending, Record, Ruling, Traffic
from sidecar.audit.writer import AuditUnavailableError
from sidecar.http.held import Budget
from sidecar.mcp.servers import Servers
from sidecar.objectives import Objectives
from sidecar.policy.cache import DecisionCache
from sidecar.policy.decide import MAX_HINT_CHARS, Decision, Request
from sidecar.policy.model import Audit, Policy, Verdict
from sidecar.proxy.arrival import Arrival, EndedError, end_reason
from sidecar.proxy.framed import ResetByPeer
from sidecar.proxy.quotas import Excess, Quotas
from sidecar.proxy.rooms import Rooms
from sidecar.proxy.ruling import ruling
from sidecar.proxy.splice import Broken, Gate
from sidecar.proxy.streams import FOREVER, Limits, Live, LiveTable
from sidecar.reasons import Reason
from sidecar.snapshot import Moment, Snapshot

STATEMENT_SECONDS = 1.0
"""How long the record of a stream whose peer fell silent waits for the statement that explains it."""

_STOPPED = (Reason.LOCKED, Reason.REVOKED)
"""A peer's word for a statement that may be on its way to us: our receipt will count what the peer cut."""


class Recorder(Protocol):
    """The audit log as the data path sees it (:class:`sidecar.audit.writer.AuditWriter`)."""

    @property
    def available(self) -> bool:
        """Whether a commit can be expected to succeed."""

    def append(self, record: Record) -> None: ...
    async def commit(self, record: Record) -> None:
        """Return once it is durable; raises AuditUnavailableError."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What decisions read now."""

    snapshot: Snapshot
    moment: Moment
    draining: bool = False


class Situation(Protocol):
    """The seam to the rest of the node: the current snapshot and moment."""

    def sight(self) -> Sight: ...


@dataclass(eq=False, slots=True)
class _Passage:
    """One stream on its way through."""

    arrival: Arrival
    live: Live
    sight: Sight
    decision: Decision
    first: str = ""
    """The stream whose decision this one repeats, if it does (:mod:`sidecar.policy.cache`)."""
    far: trio.abc.HalfCloseableStream | None = None
    end: EndedError | None = None

    @property
    def ruling(self) -> Ruling:
        """The decision, as it goes on record."""
        return ruling(self.arrival.request, self.decision, self.sight, self.first)


@dataclass(slots=True)
class Carrier:
    """Carries streams. One for a node."""

    situation: Situation
    table: LiveTable
    audit: Recorder
    clock: Clock
    limits: Limits
    max_streams: int
    arrivals: dict[str, tuple[Live, Arrival]] = field(default_factory=dict)
    """Of the live streams, by stream id."""
    quotas: Quotas = field(default_factory=Quotas)
    rooms: Rooms = field(default_factory=Rooms)
    held: Budget = field(default_factory=Budget)
    objectives: Objectives = field(default_factory=Objectives)
    servers: Servers = field(default_factory=Servers)
    cache: DecisionCache = field(default_factory=DecisionCache)
    turnover: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    """Woken whenever a stream has left the table."""

    def reconfigure(self, limits: Limits, max_streams: int) -> None:
        """For streams from now on."""
        self.limits = limits
        self.max_streams = max_streams

    async def until_gone(self, ended: Iterable[Live]) -> None:
        """Return once these streams have closed both ends and written their record."""
        waiting = list(ended)
        while any(self.table.find(live.id) is live for live in waiting):
            await self.turnover.park()

    def measure(self, policy: Policy | None, segment: str, latency: int | None) -> None:
        """How long one stream or request took to be let through (us); None: this node could not serve it."""
        found = policy.segments.get(segment) if policy else None
        if found is not None and found.slo is not None:
            self.objectives.note(segment, found.slo, latency, self.clock.boot())

    def judge(self, live: Live) -> None:
        """Decide on a live stream again: facts were added, or its deadline has come."""
        sight = self.situation.sight()
        self.table.judge(live, sight.snapshot, sight.moment, self.clock.boot())

    def refresh(self) -> None:
        """Certificates were renewed: what is under each stream, and so its deadline, is looked up again."""
        for live, arrival in list(self.arrivals.values()):
            known = live.request
            request = replace(arrival.current(), tool_node=known.tool_node, operation=known.operation)
            if request != live.request:
                also = tuple(replace(request, operation=one.operation) for one in live.also)
                self.table.rebind(live, request, also)
                self.judge(live)

    def cut_unrecorded(self) -> list[Live]:
        """Cut the streams whose segment requires the audit log, if it cannot be written now."""
        if self.audit.available:
            return []
        snapshot = self.situation.sight().snapshot
        required = [live for live in self.table if _is_required(live.request, snapshot)]
        return [live for live in required if live.cut(Reason.AUDIT_UNAVAILABLE)]

    async def carry(self, arrival: Arrival) -> None:
        """One stream from its arrival to its end. Raises nothing but cancellation and bugs, the records written."""
        scope = trio.CancelScope()
        live = self._live(arrival, scope)
        if len(self.table) >= self.max_streams or not self.table.admit(live):
            await self._shed(arrival)
            return
        passage = None
        self.arrivals[live.id] = (live, arrival)
        try:
            sight = self.situation.sight()
            decision, first = self._decide(live, sight)
            passage = _Passage(arrival, live, sight, decision, first)
            if passage.decision.reason is None:
                await self._run(passage, scope)
            else:
                await self._refuse(passage)
        finally:
            end = passage.end if passage is not None else None
            by_peer = end is not None and end.by_peer and end.reason in _STOPPED
            self.quotas.close(live.allowance)
            # What we cut ourselves has been counted already.
            self.table.close(live, self.clock.boot(), by_peer=by_peer and live.reason is None)
            del self.arrivals[live.id]
            self.turnover.unpark_all()

    def _live(self, arrival: Arrival, scope: trio.CancelScope) -> Live:
        now = self.clock.boot()
        return Live(
            id=arrival.subject.stream,
            request=arrival.request,
            limits=self.limits,
            started=now,
            cancel=scope.cancel,
            active=now,
            judge_by=FOREVER,
            peer=arrival.subject.peer,
        )

    def _decide(self, live: Live, sight: Sight) -> tuple[Decision, str]:
        """The decision, and the stream or request whose decision it repeats, if it does."""
        answer = self.cache.decide(live.request, sight.snapshot, sight.moment, live.id)
        first = answer.first if answer.first != live.id else ""
        if not answer.decision.allowed:
            return answer.decision, first
        if sight.draining:
            return _denial(Reason.DRAINING, "", "this node is shutting down"), ""
        if live.reason is not None:  # Cut between admission and decision.
            return _denial(live.reason, live.rule, ""), ""
        return self._allow(live, sight, answer.decision), first

    def _allow(self, live: Live, sight: Sight, decision: Decision) -> Decision:
        """The decision that let it in, unless a quota does not."""
        policy, session = sight.snapshot.policy, live.request.session
        agent = policy.agents.get(session.name) if policy else None
        if agent is None:
            return decision
        mine = (session.session, agent.session_quota)
        found = self.quotas.open((agent.name, agent.quota), mine, self.clock.boot())
        if isinstance(found, Excess):
            return Decision(Verdict.DENY, Reason.LIMIT, "", agent.line, found.hint, own=True)
        live.allowance = found
        return decision

    async def _run(self, passage: _Passage, scope: trio.CancelScope) -> None:
        """A stream that was let in, to its one closed or cut record, whatever ends it."""
        passage.end = EndedError(Reason.DRAINING)  # What holds when the whole daemon is cancelled.
        try:
            with scope:
                await self._pass(passage)
            passage.end = None
        except EndedError as end:
            passage.end = end
        except AuditUnavailableError:
            passage.end = None
            hint = "this segment needs a durable audit log, and it cannot be written"
            passage.first = ""
            passage.decision = _denial(Reason.AUDIT_UNAVAILABLE, "", hint)
        except Exception:
            passage.end = EndedError(passage.arrival.far_fault)
            raise
        finally:
            if passage.decision.reason is None:
                await self._finish(passage)
            else:
                await self._refuse(passage)

    async def _pass(self, passage: _Passage) -> None:
        """Written before anything is dialled; nothing counts as open before the far end is there."""
        await self._record_admission(passage)
        arrival, live = passage.arrival, passage.live
        passage.far = await arrival.connect(live)
        self.judge(live)
        await trio.lowlevel.checkpoint_if_cancelled()
        self.audit.append(record.opened(self.clock.wall(), replace(arrival.subject, peer=live.peer)))
        live.is_open = True
        live.active = self.clock.boot()
        self.measure(passage.sight.snapshot.policy, passage.decision.segment, live.active - live.started)
        try:
            await arrival.opened()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise EndedError(arrival.near_fault) from None
        await self._converse(arrival, passage.far, live)

    async def _record_admission(self, passage: _Passage) -> None:
        """Where the segment requires it, wait until it is durable; raises AuditUnavailableError."""
        arrival = passage.arrival
        one = record.admitted(self.clock.wall(), arrival.subject, passage.ruling, arrival.caller)
        if not _is_required(arrival.request, passage.sight.snapshot):
            self.audit.append(one)
        elif self.audit.available:
            await self.audit.commit(one)
        else:
            raise AuditUnavailableError("audit log: it cannot be written")

    async def _converse(self, arrival: Arrival, far: trio.abc.HalfCloseableStream, live: Live) -> None:
        def passing(count: int, outwards: bool) -> bool:
            now = self.clock.boot()
            if now >= live.judge_by:
                self.judge(live)
            if live.reason is not None:
                return False
            if live.allowance.spend(count, now) is not None and live.cut(Reason.LIMIT):
                return False
            live.active = now
            if outwards:
                live.bytes_in += count
            else:
                live.bytes_out += count
            return True

        def half_closed() -> None:
            live.half_closed = True
            live.active = self.clock.boot()

        try:
            await arrival.converse(far, Gate(passing, half_closed), live)
        except Broken as broken:
            raise _ended(broken, arrival) from None

    async def _refuse(self, passage: _Passage) -> None:
        arrival, decision = passage.arrival, passage.decision
        self.audit.append(record.denied(self.clock.wall(), arrival.subject, passage.ruling, arrival.caller))
        with trio.CancelScope(shield=True):
            await arrival.refuse(decision)
            await arrival.finish(None, decision.reason, clean=False)

    async def _shed(self, arrival: Arrival) -> None:
        self.audit.append(record.shed(self.clock.wall(), arrival.subject, Reason.LIMIT))
        with trio.CancelScope(shield=True):
            await arrival.refuse(_denial(Reason.LIMIT, "", "this node carries all the streams it may"))
            await arrival.finish(None, Reason.LIMIT, clean=False)

    async def _finish(self, passage: _Passage) -> None:
        """Release both ends and write the one closed or cut record."""
        live, end = passage.live, passage.end or EndedError(None)
        reason = live.reason or end.reason
        with trio.CancelScope(shield=True):
            try:
                if reason is not None and not live.is_open:
                    await passage.arrival.refuse(_denial(reason, live.rule or end.rule, end.hint))
                clean = passage.end is None and live.reason is None
                await passage.arrival.finish(passage.far, reason, clean=clean)
                if live.reason is None and reason is Reason.PEER_UNREACHABLE:
                    await _await_statement(live)
            finally:
                self._record_end(passage.arrival, live, end)

    def _record_end(self, arrival: Arrival, live: Live, end: EndedError) -> None:
        traffic = Traffic(live.bytes_in, live.bytes_out)
        now = self.clock.wall()
        subject = replace(arrival.subject, peer=live.peer)
        if live.reason is not None:
            self.audit.append(record.cut(now, subject, Ending(live.reason, live.rule), traffic))
        elif end.reason is not None:
            why = Ending(end.reason, end.rule, _brief(end.hint))
            self.audit.append(record.cut(now, subject, why, traffic))
        else:
            self.audit.append(record.closed(now, subject, traffic))


def _brief(hint: str) -> str:
    """For a record, which must be written whatever the words of a far end or a library hold."""
    return hint[:MAX_HINT_CHARS].encode(errors="replace").decode()


async def _await_statement(live: Live) -> None:
    """A peer that was locked or revoked goes silent first; the statement that cuts ``live`` may be a moment behind."""
    cut = trio.Event()
    live.cancel = cut.set
    with trio.move_on_after(STATEMENT_SECONDS):
        await cut.wait()


def _is_required(request: Request, snapshot: Snapshot) -> bool:
    service = snapshot.policy.services.get(request.service) if snapshot.policy else None
    if service is None:
        return False
    special = service.special(request.operation)
    return (special.segment if special else service.segment).audit is Audit.REQUIRED


def _ended(broken: Broken, arrival: Arrival) -> EndedError:
    if isinstance(broken.cause, ResetByPeer):
        return EndedError(end_reason(broken.cause.reason), by_peer=True)
    if isinstance(broken.cause, RemoteError):
        return EndedError(Reason.BAD_REQUEST, hint=str(broken.cause))
    return EndedError(arrival.near_fault if broken.near else arrival.far_fault)


def _denial(reason: Reason, rule: str, hint: str) -> Decision:
    return Decision(Verdict.DENY, reason, rule, 0, hint, own=True)
