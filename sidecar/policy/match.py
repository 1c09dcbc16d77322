"""Rules, and the index that finds the one for an agent and a service, whatever their number.

Of several rules of one effect that match, the one that lasts longest speaks, the first in the file among equals.
So whether any of them is in force is a question to one rule, and so is when the last of them ends.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from pki.clock import Wall


class Effect(StrEnum):
    GRANT = "grant"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Rule:
    """A standing grant or deny. Empty ``agents``, or no ``services`` and no ``segments``, match nothing."""

    effect: Effect
    id: str
    agents: frozenset[str]
    services: frozenset[str]
    segments: frozenset[str]
    expires: Wall | None
    line: int
    owner: str = ""
    ticket: str = ""

    def matches(self, agent: str, service: str, segment: str) -> bool:
        return agent in self.agents and (service in self.services or segment in self.segments)

    def outlasts(self, other: "Rule") -> bool:
        """Whether it is in force at some time after ``other`` has ended."""
        if other.expires is None:
            return False
        return self.expires is None or self.expires > other.expires

    @property
    def pairs(self) -> int:
        """How many (agent, service or segment) pairs it names."""
        return len(self.agents) * (len(self.services) + len(self.segments))


class RuleSet:
    """Rules of one effect. Immutable."""

    __slots__ = ("_by_segment", "_by_service", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._by_service: dict[str, dict[str, Rule]] = {}
        self._by_segment: dict[str, dict[str, Rule]] = {}
        for rule in self.rules:
            for agent in rule.agents:
                _enter(self._by_service.setdefault(agent, {}), rule.services, rule)
                _enter(self._by_segment.setdefault(agent, {}), rule.segments, rule)

    def longest(self, agent: str, service: str, segment: str) -> Rule | None:
        """The matching rule that lasts longest, expired or not; None when none matches."""
        named = self._by_service.get(agent, {}).get(service)
        within = self._by_segment.get(agent, {}).get(segment)
        if named is None or within is None:
            return named or within
        if named.outlasts(within) or within.outlasts(named):
            return named if named.outlasts(within) else within
        return named if named.line <= within.line else within


def _enter(index: dict[str, Rule], names: Iterable[str], rule: Rule) -> None:
    for name in names:
        held = index.get(name)
        if held is None or rule.outlasts(held):
            index[name] = rule
