"""``[[grants]]`` and ``[[denies]]``, and what they may say of requests."""

import math
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from sidecar.policy.features import Feature
from sidecar.policy.tables.defined import needs, spoken
from sidecar.policy.tables.fields import (
    AgentName,
    Argument,
    Expires,
    Methods,
    NamePatterns,
    Note,
    NotEmpty,
    Path,
    RuleId,
    SegmentName,
    ServiceName,
    UriPatterns,
)
from sidecar.toml import NotStrict, Table, fault, quoted

MAX_CHOICES = 1_000
MAX_TEXT = 1_024


def _scalar(value: object) -> object:
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise fault(f"must be text of at most {MAX_TEXT} characters, a number, true or false")


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise fault("must be a number")
    return value


def _true(value: bool) -> bool:
    if not value:
        raise fault("can only be true", "remove it, or say the opposite: present or absent")
    return value


Scalar = Annotated[Any, BeforeValidator(_scalar, json_schema_input_type=bool | int | float | str)]
Number = Annotated[Any, BeforeValidator(_number, json_schema_input_type=int | float)]
_True = Annotated[bool, BeforeValidator(_true)]
_Text = Annotated[str, Field(max_length=MAX_TEXT)]
QueryName = Annotated[str, Field(min_length=1, max_length=256)]


class _ConditionTable(Table):
    """What the fields of a condition must make together."""

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        said = self.model_fields_set
        if not said:
            raise fault("asks for nothing", "equals, in, prefix, min, max, present or absent")
        if said & {"present", "absent"} and len(said) > 1:
            raise fault("present and absent stand alone")
        if "equals" in said and len(said) > 1:
            raise fault("equals stands alone")
        low, high = getattr(self, "min", None), getattr(self, "max", None)
        if low is not None and high is not None and low > high:
            raise fault("min is above max", "this never holds")
        return self


class QueryTable(_ConditionTable):
    """A condition on a name of the query, whose values are text."""

    equals: _Text | None = Field(default=None, description="exactly this text")
    in_: Annotated[tuple[_Text, ...], NotStrict, Field(max_length=MAX_CHOICES), NotEmpty] = Field(
        default=(), description="one of these texts"
    )
    prefix: _Text | None = Field(default=None, description="text that begins so")
    min: Number | None = Field(default=None, description="decimal digits, at least this")
    max: Number | None = Field(default=None, description="decimal digits, at most this")
    present: _True = Field(default=False, description="the name occurs")
    absent: _True = Field(default=False, description="the name does not occur")


class ArgumentTable(_ConditionTable):
    """A condition on a JSON path of the arguments."""

    equals: Scalar | None = Field(default=None, description='exactly this: 1 is not "1" and not true')
    in_: Annotated[tuple[Scalar, ...], NotStrict, Field(max_length=MAX_CHOICES), NotEmpty] = Field(
        default=(), description="one of these"
    )
    prefix: _Text | None = Field(default=None, description="text that begins so")
    min: Number | None = Field(default=None, description="a number, at least this")
    max: Number | None = Field(default=None, description="a number, at most this")
    present: _True = Field(default=False, description="something stands there")
    absent: _True = Field(default=False, description="nothing stands there")


class HttpTable(Table):
    """HTTP requests: method, path and query must all fit."""

    methods: Methods = Field(description='such as "GET"; "*" is every one but CONNECT')
    path: Path = Field(description="/api/pages, /api/* (one segment), /api/** (any number)")
    query: dict[QueryName, QueryTable] = Field(
        default_factory=dict, description="conditions by name of the query, all of which must hold"
    )


class McpTable(Table):
    """MCP requests: calls of tools, reads of resources, or prompts."""

    tools: NamePatterns = Field(default=(), description="names of tools; * is any run of characters")
    resources: UriPatterns = Field(
        default=(), description="URIs of resources; * is any run without a slash, ** any run"
    )
    prompts: NamePatterns = Field(default=(), description="names of prompts; * is any run of characters")
    arguments: dict[Argument, ArgumentTable] = Field(
        default_factory=dict, description="conditions by JSON path of the arguments, all of which must hold"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> "McpTable":
        if [bool(self.tools), bool(self.resources), bool(self.prompts)].count(True) != 1:
            raise fault("names no one kind", "either tools, or resources, or prompts")
        if self.arguments and self.resources:
            raise fault("resources have no arguments")
        return self


class RuleTable(Table):
    """Who may, or may not, do what. Without ``http`` and ``mcp`` it is about everything that the services do."""

    id: RuleId = Field(description="its name in decisions and records")
    agents: Annotated[tuple[AgentName, ...], NotStrict] = Field(default=(), description="whom it is about")
    services: Annotated[tuple[ServiceName, ...], NotStrict] = Field(
        default=(), description="services, all their operations included"
    )
    segments: Annotated[tuple[SegmentName, ...], NotStrict] = Field(
        default=(), description="whatever is in these segments"
    )
    http: Annotated[tuple[HttpTable, ...], NotStrict, NotEmpty, needs(Feature.HTTP)] = Field(
        default=(), description="only these requests of http services"
    )
    mcp: Annotated[tuple[McpTable, ...], NotStrict, NotEmpty, needs(Feature.MCP)] = Field(
        default=(), description="only these requests of mcp services"
    )
    expires: Expires | None = Field(default=None, description="from this date on (UTC) it is over")
    owner: Note = Field(default="", description="who answers for it")
    ticket: Note = Field(default="", description="why it is there")

    @model_validator(mode="after")
    def _spoken(self, info: ValidationInfo) -> Self:
        """A pattern on a service that does not speak its protocol would never match."""
        wanted = {name for name, given in (("http", self.http), ("mcp", self.mcp)) if given}
        for service in self.services if wanted else ():
            if (protocol := spoken(service, info)) not in wanted:
                what = f"service {quoted(service)} speaks {protocol}, not {' or '.join(sorted(wanted))}"
                raise fault(what, "requests such as these never reach it: give it a rule of its own")
        return self
