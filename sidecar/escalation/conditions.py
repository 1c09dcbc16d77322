"""What a rule asks for besides approvals: what may be asked, when, how often, and who may agree."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pki.clock import SECOND, Wall
from sidecar.duration import format_duration
from sidecar.escalation.ask import Ask
from sidecar.policy.model import Escalation as Rule
from sidecar.policy.model import Hours, When
from sidecar.snapshot import OperatorMember


def fault_of(ask: Ask, rule: Rule | None) -> str:
    """Why the policy does not offer what is asked for; empty: it does."""
    if rule is None:
        return f"the policy has no escalation {ask.rule}"
    for service in sorted(ask.services):
        if not rule.permits(ask.session.name, service, rule.to_segment):
            return f"escalation {rule.id} does not offer {service} to agent {ask.session.name}"
    if ask.ttl > rule.max_ttl:
        return f"escalation {rule.id} lasts for {format_duration(rule.max_ttl)} at most"
    if rule.when.require_reason and not ask.reason.strip():
        return f"escalation {rule.id} wants a reason"
    return ""


def untimely(rule: Rule, at: Wall) -> str:
    """Why the hours of a rule do not let it be granted at ``at``; empty: they do."""
    hours = rule.when.hours
    if hours is None:
        return ""
    zone = _zone(hours.timezone)
    if zone is None:  # A machine without the zone's data knows no hours: it must not guess.
        return f"escalation {rule.id}: the time zone {hours.timezone} is unknown on this machine"
    return "" if _is_within(hours, _local(at, zone)) else f"escalation {rule.id}: not within its hours"


def is_derived(rule: Rule, ask: Ask) -> bool:
    """Whether request and approvals alone make a lease: nothing is counted that only the CA can count."""
    return rule.approvals > 0 and rule.when.max_per_day is None and not ask.uses


def day_of(when: When, at: Wall) -> tuple[Wall, Wall]:
    """The day that ``at`` is in, from midnight to midnight in the rule's time zone; UTC where it has none."""
    zone = _zone(when.hours.timezone) if when.hours else None
    midnight = _local(at, zone or UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return _wall(midnight), _wall(midnight + timedelta(days=1))


def may_answer(ask: Ask, rule: Rule, operator: OperatorMember) -> str:
    """Why this operator's approval does not count; empty: it does."""
    names = {f"operator:{operator.name}", *(f"role:{role}" for role in operator.roles)}
    if rule.approvers.isdisjoint(names):
        return f"operator {operator.name} is none of its approvers: {', '.join(sorted(rule.approvers))}"
    # An agent that talks its own user into approving must find somebody else.
    if operator.uids.get(ask.session.node) == ask.uid:
        return f"operator {operator.name} started this session, and approves nothing of it"
    if ask.user and operator.user == ask.user:
        return f"this session runs for operator {operator.name}, who approves nothing of it"
    return ""


def _is_within(hours: Hours, local: datetime) -> bool:
    minute = local.hour * 60 + local.minute
    return local.weekday() in hours.days and hours.start <= minute < hours.end


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _local(at: Wall, zone: tzinfo) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).astimezone(zone)


def _wall(local: datetime) -> Wall:
    return Wall(round(local.timestamp()) * SECOND)
