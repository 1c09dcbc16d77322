"""``[agents.NAME]`` and ``[[bindings]]``."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pki.clock import DAY, SECOND
from sidecar.policy.features import Feature
from sidecar.policy.model import Callers
from sidecar.policy.tables.defined import defined, needs
from sidecar.policy.tables.fields import AgentName, Listen, Names, ServiceName, Size, Uid
from sidecar.toml import Duration, NotStrict, Table, between, fault, quoted

_Per = Annotated[Duration, between(SECOND, DAY)]
_Count = Annotated[int, Field(ge=1, le=10**9)]


class SessionTable(Table):
    """``session`` of an agent: when its sessions end by themselves."""

    lifetime: Annotated[Duration, between(SECOND, 30 * DAY)] | None = Field(
        default=None, description="after this long, whatever it does"
    )
    idle: Annotated[Duration, between(SECOND, DAY)] | None = Field(
        default=None, description="after this long without a byte of any of its streams"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "SessionTable":
        if self.lifetime is not None and self.idle is not None and self.idle >= self.lifetime:
            raise fault("idle is not shorter than lifetime", "it would never end a session")
        return self


class RequestsTable(Table):
    """``requests`` of a quota."""

    count: _Count = Field(description="at most so many requests")
    per: _Per = Field(description="in any time this long")


class BytesTable(Table):
    """``bytes`` of a quota."""

    count: Size = Field(description='at most so many bytes both ways, such as "1GiB"')
    per: _Per = Field(description="in any time this long")


class QuotaTable(Table):
    """``quota`` or ``session-quota`` of an agent; what is absent has no limit of its own."""

    streams: _Count | None = Field(default=None, description="streams open at one time")
    requests: RequestsTable | None = Field(default=None, description="requests of http and mcp services")
    bytes: BytesTable | None = Field(default=None, description="bytes of all streams, both ways")

    @model_validator(mode="after")
    def _says_something(self) -> "QuotaTable":
        if self.streams is None and self.requests is None and self.bytes is None:
            raise fault("limits nothing", "give streams, requests or bytes, or remove it")
        return self


class AgentTable(Table):
    """An AI agent: where its sessions may run, and as whom."""

    nodes: Names = Field(default=(), description="the nodes its sessions may run on")
    uid: Uid = Field(description="the user it runs as: a number, or a name that each node looks up")
    session: Annotated[SessionTable, needs(Feature.SESSION_LIMITS)] | None = Field(
        default=None, description="when its sessions end by themselves"
    )
    quota: Annotated[QuotaTable, needs(Feature.QUOTAS)] | None = Field(
        default=None, description="limits for all its sessions on a node together"
    )
    session_quota: Annotated[QuotaTable, needs(Feature.QUOTAS)] | None = Field(
        default=None, description="limits for each of its sessions"
    )


class BindingTable(Table):
    """The local entrance of one agent to one service, on each of the agent's nodes."""

    agent: AgentName = Field(description="whose entrance it is")
    service: ServiceName = Field(description="what it leads to")
    listen: Listen = Field(description='a port of 127.0.0.1 and ::1, or "unix:/path" of a socket')
    callers: Annotated[Callers, NotStrict] = Field(
        default=Callers.KERNEL,
        description="how callers are known: kernel looks up the socket, mtls asks for a client certificate",
    )

    @field_validator("listen")
    @classmethod
    def _alone(cls, listen: int | str, info: ValidationInfo) -> int | str:
        names = defined(info)
        what = f"port {listen}" if isinstance(listen, int) else f"socket {listen}"
        for node in sorted(names.nodes.get(info.data.get("agent", ""), ())):
            if names.entrances[node, listen] > 1:
                raise fault(f"{what} of node {quoted(node)} has several bindings", "give each its own")
        return listen

    @field_validator("callers")
    @classmethod
    def _enforced(cls, callers: Callers, info: ValidationInfo) -> Callers:
        if callers is Callers.MTLS and Feature.MTLS_CALLERS not in defined(info).enforced:
            raise fault("this version cannot enforce mtls", '"kernel" looks up whose socket it is')
        return callers
