"""What somebody who has an agent, a node, or a tool in hand could reach: directly, and with one escalation. Pure.

A stolen agent reaches what the agent may do. A stolen node reaches what the agents on it may do, and, past every
rule, the tools that stand beside it. What a service or segment reaches are the agents that talk to it, and what is
at stake there. Locks, freshness and hours are not looked at: they are what saves the day, not what it costs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pki.clock import Wall
from sidecar.duration import format_duration
from sidecar.policy.effective import ANY, Permission, permissions
from sidecar.policy.model import Escalation, Policy, Risk
from sidecar.policy.slices import Slice, requests_of, slices_of
from sidecar.snapshot import Roster, Target, nodes_of

BESIDE = "beside it"
"""The rule of a tool that a node reaches without any."""

_ORDER = (Risk.HIGH, Risk.MEDIUM, Risk.LOW)


@dataclass(frozen=True, slots=True)
class Reach:
    """One thing within reach. ``escalated``: only after an approval. ``agent`` empty: by the node itself."""

    agent: str
    service: str
    operation: str
    operation_class: str
    segment: str
    risk: Risk
    labels: tuple[str, ...]
    rule: str
    escalated: bool
    conditions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stake:
    """A label, such as ``customers``: the highest risk at which it is within reach, and whether without approval."""

    label: str
    risk: Risk
    escalated: bool


@dataclass(frozen=True, slots=True)
class Blast:
    """All that ``subject`` reaches, the worst first."""

    subject: Target
    reaches: tuple[Reach, ...]

    @property
    def stakes(self) -> tuple[Stake, ...]:
        """Every label once, the worst first."""
        found: dict[str, Stake] = {}
        for one in self.reaches:
            for label in one.labels:
                held = found.get(label)
                if held is None or _badness(one.risk, one.escalated) < _badness(held.risk, held.escalated):
                    found[label] = Stake(label, one.risk, one.escalated)
        return tuple(sorted(found.values(), key=lambda one: (*_badness(one.risk, one.escalated), one.label)))

    @property
    def worst(self) -> Risk | None:
        """The highest risk within reach, escalations too; None for nothing at all."""
        return min((one.risk for one in self.reaches), key=_ORDER.index, default=None)


def blast(policy: Policy, subject: Target, roster: Roster, now: Wall) -> Blast:
    """What ``subject`` (agent, service, segment or node) reaches by ``policy`` at ``now`` (us)."""
    if subject.kind == "node":
        agents = sorted(name for name, agent in policy.agents.items() if subject.value in agent.nodes)
        found = [*_by_agents(policy, agents, now), *_beside(policy, subject.value, roster)]
    elif subject.kind == "agent":
        found = list(_by_agents(policy, [subject.value], now))
    else:
        found = [one for one in _by_agents(policy, sorted(policy.agents), now) if _is_of(one, subject)]
    return Blast(subject, tuple(sorted(found, key=_place)))


def _is_of(one: Reach, subject: Target) -> bool:
    return subject.value == (one.service if subject.kind == "service" else one.segment)


def _by_agents(policy: Policy, agents: list[str], now: Wall) -> Iterator[Reach]:
    yield from map(_reach, permissions(policy, now, agents))
    for agent in agents:
        for escalation in policy.escalations.values():
            yield from _escalated(policy, agent, escalation)


def _reach(one: Permission) -> Reach:
    part = one.basis.part
    return Reach(
        agent=one.agent,
        service=one.service,
        operation=one.operation,
        operation_class=one.operation_class,
        segment=one.segment,
        risk=part.risk,
        labels=tuple(sorted(part.blast_radius)),
        rule=one.rule,
        escalated=False,
        conditions=one.conditions,
    )


def _escalated(policy: Policy, agent: str, escalation: Escalation) -> Iterator[Reach]:
    for name in sorted(escalation.services):
        for part in slices_of(policy.services[name]):
            if escalation.permits(agent, name, part.segment.name):
                yield _of_slice(agent, part, escalation.id, tuple(_asked(escalation)))


def _asked(escalation: Escalation) -> Iterator[str]:
    """What it takes."""
    yield f"for {format_duration(escalation.max_ttl)}"
    if escalation.approvals:
        who = " or ".join(sorted(escalation.approvers))
        yield f"approved by {escalation.approvals} of {who}"
    when = escalation.when
    if when.max_per_day is not None:
        yield f"{when.max_per_day} a day"
    if when.hours is not None:
        yield "in its hours"
    if when.require_reason:
        yield "with a reason"


def _beside(policy: Policy, node: str, roster: Roster) -> Iterator[Reach]:
    for name in sorted(policy.services):
        service = policy.services[name]
        if node in nodes_of(service, roster):
            for part in slices_of(service):
                yield _of_slice("", part, BESIDE, (), escalated=False)


def _of_slice(
    agent: str, part: Slice, rule: str, conditions: tuple[str, ...], *, escalated: bool = True
) -> Reach:
    return Reach(
        agent=agent,
        service=part.service.name,
        operation=requests_of(part.pattern) if part.pattern else ANY,
        operation_class=part.class_of(None),
        segment=part.segment.name,
        risk=part.risk,
        labels=tuple(sorted(part.blast_radius)),
        rule=rule,
        escalated=escalated,
        conditions=conditions,
    )


def _badness(risk: Risk, escalated: bool) -> tuple[bool, int]:
    return escalated, _ORDER.index(risk)


def _place(one: Reach) -> tuple[bool, int, str, str, str, str]:
    return *_badness(one.risk, one.escalated), one.agent, one.service, one.operation, one.rule
