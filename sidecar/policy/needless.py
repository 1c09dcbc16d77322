"""Rules that do nothing: those that match no stream, and those that another rule makes needless."""

from collections import defaultdict
from collections.abc import Callable, Mapping

from sidecar.policy.match import Effect, Rule
from sidecar.policy.model import Policy


def why_never(rule: Rule, policy: Policy) -> str:
    """Why no stream can ever match; empty when one can."""
    if not rule.agents:
        return "it names no agents"
    if not rule.services and not rule.segments:
        return "it names no services and no segments"
    if not any(policy.agents[agent].nodes for agent in rule.agents):
        return "its agents may run on no node"
    reached = [
        service
        for service in policy.services.values()
        if service.name in rule.services or service.segment.name in rule.segments
    ]
    if not reached:
        return "its segments have no services"
    if not any(service.nodes for service in reached):
        return "its services stand beside no node"
    return ""


def cover_of(policy: Policy) -> Callable[[Rule], Rule | None]:
    """A function from a rule to another one that alone makes it needless, if there is one.

    A grant is covered by a wider grant or a wider deny, a deny by a wider deny only; of two that are equally wide
    the first in the file covers the other. The cover must last at least as long.
    """
    within: dict[str, set[str]] = defaultdict(set)
    for service in policy.services.values():
        within[service.segment.name].add(service.name)
    by_agent: dict[str, list[Rule]] = defaultdict(list)
    for rule in (*policy.denies.rules, *policy.grants.rules):
        for agent in rule.agents:
            by_agent[agent].append(rule)

    def cover(rule: Rule) -> Rule | None:
        # Whatever covers it names all its agents, so the agent with the fewest rules is enough to look at.
        candidates = min((by_agent[agent] for agent in rule.agents), key=len)
        return next((other for other in candidates if _covers(other, rule, policy, within)), None)

    return cover


def _covers(wide: Rule, rule: Rule, policy: Policy, within: Mapping[str, set[str]]) -> bool:
    if wide is rule or rule.outlasts(wide) or (rule.effect is Effect.DENY and wide.effect is Effect.GRANT):
        return False
    if not _contains(wide, rule, policy, within):
        return False
    twins = wide.effect is rule.effect and not wide.outlasts(rule) and _contains(rule, wide, policy, within)
    return not twins or wide.line < rule.line


def _contains(wide: Rule, rule: Rule, policy: Policy, within: Mapping[str, set[str]]) -> bool:
    """Whether ``wide`` matches whatever ``rule`` matches."""
    return (
        rule.agents <= wide.agents
        and all(
            name in wide.services or policy.services[name].segment.name in wide.segments
            for name in rule.services
        )
        and all(name in wide.segments or within[name] <= wide.services for name in rule.segments)
    )
