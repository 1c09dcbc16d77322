"""The path of a stream, on either node and in every role, top to bottom:

    admit -> decide -> record -> prove and open (or dial the target) -> splice -> record

An :class:`Arrival` is where a stream came from and where it goes: a local connection on a binding, or an OPEN from
another node. Everything that must be the same for all of them is here, once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from pki.clock import Clock
from pki.errors import RemoteError
from sidecar.audit import record
from sidecar.audit.record import Caller, Record, Ruling, Subject, Traffic
from sidecar.audit.writer import AuditUnavailableError
from sidecar.policy.decide import Decision, Request, decide
from sidecar.policy.model import Audit, Verdict
from sidecar.proxy.framed import ResetByPeer
from sidecar.proxy.splice import Broken, Gate, splice
from sidecar.proxy.streams import FOREVER, Limits, Live, LiveTable
from sidecar.reasons import Reason
from sidecar.snapshot import Moment, Snapshot

STATEMENT_SECONDS = 1.0
"""How long the record of a stream whose peer fell silent waits for the statement that explains it."""

ENGINE = "1"
"""Version of the decision code: a record of another engine is not comparable."""

_WORDS = frozenset(Reason)
_STOPPED = (Reason.LOCKED, Reason.REVOKED)
"""A peer's word for a statement that may be on its way to us: our receipt will count what the peer cut."""


class Ended(Exception):
    """The stream could not be opened, or broke. Without a reason its caller just went away."""

    def __init__(
        self, reason: Reason | None, rule: str = "", hint: str = "", *, by_peer: bool = False
    ) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.rule = rule
        self.hint = hint
        self.by_peer = by_peer
        """The other node cut it."""


class Recorder(Protocol):
    """The audit log as the data path sees it."""

    def append(self, one: Record) -> None: ...
    async def commit(self, one: Record) -> None: ...


class Arrival(Protocol):
    """Where a stream comes from and goes to."""

    request: Request
    subject: Subject
    caller: Caller | None
    near_fault: Reason | None
    far_fault: Reason
    """What it means when an end breaks; None: nothing, the caller went away."""

    @property
    def near(self) -> trio.abc.HalfCloseableStream:
        """The end that the stream came from."""

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        """The far end, connected; raises Ended."""

    async def opened(self) -> None:
        """Tell the near end, before its first byte is taken."""

    async def refuse(self, decision: Decision) -> None:
        """The stream never opened: say why, as the protocol of the near end allows."""

    async def finish(self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None) -> None:
        """Release both ends; ``reason`` is set when the stream was cut."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What decisions read now."""

    snapshot: Snapshot
    moment: Moment
    draining: bool = False


class Situation(Protocol):
    """The seam to the rest of the node: the current snapshot and moment."""

    def sight(self) -> Sight: ...


@dataclass(slots=True)
class Carrier:
    """Carries streams. One for a node."""

    situation: Situation
    table: LiveTable
    audit: Recorder
    clock: Clock
    limits: Limits
    max_streams: int
    turnover: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    """Woken whenever a stream has left the table."""

    def reconfigure(self, limits: Limits, max_streams: int) -> None:
        """For streams from now on."""
        self.limits = limits
        self.max_streams = max_streams

    async def until_gone(self, ended: Iterable[Live]) -> None:
        """Return once these streams have closed both ends and written their record."""
        names = [live.id for live in ended]
        while any(self.table.find(name) for name in names):
            await self.turnover.park()

    async def carry(self, arrival: Arrival) -> None:
        """One stream from its arrival to its end. Never raises but for cancellation and bugs."""
        scope = trio.CancelScope()
        live = self._admit(arrival, scope)
        if live is None:
            await self._shed(arrival)
            return
        far = None
        by_peer = False
        try:
            sight = self.situation.sight()
            decision = self._decide(arrival.request, sight)
            if live.reason is not None:  # Cut between admission and decision.
                decision = replace(decision, reason=live.reason, rule=live.rule)
            if decision.reason is not None:
                await self._refuse(arrival, decision, sight)
                return
            if not await self._record_admission(arrival, decision, sight):
                return
            ended: Ended | None = None
            with scope:
                try:
                    far = await self._open(arrival, live)
                    await self._splice(arrival, far, live)
                except Ended as early:
                    ended = early
            by_peer = ended is not None and ended.by_peer and ended.reason in _STOPPED and live.reason is None
            await self._finish(arrival, far, live, ended)
        finally:
            self.table.close(live, self.clock.boot(), by_peer=by_peer)
            self.turnover.unpark_all()

    def _admit(self, arrival: Arrival, scope: trio.CancelScope) -> Live | None:
        """Enter the live table BEFORE the decision: a revocation in between is not lost."""
        now = self.clock.boot()
        live = Live(
            id=arrival.subject.stream,
            request=arrival.request,
            limits=self.limits,
            started=now,
            cancel=scope.cancel,
            active=now,
            judge_by=FOREVER,
            peer=arrival.subject.peer,
        )
        if len(self.table) >= self.max_streams or not self.table.admit(live):
            return None
        return live

    def _decide(self, request: Request, sight: Sight) -> Decision:
        decision = decide(request, sight.snapshot, sight.moment)
        if sight.draining and decision.reason is None:
            return replace(decision, reason=Reason.DRAINING, hint="this node is shutting down")
        return decision

    async def _record_admission(self, arrival: Arrival, decision: Decision, sight: Sight) -> bool:
        """Written before anything is dialled; where the segment requires it, durable too."""
        one = record.admitted(
            self.clock.wall(), arrival.subject, self._ruling(arrival, decision, sight), arrival.caller
        )
        if not self._is_required(arrival, sight):
            self.audit.append(one)
            return True
        try:
            await self.audit.commit(one)
        except AuditUnavailableError:
            hint = "this segment needs a durable audit log, and it cannot be written"
            await self._refuse(arrival, replace(decision, reason=Reason.AUDIT_UNAVAILABLE, hint=hint), sight)
            return False
        return True

    def _is_required(self, arrival: Arrival, sight: Sight) -> bool:
        policy = sight.snapshot.policy
        service = policy.services.get(arrival.request.service) if policy else None
        return service is not None and service.segment.audit is Audit.REQUIRED

    async def _open(self, arrival: Arrival, live: Live) -> trio.abc.HalfCloseableStream:
        far = await arrival.connect(live)
        self._judge(live)
        self.audit.append(record.opened(self.clock.wall(), replace(arrival.subject, peer=live.peer)))
        live.is_open = True
        live.active = self.clock.boot()
        await arrival.opened()
        return far

    async def _splice(self, arrival: Arrival, far: trio.abc.HalfCloseableStream, live: Live) -> None:
        def passing(count: int, outwards: bool) -> bool:
            now = self.clock.boot()
            if now >= live.judge_by:
                self._judge(live)
            if live.reason is not None:
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
            await splice(arrival.near, far, Gate(passing, half_closed))
        except Broken as broken:
            raise _ended(broken, arrival) from None

    def _judge(self, live: Live) -> None:
        """Decide again on what is live: facts were added, or its deadline has come."""
        sight = self.situation.sight()
        self.table.redecide(sight.snapshot, sight.moment, self.clock.boot())

    async def _refuse(self, arrival: Arrival, decision: Decision, sight: Sight) -> None:
        ruling = self._ruling(arrival, decision, sight)
        one = record.denied(self.clock.wall(), arrival.subject, ruling, arrival.caller)
        self.audit.append(one)
        await arrival.refuse(decision)
        await arrival.finish(None, decision.reason)

    async def _shed(self, arrival: Arrival) -> None:
        one = record.shed(self.clock.wall(), arrival.subject, Reason.LIMIT)
        self.audit.append(one)
        await arrival.refuse(_denial(Reason.LIMIT, "", "this node carries all the streams it may"))
        await arrival.finish(None, Reason.LIMIT)

    async def _finish(
        self, arrival: Arrival, far: trio.abc.HalfCloseableStream | None, live: Live, ended: Ended | None
    ) -> None:
        """Release both ends and write the one closed or cut record."""
        with trio.CancelScope(shield=True):
            if ended is not None and ended.reason is Reason.PEER_UNREACHABLE:
                await self._await_statement(live)
            reason = live.reason or (ended.reason if ended else None)
            rule = live.rule or (ended.rule if ended else "")
            if not live.is_open and reason is not None:
                await arrival.refuse(_denial(reason, rule, ended.hint if ended else ""))
            await arrival.finish(far, reason)
            self._record_end(arrival, live, reason, rule)

    async def _await_statement(self, live: Live) -> None:
        """A peer that was locked or revoked goes silent first; its statement may be a moment behind."""
        with trio.move_on_after(STATEMENT_SECONDS):
            while live.reason is None:
                await trio.sleep(STATEMENT_SECONDS / 20)

    def _record_end(self, arrival: Arrival, live: Live, reason: Reason | None, rule: str) -> None:
        traffic = Traffic(live.bytes_in, live.bytes_out)
        now = self.clock.wall()
        subject = replace(arrival.subject, peer=live.peer)
        if reason is None:
            self.audit.append(record.closed(now, subject, traffic))
        else:
            self.audit.append(record.cut(now, subject, reason, traffic, rule))

    def _ruling(self, arrival: Arrival, decision: Decision, sight: Sight) -> Ruling:
        request, moment = arrival.request, sight.moment
        return Ruling(
            verdict="deny" if decision.reason else "allow",
            reason=decision.reason,
            rule=decision.rule,
            hint=decision.hint,
            decision={"service": request.service, "tool_node": request.tool_node, "line": decision.line},
            moment={"wall": moment.wall, "floor": moment.floor, "as_of": moment.as_of},
            snapshot=sight.snapshot.digest,
            engine=ENGINE,
            facts={
                "id": str(request.session),
                "serials": list(request.serials),
                "not_after": request.not_after,
            },
        )


def end_reason(word: str) -> Reason | None:
    """A peer's word for why it refused or cut; None when it says that its caller just went away."""
    if not word:
        return None
    return Reason(word) if word in _WORDS else Reason.BAD_REQUEST


def _ended(broken: Broken, arrival: Arrival) -> Ended:
    if isinstance(broken.cause, ResetByPeer):
        return Ended(end_reason(broken.cause.reason), by_peer=True)
    if isinstance(broken.cause, RemoteError):
        return Ended(Reason.BAD_REQUEST, hint=str(broken.cause))
    return Ended(arrival.near_fault if broken.near else arrival.far_fault)


def _denial(reason: Reason, rule: str, hint: str) -> Decision:
    return Decision(Verdict.DENY, reason, rule, 0, hint)
