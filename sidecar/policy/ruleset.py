"""All rules of one effect, and the one of them that speaks.

Of several that match, the one that lasts longest speaks, the first in the file among equals. So whether any of them
is in force is a question to one rule, and so is when the last of them ends.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

from sidecar.policy.index import RequestIndex, keep_longest
from sidecar.policy.match import HTTP, MCP, TCP, Effect, Rule, is_conversation
from sidecar.policy.operation import Operation
from sidecar.policy.predicates import Condition


class RuleSet:
    """Rules of one effect. Immutable."""

    __slots__ = ("_by_segment", "_by_service", "_order", "_partial", "_whole", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._order = {rule.id: number for number, rule in enumerate(self.rules)}
        self._whole = _Pairs()
        self._partial = {HTTP: _Pairs(), MCP: _Pairs()}
        self._by_service: dict[str, RequestIndex] = {}
        self._by_segment: dict[str, RequestIndex] = {}
        for rule in self.rules:
            self._enter(rule)

    def _enter(self, rule: Rule) -> None:
        if rule.is_whole:
            self._whole.enter(rule)
            return
        for protocol, pairs in self._partial.items():
            if rule.patterns(protocol):
                pairs.enter(rule)
        for index, places in ((self._by_service, rule.services), (self._by_segment, rule.segments)):
            for place in places:
                index.setdefault(place, RequestIndex(rule.effect)).enter(rule)

    def longest(
        self,
        agent: str,
        service: str,
        segment: str,
        protocol: str = TCP,
        operation: Operation | None = None,
    ) -> Rule | None:
        """The matching rule that lasts longest, expired or not; None when none matches.

        ``segment`` is the operation's. Without an operation it is the stream that is asked for.
        """
        found = self._whole.of(agent, service, segment)
        if operation is None or is_conversation(protocol, operation):
            return self._longest(chain(found, self._opening(agent, service, segment, protocol)))
        leaves = (
            leaf for index in self._indexes(service, segment) for leaf in index.leaves(protocol, operation)
        )
        return self._longest(chain(found, *(leaf.rules(agent, operation.holds) for leaf in leaves)))

    def reaches(self, agent: str, service: str, segment: str, protocol: str, operation: Operation) -> bool:
        """Whether some rule is about such a request, whatever its conditions."""
        if self._whole.of(agent, service, segment):
            return True
        indexes = self._indexes(service, segment)
        return any(leaf.any_rule(agent) for index in indexes for leaf in index.leaves(protocol, operation))

    def nearest(
        self, agent: str, service: str, segment: str, protocol: str, operation: Operation
    ) -> Rule | None:
        """A rule of this agent about other requests than this one, as near to it as is cheap to find."""
        for index in self._indexes(service, segment):
            for leaf in index.near(protocol, operation):
                if rule := leaf.any_rule(agent):
                    return rule
        return self._longest(self._opening(agent, service, segment, protocol))

    def conditions(
        self, service: str, segment: str, protocol: str, operation: Operation
    ) -> Iterator[Condition]:
        """The conditions that some rule makes of such a request; one may come several times."""
        for index in self._indexes(service, segment):
            for leaf in index.leaves(protocol, operation):
                yield from leaf.conditions.values()

    def _opening(self, agent: str, service: str, segment: str, protocol: str) -> Iterable[Rule]:
        """Grants of some requests, which the stream must be open for. A deny of some leaves the stream alone."""
        pairs = self._partial.get(protocol)
        found = pairs.of(agent, service, segment) if pairs else ()
        return (rule for rule in found if rule.effect is Effect.GRANT)

    def _indexes(self, service: str, segment: str) -> list[RequestIndex]:
        found = self._by_service.get(service), self._by_segment.get(segment)
        return [index for index in found if index is not None]

    def _longest(self, rules: Iterable[Rule]) -> Rule | None:
        best: Rule | None = None
        for rule in rules:
            if best is None or rule.outlasts(best) or self._is_earlier_twin(rule, best):
                best = rule
        return best

    def _is_earlier_twin(self, rule: Rule, other: Rule) -> bool:
        return rule.expires == other.expires and self._order[rule.id] < self._order[other.id]


class _Pairs:
    """The longest rule of each agent on each service and on each segment."""

    __slots__ = ("_by_segment", "_by_service")

    def __init__(self) -> None:
        self._by_service: dict[str, dict[str, Rule]] = {}
        self._by_segment: dict[str, dict[str, Rule]] = {}

    def enter(self, rule: Rule) -> None:
        for index, names in ((self._by_service, rule.services), (self._by_segment, rule.segments)):
            for agent in rule.agents if names else ():
                held = index.setdefault(agent, {})
                for name in names:
                    keep_longest(held, name, rule)

    def of(self, agent: str, service: str, segment: str) -> list[Rule]:
        found = (
            self._by_service.get(agent, {}).get(service),
            self._by_segment.get(agent, {}).get(segment),
        )
        return [rule for rule in found if rule is not None]
