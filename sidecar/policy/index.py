"""Finds the rules that are about one request, at a cost that does not grow with their number. Pure.

Paths are kept in a tree with a level for each segment, names by the text before their first wildcard, and at each
leaf rules by method and agent. What a look-up costs is a walk down the request's own path, or past the wildcards that
begin with the same text. Rules that differ in nothing but their conditions share a leaf and are looked at each.

Of the rules in one place of a leaf only the one that lasts longest is kept, the first in the file among equals: no
other can ever speak.
"""

from collections.abc import Iterator
from typing import TypeVar

from sidecar.policy.match import HTTP, MCP, MCP_KINDS, Effect, McpKind, Rule, is_plain, methods_asked
from sidecar.policy.operation import Operation
from sidecar.policy.patterns import NamePattern, PathPattern, segments_of
from sidecar.policy.predicates import Condition, Predicate


class Leaf:
    """The rules of one pattern and method, by agent, and the conditions that any of them makes."""

    __slots__ = ("_conditional", "_plain", "conditions")

    def __init__(self) -> None:
        self.conditions: dict[str, Condition] = {}
        self._plain: dict[str, Rule] = {}
        self._conditional: dict[str, dict[frozenset[str], Rule]] = {}

    def enter(self, rule: Rule, predicates: tuple[Predicate, ...] = ()) -> None:
        for predicate in predicates:
            self.conditions.setdefault(predicate.name, Condition(predicate))
        names = frozenset(predicate.name for predicate in predicates)
        for agent in rule.agents:
            if names:
                keep_longest(self._conditional.setdefault(agent, {}), names, rule)
            else:
                keep_longest(self._plain, agent, rule)

    def rules(self, agent: str, holds: frozenset[str]) -> Iterator[Rule]:
        """The agent's rules all of whose conditions hold."""
        if plain := self._plain.get(agent):
            yield plain
        for names, rule in self._conditional.get(agent, {}).items():
            if names <= holds:
                yield rule

    def any_rule(self, agent: str) -> Rule | None:
        """One of the agent's rules, whatever its conditions."""
        return self._plain.get(agent) or next(iter(self._conditional.get(agent, {}).values()), None)


Leaves = dict[str, Leaf]
"""By method."""


class _Node:
    """A place in the tree of paths: what ends here, and what goes on."""

    __slots__ = ("any", "children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.here: Leaves = {}
        self.rest: Leaves = {}


class PathIndex:
    """Path patterns."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root = _Node()

    def leaves(self, pattern: PathPattern) -> Leaves:
        """Where the rules of ``pattern`` belong; made where it is new."""
        node = self._root
        for segment in pattern.segments:
            if segment == "*":
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.children.setdefault(segment, _Node())
        return node.rest if pattern.open_ended else node.here

    def walk(self, path: str) -> list[Leaves]:
        """Those of every pattern that matches ``path``, deeper ones last."""
        found: list[Leaves] = []
        nodes = [self._root] if path.startswith("/") else []
        for segment in segments_of(path):
            found += [node.rest for node in nodes if node.rest]
            deeper = [child for node in nodes if (child := node.children.get(segment))]
            if segment:
                deeper += [node.any for node in nodes if node.any]
            nodes = deeper
            if not nodes:
                return found
        for node in nodes:
            found += [leaves for leaves in (node.rest, node.here) if leaves]
        return found


class NameIndex:
    """Patterns of names of one kind."""

    __slots__ = ("_by_head", "_exact", "_lengths")

    def __init__(self) -> None:
        self._exact: dict[str, Leaf] = {}
        self._by_head: dict[str, dict[NamePattern, Leaf]] = {}
        self._lengths: list[int] = []
        """Of the heads, each once."""

    def leaf(self, pattern: NamePattern) -> Leaf:
        """Where the rules of ``pattern`` belong; made where it is new."""
        if pattern.is_exact:
            return self._exact.setdefault(pattern.text, Leaf())
        head = pattern.head
        if len(head) not in self._lengths:
            self._lengths.append(len(head))
        return self._by_head.setdefault(head, {}).setdefault(pattern, Leaf())

    def walk(self, name: str) -> list[Leaf]:
        """Those of every pattern that matches ``name``."""
        found = [leaf] if (leaf := self._exact.get(name)) else []
        for length in self._lengths:
            candidates = self._by_head.get(name[:length], {})
            found += [leaf for pattern, leaf in candidates.items() if pattern.matches(name)]
        return found


class RequestIndex:
    """The rules about requests of one service, or of one segment. ``effect`` is that of all of them."""

    __slots__ = ("_effect", "_names", "_odd", "_paths")

    def __init__(self, effect: Effect) -> None:
        self._effect = effect
        self._paths = PathIndex()
        self._names: dict[McpKind, NameIndex] = {kind: NameIndex() for kind in McpKind}
        self._odd: dict[McpKind, Leaf] = {kind: Leaf() for kind in McpKind}
        """For names that can be read in two ways, which every deny stops."""

    def enter(self, rule: Rule) -> None:
        for http in rule.http:
            leaves = self._paths.leaves(http.path)
            for method in http.methods:
                leaves.setdefault(method, Leaf()).enter(rule, http.predicates)
        for mcp in rule.mcp:
            self._odd[mcp.kind].enter(rule)
            for name in mcp.names:
                self._names[mcp.kind].leaf(name).enter(rule, mcp.predicates)

    def leaves(self, protocol: str, operation: Operation) -> list[Leaf]:
        """Those whose pattern and method match; their conditions are not looked at."""
        if protocol == HTTP:
            asked = methods_asked(self._effect, operation.method)
            found = self._paths.walk(operation.name)
            return [leaf for leaves in found for method in asked if (leaf := leaves.get(method))]
        kind = MCP_KINDS.get(operation.method) if protocol == MCP else None
        if kind is None:
            return []
        if not is_plain(operation):
            return [self._odd[kind]] if self._effect is Effect.DENY else []
        return self._names[kind].walk(operation.name)

    def near(self, protocol: str, operation: Operation) -> list[Leaf]:
        """Those whose pattern matches, by whatever method: for hints."""
        if protocol == HTTP:
            found = self._paths.walk(operation.name)
            return [leaf for leaves in reversed(found) for leaf in leaves.values()]
        return self.leaves(protocol, operation)


K = TypeVar("K")


def keep_longest(rules: dict[K, Rule], key: K, rule: Rule) -> None:
    """Enter ``rule`` unless the one that is there lasts as long."""
    held = rules.get(key)
    if held is None or rule.outlasts(held):
        rules[key] = rule
