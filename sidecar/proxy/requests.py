"""The requests of one http or mcp stream, at the tool's node: decided, limited, recorded, in force while they last.

A request that is admitted is entered in the live table: its stream's entry says what is being done over it. So whatever
ends streams ends requests: a new snapshot, a lock, a boundary in time. With the answer the stream's entry is the
stream's again.

Order, and why: the decision comes first and takes no time, so nothing can come between it and the entry in the live
table. Then its record is written, durably where the segment requires that, and only then does the relay forward.
"""

import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pki.clock import SECOND, Boot
from pki.ids import ID_BYTES, new_id
from sidecar.audit import record
from sidecar.audit.record import Answered, Requested, Ruling, Subject
from sidecar.audit.writer import AuditUnavailableError
from sidecar.http.seams import Admission, Call, MalformedError, Outcome
from sidecar.policy.asked import operation_of
from sidecar.policy.decide import Decision, Request, decide
from sidecar.policy.model import Audit, OperationClass, Policy, Segment, Verdict
from sidecar.policy.model import Record as Recorded
from sidecar.policy.operation import TOOLS_CALL, McpCall, Operation
from sidecar.proxy.carry import Carrier, Sight
from sidecar.proxy.ruling import ruling, spelled
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.snapshot import Snapshot
from sidecar.traceparent import SPAN_ENTROPY, child, continues


@dataclass(eq=False, slots=True)
class _Current:
    """The request under way."""

    id: str
    subject: Subject
    segment: Segment | None
    operation_class: OperationClass
    started: Boot
    judge_by: Boot
    """When the stream itself is to be judged again."""
    calls: tuple[Call, ...]
    unasked: Counter[str] = field(default_factory=Counter)
    """What an MCP server has sent of its own accord meanwhile, by method."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """One of the calls of a request. ``first``: the request whose decision this one repeats, if it does."""

    asked: Request
    decision: Decision
    first: str


@dataclass(eq=False)
class StreamJudge:
    """Of one stream (:class:`sidecar.http.seams.Judge`)."""

    carrier: Carrier
    live: Live
    subject: Subject
    _current: _Current | None = None

    def could(self, call: McpCall) -> bool:
        """Some of the rules' conditions at a time: an exact answer would need arguments."""
        sight = self.carrier.situation.sight()
        asked = self._asked(call, sight.snapshot)
        if asked.operation is None:
            return False
        return any(
            decide(replace(asked, operation=one), sight.snapshot, sight.moment).allowed
            for one in self._with_some_arguments(asked.operation, sight.snapshot.policy)
        )

    async def admit(self, calls: Sequence[Call], traceparent: bytes) -> Admission:
        sight, now = self.carrier.situation.sight(), self.carrier.clock.boot()
        name = _new_id()
        judged = [self._judged(call, sight, name) for call in calls]
        which = next((n for n, one in enumerate(judged) if not one.decision.allowed), 0)
        call, asked, first = calls[which], judged[which].asked, judged[which].first
        decision, retry_after = self._limited(judged[which].decision, sight, now)
        trace, parent = self._trace(traceparent)
        found = sight.snapshot.policy.segments.get(decision.segment) if sight.snapshot.policy else None
        named = replace(self.subject, segment=decision.segment or self.subject.segment, trace=trace)
        wanted = decision.operation_class or OperationClass.MUTATE
        current = _Current(name, named, found, wanted, now, self.live.judge_by, tuple(calls))
        requested = Requested(
            request=current.id,
            operation=spelled(asked.operation),
            operation_class=wanted,
            parent=parent,
            arguments=call.digest if isinstance(call, McpCall) else "",
            also=[dict(spelled(one.asked.operation)) for one in judged[1:]] if decision.allowed else [],
        )
        if decision.allowed:
            self._enter([one.asked for one in judged], current, sight)
            decision = await self._record_admission(
                ruling(asked, decision, sight, first), decision, requested
            )
        if decision.allowed or decision.own:
            latency = self.carrier.clock.boot() - now if decision.allowed else None
            self.carrier.measure(sight.snapshot.policy, decision.segment, latency)
        if not decision.allowed:
            one = ruling(asked, decision, sight, first)
            self.carrier.audit.append(record.request_denied(self.carrier.clock.wall(), named, one, requested))
        return Admission(current.id, decision, trace, retry_after)

    def reject(self, why: MalformedError) -> Admission:
        sight, name = self.carrier.situation.sight(), _new_id()
        decision = Decision(Verdict.DENY, why.reason, hint=why.hint, own=True)
        one = ruling(self.live.request, decision, sight)
        now = self.carrier.clock.wall()
        self.carrier.audit.append(record.request_denied(now, self.subject, one, Requested(request=name)))
        return Admission(name, decision)

    def ended(self, outcome: Outcome) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        self._leave(current)
        if current.segment is not None and current.segment.record is Recorded.NONE:
            return
        what = Answered(
            request=current.id,
            status=outcome.status,
            latency=self.carrier.clock.boot() - current.started,
            bytes_in=outcome.bytes_in,
            bytes_out=outcome.bytes_out,
            reason=self.live.reason or outcome.reason,
            hint=outcome.hint,
            unasked=dict(current.unasked),
        )
        self.carrier.audit.append(record.answered(self.carrier.clock.wall(), current.subject, what))

    def note(self, method: str) -> None:
        """An MCP server sent a message of its own accord. ``method`` is one of a short list."""
        if self._current is not None:
            self._current.unasked[method] += 1

    def pins(self) -> Mapping[tuple[str, str], str]:
        """Those of the policy in force."""
        policy = self.carrier.situation.sight().snapshot.policy
        return policy.pins if policy else {}

    # -- what is asked

    def _judged(self, call: Call, sight: Sight, name: str) -> "_Judged":
        asked = self._asked(call, sight.snapshot)
        answer = self.carrier.cache.decide(asked, sight.snapshot, sight.moment, name)
        decision = self._as_pinned(answer.decision, call)
        first = answer.first if decision is answer.decision and answer.first != name else ""
        return _Judged(asked, decision, first)

    def _asked(self, call: Call, snapshot: Snapshot) -> Request:
        policy = snapshot.policy
        service = policy.services.get(self.live.request.service) if policy else None
        if policy is None or service is None:  # The decision says so.
            name = call.name if isinstance(call, McpCall) else call.path
            return replace(self.live.request, operation=Operation(call.method, name))
        operation = operation_of(call, service, policy)
        held = snapshot.leases.of(self.live.request.session.session)
        if isinstance(call, McpCall) and any(lease.arguments for lease in held):
            operation = replace(operation, arguments=call.digest)
        return replace(self.live.request, operation=operation)

    def _with_some_arguments(self, asked: Operation, policy: Policy | None) -> list[Operation]:
        service = policy.services.get(self.live.request.service) if policy else None
        if policy is None or service is None:
            return [asked]
        special = service.special(asked)
        segment = (special.segment if special else service.segment).name
        granting, denying = (
            frozenset(one.name for one in rules.conditions(service.name, segment, service.protocol, asked))
            for rules in (policy.grants, policy.denies)
        )
        sets = {frozenset[str](), granting, granting - denying, *(frozenset({one}) for one in granting)}
        return [replace(asked, holds=one) for one in sets]

    def _trace(self, traceparent: bytes) -> tuple[str, str]:
        """The request's own trace context, and the caller's where that is of the session's trace."""
        own = self.subject.trace
        if not own:
            return "", ""
        parent = traceparent.decode() if continues(own, traceparent) else own
        return child(own, secrets.token_bytes(SPAN_ENTROPY)), parent

    def _as_pinned(self, decision: Decision, call: Call) -> Decision:
        """The decision, or a refusal of a tool that is not the one that was granted any more."""
        if not decision.allowed or not isinstance(call, McpCall) or call.method != TOOLS_CALL:
            return decision
        fault = self.carrier.servers.pins.fault(self.live.request.service, call.name, self.pins())
        return _refusal(decision, Reason.TOOL_DRIFT, fault) if fault else decision

    # -- limits

    def _limited(self, decision: Decision, sight: Sight, now: Boot) -> tuple[Decision, int | None]:
        """The decision, or a refusal for want of room, and then when there may be some (s)."""
        if not decision.allowed:
            return decision, None
        if sight.draining:
            return _refusal(decision, Reason.DRAINING, "this node is shutting down"), None
        wanted = decision.operation_class or OperationClass.MUTATE
        if not self.carrier.rooms.has_room(wanted, self.subject.agent):
            return _refusal(
                decision,
                Reason.LIMIT,
                f"this node has all the {wanted} requests it may, of all agents or of this one",
            ), 1
        excess = self.live.allowance.request(now)
        if excess is not None:
            return _refusal(decision, Reason.LIMIT, excess.hint), -(-excess.retry_after // SECOND)
        return decision, None

    # -- in force

    def _enter(self, asked: Sequence[Request], current: _Current, sight: Sight) -> None:
        self._current = current
        self.carrier.rooms.take(current.operation_class, self.subject.agent)
        # A new policy has conditions that this one did not ask; the answer to those may end it.
        self.live.reread = lambda snapshot: tuple(self._asked(call, snapshot) for call in current.calls)
        # When time alone could end it is the request's own now.
        self.carrier.table.begin(self.live, asked, sight.snapshot, sight.moment, current.started)

    def _leave(self, current: _Current) -> None:
        self.carrier.rooms.leave(current.operation_class, self.subject.agent)
        self.carrier.table.finish(self.live)
        self.live.judge_by = min(self.live.judge_by, current.judge_by)

    async def _record_admission(self, made: Ruling, decision: Decision, requested: Requested) -> Decision:
        """The decision, or a refusal where the segment needs a log that cannot be written."""
        current, audit = self._current, self.carrier.audit
        assert current is not None  # noqa: S101 - entered just now
        one = record.request(self.carrier.clock.wall(), current.subject, made, requested)
        is_required = current.segment is not None and current.segment.audit is Audit.REQUIRED
        try:
            if not is_required:
                audit.append(one)
            elif audit.available:
                await audit.commit(one)
            else:
                raise AuditUnavailableError("audit log: it cannot be written")
        except AuditUnavailableError:
            self._current = None
            self._leave(current)
            hint = "this segment needs a durable audit log, and it cannot be written"
            return _refusal(decision, Reason.AUDIT_UNAVAILABLE, hint)
        except BaseException:
            self.ended(Outcome(0, 0, 0))
            raise
        return decision


def _refusal(decision: Decision, reason: Reason, hint: str) -> Decision:
    """In place of a decision that allowed."""
    refused = replace(decision, verdict=Verdict.DENY, reason=reason, rule="", line=0)
    return replace(refused, hint=hint, would_deny=None, own=True)


def _new_id() -> str:
    return new_id(secrets.token_bytes(ID_BYTES))
