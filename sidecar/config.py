"""node.toml and ca.toml: what one daemon needs to know before it can ask anybody."""

from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from pki.clock import DAY, SECOND
from pki.errors import LocalError
from pki.spiffe import is_trust_domain
from sidecar import defaults
from sidecar.address import ANY_HOST, Address
from sidecar.toml import (
    AddressField,
    Duration,
    Name,
    NotStrict,
    Table,
    between,
    fault,
    load_toml,
    quoted,
)

L = TypeVar("L", bound=tuple[Address, ...])


def load_node_config(data: bytes, name: str) -> "NodeConfig":
    """The configuration in the bytes of node.toml; raises ConfigError with every fault."""
    return load_toml(data, name, NodeConfig)


def load_ca_config(data: bytes, name: str) -> "CaConfig":
    """The configuration in the bytes of ca.toml; raises ConfigError with every fault."""
    return load_toml(data, name, CaConfig)


def _trust_domain(value: str) -> str:
    if not is_trust_domain(value):
        raise fault(f"{quoted(value)} is not a trust domain", "a-z, 0-9, inner dots, hyphens, underscores")
    return value


def _absolute(value: str) -> str:
    """A daemon and a command are run from different directories."""
    if not value.startswith("/"):
        raise fault("must be an absolute path")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise fault("must be a URL such as http://127.0.0.1:4318/v1/traces", "no user or password in it")
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _at_least_one(addresses: L) -> L:
    if not addresses:
        raise fault("must name at least one address")
    return addresses


def _loopback_if_dev(addresses: L, info: ValidationInfo) -> L:
    """A mesh for trying out trusts whoever ran it, so nobody else may reach it."""
    outside = [str(address) for address in addresses if not address.is_loopback]
    if info.data.get("dev") and outside:
        raise fault(f"dev = true listens on loopback only, not on {', '.join(outside)}")
    return addresses


TrustDomain = Annotated[str, AfterValidator(_trust_domain)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
Addresses = Annotated[tuple[AddressField, ...], NotStrict, BeforeValidator(_one_or_many)]
Listeners = Annotated[Addresses, AfterValidator(_at_least_one), AfterValidator(_loopback_if_dev)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Idle = Annotated[Duration, between(SECOND // 10, 7 * DAY)]
LogLevel = Literal["debug", "info", "warning", "error"]


class NodeLimits(Table):
    """``[limits]`` of node.toml. Durations in microseconds."""

    handshakes_per_address: Count = defaults.HANDSHAKES_PER_ADDRESS
    handshakes: Count = defaults.HANDSHAKES
    streams: Count = defaults.STREAMS
    read_requests: Count = defaults.READ_REQUESTS
    mutate_requests: Count = defaults.MUTATE_REQUESTS
    half_close_idle: Idle = defaults.HALF_CLOSE_IDLE
    idle: Idle = defaults.STREAM_IDLE
    lifetime: Idle = defaults.STREAM_LIFETIME


class AuditTable(Table):
    """``[audit]`` of node.toml and ca.toml: how large the volumes of the log are, and how long they stay."""

    volume_bytes: Annotated[int, Field(ge=64 * defaults.KIB, le=256 * defaults.MIB)] = (
        defaults.AUDIT_VOLUME_BYTES
    )
    reserve_bytes: Annotated[int, Field(ge=64 * defaults.KIB, le=256 * defaults.MIB)] = (
        defaults.AUDIT_RESERVE_BYTES
    )
    keep: Annotated[Duration, between(DAY, 3_650 * DAY)] | None = None
    """Closed volumes older than this are removed; None: they stay."""
    keep_bytes: Annotated[int, Field(ge=defaults.MIB)] | None = None
    """The oldest are removed while all volumes take more."""


class OtelTable(Table):
    """``[otel]`` of node.toml: where spans go."""

    endpoint: Annotated[str, AfterValidator(_url)]
    """The whole URL of a collector's OTLP/HTTP traces."""


class NodeConfig(Table):
    """node.toml."""

    name: Name
    trust_domain: TrustDomain
    ca: AddressField
    """The CA's API."""
    ca_control: AddressField
    """Where the CA takes control links."""
    dev: bool = False
    """Only `lockgate dev` sets it. Stands before the listeners, whose check reads it."""
    listen: Annotated[Listeners, Field(validate_default=True)] = (Address(ANY_HOST, defaults.OVERLAY_PORT),)
    advertise: Addresses = ()
    """Where peers reach this node; empty: they do not, it dials them."""
    operator: AbsolutePath | None = None
    """The operator credential of commands that are given this node's directory."""
    log_level: LogLevel = "info"
    workload_api: bool = False
    """Whether programs get sessions over the SPIFFE Workload API, on run/workload.sock."""
    limits: NodeLimits = NodeLimits()
    audit: AuditTable = AuditTable()
    otel: OtelTable | None = None


class CaLimits(Table):
    """``[limits]`` of ca.toml."""

    handshakes_per_address: Count = defaults.HANDSHAKES_PER_ADDRESS
    handshakes: Count = defaults.HANDSHAKES


class Lifetimes(Table):
    """``[lifetimes]`` of ca.toml: how long what the CA issues is valid, in microseconds."""

    session: Annotated[Duration, between(2 * SECOND, DAY)] = defaults.SESSION_LIFETIME
    node: Annotated[Duration, between(2 * SECOND, 7 * DAY)] = defaults.NODE_LIFETIME
    operator: Annotated[Duration, between(2 * SECOND, 7 * DAY)] = defaults.OPERATOR_LIFETIME


def _jwks(value: str) -> str:
    """Plain HTTP would let whoever is on the way put in a key of its own."""
    if value.startswith("/"):
        return value
    try:
        url = urlsplit(value)
        Address(url.hostname or "", url.port or 443)
    except (ValueError, LocalError):
        raise fault("must be an absolute path, or a URL like https://login.example.org/keys") from None
    if url.scheme != "https" or url.username or url.fragment or not value.isascii():
        raise fault("must be an absolute path, or a URL like https://login.example.org/keys")
    return value


def _ca_for_url(value: str | None, info: ValidationInfo) -> str | None:
    if value is None and str(info.data.get("jwks", "")).startswith("https://"):
        raise fault("a jwks URL needs the file of the CA that vouches for its host", 'ca = "/etc/ssl/..."')
    return value


class Oidc(Table):
    """``[oidc]`` of ca.toml: whose ID tokens say on whose behalf a session runs. ``max_age`` in microseconds."""

    issuer: Annotated[str, Field(min_length=1, max_length=1_000)]
    """As its tokens spell it. Compared, never dialled: trust is in its keys."""
    audience: Annotated[str, Field(min_length=1, max_length=1_000)]
    jwks: Annotated[str, AfterValidator(_jwks)]
    """The issuer's keys: a file, or where they are fetched. Stands before ``ca``, whose check reads it."""
    ca: Annotated[AbsolutePath | None, Field(validate_default=True), AfterValidator(_ca_for_url)] = None
    claim: Literal["sub", "email"] = "sub"
    max_age: Annotated[Duration, between(SECOND, DAY)] = defaults.ID_TOKEN_MAX_AGE


class CaConfig(Table):
    """ca.toml."""

    name: Name
    trust_domain: TrustDomain
    dev: bool = False
    """Only `lockgate dev` sets it. Stands before the listeners, whose check reads it."""
    listen: Annotated[Listeners, Field(validate_default=True)] = (Address(ANY_HOST, defaults.CA_PORT),)
    control_listen: Annotated[Listeners, Field(validate_default=True)] = (
        Address(ANY_HOST, defaults.CA_CONTROL_PORT),
    )
    advertise: Addresses = ()
    """Where nodes reach the CA's API."""
    control_advertise: Addresses = ()
    """Where nodes reach its control links."""
    operator: AbsolutePath | None = None
    log_level: LogLevel = "info"
    lifetimes: Lifetimes = Lifetimes()
    oidc: Oidc | None = None
    limits: CaLimits = CaLimits()
    audit: AuditTable = AuditTable()
