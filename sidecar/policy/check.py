"""What is wrong with a policy although it loads: against the roster, against itself, against its own tests."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pki.clock import Wall
from pki.errors import Fault
from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from sidecar.policy.decide import Request, decide
from sidecar.policy.model import Agent, Policy, Service
from sidecar.policy.needless import cover_of, why_never
from sidecar.policy.target import UnixTarget
from sidecar.snapshot import Moment, NodeMember, Restrictions, Roster, Snapshot
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
        *([] if dev else _users(policy)),
        *_open_targets(policy),
        *_rules(policy, now),
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


def _open_targets(policy: Policy) -> Iterator[Finding]:
    """An agent beside the tool would dial it directly, past every rule."""
    agents = {node for agent in policy.agents.values() for node in agent.nodes}
    for service in policy.services.values():
        is_guarded = isinstance(service.target, UnixTarget)  # by the modes of its file
        if not is_guarded and not service.open_target and (shared := sorted(service.nodes & agents)):
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


def _empty_segments(policy: Policy) -> Iterator[Finding]:
    used = {service.segment.name for service in policy.services.values()}
    for segment in policy.segments.values():
        if segment.line and segment.name not in used:
            yield _warning(segment.line, f"segment {segment.name} has no services")


def _tests(policy: Policy, now: Wall) -> Iterator[Finding]:
    """Ask :func:`decide` itself, on a mesh where all is well: every node joined, fresh, nothing locked."""
    members = {name: NodeMember(name, (), "", (), ()) for name in _nodes_named(policy)}
    snapshot = Snapshot(policy, "", Roster(members, {}), Restrictions(), "")
    for test in policy.tests:
        # "nowhere" is a node that no roster here has.
        home = min(policy.agents[test.agent].nodes, default="nowhere")
        session = SpiffeId.for_agent("policy-test", test.agent, home, new_id(bytes(ID_BYTES)))
        tool_node = min(policy.services[test.service].nodes, default="nowhere")
        request = Request(session, test.service, tool_node, (), Wall(now + 1))
        decision = decide(request, snapshot, Moment(now, now, now))
        if decision.verdict is not test.expect:
            why = f"grant {decision.rule}" if decision.allowed else decision.hint
            what = (
                f"test failed: agent {test.agent} to service {test.service}:"
                f" {decision.verdict}, not {test.expect}"
            )
            yield _error(test.line, what, why)
