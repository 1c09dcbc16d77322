"""``[services.NAME]`` and ``[[services.NAME.operations]]``."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from sidecar.policy.features import Feature
from sidecar.policy.model import OperationClass, Protocol, Risk
from sidecar.policy.tables.defined import defined, needs
from sidecar.policy.tables.fields import (
    Credential,
    Endpoint,
    File,
    HeaderName,
    Host,
    Methods,
    NamePatterns,
    Names,
    Path,
    SegmentName,
    target_of,
)
from sidecar.policy.target import Target, TlsTarget
from sidecar.toml import NotStrict, Table, fault

MAX_OPERATIONS = 256
"""Of one service: each request is compared with them in their order."""

_FEATURES = {"http": Feature.HTTP, "mcp": Feature.MCP}


def _protocol(value: object, info: ValidationInfo) -> object:
    feature = _FEATURES.get(value) if isinstance(value, str) else None
    if feature and feature not in defined(info).enforced:
        raise fault(
            f"this version cannot enforce {value}", 'so nothing is passed; "tcp" decides whole streams'
        )
    return value


class InjectTable(Table):
    """``inject`` of a service: what the tool's node shows the tool in the agent's stead."""

    client_certificate: Credential | None = Field(
        default=None,
        description="a certificate and key for a tls:// target: a PEM file or systemd credential",
    )
    header: Annotated[HeaderName, needs(Feature.INJECT_HEADER)] | None = Field(
        default=None, description="the header that is set on each request to an http or mcp service"
    )
    credential: Annotated[Credential, needs(Feature.INJECT_HEADER)] | None = Field(
        default=None, description="what the header holds: a file or systemd credential on the tool's node"
    )
    prefix: Annotated[str, Field(max_length=64), needs(Feature.INJECT_HEADER)] = Field(
        default="", description='what stands before the credential, such as "Bearer "'
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> "InjectTable":
        if (self.header is None) != (self.credential is None) or (self.prefix and self.header is None):
            raise fault("header and credential go together", "prefix is optional")
        if self.header is None and self.client_certificate is None:
            raise fault("says nothing", "a client-certificate, or a header and its credential")
        return self


class OperationTable(Table):
    """``[[services.NAME.operations]]``: requests in a segment or class of their own; the first that matches counts."""

    tools: NamePatterns = Field(default=(), description="names of tools, of an mcp service; * is any run")
    methods: Methods = Field(default=(), description='HTTP methods; "*" is every one but CONNECT')
    path: Path | None = Field(default=None, description="path of HTTP requests: /a/*, /a/**")
    segment: SegmentName | None = Field(default=None, description="their segment, if not the service's")
    class_: Annotated[OperationClass, NotStrict] | None = Field(
        default=None, description="read or mutate, whatever method or segment say"
    )
    blast_radius: Names = Field(default=(), description="what is at stake, if not what the service says")

    @model_validator(mode="after")
    def _names_requests(self) -> "OperationTable":
        if bool(self.tools) == bool(self.methods) or bool(self.methods) != (self.path is not None):
            raise fault("names no requests", "either tools, or methods and a path")
        if self.segment is None and self.class_ is None and not self.blast_radius:
            raise fault("says nothing of them", "give a segment, a class or a blast-radius")
        return self


class ServiceTable(Table):
    """A private tool: one fixed target beside one or more nodes."""

    segment: SegmentName = Field(description="the segment it belongs to")
    nodes: Names = Field(default=(), description="the nodes it stands beside")
    labels: Names = Field(
        default=(), description="instead of nodes: it stands beside all that have these labels"
    )
    ca: File | None = Field(default=None, description="PEM file of the CA that vouches for a tls:// target")
    server_name: Annotated[str, Field(max_length=253)] | None = Field(
        default=None, description="the name in a tls:// target's certificate, if not its host"
    )
    inject: InjectTable | None = Field(default=None, description="a credential that the agent never sees")
    target: Annotated[Any, BeforeValidator(target_of, json_schema_input_type=str)] = Field(
        description='"host:port", "unix:/path" or "tls://host:port", dialled by its nodes only'
    )
    protocol: Annotated[Protocol, NotStrict, BeforeValidator(_protocol)] = Field(
        default=Protocol.TCP,
        validate_default=True,
        description="tcp: whole streams are decided; http, mcp: each request",
    )
    host: Host | None = Field(default=None, description="the Host that requests name, if not the binding's")
    endpoint: Endpoint = Field(default="/mcp", description="the one path of an mcp service that is reachable")
    path_parameters: bool = Field(
        default=False, description="let paths with ; pass: only where the tool takes it for no delimiter"
    )
    risk: Annotated[Risk, NotStrict] | None = Field(default=None, description="what operators think of it")
    blast_radius: Names = Field(default=(), description="what is at stake, in your own words")
    open_target: bool = Field(
        default=False, description="accept that users of a node with agents could dial the target directly"
    )
    operations: Annotated[tuple[OperationTable, ...], NotStrict, Field(max_length=MAX_OPERATIONS)] = Field(
        default=(), description="requests in a segment or class of their own"
    )

    @field_validator("labels")
    @classmethod
    def _one_place(cls, labels: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if labels and info.data.get("nodes"):
            raise fault("stand beside nodes", "a service has nodes, or labels that its nodes have")
        return labels

    @field_validator("target", mode="after")
    @classmethod
    def _whole(cls, target: Target, info: ValidationInfo) -> Target:
        """A TLS target with what stands beside it; beside any other these keys would promise what nobody does."""
        ca, name, inject = (info.data.get(key) for key in ("ca", "server_name", "inject"))
        certificate = (inject.client_certificate or "") if inject else ""
        if not isinstance(target, TlsTarget):
            if ca or name or certificate:
                what = "ca, server-name and inject of a certificate go with a tls:// target"
                raise fault(what, 'write "tls://host:port"')
            return target
        if not ca and "ca" in info.data:  # else it has a fault of its own
            raise fault("needs a ca", "the PEM file of the CA that vouches for this tool")
        return TlsTarget(target.address, ca or "", name or target.server_name, certificate)

    @field_validator("protocol")
    @classmethod
    def _reads_requests(cls, protocol: Protocol, info: ValidationInfo) -> Protocol:
        inject = info.data.get("inject")
        if protocol is Protocol.TCP and inject and inject.header:
            raise fault("nothing is injected into a tcp stream", 'a header needs protocol = "http" or "mcp"')
        return protocol

    @field_validator("host")
    @classmethod
    def _has_requests(cls, host: str, info: ValidationInfo) -> str:
        if info.data.get("protocol") is Protocol.TCP:
            raise fault("nothing reads a host in a tcp stream", "it goes with http and mcp")
        return host

    @field_validator("endpoint")
    @classmethod
    def _has_an_endpoint(cls, endpoint: str, info: ValidationInfo) -> str:
        if info.data.get("protocol", Protocol.MCP) is not Protocol.MCP:  # else it has a fault of its own
            raise fault("only mcp services have an endpoint", "paths of http are for grants")
        return endpoint

    @field_validator("path_parameters")
    @classmethod
    def _has_paths(cls, path_parameters: bool, info: ValidationInfo) -> bool:
        if path_parameters and info.data.get("protocol", Protocol.HTTP) is not Protocol.HTTP:
            raise fault("only http services have paths", "it goes with http")
        return path_parameters

    @field_validator("operations")
    @classmethod
    def _of_this_protocol(
        cls, operations: tuple[OperationTable, ...], info: ValidationInfo
    ) -> tuple[OperationTable, ...]:
        protocol = info.data.get("protocol")
        for number, operation in enumerate(operations, 1):
            wanted = Protocol.MCP if operation.tools else Protocol.HTTP
            if protocol is not None and protocol is not wanted:
                what = f"number {number} names {'tools' if operation.tools else 'methods'}"
                raise fault(what, f'the service would need protocol = "{wanted}"')
        return operations
