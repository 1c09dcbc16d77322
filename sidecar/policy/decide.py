"""The decision: may this session reach this service, now? Pure and total.

Steps, in this order; the first with an answer is the decision:

    locked      a lock hits the session, its names or its certificates, and the floor has not passed its end
    revoked     a revocation hits them
    expired     a certificate under the stream is past its notAfter
    misbound    the session's node or the tool's node is not where the roster and the policy put them
    (no_grant)  the policy, or the service or agent in it, is absent: nothing is left to judge
    stale       this node has not been complete for longer than the service's segment allows
    denied      a deny rule matches
    allow       a grant matches
    no_grant    otherwise

Time. What permits (certificate, grant, freshness) is judged at the later of wall and floor. What restricts (lock,
deny) ends by the floor alone: no wall clock set ahead opens anything.

A live stream is judged by the same steps but for staleness, which ends it only in a segment with
``on-stale = "cut"``, and only at twice the limit. :func:`next_boundary` says when to judge it again although nothing
but time has changed.

Every refusal names its rule, or in the hint what is absent. Hints travel to the agent.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pki.clock import Wall
from pki.spiffe import IdKind, SpiffeId
from sidecar.defaults import STALE_CUT_FACTOR
from sidecar.policy.match import Rule
from sidecar.policy.model import Agent, OnStale, Service, Verdict
from sidecar.policy.narrowing import Narrowing
from sidecar.reasons import Reason
from sidecar.snapshot import Facts, LockInForce, Moment, Snapshot

MAX_HINT_CHARS = 400
"""Fits a REFUSED frame, whatever an operator's message or another node's request says."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which session wants which service, and what was verified of both ends.

    ``tool_node`` is the node beside the target. ``serials`` are the lineage serials, lower-case hex, and
    ``not_after`` the earliest notAfter of all certificates of session and nodes under the stream. ``narrowing``: what
    is left of the session for the child of it that asks.
    """

    session: SpiffeId
    service: str
    tool_node: str
    serials: tuple[str, ...]
    not_after: Wall
    narrowing: Narrowing | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``rule`` is the id of a policy rule, or of the lock or revocation; ``line`` is 0 unless the policy's."""

    verdict: Verdict
    reason: Reason | None = None
    rule: str = ""
    line: int = 0
    hint: str = ""

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW


def decide(request: Request, snapshot: Snapshot, moment: Moment) -> Decision:
    """Whether a new stream may open. Never raises."""
    return _judge(_case(request, snapshot, moment, live=False))


def redecide(request: Request, snapshot: Snapshot, moment: Moment) -> Decision:
    """Whether a stream that is open may go on. Never raises."""
    return _judge(_case(request, snapshot, moment, live=True))


def next_boundary(request: Request, snapshot: Snapshot, moment: Moment) -> Wall | None:
    """When :func:`redecide` could next answer otherwise through time alone; None: never.

    On the scale of ``moment.now`` and always after it. Until then, while wall and floor go on at the same pace and
    ``as_of`` stays, verdict, reason and rule stay. A new heartbeat or snapshot asks anew.
    """
    case = _case(request, snapshot, moment, live=True)
    return min((at for at in _boundaries(case) if at > moment.now), default=None)


@dataclass(frozen=True, slots=True)
class _Case:
    """A request with what the snapshot says of it looked up."""

    request: Request
    snapshot: Snapshot
    moment: Moment
    live: bool
    facts: Facts
    lock: LockInForce | None
    agent: Agent | None
    service: Service | None
    deny: Rule | None
    grant: Rule | None


def _case(request: Request, snapshot: Snapshot, moment: Moment, *, live: bool) -> _Case:
    session, policy = request.session, snapshot.policy
    name = session.name if session.kind is IdKind.AGENT else ""
    service = policy.services.get(request.service) if policy else None
    segment = service.segment.name if service else ""
    facts = Facts(
        id=str(session),
        agent=name,
        session=session.session,
        children=request.narrowing.children if request.narrowing else (),
        nodes=(session.node, request.tool_node),
        service=request.service,
        segment=segment,
        serials=request.serials,
    )
    return _Case(
        request=request,
        snapshot=snapshot,
        moment=moment,
        live=live,
        facts=facts,
        lock=snapshot.restrictions.lock_on(facts),
        agent=policy.agents.get(name) if policy else None,
        service=service,
        deny=policy.denies.longest(name, request.service, segment) if policy else None,
        grant=policy.grants.longest(name, request.service, segment) if policy else None,
    )


def _judge(case: _Case) -> Decision:
    for step in _STEPS:
        if decision := step(case):
            return decision
    return _no_grant(case)


def _refuse(reason: Reason, hint: str, rule: str = "", line: int = 0) -> Decision:
    return Decision(Verdict.DENY, reason, rule, line, hint[:MAX_HINT_CHARS])


def _locked(case: _Case) -> Decision | None:
    if case.lock is None or case.moment.floor >= case.lock.until:
        return None
    said = f": {case.lock.message}" if case.lock.message else ""
    return _refuse(Reason.LOCKED, f"{case.lock.target} is locked by {case.lock.by}{said}", case.lock.id)


def _revoked(case: _Case) -> Decision | None:
    found = case.snapshot.restrictions.revocation_of(case.facts)
    if found is None:
        return None
    return _refuse(Reason.REVOKED, f"{found.target} is revoked by {found.by}", found.id)


def _expired(case: _Case) -> Decision | None:
    if case.moment.now < case.request.not_after:
        return None
    return _refuse(Reason.EXPIRED, "a certificate of the session or of a node under it has expired")


def _misbound(case: _Case) -> Decision | None:
    session, tool_node = case.request.session, case.request.tool_node
    if session.kind is not IdKind.AGENT:
        return _refuse(Reason.MISBOUND, f"{session} is no agent's session")
    for node in (session.node, tool_node):
        if node not in case.snapshot.roster.nodes:
            return _refuse(Reason.MISBOUND, f"node {node} is not in the roster")
    if case.agent and session.node not in case.agent.nodes:
        hint = f"agent {case.agent.name} may not run on node {session.node}"
        return _refuse(Reason.MISBOUND, hint, line=case.agent.line)
    if case.service and tool_node not in case.service.nodes:
        hint = f"service {case.service.name} is not beside node {tool_node}"
        return _refuse(Reason.MISBOUND, hint, line=case.service.line)
    return None


def _unknown(case: _Case) -> Decision | None:
    if case.snapshot.policy is None:
        return _refuse(Reason.NO_GRANT, "this node has no policy yet")
    if case.service is None:
        return _refuse(Reason.NO_GRANT, f"the policy has no service {case.request.service!a}")
    if case.agent is None:
        return _refuse(Reason.NO_GRANT, f"the policy has no agent {case.request.session.name}")
    return None


def _stale(case: _Case) -> Decision | None:
    limit = _stale_after(case)
    if limit is None or case.moment.is_fresh(limit):
        return None
    segment = case.facts.segment
    return _refuse(Reason.STALE, f"this node has not heard enough from the CA lately for segment {segment}")


def _stale_after(case: _Case) -> int | None:
    """The age (us) at which staleness ends this; None: at none."""
    if case.service is None:
        return None
    segment = case.service.segment
    if not case.live:
        return segment.stale_after
    return STALE_CUT_FACTOR * segment.stale_after if segment.on_stale is OnStale.CUT else None


def _denied(case: _Case) -> Decision | None:
    deny = case.deny
    if deny is None or (deny.expires is not None and case.moment.floor >= deny.expires):
        return None
    return _refuse(Reason.DENIED, f"deny {deny.id} keeps {_who_and_what(case)} apart", deny.id, deny.line)


def _granted(case: _Case) -> Decision | None:
    grant = case.grant
    if grant is None or (grant.expires is not None and case.moment.now >= grant.expires):
        return None
    return Decision(Verdict.ALLOW, rule=grant.id, line=grant.line)


def _no_grant(case: _Case) -> Decision:
    if grant := case.grant:
        return _refuse(Reason.NO_GRANT, f"grant {grant.id} has expired", grant.id, grant.line)
    agent, service = case.request.session.name, case.request.service
    return _refuse(Reason.NO_GRANT, f"no grant lets agent {agent} reach {service}")


def _who_and_what(case: _Case) -> str:
    return f"agent {case.request.session.name} and {case.request.service}"


_STEPS = (_locked, _revoked, _expired, _misbound, _unknown, _stale, _denied, _granted)


def _boundaries(case: _Case) -> Iterator[Wall]:
    """Every instant, past or to come, at which a step's answer changes, on the scale of ``moment.now``."""
    moment = case.moment
    yield case.request.not_after
    ends = [case.lock.until if case.lock else None, case.deny.expires if case.deny else None]
    for end in ends:
        if end is not None:
            # The floor lags behind the wall clock, or is it: it reaches `end` that much later.
            yield Wall(end + moment.now - moment.floor)
    if case.grant and case.grant.expires is not None:
        yield case.grant.expires
    limit = _stale_after(case)
    fresh_until = moment.fresh_until(limit) if limit is not None else None
    if fresh_until is not None:
        yield fresh_until
