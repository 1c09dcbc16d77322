"""Finds the rules that are about one request, at a cost that does not grow with their number. Pure.

Paths are kept in a tree with a level for each segment, names by the text before their first wildcard, and at each
leaf rules by method and agent. What a look-up costs is a walk down the request's own path, or past the wildcards that
begin with the same text. Rules that differ in nothing but their conditions share a leaf and are looked at each.

Of the rules in one place of a leaf only the one that lasts longest is kept, the first in the file among equals: no
other can ever speak.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from sidecar.policy.match import HTTP, MCP, MCP_KINDS, Effect, McpKind, Rule, is_plain, methods_asked
from sidecar.policy.operation import Operation
from sidecar.policy.patterns import ANY, NamePattern, PathPattern, segments_of
from sidecar.policy.predicates import Condition, Predicate

K = TypeVar("K")
T = TypeVar("T")


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


class _Node(Generic[T]):
    """A place in the tree of paths: what ends here, and what goes on. Both by method."""

    __slots__ = ("any", "children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.any: _Node[T] | None = None
        self.here: dict[str, T] = {}
        self.rest: dict[str, T] = {}


class PathIndex(Generic[T]):
    """Path patterns, and a value for each method of them."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def place(self, pattern: PathPattern) -> dict[str, T]:
        """The values of ``pattern``, by method; to be added to."""
        node = self._root
        for segment in pattern.segments:
            if segment == ANY:
                node.any = node.any or _Node()
                node = node.any
            else:
                node = node.children.setdefault(segment, _Node())
        return node.rest if pattern.open_ended else node.here

    def walk(self, path: str) -> list[dict[str, T]]:
        """Those of every pattern that matches ``path``, deeper ones last."""
        found: list[dict[str, T]] = []
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
            found += [values for values in (node.rest, node.here) if values]
        return found


class NameIndex(Generic[T]):
    """Patterns of names of one kind, and a value for each."""

    __slots__ = ("_by_head", "_exact", "_lengths", "_make")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._exact: dict[str, T] = {}
        self._by_head: dict[str, dict[NamePattern, T]] = {}
        self._lengths: list[int] = []
        """Of the heads, each once."""

    def place(self, pattern: NamePattern) -> T:
        """The value of ``pattern``; made where it is new."""
        if pattern.is_exact:
            return self._exact.setdefault(pattern.text, self._make())
        head = pattern.head
        if len(head) not in self._lengths:
            self._lengths.append(len(head))
        return self._by_head.setdefault(head, {}).setdefault(pattern, self._make())

    def walk(self, name: str) -> list[T]:
        """Those of every pattern that matches ``name``."""
        found = [exact] if (exact := self._exact.get(name)) is not None else []
        for length in self._lengths:
            candidates = self._by_head.get(name[:length], {})
            found += [value for pattern, value in candidates.items() if pattern.matches(name)]
        return found


class RequestIndex:
    """The rules about requests of one service, or of one segment. ``effect`` is that of all of them."""

    __slots__ = ("_effect", "_names", "_odd", "_paths")

    def __init__(self, effect: Effect) -> None:
        self._effect = effect
        self._paths: PathIndex[Leaf] = PathIndex()
        self._names = {kind: NameIndex(Leaf) for kind in McpKind}
        self._odd: dict[McpKind, Leaf] = {kind: Leaf() for kind in McpKind}
        """For names that can be read in two ways, which every deny stops."""

    def enter(self, rule: Rule) -> None:
        for http in rule.http:
            leaves = self._paths.place(http.path)
            for method in http.methods:
                leaves.setdefault(method, Leaf()).enter(rule, http.predicates)
        for mcp in rule.mcp:
            self._odd[mcp.kind].enter(rule)
            for name in mcp.names:
                self._names[mcp.kind].place(name).enter(rule, mcp.predicates)

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


def keep_longest(rules: dict[K, Rule], key: K, rule: Rule) -> None:
    """Enter ``rule`` unless the one that is there lasts as long."""
    held = rules.get(key)
    if held is None or rule.outlasts(held):
        rules[key] = rule
