"""A policy in force: immutable values, all names resolved, made by :mod:`sidecar.policy.load` only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sidecar.policy.operation import TOOLS_CALL, HttpCall, McpCall, Operation
from sidecar.policy.patterns import ANY, NamePattern, PathPattern
from sidecar.policy.ruleset import RuleSet
from sidecar.policy.target import UNIX, Target


class OperationClass(StrEnum):
    READ = "read"
    MUTATE = "mutate"


class Audit(StrEnum):
    """Whether a stream waits for its record to be on disk."""

    BEST_EFFORT = "best-effort"
    REQUIRED = "required"


class OnStale(StrEnum):
    """What staleness does: refuse new streams only, or also cut live ones, later."""

    REFUSE = "refuse"
    CUT = "cut"


class Mode(StrEnum):
    """Whether denied, no_grant and stale refuse, or are recorded only."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Record(StrEnum):
    """What is recorded of an allowed stream's content: nothing, or each request."""

    NONE = "none"
    METADATA = "metadata"


class Suspicion(StrEnum):
    """What may look wrong in what a node records."""

    REFUSALS = "refusals"
    MUTATIONS = "mutations"
    ATTRIBUTION = "attribution"
    TOOL_DRIFT = "tool-drift"
    CLONE = "clone"
    AUDIT_GAP = "audit-gap"


class Scope(StrEnum):
    """What is locked for it."""

    SESSION = "session"
    AGENT = "agent"
    SERVICE = "service"
    NODE = "node"


class Risk(StrEnum):
    """What an operator thinks of a service; a tool's own hints only raise it."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Protocol(StrEnum):
    """What is decided: ``tcp`` is the stream as a whole, with the others each request."""

    TCP = "tcp"
    HTTP = "http"
    MCP = "mcp"


class Callers(StrEnum):
    """How a binding knows who calls: the kernel says, or a client certificate of the binding's own."""

    KERNEL = "kernel"
    MTLS = "mtls"


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Objective:
    """``p99`` in microseconds; ``objective`` the percentage of streams and requests that keep to it."""

    p99: int
    objective: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Services by function. ``stale_after`` and ``decision_ttl`` (0: never cached) in microseconds.

    ``line`` is 0 for a preset that no table changes.
    """

    name: str
    operation_class: OperationClass
    stale_after: int
    audit: Audit
    on_stale: OnStale
    line: int
    decision_ttl: int = 0
    mode: Mode = Mode.ENFORCE
    record: Record = Record.METADATA
    slo: Objective | None = None


@dataclass(frozen=True, slots=True)
class InjectHeader:
    """A header that the tool's node adds to each request. ``credential``: a file, or a systemd credential."""

    name: str
    credential: str
    prefix: str


@dataclass(frozen=True, slots=True)
class ServiceOperation:
    """Operations of a service that are in a segment, class or blast radius of their own.

    ``tools`` of MCP, or ``methods`` on ``path`` of HTTP. ``operation_class`` None: as the request and segment say.
    """

    segment: Segment
    operation_class: OperationClass | None
    blast_radius: frozenset[str]
    line: int
    tools: tuple[NamePattern, ...] = ()
    methods: frozenset[str] = frozenset()
    path: PathPattern | None = None

    def matches(self, operation: Operation) -> bool:
        if self.path is not None:
            meant = operation.method in self.methods or ANY in self.methods
            return meant and self.path.matches(operation.name)
        return operation.method == TOOLS_CALL and any(tool.matches(operation.name) for tool in self.tools)

    def contains(self, other: "ServiceOperation") -> bool:
        """Whether it surely matches whatever ``other`` matches."""
        if self.path is None or other.path is None:
            return bool(self.tools) and all(
                any(one.contains(tool) for one in self.tools) for tool in other.tools
            )
        methods = ANY in self.methods or other.methods <= self.methods
        return methods and self.path.contains(other.path)


@dataclass(frozen=True, slots=True)
class Service:
    """A private tool: one fixed target beside each of its nodes.

    The nodes are named (``nodes``), or those of the roster that carry all ``labels``: :func:`sidecar.snapshot.nodes_of`.
    Of ``operations`` the first in the file that matches a request counts.
    """

    name: str
    segment: Segment
    nodes: frozenset[str]
    target: Target
    protocol: Protocol
    blast_radius: frozenset[str]
    open_target: bool
    line: int
    labels: frozenset[str] = frozenset()
    host: str = ""
    risk: Risk | None = None
    inject_header: InjectHeader | None = None
    endpoint: str = "/mcp"
    """The one path of an mcp service that is reachable."""
    path_parameters: bool = False
    """Whether a path of an http service may hold a ``;``."""
    operations: tuple[ServiceOperation, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments that a request to it may be in, its own first."""
        return tuple(dict.fromkeys((self.segment, *(one.segment for one in self.operations))))

    def special(self, operation: Operation | None) -> ServiceOperation | None:
        """What the service says of this operation beside what it says of all."""
        if operation is None:
            return None
        return next((one for one in self.operations if one.matches(operation)), None)


@dataclass(frozen=True, slots=True)
class Window:
    """At most ``count`` (of requests, or bytes) in any ``per`` microseconds."""

    count: int
    per: int


@dataclass(frozen=True, slots=True)
class Quota:
    """What an agent or session may use on one node. None: no limit of its own. ``streams``: open at one time."""

    streams: int | None
    requests: Window | None
    bytes: Window | None


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent may run, and as which user: a uid, or a user name that each node looks up.

    ``session_lifetime`` and ``session_idle`` (us) end a session. ``quota`` is for all its sessions on a node together,
    ``session_quota`` for each.
    """

    name: str
    nodes: frozenset[str]
    uid: str | int
    line: int
    session_lifetime: int | None = None
    session_idle: int | None = None
    quota: Quota | None = None
    session_quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """The local entrance of one agent to one service on each of the agent's nodes: a loopback port, or a Unix socket.

    ``port`` is 0 for a Unix socket, ``path`` empty for a port.
    """

    agent: str
    service: str
    port: int
    line: int
    path: str = ""
    callers: Callers = Callers.KERNEL

    @property
    def address(self) -> str:
        """Where the agent connects: ``host:port``, or ``unix:/path``. By name for TLS, whose certificate has that."""
        host = "localhost" if self.callers is Callers.MTLS else "127.0.0.1"
        return f"{UNIX}{self.path}" if self.path else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Hours:
    """``days`` from 0 for Monday; minutes of the day from ``start`` up to and without ``end``, in ``timezone`` (IANA)."""

    days: frozenset[int]
    start: int
    end: int
    timezone: str


@dataclass(frozen=True, slots=True)
class When:
    """What an escalation asks for besides approvals. ``max_per_day`` None: any number."""

    hours: Hours | None
    max_per_day: int | None
    require_reason: bool


@dataclass(frozen=True, slots=True)
class Escalation:
    """Sessions of ``agents`` that work in segment ``from_segment`` may ask for ``services`` in ``to_segment``.

    ``max_ttl`` in microseconds. ``approvers`` are ``role:NAME`` or ``operator:NAME``; ``approvals`` 0: ``when`` alone.
    """

    id: str
    agents: frozenset[str]
    from_segment: str
    to_segment: str
    services: frozenset[str]
    max_ttl: int
    approvals: int
    approvers: frozenset[str]
    when: When
    line: int
    owner: str = ""
    ticket: str = ""

    def permits(self, agent: str, service: str, segment: str) -> bool:
        """Whether a lease from it lets ``agent`` use ``service`` in ``segment``."""
        return agent in self.agents and service in self.services and segment == self.to_segment


@dataclass(frozen=True, slots=True)
class Invalidation:
    """More than ``over`` of what looks wrong lock what it is about, for ``ttl`` (us). ``over`` None: once is enough."""

    id: str
    on: Suspicion
    agents: frozenset[str]
    over: Window | None
    lock: Scope
    ttl: int
    mode: Mode
    line: int
    owner: str = ""
    ticket: str = ""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A ``[[tests]]`` entry: what the policy's author expects of its rules. ``call`` None: of the stream."""

    agent: str
    service: str
    expect: Verdict
    line: int
    call: HttpCall | McpCall | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """A whole policy. ``digest`` is the hex SHA-256 of the text it was read from, and stands for it."""

    digest: str
    segments: Mapping[str, Segment]
    services: Mapping[str, Service]
    agents: Mapping[str, Agent]
    bindings: tuple[Binding, ...]
    grants: RuleSet
    denies: RuleSet
    tests: tuple[Expectation, ...]
    escalations: Mapping[str, Escalation] = field(default_factory=dict)
    invalidations: Mapping[str, Invalidation] = field(default_factory=dict)
    pins: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By service and tool: the hex SHA-256 of the tool's definition."""
    requires: frozenset[str] = frozenset()
    apply_approvals: int = 1
    """How many admins it takes to apply the next policy."""

    def bindings_on(self, node: str) -> tuple[Binding, ...]:
        """The entrances to open on ``node``."""
        return tuple(b for b in self.bindings if node in self.agents[b.agent].nodes)
