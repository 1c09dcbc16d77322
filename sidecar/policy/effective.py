"""What a policy really permits: agent by service by operation, whatever its rules look like. Pure.

A policy is read rule by rule, and meant as a whole: a deny somewhere else, a segment that a service has moved to, a
second grant that lasts longer. Here each agent has one row for each thing that it may do, with what limits it:

1. A grant that has ended permits nothing. Of two that permit the same, the one that lasts longest counts; one that
   permits less than another for no longer adds nothing.
2. A deny of the whole takes the row away while it lasts; a deny of some requests is a condition of the row.
3. A service whose operations are of several segments is several things (:mod:`sidecar.policy.slices`).
4. A segment in observe mode is open to every agent, and the row says so.

Who may do it when the mesh is locked, stale, or a node is elsewhere is for the decision. What can be asked for beyond
it is for the escalations.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pki.clock import Wall
from sidecar.policy.match import Rule
from sidecar.policy.model import Mode, Policy
from sidecar.policy.slices import (
    Pattern,
    Slice,
    contains,
    may_meet,
    requests_of,
    slices_by_segment,
    slices_of,
)

ANY = "any"
"""The operation of who may do whatever the service offers."""
OBSERVED = "observed, not enforced"
MAX_COMPARED = 200
"""Patterns of one agent on one service. Beyond it, one that another covers is shown all the same."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Basis:
    """What a permission was read from. ``grant`` None: its segment is observed. ``pattern`` None: all requests."""

    part: Slice
    grant: Rule | None
    pattern: Pattern | None = None
    denies: tuple[tuple[Rule, Pattern], ...] = ()
    """Of some of its requests."""
    denied_until: Rule | None = None
    """A deny of all of them, which ends before the grant."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that one agent may do. ``conditions`` are words for people, in a fixed order."""

    agent: str
    service: str
    operation: str
    operation_class: str
    segment: str
    rule: str
    line: int
    conditions: tuple[str, ...]
    basis: Basis = field(compare=False, repr=False)

    @property
    def subject(self) -> tuple[str, str, str]:
        """What is permitted to whom, without how: the key by which two policies are compared."""
        return self.agent, self.service, self.operation

    @property
    def terms(self) -> tuple[str, str, tuple[str, ...]]:
        """How it is permitted; the rule's name is not part of it."""
        return self.operation_class, self.segment, self.conditions


def permissions(policy: Policy, now: Wall, agents: Iterable[str] | None = None) -> Iterator[Permission]:
    """Every permission at ``now`` (us), by agent, service and place in the file. ``agents``: only theirs."""
    index = _Index(policy, now)
    for agent in sorted(policy.agents if agents is None else agents):
        for basis in index.of(agent):
            yield _permission(agent, basis)


def day(at: Wall) -> str:
    """A rule's time as people write it: a date where it is midnight UTC."""
    moment = _EPOCH + timedelta(microseconds=at)
    return moment.strftime("%Y-%m-%d" if moment.time() == _EPOCH.time() else "%Y-%m-%d %H:%M:%S UTC")


class _Index:
    """The rules that count at ``now``, by agent, and the services by segment."""

    def __init__(self, policy: Policy, now: Wall) -> None:
        self._policy = policy
        self._grants = _by_agent(policy.grants.rules, now)
        self._denies = _by_agent(policy.denies.rules, now)
        self._slices = {name: slices_of(service) for name, service in policy.services.items()}
        by_segment = slices_by_segment(policy)
        self._within = {name: {part.service.name for part in parts} for name, parts in by_segment.items()}
        self._observed = {
            part.service.name
            for name, parts in by_segment.items()
            if policy.segments[name].mode is Mode.OBSERVE
            for part in parts
        }

    def of(self, agent: str) -> Iterator[Basis]:
        entry = self._policy.agents.get(agent)
        if entry is None or not entry.nodes:
            return
        grants, denies = self._grants.get(agent, ()), self._denies.get(agent, ())
        for name in sorted(self._reached(grants)):
            service = self._policy.services[name]
            for part in self._slices[name] if service.nodes or service.labels else ():
                if part.segment.mode is Mode.OBSERVE:
                    yield Basis(part, None)
                else:
                    matching = (_matching(rules, agent, part) for rules in (grants, denies))
                    yield from _permitted(part, *matching)

    def _reached(self, grants: Iterable[Rule]) -> set[str]:
        found = set(self._observed)
        for grant in grants:
            found |= grant.services
            for segment in grant.segments:
                found |= self._within[segment]
        return found


def _by_agent(rules: Iterable[Rule], now: Wall) -> Mapping[str, list[Rule]]:
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.expires is None or rule.expires > now:
            for agent in rule.agents:
                found[agent].append(rule)
    return found


def _matching(rules: Iterable[Rule], agent: str, part: Slice) -> list[Rule]:
    return [rule for rule in rules if rule.matches(agent, part.service.name, part.segment.name)]


# One slice


def _permitted(part: Slice, grants: list[Rule], denies: list[Rule]) -> Iterator[Basis]:
    """What these rules leave of a slice: all of it, then pattern by pattern."""
    whole = _longest(rule for rule in grants if rule.is_whole)
    if whole is not None:
        yield from _left(Basis(part, whole), denies)
    some = [
        Basis(part, rule, pattern)
        for rule in grants
        if not rule.is_whole and (whole is None or rule.outlasts(whole))
        for pattern in rule.patterns(part.service.protocol)
    ]
    for number, basis in enumerate(some):
        if len(some) > MAX_COMPARED or not any(
            _makes_needless(other, basis, other_number < number)
            for other_number, other in enumerate(some)
            if other_number != number
        ):
            yield from _left(basis, denies)


def _makes_needless(wide: Basis, narrow: Basis, comes_first: bool) -> bool:
    assert wide.grant and narrow.grant and wide.pattern and narrow.pattern  # noqa: S101, PT018 - of some requests
    if narrow.grant.outlasts(wide.grant) or not _covers(wide.pattern, narrow.pattern):
        return False
    is_twin = not wide.grant.outlasts(narrow.grant) and _covers(narrow.pattern, wide.pattern)
    return comes_first or not is_twin


def _covers(wide: Pattern, narrow: Pattern) -> bool:
    return contains(wide, narrow) and wide.conditions <= narrow.conditions


def _left(basis: Basis, denies: Iterable[Rule]) -> Iterator[Basis]:
    """The same under the denies, unless nothing is left of it."""
    part, grant, core = basis.part, basis.grant, basis.pattern or basis.part.pattern
    assert grant is not None  # noqa: S101 - it is of a grant
    if _is_elsewhere(part, basis.pattern):
        return
    of_all: list[Rule] = []
    of_some: list[tuple[Rule, Pattern]] = []
    for deny in denies:
        patterns = deny.patterns(part.service.protocol)
        if deny.is_whole or (core and any(not one.predicates and contains(one, core) for one in patterns)):
            of_all.append(deny)
        else:
            of_some += [(deny, one) for one in patterns if core is None or may_meet(one, core)]
    longest = _longest(of_all)
    if longest is None or grant.outlasts(longest):
        yield Basis(part, grant, basis.pattern, tuple(of_some), longest)


def _is_elsewhere(part: Slice, pattern: Pattern | None) -> bool:
    """Whether no request can match: another slice has them all, or this one has none of them."""
    core = pattern or part.pattern
    if core is None:
        return False
    if pattern and part.pattern and not may_meet(pattern, part.pattern):
        return True
    return any(contains(earlier.pattern, core) for earlier in _earlier(part) if earlier.pattern)


def _earlier(part: Slice) -> Iterator[Slice]:
    return (Slice(part.service, special, ()) for special in part.earlier)


def _longest(rules: Iterable[Rule]) -> Rule | None:
    """The first of those that last longest."""
    longest: Rule | None = None
    for rule in rules:
        if longest is None or rule.outlasts(longest):
            longest = rule
    return longest


# In words


def _permission(agent: str, basis: Basis) -> Permission:
    part, grant = basis.part, basis.grant
    return Permission(
        agent=agent,
        service=part.service.name,
        operation=_operation(part, basis.pattern),
        operation_class=part.class_of(basis.pattern),
        segment=part.segment.name,
        rule=grant.id if grant else "",
        line=grant.line if grant else 0,
        conditions=tuple(_conditions(basis)),
        basis=basis,
    )


def _operation(part: Slice, pattern: Pattern | None) -> str:
    within = part.pattern
    if pattern is None or within is None:
        core = pattern or within
        return requests_of(core) if core else ANY
    if contains(within, pattern):
        return requests_of(pattern)
    return (
        requests_of(within)
        if contains(pattern, within)
        else f"{requests_of(pattern)} within {requests_of(within)}"
    )


def _conditions(basis: Basis) -> Iterator[str]:
    part, grant, core = basis.part, basis.grant, basis.pattern or basis.part.pattern
    for earlier in _earlier(part):
        if earlier.pattern and (core is None or may_meet(earlier.pattern, core)):
            yield f"outside {requests_of(earlier.pattern)}"
    if grant is None:
        yield OBSERVED
        return
    if basis.pattern:
        yield from (f"where {predicate}" for predicate in basis.pattern.predicates)
    for deny, pattern in basis.denies:
        end = f" until {day(deny.expires)}" if deny.expires is not None else ""
        yield f"except {pattern} (deny {deny.id}{end})"
    if basis.denied_until is not None and basis.denied_until.expires is not None:
        yield f"from {day(basis.denied_until.expires)} (deny {basis.denied_until.id})"
    if grant.expires is not None:
        yield f"until {day(grant.expires)}"
