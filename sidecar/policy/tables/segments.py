"""``[segments.NAME]``."""

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pki.clock import DAY, HOUR, MINUTE, SECOND
from sidecar.policy.features import Feature
from sidecar.policy.model import Audit, Mode, OnStale, OperationClass, Record
from sidecar.policy.tables.defined import defined, needs
from sidecar.toml import Duration, NotStrict, Table, between, fault

_SOON = SECOND // 1_000


def _record(value: object) -> object:
    if value == "payload":
        raise fault("payloads are not recorded in this version", '"metadata" records each request')
    return value


class ObjectiveTable(Table):
    """``slo`` of a segment: how fast and how reliable its decisions and openings are to be."""

    p99: Annotated[Duration, between(_SOON, MINUTE)] = Field(
        description="99 of 100 streams or requests are to be decided and opened within this time"
    )
    objective: Annotated[float, Field(gt=0, lt=100)] = Field(
        description="percentage of streams or requests that are to keep to it"
    )


class SegmentTable(Table):
    """Services by function. The preset of the same name, if there is one, fills in what is absent."""

    class_: Annotated[OperationClass, NotStrict] = Field(
        description="what a stream of the segment does: read or mutate"
    )
    stale_after: Annotated[Duration, between(SECOND, DAY)] = Field(
        description="a node that has not heard all the CA has said for this long refuses"
    )
    decision_ttl: Annotated[Duration, between(0, HOUR)] = Field(
        default=0, description="how long a decision may be answered from the cache; 0s is never"
    )
    audit: Annotated[Audit, NotStrict] = Field(
        default=Audit.REQUIRED,
        description="required: a stream or request waits until its record is on disk",
    )
    on_stale: Annotated[OnStale, NotStrict] = Field(
        default=OnStale.REFUSE, description="cut: at twice stale-after live streams end as well"
    )
    mode: Annotated[Mode, NotStrict] = Field(
        default=Mode.ENFORCE,
        description="observe: what would be denied, without a grant or stale is recorded and passed",
    )
    record: Annotated[Record, NotStrict, BeforeValidator(_record)] = Field(
        default=Record.METADATA,
        description="none: streams and decisions; metadata: what became of each request, too",
    )
    slo: Annotated[ObjectiveTable, needs(Feature.OBJECTIVES)] | None = Field(
        default=None, description="how fast and reliable it is to be"
    )

    @field_validator("mode")
    @classmethod
    def _enforced(cls, mode: Mode, info: ValidationInfo) -> Mode:
        if mode is Mode.OBSERVE and Feature.OBSERVE not in defined(info).enforced:
            raise fault("this version cannot observe without enforcing", 'mode = "enforce"')
        return mode
