"""What a refusal says beyond its reason: to an agent, so it tells of no rule but the agent's own.

An agent reads hints and acts on them. A hint says what was refused in the policy's words, never in those of the
request alone: paths and names of a request are quoted, shortened and free of control characters.
"""

from sidecar.policy.case import Case, Place
from sidecar.policy.match import MCP_KINDS, HttpPattern, McpPattern, Rule
from sidecar.policy.model import Escalation
from sidecar.policy.operation import Operation
from sidecar.snapshot import PendingRequest

MAX_NAME_CHARS = 80


def denied(case: Case, deny: Rule) -> str:
    """Why a deny applies."""
    agent, service = case.request.session.name, case.request.service
    pattern = _pattern(deny, case.place)
    if pattern is None:
        return f"deny {deny.id} keeps agent {agent} and {service} apart"
    return f"deny {deny.id} refuses agent {agent} {pattern} of {service}"


def not_granted(case: Case) -> str:
    """What is missing, and what comes near it."""
    agent, service = case.request.session.name, case.request.service
    place = case.place
    operation = place.operation if place else None
    what = f"no grant lets agent {agent} reach {service}"
    if operation is not None:
        name = ascii(operation.name)[1:-1][:MAX_NAME_CHARS]
        what = f"no grant lets agent {agent} {ascii(operation.method)[1:-1][:32]} {name} of {service}"
    near, way = nearest(case), escalation(case)
    if near is not None:
        what += f"; grant {near.id} allows {_pattern(near, place)} of {service}"
    if way is not None:
        what += f"; {_way(case, way)}"
    return what


def nearest(case: Case) -> Rule | None:
    """A grant of the agent on this service about other requests than this one; None: there is none in force."""
    place, policy = case.place, case.snapshot.policy
    if place is None or place.operation is None or policy is None:
        return None
    service, agent = place.service, case.facts.agent
    near = policy.grants.nearest(agent, service.name, place.segment.name, service.protocol, place.operation)
    has_ended = near is not None and near.expires is not None and near.expires <= case.moment.now
    return None if has_ended else near


def _pattern(rule: Rule, place: Place | None) -> HttpPattern | McpPattern | None:
    """What ``rule`` says that is nearest to the request; None for a rule about everything."""
    patterns = rule.patterns(place.service.protocol) if place else ()
    operation = place.operation if place else None
    if operation is not None:
        near: list[HttpPattern | McpPattern] = [one for one in patterns if _names(one, operation)]
        near.sort(key=lambda one: not one.matches(operation, rule.effect))
        if near:
            return near[0]
    return patterns[0] if patterns else None


def _names(pattern: HttpPattern | McpPattern, operation: Operation) -> bool:
    """Whether it is about the path or name, by whatever method and on whatever conditions."""
    if isinstance(pattern, HttpPattern):
        return pattern.path.matches(operation.name)
    is_kind = MCP_KINDS.get(operation.method) is pattern.kind
    return is_kind and any(one.matches(operation.name) for one in pattern.names)


def pending(case: Case) -> PendingRequest | None:
    """A request of this session that waits, and would allow this if it were granted."""
    way, asked = escalation(case), case.snapshot.leases.asked_by(case.facts.session)
    waiting = (one for one in asked if case.moment.now < one.until and case.facts.service in one.services)
    return next((one for one in waiting if way is not None and one.rule == way.id), None)


def _way(case: Case, way: Escalation) -> str:
    waiting = pending(case)
    if waiting is not None:
        return f"escalation {way.id} is asked for already: poll request {waiting.id}"
    return f"escalation {way.id} can be requested for up to {way.max_ttl // 1_000_000} s"


def escalation(case: Case) -> Escalation | None:
    """The first rule of the policy by which this could be asked for."""
    agent, service, segment = case.facts.agent, case.facts.service, case.facts.segment
    known = case.snapshot.policy.escalations.values() if case.snapshot.policy else ()
    return next((one for one in known if one.permits(agent, service, segment)), None)
