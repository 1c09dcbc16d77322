"""Why a request is answered as it is: every step in its order, and every rule that concerns it. Pure.

The answer is that of :func:`sidecar.policy.decide.decide`, and the steps are its own, asked one by one: nothing here
decides anything. A stream of a service with several segments is judged in each of them, and has an account for each.

Rules are *candidates* when they name the agent, or the service or its segment. Each is taken apart: whom it names,
what it names, whether it is still in force, and what it says of the request, pattern by pattern and predicate by
predicate.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pki.clock import SECOND
from sidecar.duration import format_duration
from sidecar.policy.case import Case, Question, Request
from sidecar.policy.decide import Decision, decide, judge, steps_of
from sidecar.policy.effective import day
from sidecar.policy.match import Effect, Rule, is_conversation
from sidecar.policy.model import OperationClass, Policy
from sidecar.policy.slices import Pattern, requests_of
from sidecar.snapshot import Moment, Snapshot

MAX_RULES = 200
"""Of one account. Those that come nearest are shown."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. ``answer`` is ok, deny, allow, no (it allows nothing), or observed: it would deny, and does not here."""

    name: str
    answer: str
    why: str
    rule: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a rule asks for, and whether it is so."""

    what: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule, and why it speaks or not. ``checks`` are in the order in which one would read them."""

    rule: Rule
    checks: tuple[Check, ...]
    matches: bool
    speaks: bool
    """It is the one of its kind whose word counts here."""
    why: str


@dataclass(frozen=True, slots=True)
class Account:
    """What happens in one segment. ``others``: how many candidates are not shown."""

    segment: str
    operation_class: OperationClass | None
    steps: tuple[Step, ...]
    candidates: tuple[Candidate, ...]
    others: int
    decision: Decision


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and how it came about; an account for each segment that was judged."""

    request: Request
    decision: Decision
    accounts: tuple[Account, ...]


def explain(request: Request, snapshot: Snapshot, moment: Moment) -> Explanation:
    """Every step and rule behind ``decide(request, snapshot, moment)``. Never raises."""
    cases = Question(request, snapshot, moment, live=False).cases()
    accounts = tuple(_account(case) for case in cases)
    return Explanation(request, decide(request, snapshot, moment), accounts)


def _account(case: Case) -> Account:
    steps = tuple(_step(case, name, decision) for name, decision in steps_of(case))
    found = sorted(_candidates(case), key=_nearness)
    return Account(
        segment=case.place.segment.name if case.place else "",
        operation_class=case.place.operation_class if case.place else None,
        steps=steps,
        candidates=tuple(found[:MAX_RULES]),
        others=max(0, len(found) - MAX_RULES),
        decision=judge(case),
    )


def _nearness(one: Candidate) -> tuple[bool, bool, int, bool, int]:
    missing = sum(not check.holds for check in one.checks)
    return not one.speaks, not one.matches, missing, one.rule.effect is Effect.GRANT, one.rule.line


# Steps


def _step(case: Case, name: str, decision: Decision | None) -> Step:
    if decision is None:
        answer = "no" if name in ("granted", "leased") else "ok"
        return Step(_NAMES.get(name, name), answer, _PASSED[name](case))
    if decision.allowed:
        kind = "lease" if name == "leased" else "grant"
        return Step(_NAMES.get(name, name), "allow", f"{kind} {decision.rule}", decision.rule, decision.line)
    answer = "observed" if case.is_observed and judge(case).allowed else "deny"
    return Step(_NAMES.get(name, name), answer, decision.hint, decision.rule, decision.line)


_NAMES = {"unknown": "known", "no_grant": "granted otherwise"}
"""Steps that would read oddly beside an "ok"."""


def _not_locked(case: Case) -> str:
    if case.lock is not None:
        return f"the lock {case.lock.id} on {case.lock.target} has ended"
    return f"none of {_targets(case)} is locked"


def _not_revoked(case: Case) -> str:
    return f"none of {_targets(case)} is revoked"


def _targets(case: Case) -> str:
    """What a lock or revocation could hit; long ids and serials stand for themselves."""
    shown = [
        str(one) for one in case.facts.targets() if one.kind in ("all", "segment", "service", "agent", "node")
    ]
    return ", ".join(shown)


def _not_expired(case: Case) -> str:
    return f"the certificates under it last until {day(case.request.not_after)}"


def _well_placed(case: Case) -> str:
    session, node = case.request.session, case.request.tool_node
    return f"{session.name} may run on {session.node}, {case.request.service} stands beside {node}"


def _known(case: Case) -> str:
    return f"the policy has agent {case.request.session.name} and service {case.request.service}"


def _fresh(case: Case) -> str:
    limit, moment = case.stale_after, case.moment
    assert limit is not None and moment.as_of is not None  # noqa: S101, PT018 - a new stream that is not stale
    age = max(0, moment.now - moment.as_of)
    return f"complete {age // SECOND} s ago; {case.facts.segment} allows {format_duration(limit)}"


def _not_narrowed(case: Case) -> str:
    return "no child session" if case.request.narrowing is None else "left to this child session"


def _not_denied(case: Case) -> str:
    if case.deny is not None:
        return f"deny {case.deny.id} has ended"
    return "no deny matches"


def _not_granted(case: Case) -> str:
    if case.grant is not None:
        return f"grant {case.grant.id} has ended"
    return "no grant matches"


def _not_leased(case: Case) -> str:
    return f"lease {case.lease.id} has ended" if case.lease else "no lease of this session matches"


_PASSED: dict[str, Callable[[Case], str]] = {
    "locked": _not_locked,
    "revoked": _not_revoked,
    "expired": _not_expired,
    "misbound": _well_placed,
    "unknown": _known,
    "stale": _fresh,
    "narrowed": _not_narrowed,
    "denied": _not_denied,
    "granted": _not_granted,
    "leased": _not_leased,
}


# Rules


def _candidates(case: Case) -> Iterator[Candidate]:
    policy, place = case.snapshot.policy, case.place
    if policy is None or place is None:
        return
    agent, service, segment = case.facts.agent, place.service.name, place.segment.name
    for rule in _rules(policy):
        names = service in rule.services or segment in rule.segments
        if agent in rule.agents or names:
            yield _candidate(case, rule)


def _rules(policy: Policy) -> Iterator[Rule]:
    yield from policy.denies.rules
    yield from policy.grants.rules


def _candidate(case: Case, rule: Rule) -> Candidate:
    assert case.place is not None  # noqa: S101 - without a service there are no candidates
    service, segment = case.place.service, case.place.segment.name
    whom = Check(f"agent {case.facts.agent}", case.facts.agent in rule.agents)
    where = _where(rule, service.name, segment)
    in_force = _in_force(case, rule)
    requests = tuple(_requests(case, rule)) if whom.holds and where.holds else ()
    matches = whom.holds and where.holds and rule.meets(service.protocol, case.place.operation)
    speaks = matches and (rule is case.deny or rule is case.grant)
    checks = (whom, where, *([in_force] if in_force else []), *requests)
    if not matches:
        why = f"not about this: {_missing(whom, where, *requests)}"
    elif in_force and not in_force.holds:
        why = "matches, and has ended"
    else:
        why = "matches, and speaks" if speaks else _outlasted(case, rule)
    return Candidate(rule, checks, matches, speaks, why)


def _missing(*checks: Check) -> str:
    """The nearest miss: a predicate of a pattern that fits, else the first thing that is not so."""
    failed = [check.what for check in checks if not check.holds]
    return next((what.strip() for what in failed if what.startswith(" ")), failed[0])


def _outlasted(case: Case, rule: Rule) -> str:
    longest = case.deny if rule.effect is Effect.DENY else case.grant
    return f"matches; {longest.id} speaks for it" if longest else "matches"


def _where(rule: Rule, service: str, segment: str) -> Check:
    if service in rule.services:
        return Check(f"service {service}", True)
    if segment in rule.segments:
        return Check(f"segment {segment}", True)
    return Check(f"service {service} or segment {segment}", False)


def _in_force(case: Case, rule: Rule) -> Check | None:
    if rule.expires is None:
        return None
    now = case.moment.now if rule.effect is Effect.GRANT else case.moment.floor
    return Check(f"in force until {day(rule.expires)}", now < rule.expires)


def _requests(case: Case, rule: Rule) -> Iterator[Check]:
    """What the rule says of requests: one line a pattern, and one for each predicate of a pattern that fits."""
    assert case.place is not None  # noqa: S101 - see above
    protocol, operation = case.place.service.protocol, case.place.operation
    if rule.is_whole:
        yield Check("everything that it does", True)
        return
    if operation is None or is_conversation(protocol, operation):
        opens = rule.meets(protocol, operation)
        yield Check(
            "some requests: the stream opens" if opens else "some requests: the stream is left alone", opens
        )
        return
    patterns = rule.patterns(protocol)
    if not patterns:
        yield Check(f"{protocol} requests", False)
    for pattern in patterns:
        fits = _fits(pattern, case, rule.effect)
        yield Check(requests_of(pattern), fits)
        if fits:
            yield from (Check(f"  {one}", one.name in operation.holds) for one in pattern.predicates)


def _fits(pattern: Pattern, case: Case, effect: Effect) -> bool:
    """Whether a pattern is about the request, whatever its predicates say."""
    assert case.place is not None and case.place.operation is not None  # noqa: S101, PT018 - of a request
    operation = case.place.operation
    everything = frozenset(one.name for one in pattern.predicates)
    return pattern.matches(type(operation)(operation.method, operation.name, everything), effect)
