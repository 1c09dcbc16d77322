"""The decision: may this session do this, now? Pure and total.

Steps, in this order; the first with an answer is the decision:

    locked      a lock hits the session, its names or its certificates, and the floor has not passed its end
    revoked     a revocation hits them
    expired     a certificate under the stream is past its notAfter
    misbound    the session's node or the tool's node is not where the roster and the policy put them
    (no_grant)  the policy, or the service or agent in it, is absent: nothing is left to judge
    stale       this node has not been complete for longer than the segment allows
    narrowed    a child session asks for what was not left to it
    denied      a deny rule matches
    allow       a grant matches
    allow       a lease of the session matches, and the policy still has its escalation
    no_grant    otherwise; lease_ended, where a lease did match

What is judged. Without an operation it is the stream; one of an http or mcp service opens if some request could be
allowed, and then each request is judged by itself. A service may put operations in segments of their own: locks,
staleness, mode, and what is granted by segment go by the segment of the request. A stream of such a service is judged
in each of its segments, and one that allows is enough. The conversation of an MCP client is judged as its stream.

Time. What permits (certificate, grant, lease, narrowing, freshness) is judged at the later of wall and floor. What
restricts (lock, deny) ends by the floor alone: no wall clock set ahead opens anything.

A live stream is judged by the same steps but for staleness, which ends it only in a segment with
``on-stale = "cut"``, and only at twice the limit. :func:`next_boundary` says when to judge it again although nothing
but time has changed.

In a segment with ``mode = "observe"`` stale, denied and no_grant do not refuse: the decision allows, and says in
``would_deny`` what it would have been.

Every refusal names its rule, or in the hint what is absent. Hints travel to the agent.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pki.clock import Wall
from pki.spiffe import IdKind
from sidecar.policy import hints
from sidecar.policy.case import Case, Question, Request, leaves
from sidecar.policy.model import OperationClass, Verdict
from sidecar.reasons import Reason
from sidecar.snapshot import Moment, Snapshot, stands_beside

__all__ = [
    "Decision",
    "Horizon",
    "Request",
    "decide",
    "decide_until",
    "judge",
    "next_boundary",
    "redecide",
    "steps_of",
]

MAX_HINT_CHARS = 400
"""Fits a REFUSED frame, whatever an operator's message or another node's request says."""

OBSERVABLE = frozenset({Reason.STALE, Reason.DENIED, Reason.NO_GRANT, Reason.LEASE_ENDED})
"""What ``mode = "observe"`` passes. All else says that somebody stopped it, or that it is not what it claims to be."""


@dataclass(frozen=True, slots=True)
class Decision:
    """``rule`` is the id of a policy rule, or of the lease, lock or revocation; ``line`` is 0 unless the policy's.

    ``segment`` and ``operation_class`` are those of what was judged, empty where the policy knows no such service.
    ``would_deny``: allowed only because the segment is observed. ``own``: no word of the policy, but the node's own
    refusal of what the policy let through.
    """

    verdict: Verdict
    reason: Reason | None = None
    rule: str = ""
    line: int = 0
    hint: str = ""
    segment: str = ""
    operation_class: OperationClass | None = None
    would_deny: Reason | None = None
    own: bool = False

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW


@dataclass(frozen=True, slots=True)
class Horizon:
    """How long a decision stays what it is, while no clock goes back: until ``moment.now`` or the floor is there.

    None: for ever. ``is_fresh``: nothing in it is stale, so that a later word from the CA changes nothing either.
    """

    now: Wall | None
    floor: Wall | None
    is_fresh: bool


def decide(request: Request, snapshot: Snapshot, moment: Moment) -> Decision:
    """Whether a new stream may open, or a request go on to the tool. Never raises."""
    return _first_allowed(Question(request, snapshot, moment, live=False).cases())[0]


def decide_until(request: Request, snapshot: Snapshot, moment: Moment) -> tuple[Decision, Horizon]:
    """The same, and for how long."""
    cases = Question(request, snapshot, moment, live=False).cases()
    decision, case = _first_allowed(cases)
    ends = [at for one in cases for at in one.ends()]
    if Reason.NO_GRANT in (decision.reason, decision.would_deny) and (near := hints.nearest(case)):
        ends += [near.expires] if near.expires is not None else []  # the hint speaks of it
    if decision.reason is Reason.NO_GRANT and (waiting := hints.pending(case)):
        ends.append(waiting.until)
    floors = [at for one in cases for at in one.floor_ends()]
    is_fresh = all(one.stale_after is None or moment.is_fresh(one.stale_after) for one in cases)
    return decision, Horizon(_first_after(moment.now, ends), _first_after(moment.floor, floors), is_fresh)


def _first_after(clock: Wall, ends: Iterable[Wall]) -> Wall | None:
    return min((at for at in ends if at > clock), default=None)


def redecide(request: Request, snapshot: Snapshot, moment: Moment) -> Decision:
    """Whether a stream that is open may go on. Never raises."""
    return _first_allowed(Question(request, snapshot, moment, live=True).cases())[0]


def next_boundary(request: Request, snapshot: Snapshot, moment: Moment) -> Wall | None:
    """When :func:`redecide` could next answer otherwise through time alone; None: never.

    On the scale of ``moment.now`` and always after it. Until then, while wall and floor go on at the same pace and
    ``as_of`` stays, verdict, reason and rule stay. A new heartbeat or snapshot asks anew.
    """
    now, floor = moment.now, moment.floor
    cases = Question(request, snapshot, moment, live=True).cases()
    ends = [at for case in cases for at in case.ends()]
    # The floor lags behind the wall clock, or is it: it reaches an end that much later.
    ends += [Wall(at + now - floor) for case in cases for at in case.floor_ends()]
    return _first_after(now, ends)


def _first_allowed(cases: list[Case]) -> tuple[Decision, Case]:
    """What allows goes before what is only observed, and that before the refusal in the service's own segment."""
    best = judge(cases[0]), cases[0]
    for case in cases[1:]:
        if best[0].allowed and best[0].would_deny is None:
            break
        decision = judge(case)
        if decision.allowed and (decision.would_deny is None or not best[0].allowed):
            best = decision, case
    return best


def judge(case: Case) -> Decision:
    """The decision in one place alone. Never raises."""
    observed: Decision | None = None
    for step in _STEPS:
        decision = step(case)
        if decision is None:
            continue
        if decision.reason not in OBSERVABLE or not case.is_observed:
            return decision if observed is None or not decision.allowed else _passed(observed)
        observed = observed or decision
    assert observed is not None  # noqa: S101 - the last step always answers
    return _passed(observed)


def steps_of(case: Case) -> Iterator[tuple[str, Decision | None]]:
    """Each step of :func:`judge` by its name, with its answer, as far as anything is asked."""
    for step in _STEPS:
        decision = step(case)
        yield step.__name__.strip("_"), decision
        if decision is not None and (decision.reason not in OBSERVABLE or not case.is_observed):
            return


def _passed(observed: Decision) -> Decision:
    return replace(observed, verdict=Verdict.ALLOW, reason=None, would_deny=observed.reason)


def _refuse(case: Case, reason: Reason, hint: str, rule: str = "", line: int = 0) -> Decision:
    place, hint = case.place, hint[:MAX_HINT_CHARS]
    if place is None:
        return Decision(Verdict.DENY, reason, rule, line, hint)
    return Decision(Verdict.DENY, reason, rule, line, hint, place.segment.name, place.operation_class)


def _allow(case: Case, rule: str, line: int) -> Decision:
    assert case.place is not None  # noqa: S101 - without a service no rule matches
    place = case.place
    return Decision(Verdict.ALLOW, None, rule, line, "", place.segment.name, place.operation_class)


def _locked(case: Case) -> Decision | None:
    if case.lock is None or case.moment.floor >= case.lock.until:
        return None
    said = f": {case.lock.message}" if case.lock.message else ""
    return _refuse(case, Reason.LOCKED, f"{case.lock.target} is locked by {case.lock.by}{said}", case.lock.id)


def _revoked(case: Case) -> Decision | None:
    found = case.snapshot.restrictions.revocation_of(case.facts)
    if found is None:
        return None
    if found.before is not None:
        hint = f"certificates of {found.target} from before are revoked by {found.by}; start anew"
        return _refuse(case, Reason.REVOKED, hint, found.id)
    return _refuse(case, Reason.REVOKED, f"{found.target} is revoked by {found.by}", found.id)


def _expired(case: Case) -> Decision | None:
    if case.moment.now < case.request.not_after:
        return None
    return _refuse(case, Reason.EXPIRED, "a certificate of the session or of a node under it has expired")


def _misbound(case: Case) -> Decision | None:
    session, tool_node = case.request.session, case.request.tool_node
    if session.kind is not IdKind.AGENT:
        return _refuse(case, Reason.MISBOUND, f"{session} is no agent's session")
    roster = case.snapshot.roster
    for node in (session.node, tool_node):
        if node not in roster.nodes:
            return _refuse(case, Reason.MISBOUND, f"node {node} is not in the roster")
    if case.agent and session.node not in case.agent.nodes:
        hint = f"agent {case.agent.name} may not run on node {session.node}"
        return _refuse(case, Reason.MISBOUND, hint, line=case.agent.line)
    service = case.place.service if case.place else None
    if service and not stands_beside(service, tool_node, roster):
        hint = f"service {service.name} is not beside node {tool_node}"
        return _refuse(case, Reason.MISBOUND, hint, line=service.line)
    return None


def _unknown(case: Case) -> Decision | None:
    if case.snapshot.policy is None:
        return _refuse(case, Reason.NO_GRANT, "this node has no policy yet")
    if case.place is None:
        return _refuse(case, Reason.NO_GRANT, f"the policy has no service {case.request.service!a}")
    if case.agent is None:
        return _refuse(case, Reason.NO_GRANT, f"the policy has no agent {case.request.session.name}")
    return None


def _stale(case: Case) -> Decision | None:
    limit = case.stale_after
    if limit is None or case.moment.is_fresh(limit):
        return None
    segment = case.facts.segment
    hint = f"this node has not heard enough from the CA lately for segment {segment}"
    return _refuse(case, Reason.STALE, hint)


def _narrowed(case: Case) -> Decision | None:
    left, place = case.request.narrowing, case.place
    if left is None or place is None:
        return None
    if case.moment.now >= left.not_after:
        return _refuse(case, Reason.NARROWED, "the time that this child session was left is over")
    if place.service.name not in left.services:
        hint = f"this child session was not left service {place.service.name}"
        return _refuse(case, Reason.NARROWED, hint)
    if not leaves(left.operations, place):
        hint = f"this child session was not left this operation of service {place.service.name}"
        return _refuse(case, Reason.NARROWED, hint)
    return None


def _denied(case: Case) -> Decision | None:
    deny = case.deny
    if deny is None or (deny.expires is not None and case.moment.floor >= deny.expires):
        return None
    return _refuse(case, Reason.DENIED, hints.denied(case, deny), deny.id, deny.line)


def _granted(case: Case) -> Decision | None:
    grant = case.grant
    if grant is None or (grant.expires is not None and case.moment.now >= grant.expires):
        return None
    return _allow(case, grant.id, grant.line)


def _leased(case: Case) -> Decision | None:
    lease, policy = case.lease, case.snapshot.policy
    if lease is None or policy is None or lease.cut_short or case.moment.now >= lease.until:
        return None
    return _allow(case, lease.id, policy.escalations[lease.rule].line)


def _no_grant(case: Case) -> Decision | None:
    if lease := case.lease:
        way = hints.escalation(case)
        again = f"; ask for escalation {way.id} again" if way else ""
        return _refuse(case, Reason.LEASE_ENDED, f"lease {lease.id} has ended{again}", lease.id)
    if grant := case.grant:
        return _refuse(case, Reason.NO_GRANT, f"grant {grant.id} has expired", grant.id, grant.line)
    return _refuse(case, Reason.NO_GRANT, hints.not_granted(case))


_STEPS = (
    _locked,
    _revoked,
    _expired,
    _misbound,
    _unknown,
    _stale,
    _narrowed,
    _denied,
    _granted,
    _leased,
    _no_grant,
)
