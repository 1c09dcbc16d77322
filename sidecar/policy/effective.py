"""What a policy really permits: agent by service by operation, whatever its rules look like. Pure.

A policy is read rule by rule, and meant as a whole: a deny somewhere else, a segment that a service has moved to, a
second grant that lasts longer. Here each agent has one row for each thing that it may do, with what limits it:

1. A grant that has ended permits nothing. Of two that permit the same, the one that lasts longest counts.
2. A deny of the whole takes the row away while it lasts; a deny of some operations is a condition of the row.
3. A service whose operations are of several segments is several things, in the order in which decisions try them.
4. A segment in observe mode is open to every agent, and the row says so.

Who may do it when the mesh is locked, stale, or a node is elsewhere is for the decision.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pki.clock import Wall
from sidecar.policy.match import Rule
from sidecar.policy.model import OperationClass, Policy, Segment, Service

ANY = "any"
"""The operation of who may do whatever the service offers."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Permission:
    """One thing that one agent may do. ``conditions`` are words for people, in a fixed order."""

    agent: str
    service: str
    operation: str
    operation_class: OperationClass
    segment: str
    rule: str
    line: int
    conditions: tuple[str, ...] = ()

    @property
    def subject(self) -> tuple[str, str, str]:
        """What is permitted to whom, without how: the key by which two policies are compared."""
        return self.agent, self.service, self.operation

    @property
    def terms(self) -> tuple[OperationClass, str, tuple[str, ...]]:
        """How it is permitted; the rule's name is not part of it."""
        return self.operation_class, self.segment, self.conditions


def permissions(policy: Policy, now: Wall, agents: Iterable[str] | None = None) -> Iterator[Permission]:
    """Every permission at ``now`` (us), by agent, service and place in the file. ``agents``: only theirs."""
    index = _Index(policy, now)
    for agent in sorted(policy.agents if agents is None else agents):
        yield from index.of(agent)


def day(at: Wall) -> str:
    """A rule's time as people write it: a date where it is midnight UTC."""
    moment = _EPOCH + timedelta(microseconds=at)
    return moment.strftime("%Y-%m-%d" if moment.time() == _EPOCH.time() else "%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True, slots=True)
class _Slice:
    """What of a service is of one segment. ``label`` names it where a service has several."""

    service: Service
    segment: Segment
    operation_class: OperationClass
    label: str = ANY


class _Index:
    """The rules that count at ``now``, by agent, and the services by segment."""

    def __init__(self, policy: Policy, now: Wall) -> None:
        self._policy = policy
        self._grants = _by_agent(policy.grants.rules, now)
        self._denies = _by_agent(policy.denies.rules, now)
        self._slices: dict[str, tuple[_Slice, ...]] = {
            name: _slices(service) for name, service in policy.services.items()
        }
        self._within: dict[str, set[str]] = defaultdict(set)
        for name, slices in self._slices.items():
            for part in slices:
                self._within[part.segment.name].add(name)

    def of(self, agent: str) -> Iterator[Permission]:
        entry = self._policy.agents.get(agent)
        if entry is None or not entry.nodes:
            return
        grants, denies = self._grants.get(agent, ()), self._denies.get(agent, ())
        for name in sorted(self._reached(grants)):
            if not self._policy.services[name].nodes:
                continue
            for part in self._slices[name]:
                yield from _permitted(
                    agent, part, _matching(grants, agent, part), _matching(denies, agent, part)
                )

    def _reached(self, grants: Iterable[Rule]) -> set[str]:
        found: set[str] = set()
        for grant in grants:
            found |= grant.services
            for segment in grant.segments:
                found |= self._within.get(segment, set())
        return found


def _by_agent(rules: Iterable[Rule], now: Wall) -> Mapping[str, list[Rule]]:
    found: dict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        if rule.expires is None or rule.expires > now:
            for agent in rule.agents:
                found[agent].append(rule)
    return found


def _slices(service: Service) -> tuple[_Slice, ...]:
    return (_Slice(service, service.segment, service.segment.operation_class),)


def _matching(rules: Iterable[Rule], agent: str, part: _Slice) -> list[Rule]:
    return [rule for rule in rules if rule.matches(agent, part.service.name, part.segment.name)]


def _permitted(agent: str, part: _Slice, grants: list[Rule], denies: list[Rule]) -> Iterator[Permission]:
    grant, deny = _longest(grants), _longest(denies)
    if grant is None or (deny is not None and not grant.outlasts(deny)):
        return
    conditions = []
    if deny is not None and deny.expires is not None:
        conditions.append(f"from {day(deny.expires)} (deny {deny.id})")
    if grant.expires is not None:
        conditions.append(f"until {day(grant.expires)}")
    yield Permission(
        agent=agent,
        service=part.service.name,
        operation=part.label,
        operation_class=part.operation_class,
        segment=part.segment.name,
        rule=grant.id,
        line=grant.line,
        conditions=tuple(conditions),
    )


def _longest(rules: Iterable[Rule]) -> Rule | None:
    """The first of those that last longest."""
    longest: Rule | None = None
    for rule in rules:
        if longest is None or rule.outlasts(longest):
            longest = rule
    return longest
