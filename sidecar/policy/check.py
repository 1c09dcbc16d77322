"""What is wrong with a policy although it loads: against the roster, against itself, against its own tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from pki.clock import Wall
from pki.errors import Fault
from sidecar.policy.features import Feature
from sidecar.policy.model import Agent, Callers, Mode, Policy, Protocol, Service, Window
from sidecar.policy.needless import cover_of, hidden_operations, why_never, why_never_asked
from sidecar.policy.operation import TOOLS_CALL, Operation
from sidecar.policy.target import UnixTarget
from sidecar.policy.trials import outcomes
from sidecar.snapshot import Roster, nodes_of
from sidecar.toml import did_you_mean

ROOT_USERS = (0, "root")
START = Wall(0)


class Severity(StrEnum):
    """An error stops a policy from being applied."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong, and the line of the table it is in; 0 when it concerns the whole file."""

    severity: Severity
    line: int
    what: str
    hint: str = ""

    def fault(self, name: str) -> Fault:
        """The same for printing; ``name`` is the file's."""
        return Fault(f"{name}:{self.line}" if self.line else name, f"{self.severity}: {self.what}", self.hint)


def check(
    policy: Policy, roster: Roster | None = None, *, dev: bool = False, now: Wall = START
) -> list[Finding]:
    """Every finding, by line. Without a roster it is an offline check; without ``now`` (wall, us) nothing expired."""
    found = [
        *_nodes(policy, roster),
        *_features(policy, roster),
        *([] if dev else _users(policy)),
        *_open_targets(policy, roster),
        *_rules(policy, now),
        *_operations(policy),
        *_escalations(policy),
        *_pins(policy),
        *_quotas(policy),
        *_empty_segments(policy),
        *_tests(policy, now),
    ]
    return sorted(found, key=lambda finding: finding.line)


def _error(line: int, what: str, hint: str = "") -> Finding:
    return Finding(Severity.ERROR, line, what, hint)


def _warning(line: int, what: str, hint: str = "") -> Finding:
    return Finding(Severity.WARNING, line, what, hint)


def _nodes(policy: Policy, roster: Roster | None) -> Iterator[Finding]:
    """A rule about a node that nobody has joined does not do what its author thinks."""
    if roster is None:
        if named := sorted(_nodes_named(policy)):
            yield _warning(0, f"no roster at hand, so these nodes were not checked: {', '.join(named)}")
        return
    for entry in _placed(policy):
        kind = "agent" if isinstance(entry, Agent) else "service"
        for node in sorted(entry.nodes - roster.nodes.keys()):
            hint = did_you_mean(node, roster.nodes) or "join it first"
            yield _error(entry.line, f"{kind} {entry.name}: there is no node {node} in the roster", hint)
    for service in policy.services.values():
        if service.labels and not nodes_of(service, roster):
            what = f"service {service.name}: no node of the roster has the labels {' '.join(sorted(service.labels))}"
            yield _error(service.line, what, "label one, or name its nodes")


def _features(policy: Policy, roster: Roster | None) -> Iterator[Finding]:
    """A node refuses a policy whose features it does not know, and everything from then on."""
    if roster is None:
        return
    for feature in sorted(features_of(policy) - policy.requires):
        lacking = [name for name, node in sorted(roster.nodes.items()) if feature not in node.features]
        if lacking:
            what = f"uses {feature}, which {len(lacking)} of {len(roster.nodes)} nodes do not know, {lacking[0]} for one"
            yield _warning(0, what, f'requires = ["{feature}"] keeps it from being applied too early')


def _placed(policy: Policy) -> tuple[Agent | Service, ...]:
    return (*policy.agents.values(), *policy.services.values())


def _nodes_named(policy: Policy) -> set[str]:
    return {node for entry in _placed(policy) for node in entry.nodes}


def _users(policy: Policy) -> Iterator[Finding]:
    """Callers are told apart by uid. A name and the number it stands for are compared on the node only."""
    first: dict[tuple[str | int, str], str] = {}
    reported: set[tuple[str, str]] = set()
    for agent in policy.agents.values():
        if agent.uid in ROOT_USERS:
            yield _error(agent.line, f"agent {agent.name}: root may not be an agent", "give it its own user")
        for node in sorted(agent.nodes):
            other = first.setdefault((agent.uid, node), agent.name)
            if other != agent.name and (agent.name, other) not in reported:
                reported.add((agent.name, other))
                what = f"agents {other} and {agent.name} have one uid on node {node}"
                yield _error(agent.line, what, "they could not be told apart: give each its own user")


def _open_targets(policy: Policy, roster: Roster | None) -> Iterator[Finding]:
    """An agent beside the tool would dial it directly, past every rule."""
    agents = {node for agent in policy.agents.values() for node in agent.nodes}
    for service in policy.services.values():
        is_guarded = isinstance(service.target, UnixTarget)  # by the modes of its file
        beside = nodes_of(service, roster) if roster else service.nodes
        if not is_guarded and not service.open_target and (shared := sorted(beside & agents)):
            what = (
                f"service {service.name}: on node {shared[0]}, which also runs agents,"
                f" any user can dial {service.target}"
            )
            yield _error(service.line, what, "separate them, or accept it with open-target = true")


def _rules(policy: Policy, now: Wall) -> Iterator[Finding]:
    covers = cover_of(policy)
    for rule in (*policy.grants.rules, *policy.denies.rules):
        if why := why_never(rule, policy):
            yield _error(rule.line, f"{rule.effect} {rule.id} never matches: {why}")
        elif rule.expires is not None and rule.expires <= now:
            yield _warning(rule.line, f"{rule.effect} {rule.id} has expired")
        elif (cover := covers(rule)) is not None:
            what = f"{rule.effect} {rule.id} changes nothing: {cover.effect} {cover.id} covers it"
            yield _warning(rule.line, what)


def _operations(policy: Policy) -> Iterator[Finding]:
    """The first entry that names a request counts, so one behind a wider one is never looked at."""
    for service in policy.services.values():
        for later, earlier in hidden_operations(service):
            what = f"service {service.name}: these operations never count, line {earlier.line} has them all"
            yield _error(later.line, what, "put it first")


def _escalations(policy: Policy) -> Iterator[Finding]:
    for escalation in policy.escalations.values():
        if why := why_never_asked(escalation, policy):
            yield _error(escalation.line, f"escalation {escalation.id} can never be asked for: {why}")


def _pins(policy: Policy) -> Iterator[Finding]:
    for service, tool in policy.pins:
        if not _is_reached(policy, policy.services[service], tool):
            yield _warning(0, f"pin of {tool} of service {service}: no grant reaches it")


def _is_reached(policy: Policy, service: Service, tool: str) -> bool:
    """Whether some grant is about calls of a tool, whatever its conditions."""
    operation = Operation(TOOLS_CALL, tool)
    special = service.special(operation)
    segment = (special.segment if special else service.segment).name
    return any(
        policy.grants.reaches(agent, service.name, segment, service.protocol, operation)
        for agent in policy.agents
    )


def _quotas(policy: Policy) -> Iterator[Finding]:
    """A limit for a session that is above the one for all of them together is never met."""
    for agent in policy.agents.values():
        whole, one = agent.quota, agent.session_quota
        if whole is None or one is None:
            continue
        pairs = (
            ("streams", one.streams, whole.streams),
            ("requests", _rate(one.requests), _rate(whole.requests)),
            ("bytes", _rate(one.bytes), _rate(whole.bytes)),
        )
        for what, small, large in pairs:
            if small is not None and large is not None and small > large:
                yield _warning(agent.line, f"agent {agent.name}: session-quota has more {what} than quota")


def _rate(window: Window | None) -> Fraction | None:
    return Fraction(window.count, window.per) if window else None


def features_of(policy: Policy) -> frozenset[Feature]:
    """What a node must know to have the policy in force."""
    services, agents = policy.services.values(), policy.agents.values()
    used = {
        Feature.HTTP: any(one.protocol is Protocol.HTTP for one in services),
        Feature.MCP: any(one.protocol is Protocol.MCP for one in services),
        Feature.INJECT_HEADER: any(one.inject_header for one in services),
        Feature.MTLS_CALLERS: any(one.callers is Callers.MTLS for one in policy.bindings),
        Feature.QUOTAS: any(one.quota or one.session_quota for one in agents),
        Feature.SESSION_LIMITS: any(one.session_lifetime or one.session_idle for one in agents),
        Feature.OBSERVE: any(one.mode is Mode.OBSERVE for one in policy.segments.values()),
        Feature.OBJECTIVES: any(one.slo for one in policy.segments.values()),
        Feature.ESCALATIONS: bool(policy.escalations),
        Feature.INVALIDATIONS: bool(policy.invalidations),
        Feature.PINS: bool(policy.pins),
        Feature.TWO_PERSON: policy.apply_approvals > 1,
    }
    return frozenset(feature for feature, is_used in used.items() if is_used)


def _empty_segments(policy: Policy) -> Iterator[Finding]:
    used = {segment.name for service in policy.services.values() for segment in service.segments}
    for segment in policy.segments.values():
        if segment.line and segment.name not in used:
            yield _warning(segment.line, f"segment {segment.name} has no services")


def _tests(policy: Policy, now: Wall) -> Iterator[Finding]:
    for one in outcomes(policy, now):
        if not one.passed:
            what = f"test failed: {one.title}: {one.verdict}, not {one.test.expect}"
            yield _error(one.test.line, what, one.why)
