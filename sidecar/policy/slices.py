"""The parts of a service that policies tell apart, and which patterns concern which part. Pure.

A service whose operations are of several segments is several things: one *slice* for each entry of ``operations``, in
the order in which decisions try them, and the rest. All answers here are conservative: where it is hard to say, two
patterns may meet, and none contains the other.
"""

from dataclasses import dataclass, replace

from sidecar.policy.case import READING
from sidecar.policy.match import HTTP, Effect, HttpPattern, McpKind, McpPattern
from sidecar.policy.model import Policy, Risk, Segment, Service, ServiceOperation
from sidecar.policy.patterns import ANY, NamePattern, PathPattern

Pattern = HttpPattern | McpPattern

BY_METHOD = "by method"
"""The class of HTTP requests whose method may read or change."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What of a service is of one segment. ``special`` None: the rest, or all of it. ``earlier`` are tried before."""

    service: Service
    special: ServiceOperation | None
    earlier: tuple[ServiceOperation, ...]

    @property
    def segment(self) -> Segment:
        return self.special.segment if self.special else self.service.segment

    @property
    def pattern(self) -> Pattern | None:
        """The requests of a special slice."""
        return as_pattern(self.special) if self.special else None

    @property
    def blast_radius(self) -> frozenset[str]:
        return self.special.blast_radius if self.special else self.service.blast_radius

    @property
    def risk(self) -> Risk:
        """What the operator says; else what the segment suggests."""
        if self.service.risk is not None:
            return self.service.risk
        return Risk.HIGH if self.segment.name == "high-risk" else _RISKS[self.segment.operation_class]

    def class_of(self, pattern: Pattern | None) -> str:
        """The class of the requests that ``pattern`` (None: all) leaves of it."""
        if self.special is not None and self.special.operation_class is not None:
            return self.special.operation_class
        if self.service.protocol == HTTP:
            return _class_of_methods(pattern or self.pattern)
        about_tools = not isinstance(pattern, McpPattern) or pattern.kind is McpKind.TOOLS
        return str(self.segment.operation_class) if about_tools else "read"


_RISKS = {"read": Risk.LOW, "mutate": Risk.MEDIUM}


def slices_of(service: Service) -> tuple[Slice, ...]:
    """Every part of a service, in the order of decisions."""
    found = [
        Slice(service, special, service.operations[:number])
        for number, special in enumerate(service.operations)
    ]
    return (*found, Slice(service, None, service.operations))


def slices_by_segment(policy: Policy) -> dict[str, list[Slice]]:
    """All parts of all services, by the segment that they are of."""
    found: dict[str, list[Slice]] = {name: [] for name in policy.segments}
    for service in policy.services.values():
        for part in slices_of(service):
            found[part.segment.name].append(part)
    return found


def as_pattern(special: ServiceOperation) -> Pattern:
    """The requests that an entry of ``operations`` is about."""
    if special.path is not None:
        return HttpPattern(special.methods, special.path)
    return McpPattern(McpKind.TOOLS, special.tools)


def requests_of(pattern: Pattern) -> str:
    """A pattern as text, without its predicates."""
    return str(replace(pattern, predicates=()))


def contains(wide: Pattern, narrow: Pattern) -> bool:
    """Whether ``wide``, were it without predicates, surely matches whatever ``narrow`` matches."""
    bare = replace(wide, predicates=())
    if isinstance(bare, HttpPattern):
        return isinstance(narrow, HttpPattern) and bare.contains(narrow, Effect.DENY)
    return isinstance(narrow, McpPattern) and bare.contains(narrow)


def may_meet(one: Pattern, other: Pattern) -> bool:
    """Whether some request may match both, predicates aside."""
    if isinstance(one, HttpPattern) and isinstance(other, HttpPattern):
        any_method = ANY in one.methods or ANY in other.methods
        return (any_method or bool(one.methods & other.methods)) and _paths_meet(one.path, other.path)
    if isinstance(one, McpPattern) and isinstance(other, McpPattern):
        return one.kind is other.kind and any(_names_meet(a, b) for a in one.names for b in other.names)
    return False


def _paths_meet(one: PathPattern, other: PathPattern) -> bool:
    short, long = sorted((one, other), key=lambda path: len(path.segments))
    if len(short.segments) < len(long.segments) and not short.open_ended:
        return False
    pairs = zip(short.segments, long.segments, strict=False)
    return all(ANY in (a, b) or a == b for a, b in pairs)


def _names_meet(one: NamePattern, other: NamePattern) -> bool:
    if one.is_exact or other.is_exact:
        return one.matches(other.text) if other.is_exact else other.matches(one.text)
    return one.head.startswith(other.head) or other.head.startswith(one.head)


def _class_of_methods(pattern: Pattern | None) -> str:
    methods = pattern.methods if isinstance(pattern, HttpPattern) else frozenset({ANY})
    if methods <= READING:
        return "read"
    return BY_METHOD if methods & (READING | {ANY}) else "mutate"
