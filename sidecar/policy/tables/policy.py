"""The whole file, and the tables that belong to no other topic."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sidecar.policy.features import Feature
from sidecar.policy.model import Verdict
from sidecar.policy.tables.agents import AgentTable, BindingTable
from sidecar.policy.tables.defined import defined, needs, spoken
from sidecar.policy.tables.escalations import EscalationTable
from sidecar.policy.tables.fields import AgentName, Digest, ServiceName
from sidecar.policy.tables.invalidations import InvalidationTable
from sidecar.policy.tables.presets import PRESETS
from sidecar.policy.tables.rules import RuleTable
from sidecar.policy.tables.segments import SegmentTable
from sidecar.policy.tables.services import ServiceTable
from sidecar.toml import Name, NotStrict, Table, did_you_mean, fault, quoted


class RequestTable(Table):
    """``request`` of a test: an HTTP request, a tool's call, a resource's URI or a prompt."""

    method: str | None = Field(default=None, description="HTTP method")
    path: str | None = Field(default=None, description="path, as it is sent")
    query: dict[str, str | tuple[str, ...]] = Field(
        default_factory=dict, description="query; a list for a name that is repeated"
    )
    tool: str | None = Field(default=None, description="name of the tool that is called")
    resource: str | None = Field(default=None, description="URI of the resource that is read")
    prompt: str | None = Field(default=None, description="name of the prompt")
    arguments: dict[str, Any] = Field(default_factory=dict, description="arguments of a tool or prompt")

    @field_validator("query", mode="before")
    @classmethod
    def _lists(cls, query: object) -> object:
        if not isinstance(query, dict):
            return query
        return {name: tuple(value) if isinstance(value, list) else value for name, value in query.items()}

    @model_validator(mode="after")
    def _one_request(self) -> Self:
        kinds = [
            self.path is not None,
            self.tool is not None,
            self.resource is not None,
            self.prompt is not None,
        ]
        if kinds.count(True) != 1 or (self.method is None) != (self.path is None):
            raise fault("is no one request", "method and path, or a tool, or a resource, or a prompt")
        if (self.query and self.path is None) or (
            self.arguments and self.tool is None and self.prompt is None
        ):
            raise fault(
                "has parts that do not belong together", "query with path, arguments with tool or prompt"
            )
        return self

    @property
    def protocol(self) -> str:
        return "mcp" if self.path is None else "http"


class TestTable(Table):
    """What you expect of the rules. A policy that fails its own tests is not applied."""

    agent: AgentName = Field(description="who asks")
    service: ServiceName = Field(description="for what")
    request: RequestTable | None = Field(
        default=None, description="one request of an http or mcp service; without it, the stream"
    )
    expect: Annotated[Verdict, NotStrict] = Field(description="allow or deny")

    @field_validator("request")
    @classmethod
    def _spoken(cls, request: RequestTable | None, info: ValidationInfo) -> RequestTable | None:
        protocol = spoken(info.data.get("service", ""), info)
        if request is not None and "service" in info.data and request.protocol != protocol:
            raise fault(f"is {request.protocol}, and the service speaks {protocol}")
        return request


class PinTable(Table):
    """The definition of a tool that was looked at. While the tool's own differs, its calls are refused."""

    service: ServiceName = Field(description="an mcp service")
    tool: str = Field(min_length=1, max_length=256, description="the tool's name, without wildcards")
    digest: Digest = Field(description="SHA-256 of the tool's definition, from `lockgate policy pin`")

    @field_validator("tool")
    @classmethod
    def _of_mcp(cls, tool: str, info: ValidationInfo) -> str:
        service = info.data.get("service")
        if service is not None and (protocol := spoken(service, info)) != "mcp":
            raise fault(f"service {quoted(service)} speaks {protocol}, and has no tools")
        if service is not None and defined(info).pins[service, tool] > 1:
            raise fault(f"{quoted(tool)} has several pins")
        return tool


def _feature(value: object) -> object:
    known = [feature.value for feature in Feature]
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise fault("must be the name of a feature", hint or "known: " + ", ".join(known))
    return value


def _approvals(value: int, info: ValidationInfo) -> int:
    if value > 1 and Feature.TWO_PERSON not in defined(info).enforced:
        raise fault("not enforced by this version", "1 admin applies a policy")
    return value


class PolicyTables(Table):
    """The whole file."""

    requires: Annotated[tuple[Annotated[str, BeforeValidator(_feature)], ...], NotStrict] = Field(
        default=(), description="features that every node of the roster must have"
    )
    apply_approvals: Annotated[int, Field(ge=1, le=2)] = Field(
        default=1, description="how many admins it takes to apply the next policy"
    )
    segments: dict[Name, SegmentTable] = Field(
        default_factory=dict, description="services by function: retrieval, action, high-risk, and your own"
    )
    services: dict[Name, ServiceTable] = Field(default_factory=dict, description="private tools")
    agents: dict[Name, AgentTable] = Field(default_factory=dict, description="who may run where")
    bindings: Annotated[tuple[BindingTable, ...], NotStrict] = Field(
        default=(), description="local entrances of agents to services"
    )
    grants: Annotated[tuple[RuleTable, ...], NotStrict] = Field(default=(), description="what is allowed")
    denies: Annotated[tuple[RuleTable, ...], NotStrict] = Field(
        default=(), description="what is refused, whatever is granted"
    )
    escalations: Annotated[tuple[EscalationTable, ...], NotStrict, needs(Feature.ESCALATIONS)] = Field(
        default=(), description="what may be asked for"
    )
    invalidations: Annotated[tuple[InvalidationTable, ...], NotStrict, needs(Feature.INVALIDATIONS)] = Field(
        default=(), description="what looks wrong, and what is then locked"
    )
    pins: Annotated[tuple[PinTable, ...], NotStrict, needs(Feature.PINS)] = Field(
        default=(), description="definitions of tools that were looked at"
    )
    tests: Annotated[tuple[TestTable, ...], NotStrict] = Field(
        default=(), description="what you expect of the rules"
    )

    @field_validator("apply_approvals")
    @classmethod
    def _enforced(cls, value: int, info: ValidationInfo) -> int:
        return _approvals(value, info)

    @field_validator("segments", mode="before")
    @classmethod
    def _with_presets(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: {**PRESETS.get(name, {}), **table} if isinstance(table, dict) else table
            for name, table in value.items()
        }
