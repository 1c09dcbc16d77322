"""What does nothing: rules and entries that match no request, and those that another makes needless.

A rule that can never match misleads: its author thinks that something is allowed, or denied. One that another covers
does no harm. Covering is judged by one other rule at a time and only where containment is plain to see (patterns part
by part, conditions by name), so a rule that several others cover together is not found; nothing that does something
is ever called needless.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from sidecar.policy.index import NameIndex, PathIndex
from sidecar.policy.match import HTTP, MCP, Effect, McpKind, Rule
from sidecar.policy.model import Escalation, Policy, Service, ServiceOperation

MAX_CANDIDATES = 256
"""Rules that may cover one other, and are compared with it: beyond that nothing is said of it."""


def why_never(rule: Rule, policy: Policy) -> str:
    """Why no stream or request can ever match; empty when one can."""
    if not rule.agents:
        return "it names no agents"
    if not rule.services and not rule.segments:
        return "it names no services and no segments"
    if not any(policy.agents[agent].nodes for agent in rule.agents):
        return "its agents may run on no node"
    reached = [service for service in policy.services.values() if _reaches(rule, service)]
    if not reached:
        return "its segments have no services"
    if not any(service.nodes or service.labels for service in reached):
        return "its services stand beside no node"
    if not rule.is_whole and not any(rule.patterns(service.protocol) for service in reached):
        kinds = [kind for kind in (HTTP, MCP) if rule.patterns(kind)]
        return f"its services do not speak {' or '.join(kinds)}"
    return ""


def _reaches(rule: Rule, service: Service) -> bool:
    return service.name in rule.services or any(one.name in rule.segments for one in service.segments)


def hidden_operations(service: Service) -> Iterator[tuple[ServiceOperation, ServiceOperation]]:
    """Entries of a service's operations that never count, each with the earlier one that takes all its requests."""
    for number, later in enumerate(service.operations):
        for earlier in service.operations[:number]:
            if earlier.contains(later):
                yield later, earlier
                break


def why_never_asked(escalation: Escalation, policy: Policy) -> str:
    """Why nobody can ever ask for what an escalation offers; empty when somebody can."""
    if not escalation.agents:
        return "it names no agents"
    if not escalation.services:
        return "it names no services"
    for name in sorted(escalation.services):
        if escalation.to_segment not in [segment.name for segment in policy.services[name].segments]:
            return f"service {name} has nothing in segment {escalation.to_segment}"
    inside = [
        service
        for service in policy.services.values()
        if any(segment.name == escalation.from_segment for segment in service.segments)
    ]
    for agent in escalation.agents:
        if any(
            policy.grants.longest(agent, one.name, escalation.from_segment, one.protocol) for one in inside
        ):
            return ""
    return f"no grant lets its agents into segment {escalation.from_segment}"


def cover_of(policy: Policy) -> Callable[[Rule], Rule | None]:
    """A function from a rule to another one that alone makes it needless, if there is one.

    A grant is covered by a wider grant or a wider whole deny, a deny by a wider deny only; of two that are equally
    wide the first in the file covers the other. The cover must last at least as long.
    """
    within: dict[str, set[str]] = defaultdict(set)
    for service in policy.services.values():
        for segment in service.segments:
            within[segment.name].add(service.name)
    candidates = _Candidates(policy)

    def cover(rule: Rule) -> Rule | None:
        return next((one for one in candidates.of(rule) if _covers(one, rule, policy, within)), None)

    return cover


class _Candidates:
    """The rules that may cover one: for one agent and one place of it, wide enough for one thing that it says."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._whole: dict[tuple[str, str, str], list[Rule]] = defaultdict(list)
        self._paths: dict[tuple[str, str, str], PathIndex[list[Rule]]] = defaultdict(PathIndex)
        self._names: dict[tuple[str, str, str, McpKind], NameIndex[list[Rule]]] = defaultdict(
            lambda: NameIndex(list)
        )
        for rule in (*policy.denies.rules, *policy.grants.rules):
            for agent in rule.agents:
                for place in _places(rule):
                    self._enter(rule, (agent, *place))

    def _enter(self, rule: Rule, key: tuple[str, str, str]) -> None:
        if rule.is_whole:
            self._whole[key].append(rule)
        for http in rule.http:
            self._paths[key].place(http.path).setdefault("", []).append(rule)
        for mcp in rule.mcp:
            for name in mcp.names:
                self._names[*key, mcp.kind].place(name).append(rule)

    def of(self, rule: Rule) -> Iterator[Rule]:
        # Whatever covers it names all its agents and all its places, so one of each is enough to look at.
        first = next(_places(rule), None)
        for place in self._wider(*first) if first and rule.agents else ():
            agent = min(rule.agents)
            key = (agent, *place)
            yield from self._whole.get(key, [])[:MAX_CANDIDATES]
            if rule.http and (paths := self._paths.get(key)):
                pattern = rule.http[0].path
                # A path that the pattern matches: whatever contains the pattern matches it too.
                for values in paths.walk("/" + "/".join(pattern.segments)):
                    yield from values[""][:MAX_CANDIDATES]
            if rule.mcp and (names := self._names.get((*key, rule.mcp[0].kind))):
                for found in names.walk(rule.mcp[0].names[0].text):
                    yield from found[:MAX_CANDIDATES]

    def _wider(self, kind: str, name: str) -> Iterator[tuple[str, str]]:
        """The place, and where else a rule stands that takes it in."""
        yield kind, name
        if kind == "service":
            for segment in self._policy.services[name].segments:
                yield "segment", segment.name
        else:
            for service in self._policy.services.values():
                if any(segment.name == name for segment in service.segments):
                    yield "service", service.name
                    return


def _places(rule: Rule) -> Iterator[tuple[str, str]]:
    yield from (("service", name) for name in sorted(rule.services))
    yield from (("segment", name) for name in sorted(rule.segments))


def _covers(wide: Rule, rule: Rule, policy: Policy, within: Mapping[str, set[str]]) -> bool:
    if wide is rule or rule.outlasts(wide) or (rule.effect is Effect.DENY and wide.effect is Effect.GRANT):
        return False
    if wide.effect is not rule.effect and not wide.is_whole:
        return False  # a deny of some requests leaves the stream that a grant of some opens
    if not _contains(wide, rule, policy, within):
        return False
    twins = wide.effect is rule.effect and not wide.outlasts(rule) and _contains(rule, wide, policy, within)
    return not twins or wide.line < rule.line


def _contains(wide: Rule, rule: Rule, policy: Policy, within: Mapping[str, set[str]]) -> bool:
    """Whether ``wide`` matches whatever ``rule`` matches."""
    return (
        rule.agents <= wide.agents
        and all(
            name in wide.services or all(one.name in wide.segments for one in policy.services[name].segments)
            for name in rule.services
        )
        and all(name in wide.segments or within[name] <= wide.services for name in rule.segments)
        and _says_all(wide, rule)
    )


def _says_all(wide: Rule, rule: Rule) -> bool:
    """Whether ``wide`` is about all requests that ``rule`` is about, in the places of both."""
    if wide.is_whole:
        return True
    if rule.is_whole:
        return False
    effect = wide.effect
    http = all(any(one.contains(pattern, effect) for one in wide.http) for pattern in rule.http)
    return http and all(any(one.contains(pattern) for one in wide.mcp) for pattern in rule.mcp)
