"""The ``[[tests]]`` of a policy: what its author expects, asked of :func:`decide` itself. Pure.

On a mesh where all is well: every node joined, with every label that a service asks for, fresh, nothing locked. What
a segment that is only observed passes is still what the rules refuse.
"""

from dataclasses import dataclass

from pki.clock import Wall
from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from sidecar.policy.asked import operation_of
from sidecar.policy.decide import Decision, Request, decide
from sidecar.policy.model import Expectation, Policy, Verdict
from sidecar.policy.operation import HttpCall
from sidecar.snapshot import Moment, NodeMember, Restrictions, Roster, Snapshot

ANYWHERE = "policy-test"
"""A node with all labels: where a service stands that names none."""
NOWHERE = "nowhere"
"""A node that is in no roster."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One test, and what it was answered."""

    test: Expectation
    decision: Decision

    @property
    def verdict(self) -> Verdict:
        return Verdict.DENY if self.decision.would_deny else self.decision.verdict

    @property
    def passed(self) -> bool:
        return self.verdict is self.test.expect

    @property
    def title(self) -> str:
        """``agent researcher to service wiki, GET /api/x``: names only, no query and no arguments."""
        title = f"agent {self.test.agent} to service {self.test.service}"
        call = self.test.call
        if call is None:
            return title
        return f"{title}, {call.method} {call.path if isinstance(call, HttpCall) else call.name}"

    @property
    def why(self) -> str:
        """The grant that allowed it, or what the agent would be told."""
        return f"grant {self.decision.rule}" if self.verdict is Verdict.ALLOW else self.decision.hint


def outcomes(policy: Policy, now: Wall) -> list[Outcome]:
    """Every test at ``now`` (us), in the order of the file."""
    snapshot = Snapshot(policy, "", _roster(policy), Restrictions(), "")
    moment = Moment(now, now, now)
    return [Outcome(test, decide(_request(test, policy, now), snapshot, moment)) for test in policy.tests]


def _roster(policy: Policy) -> Roster:
    agents = (agent.nodes for agent in policy.agents.values())
    services = (service.nodes for service in policy.services.values())
    names = frozenset[str]().union(*agents, *services)
    labels = frozenset[str]().union(*(service.labels for service in policy.services.values()))
    members = {name: NodeMember(name, (), "", (), ()) for name in names}
    return Roster({**members, ANYWHERE: NodeMember(ANYWHERE, (), "", (), tuple(sorted(labels)))}, {})


def _request(test: Expectation, policy: Policy, now: Wall) -> Request:
    service = policy.services[test.service]
    home = min(policy.agents[test.agent].nodes, default=NOWHERE)
    session = SpiffeId.for_agent("policy-test", test.agent, home, new_id(bytes(ID_BYTES)))
    tool_node = ANYWHERE if service.labels else min(service.nodes, default=NOWHERE)
    operation = operation_of(test.call, service, policy) if test.call else None
    return Request(session, test.service, tool_node, (), Wall(now + 1), operation=operation)
