"""One standing rule, and what it may say of requests.

A rule with neither ``http`` nor ``mcp`` is *whole*: it is about everything that its services do. Any other is about
those requests only; a stream it concerns as far as the stream may carry one of them.

    whole grant      the stream opens, every request is allowed
    partial grant    the stream opens, those requests are allowed
    whole deny       the stream does not open
    partial deny     those requests are refused

A name in an MCP request that can be read in two ways (docs://a/../b) fits no pattern of a grant and every pattern of
a deny. The conversation of an MCP client (initialize, ping, lists) is allowed where the stream is: without it nobody
could use a grant of one tool.
"""

from dataclasses import dataclass
from enum import StrEnum

from pki.clock import Wall
from sidecar.policy.operation import CLOSE, LISTEN, RESPONSE, TOOLS_CALL, Operation
from sidecar.policy.patterns import ANY, NamePattern, PathPattern, is_normal_uri, is_plain_name
from sidecar.policy.predicates import Predicate

TCP, HTTP, MCP = "tcp", "http", "mcp"
"""The protocols, as :class:`sidecar.policy.model.Protocol` has them."""

TUNNELS = frozenset({"CONNECT", "WEBSOCKET"})
"""Methods after which no request can be told from another: a grant must name them, its ``*`` leaves them out."""


class Effect(StrEnum):
    GRANT = "grant"
    DENY = "deny"


class McpKind(StrEnum):
    """What an MCP request is about."""

    TOOLS = "tools"
    RESOURCES = "resources"
    PROMPTS = "prompts"


MCP_KINDS = {
    TOOLS_CALL: McpKind.TOOLS,
    "resources/read": McpKind.RESOURCES,
    "resources/subscribe": McpKind.RESOURCES,
    "resources/unsubscribe": McpKind.RESOURCES,
    "prompts/get": McpKind.PROMPTS,
}
"""By JSON-RPC method. Methods that are neither here nor conversation need a whole grant."""

_CONVERSATION = frozenset(
    {
        "initialize",
        "logging/setLevel",
        "ping",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "server/discover",
        "subscriptions/listen",
        "tools/list",
        LISTEN,
        CLOSE,
        RESPONSE,
    }
)


def is_conversation(protocol: str, operation: Operation) -> bool:
    """Whether a request belongs to the stream rather than to something that the service offers."""
    if protocol != MCP:
        return False
    return operation.method in _CONVERSATION or operation.method.startswith("notifications/")


def is_plain(operation: Operation) -> bool:
    """Whether the name in an MCP request can be read in one way only."""
    if MCP_KINDS.get(operation.method) is McpKind.RESOURCES:
        return is_normal_uri(operation.name)
    return is_plain_name(operation.name)


def methods_asked(effect: Effect, method: str) -> tuple[str, ...]:
    """What a pattern's methods may have, to mean ``method``."""
    return (method,) if effect is Effect.GRANT and method in TUNNELS else (method, ANY)


@dataclass(frozen=True, slots=True)
class HttpPattern:
    """Requests of an HTTP service; all ``predicates`` must hold."""

    methods: frozenset[str]
    path: PathPattern
    predicates: tuple[Predicate, ...] = ()

    @property
    def conditions(self) -> frozenset[str]:
        """The names of its predicates."""
        return frozenset(predicate.name for predicate in self.predicates)

    def matches(self, operation: Operation, effect: Effect) -> bool:
        if self.methods.isdisjoint(methods_asked(effect, operation.method)):
            return False
        return self.path.matches(operation.name) and self.conditions <= operation.holds

    def contains(self, other: "HttpPattern", effect: Effect) -> bool:
        """Whether it surely matches whatever ``other`` matches, as a pattern of ``effect``."""
        methods = all(not self.methods.isdisjoint(methods_asked(effect, method)) for method in other.methods)
        return methods and self.path.contains(other.path) and self.conditions <= other.conditions

    def __str__(self) -> str:
        return f"{'|'.join(sorted(self.methods))} {self.path.text}{_where(self.predicates)}"


@dataclass(frozen=True, slots=True)
class McpPattern:
    """Requests of an MCP service, about things of one kind; all ``predicates`` must hold."""

    kind: McpKind
    names: tuple[NamePattern, ...]
    predicates: tuple[Predicate, ...] = ()

    @property
    def conditions(self) -> frozenset[str]:
        """The names of its predicates."""
        return frozenset(predicate.name for predicate in self.predicates)

    def matches(self, operation: Operation, effect: Effect) -> bool:
        if MCP_KINDS.get(operation.method) is not self.kind:
            return False
        if not is_plain(operation):
            return effect is Effect.DENY
        return self.conditions <= operation.holds and any(one.matches(operation.name) for one in self.names)

    def contains(self, other: "McpPattern") -> bool:
        """Whether it surely matches whatever ``other`` matches."""
        names = all(any(one.contains(name) for one in self.names) for name in other.names)
        return self.kind is other.kind and names and self.conditions <= other.conditions

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(name.text for name in self.names)}{_where(self.predicates)}"


def _where(predicates: tuple[Predicate, ...]) -> str:
    return f" where {' and '.join(map(str, predicates))}" if predicates else ""


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
    http: tuple[HttpPattern, ...] = ()
    mcp: tuple[McpPattern, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether it is about everything that its services do."""
        return not self.http and not self.mcp

    def matches(self, agent: str, service: str, segment: str) -> bool:
        """Whether it is about this agent and service at all."""
        return agent in self.agents and (service in self.services or segment in self.segments)

    def patterns(self, protocol: str) -> tuple[HttpPattern, ...] | tuple[McpPattern, ...]:
        """What it says of requests of this protocol; nothing, when it is whole or silent."""
        if protocol == HTTP:
            return self.http
        return self.mcp if protocol == MCP else ()

    def meets(self, protocol: str, operation: Operation | None) -> bool:
        """Whether it is about this request (None: the stream) of a service that it matches."""
        if self.is_whole:
            return True
        if operation is None or is_conversation(protocol, operation):
            return self.effect is Effect.GRANT and bool(self.patterns(protocol))
        return any(pattern.matches(operation, self.effect) for pattern in self.patterns(protocol))

    def outlasts(self, other: "Rule") -> bool:
        """Whether it is in force at some time after ``other`` has ended."""
        if other.expires is None:
            return False
        return self.expires is None or self.expires > other.expires

    @property
    def entries(self) -> int:
        """How many entries of an index it makes: one a pattern, for each pair of agent and service or segment."""
        names = sum(len(pattern.names) for pattern in self.mcp)
        patterns = sum(len(pattern.methods) for pattern in self.http) + names
        return len(self.agents) * (len(self.services) + len(self.segments)) * max(1, patterns)
