"""``[[invalidations]]``: what looks wrong, and what is then locked."""

from typing import Annotated

from pydantic import Field, model_validator

from pki.clock import DAY, HOUR, MINUTE, SECOND
from sidecar.policy.model import Mode, Scope, Suspicion
from sidecar.policy.tables.fields import AgentName, Note, RuleId
from sidecar.toml import Duration, NotStrict, Table, between, fault, quoted

SCOPES = {
    Suspicion.REFUSALS: (Scope.SESSION, Scope.AGENT),
    Suspicion.MUTATIONS: (Scope.SESSION, Scope.AGENT),
    Suspicion.ATTRIBUTION: (Scope.AGENT, Scope.NODE),
    Suspicion.TOOL_DRIFT: (Scope.SERVICE,),
    Suspicion.CLONE: (Scope.NODE,),
    Suspicion.AUDIT_GAP: (Scope.NODE,),
}
"""What each finding is about, and so can be locked for it."""
COUNTED = frozenset({Suspicion.REFUSALS, Suspicion.MUTATIONS, Suspicion.ATTRIBUTION})
"""What is normal now and then, and of agents."""
MAX_COUNT = 10_000


class OverTable(Table):
    """``over`` of an invalidation."""

    count: Annotated[int, Field(ge=1, le=MAX_COUNT)] = Field(description="more than so many")
    per: Annotated[Duration, between(SECOND, DAY)] = Field(description="in any time this long")


class InvalidationTable(Table):
    """What a node looks for in what it records, and what it then locks: here at once, and by the CA everywhere."""

    id: RuleId = Field(description="its name in findings, locks and records")
    on: Annotated[Suspicion, NotStrict] = Field(description="what looks wrong")
    agents: Annotated[tuple[AgentName, ...], NotStrict] = Field(
        default=(), description="of refusals, mutations and attribution: whose"
    )
    over: OverTable | None = Field(default=None, description="of the same three: how many are too many")
    lock: Annotated[Scope, NotStrict] = Field(description="what is locked")
    ttl: Annotated[Duration, between(MINUTE, 4 * HOUR)] = Field(
        default=HOUR, description="how long the lock lasts"
    )
    mode: Annotated[Mode, NotStrict] = Field(
        default=Mode.ENFORCE, description="observe: the finding is recorded and spread, and nothing is locked"
    )
    owner: Note = Field(default="", description="who answers for it")
    ticket: Note = Field(default="", description="why it is there")

    @model_validator(mode="after")
    def _fits(self) -> "InvalidationTable":
        scopes = SCOPES[self.on]
        if self.lock not in scopes:
            raise fault(
                f"{self.on} does not lock a {self.lock}", "lock = " + " or ".join(map(quoted, scopes))
            )
        is_counted = self.on in COUNTED
        if is_counted and (self.over is None or not self.agents):
            raise fault(f"{self.on} needs agents and over", 'over = { count = 20, per = "1m" }')
        if not is_counted and (self.over is not None or self.agents):
            raise fault(f"{self.on} has no agents and no over", "once is enough, whoever it was")
        return self
