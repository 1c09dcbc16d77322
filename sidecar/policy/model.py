"""A policy in force: immutable values, all names resolved, made by :mod:`sidecar.policy.load` only."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sidecar.policy.match import RuleSet
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


class Protocol(StrEnum):
    """What is decided: ``tcp`` is the stream as a whole."""

    TCP = "tcp"


class Callers(StrEnum):
    """How a binding knows who calls: the kernel says, or a client certificate of the binding's own."""

    KERNEL = "kernel"
    MTLS = "mtls"


class Verdict(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Segment:
    """Services by function. ``stale_after`` in microseconds; ``line`` is 0 for a preset that no table changes."""

    name: str
    operation_class: OperationClass
    stale_after: int
    audit: Audit
    on_stale: OnStale
    line: int


@dataclass(frozen=True, slots=True)
class Service:
    """A private tool: one fixed target beside each of its nodes."""

    name: str
    segment: Segment
    nodes: frozenset[str]
    target: Target
    protocol: Protocol
    blast_radius: frozenset[str]
    open_target: bool
    line: int


@dataclass(frozen=True, slots=True)
class Agent:
    """Where an agent may run, and as which user: a uid, or a user name that each node looks up."""

    name: str
    nodes: frozenset[str]
    uid: str | int
    line: int


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
class Expectation:
    """A ``[[tests]]`` entry: what the policy's author expects of its rules."""

    agent: str
    service: str
    expect: Verdict
    line: int


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

    def bindings_on(self, node: str) -> tuple[Binding, ...]:
        """The entrances to open on ``node``."""
        return tuple(b for b in self.bindings if node in self.agents[b.agent].nodes)
