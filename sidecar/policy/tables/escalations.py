"""``[[escalations]]``: what sessions may ask for, and who agrees."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from pki.clock import DAY, MINUTE
from sidecar.policy.model import Hours
from sidecar.policy.tables.fields import AgentName, Note, RuleId, SegmentName, ServiceName
from sidecar.toml import Duration, NotStrict, Table, between, fault, quoted

MAX_APPROVALS = 5

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(_DAYS)
_HOURS = re.compile(
    rf"({_DAY})(?:-({_DAY}))? ([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])"
)
_TIMEZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,31}(/[A-Za-z0-9_+-]{1,31}){0,2}")
_APPROVER = re.compile(r"(role|operator):[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def hours_of(text: str, timezone: str) -> Hours:
    """``Mon-Fri 08:00-18:00``; raises a fault. Days may go round the week's end; the end is later than the start."""
    match = _HOURS.fullmatch(text)
    if match is None:
        raise fault(f'{quoted(text)} is not of the form "Mon-Fri 08:00-18:00"')
    first, last = _DAYS.index(match[1]), _DAYS.index(match[2] or match[1])
    days = frozenset((first + n) % 7 for n in range((last - first) % 7 + 1))
    start, end = int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])
    if not start < end <= 24 * 60:
        raise fault(f"{quoted(text)} does not end after it begins")
    return Hours(days, start, end, timezone)


def _hours(value: str) -> str:
    hours_of(value, "")
    return value


def _timezone(value: str) -> str:
    if _TIMEZONE.fullmatch(value) is None:
        raise fault(f"{quoted(value)} is not a time zone", 'such as "Europe/Berlin" or "UTC"')
    return value


def _approver(value: object) -> object:
    if not isinstance(value, str) or _APPROVER.fullmatch(value) is None:
        raise fault('must be "role:approver" or "operator:NAME"')
    return value


class WhenTable(Table):
    """``when`` of an escalation: what it asks for besides approvals."""

    hours: Annotated[str, AfterValidator(_hours)] | None = Field(
        default=None, description='days and time of day, such as "Mon-Fri 08:00-18:00"'
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="UTC", description="of the hours, by its IANA name"
    )
    max_per_day: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="at most so many leases a day for one agent"
    )
    require_reason: bool = Field(default=False, description="the session says why")


class EscalationTable(Table):
    """What sessions in one segment may ask for in another. It grants nothing until a request becomes a lease."""

    id: RuleId = Field(description="its name in requests, decisions and records")
    agents: Annotated[tuple[AgentName, ...], NotStrict] = Field(default=(), description="who may ask")
    from_: SegmentName = Field(description="the segment that the agent has a grant in")
    to: SegmentName = Field(description="the segment that it asks for")
    services: Annotated[tuple[ServiceName, ...], NotStrict] = Field(
        default=(), description="the services of that segment that may be asked for"
    )
    max_ttl: Annotated[Duration, between(MINUTE, DAY)] = Field(description="how long a lease may last")
    when: WhenTable = Field(default_factory=WhenTable, description="conditions besides approvals")
    approvals: Annotated[int, Field(ge=0, le=MAX_APPROVALS)] = Field(
        default=1, description="how many operators must agree; 0: the conditions alone"
    )
    approvers: Annotated[tuple[Annotated[str, BeforeValidator(_approver)], ...], NotStrict] = Field(
        default=("role:approver",), description='who may agree: "role:NAME" or "operator:NAME"'
    )
    owner: Note = Field(default="", description="who answers for it")
    ticket: Note = Field(default="", description="why it is there")

    @field_validator("approvals")
    @classmethod
    def _asks_somebody(cls, approvals: int, info: ValidationInfo) -> int:
        when = info.data.get("when")
        if approvals == 0 and when is not None and not (when.hours or when.max_per_day):
            raise fault(
                "0 approvals and no conditions", "this would be a grant: give it hours or max-per-day"
            )
        return approvals

    @model_validator(mode="after")
    def _can_be_approved(self) -> "EscalationTable":
        if self.approvals and not self.approvers:
            raise fault("nobody may approve it", 'approvers = ["role:approver"]')
        if self.from_ == self.to:
            raise fault("leads from a segment to itself")
        return self
