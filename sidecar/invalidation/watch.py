"""From what a node records to what looks wrong, by the rules of the policy. Pure.

    record -> sign -> counted for each rule that looks for it -> found, at most once while its lock would last

Counts are of this process and forgotten with it; what was found is a statement, which is not. A subject that nobody
has heard of for long makes room for a new one, so an agent that starts sessions in a loop costs no more memory, and its
own sessions' counts at the most. A rule that was changed counts anew: what was observed is found again once enforced.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pki.clock import Boot
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId
from sidecar.audit.record import Facts, Kind, Record
from sidecar.policy.model import Invalidation, OperationClass, Policy, Protocol, Scope, Suspicion
from sidecar.reasons import Reason
from sidecar.snapshot import Target

MAX_SUBJECTS = 4_096
MAX_EVIDENCE = 8
"""Ids of streams that a finding names, the newest."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One thing that a rule may count. Empty: it is about none. ``id`` is a session's SPIFFE ID."""

    what: Suspicion
    agent: str = ""
    id: str = ""
    service: str = ""
    node: str = ""
    stream: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A rule's condition was met, by so many signs; ``streams`` are the newest of them."""

    rule: Invalidation
    target: Target
    count: int
    streams: tuple[str, ...]


@dataclass(slots=True)
class _Count:
    times: deque[Boot] = field(default_factory=deque)
    streams: deque[str] = field(default_factory=lambda: deque(maxlen=MAX_EVIDENCE))
    quiet_until: int = 0


class Watch:
    """Counts signs. :meth:`note` is all there is."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[Invalidation, Target], _Count] = OrderedDict()

    def note(self, sign: Sign, rules: Iterable[Invalidation], now: Boot) -> list[Found]:
        """What this sign makes true."""
        found = []
        for rule in rules:
            target = _target(rule, sign)
            if target is not None and (one := self._counted(rule, target, sign, now)):
                found.append(one)
        return found

    def _counted(self, rule: Invalidation, target: Target, sign: Sign, now: Boot) -> Found | None:
        count = self._counts.setdefault((rule, target), _Count())
        self._counts.move_to_end((rule, target))
        if len(self._counts) > MAX_SUBJECTS:
            self._counts.popitem(last=False)
        count.times.append(now)
        if sign.stream:
            count.streams.append(sign.stream)
        limit, per = (rule.over.count, rule.over.per) if rule.over else (0, 0)
        while len(count.times) > limit + 1 or count.times[0] + per < now:
            count.times.popleft()
        if len(count.times) <= limit or now < count.quiet_until:
            return None
        count.quiet_until = now + rule.ttl
        return Found(rule, target, len(count.times), tuple(count.streams))


def _target(rule: Invalidation, sign: Sign) -> Target | None:
    """What ``rule`` would lock for this sign; None: it does not look for it, or cannot say of what it is."""
    if rule.on is not sign.what or (rule.agents and sign.agent not in rule.agents):
        return None
    named = {
        Scope.SESSION: Target("id", sign.id),
        Scope.AGENT: Target("agent", sign.agent),
        Scope.SERVICE: Target("service", sign.service),
        Scope.NODE: Target("node", sign.node),
    }
    target = named[rule.lock]
    return target if target.value else None


def sign_of(record: Record, policy: Policy, node: str) -> Sign | None:
    """What a record of a stream on ``node`` may be a sign of; None: of nothing."""
    fields = record.fields
    what = _suspicion(record, policy)
    if what is None:
        return None
    agent, who = str(fields.get("agent", "")), _session(fields)
    stream, service = str(fields.get("stream", "")), str(fields.get("service", ""))
    return Sign(what, agent, who, service, node, stream)


def _suspicion(record: Record, policy: Policy) -> Suspicion | None:
    fields = record.fields
    if record.kind is Kind.DENIED:
        if fields.get("reason") == Reason.WRONG_CALLER:
            return Suspicion.ATTRIBUTION
        # What the mesh itself makes refuse says nothing of the agent, and a lock must not feed on its own refusals.
        return None if fields.get("reason") in _NOT_THE_AGENTS else Suspicion.REFUSALS
    is_mutation = fields.get("operation_class") == OperationClass.MUTATE
    if record.kind is Kind.ADMITTED:
        service = policy.services.get(str(fields.get("service", "")))
        is_mutation = (
            service is not None
            and service.protocol is Protocol.TCP
            and service.segment.operation_class is OperationClass.MUTATE
        )
    elif record.kind is not Kind.REQUEST:
        return None
    return Suspicion.MUTATIONS if is_mutation else None


def _session(fields: Facts) -> str:
    """The SPIFFE ID that the decision was on; empty where it is none of a session."""
    facts = fields.get("facts")
    name = facts.get("id") if isinstance(facts, dict) else None
    try:
        who = SpiffeId.parse(str(name or ""))
    except RemoteError:
        return ""
    return str(who) if who.kind is IdKind.AGENT else ""


_NOT_THE_AGENTS = frozenset(
    {
        Reason.LOCKED,
        Reason.REVOKED,
        Reason.EXPIRED,
        Reason.STALE,
        Reason.AUDIT_UNAVAILABLE,
        Reason.LIMIT,
        Reason.PEER_UNREACHABLE,
        Reason.TARGET_UNREACHABLE,
        Reason.DRAINING,
        Reason.NO_SESSION,
        Reason.AMBIGUOUS_SESSION,
        Reason.TOOL_DRIFT,
    }
)
