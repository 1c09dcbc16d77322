"""The policy file as it is written: the tables, and what can be wrong in each field.

References are checked field by field against the names that the file defines (:class:`Defined`, read from the raw
tables and handed to the validators as their context). So a misspelt name is reported together with every other
fault, even in an entry that is wrong in other ways too.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pki.clock import DAY, SECOND, Wall
from pki.errors import LocalError
from sidecar.address import Address
from sidecar.policy.model import Audit, Callers, OnStale, OperationClass, Protocol, Verdict
from sidecar.policy.target import (
    MAX_UNIX_PATH_BYTES,
    TLS,
    UNIX,
    Target,
    TcpTarget,
    TlsTarget,
    UnixTarget,
    is_unix_path,
)
from sidecar.toml import (
    Duration,
    Name,
    NotStrict,
    Table,
    between,
    did_you_mean,
    fault,
    quoted,
)

PRESETS: Mapping[str, Mapping[str, object]] = {
    "retrieval": {"class": "read", "stale-after": "5m", "audit": "best-effort", "on-stale": "refuse"},
    "action": {"class": "mutate", "stale-after": "60s", "audit": "required", "on-stale": "refuse"},
    "high-risk": {"class": "mutate", "stale-after": "15s", "audit": "required", "on-stale": "cut"},
}

MAX_PORT = 65_535

MAX_UID = 2**32 - 2
"""The last uid is no user's: it means "leave as it is" (chown(2))."""

_USER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,30}\$?")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Defined:
    """What a file defines, wrong entries included: nothing is unknown because it has a fault of its own."""

    names: Mapping[str, frozenset[str]]
    """By kind: segment, service, agent."""
    rule_ids: Counter[str]
    nodes: Mapping[str, frozenset[str]]
    """Where each agent may run."""
    entrances: Counter[tuple[str, int | str]]
    """How many bindings want a port or socket of a node."""

    @classmethod
    def by(cls, tables: Mapping[str, Any]) -> "Defined":
        names = {kind: frozenset(_table(tables, f"{kind}s")) for kind in ("segment", "service", "agent")}
        nodes = {name: _strings(agent, "nodes") for name, agent in _table(tables, "agents").items()}
        entrances = Counter(
            (node, listen)
            for row in _rows(tables, "bindings")
            if (listen := _entrance(row.get("listen"))) and isinstance(row.get("agent"), str)
            for node in nodes.get(row["agent"], ())
        )
        rules = (*_rows(tables, "grants"), *_rows(tables, "denies"))
        ids = Counter(row["id"] for row in rules if isinstance(row.get("id"), str))
        return cls(names | {"segment": names["segment"] | PRESETS.keys()}, ids, nodes, entrances)


def _table(tables: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = tables.get(key)
    return value if isinstance(value, dict) else {}


def _rows(tables: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    value = tables.get(key)
    return (row for row in value if isinstance(row, dict)) if isinstance(value, list) else iter(())


def _entrance(listen: object) -> int | str | None:
    """A port, the path of a Unix socket, or None for what is neither."""
    if isinstance(listen, str):
        return listen.removeprefix(UNIX) if listen.startswith(UNIX) else None
    return listen if isinstance(listen, int) else None


def _strings(value: object, key: str) -> frozenset[str]:
    items = value.get(key) if isinstance(value, dict) else None
    return frozenset(i for i in items if isinstance(i, str)) if isinstance(items, list) else frozenset()


def _defined(info: ValidationInfo) -> Defined:
    assert isinstance(info.context, Defined)  # noqa: S101 - ours: PolicyTables is loaded with it, always
    return info.context


def _known(kind: str) -> AfterValidator:
    def check(name: str, info: ValidationInfo) -> str:
        known = _defined(info).names[kind]
        if name not in known:
            raise fault(f"there is no {kind} {quoted(name)}", did_you_mean(name, known))
        return name

    return AfterValidator(check)


def _rule_id(value: str, info: ValidationInfo) -> str:
    if _defined(info).rule_ids[value] > 1:
        raise fault(f"{quoted(value)} is the id of several rules", "a decision names its rule by id")
    return value


def _target(value: object) -> Target:
    """A target as far as its own text says; ``ca`` and ``server-name`` of a TLS target stand beside it."""
    if not isinstance(value, str):
        raise fault('must be a string "host:port", "unix:/path" or "tls://host:port"')
    if value.startswith(UNIX):
        path = value.removeprefix(UNIX)
        if not is_unix_path(path):
            raise fault(f"{quoted(value)} is not an absolute path of at most {MAX_UNIX_PATH_BYTES} bytes")
        return UnixTarget(path)
    try:
        address = Address.parse(value.removeprefix(TLS))
    except LocalError as error:
        raise fault(f"{quoted(value)} is {error}") from None
    return TlsTarget(address, "", address.host) if value.startswith(TLS) else TcpTarget(address)


def _protocol(value: object) -> object:
    if value in ("http", "mcp"):
        raise fault(
            f"this version cannot enforce {value}", 'so nothing is passed; "tcp" decides whole streams'
        )
    return value


def _uid(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value <= MAX_UID:
            raise fault(f"must be from 0 to {MAX_UID}")
    elif not isinstance(value, str) or _USER_NAME.fullmatch(value) is None:
        raise fault("must be a number, or a user name in quotes")
    return value


def _listen(value: object) -> int | str:
    """A port, or the path of a Unix socket."""
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_PORT:
            raise fault(f"must be from 1 to {MAX_PORT}")
        return value
    path = value.removeprefix(UNIX) if isinstance(value, str) and value.startswith(UNIX) else ""
    if not is_unix_path(path):
        raise fault('must be a port, or "unix:/path" of a socket')
    return path


def _file(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise fault("must be an absolute path")
    return value


def _credential(value: str) -> str:
    """An absolute path, or the name of a systemd credential, which is a file's name."""
    if value.startswith("/"):
        return _file(value)
    if not value or "/" in value or "\0" in value or value in (".", ".."):
        raise fault("must be an absolute path, or the name of a systemd credential")
    return value


def _expires(value: object) -> object:
    """A date is its first instant, UTC; so is a time without offset."""
    if not isinstance(value, date):
        raise fault("must be a date such as 2027-01-01, without quotes")
    moment = (
        value if isinstance(value, datetime) else datetime(value.year, value.month, value.day, tzinfo=UTC)
    )
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)


Names = Annotated[tuple[Name, ...], NotStrict]
Listen = Annotated[int | str, BeforeValidator(_listen)]
File = Annotated[str, AfterValidator(_file)]
Credential = Annotated[str, AfterValidator(_credential)]
Note = Annotated[str, Field(max_length=200)]
AgentName = Annotated[str, _known("agent")]
ServiceName = Annotated[str, _known("service")]
SegmentName = Annotated[str, _known("segment")]


class SegmentTable(Table):
    """``[segments.NAME]``, after the preset of that name, if there is one, has filled in what is absent."""

    later: ClassVar = frozenset({"decision-ttl", "mode", "record", "slo"})

    class_: Annotated[OperationClass, NotStrict]
    stale_after: Annotated[Duration, between(SECOND, DAY)]
    audit: Annotated[Audit, NotStrict] = Audit.REQUIRED
    on_stale: Annotated[OnStale, NotStrict] = OnStale.REFUSE


class InjectTable(Table):
    """``inject`` of a service: what the sidecar shows the tool in the agent's stead."""

    later: ClassVar = frozenset({"header", "credential", "prefix"})

    client_certificate: Credential


class ServiceTable(Table):
    """``[services.NAME]``."""

    later: ClassVar = frozenset({"host", "operations"})

    segment: SegmentName
    nodes: Names = ()
    ca: File | None = None
    server_name: Annotated[str, Field(max_length=253)] | None = None
    inject: InjectTable | None = None
    target: Annotated[Any, BeforeValidator(_target)]
    protocol: Annotated[Protocol, NotStrict, BeforeValidator(_protocol)] = Protocol.TCP
    blast_radius: Names = ()
    open_target: bool = False

    @field_validator("target", mode="after")
    @classmethod
    def _whole(cls, target: Target, info: ValidationInfo) -> Target:
        """A TLS target with what stands beside it; beside any other these keys would promise what nobody does."""
        ca, name, inject = (info.data.get(key) for key in ("ca", "server_name", "inject"))
        if not isinstance(target, TlsTarget):
            if ca or name or inject:
                raise fault("ca, server-name and inject go with a tls:// target", 'write "tls://host:port"')
            return target
        if not ca and "ca" in info.data:  # else it has a fault of its own
            raise fault("needs a ca", "the PEM file of the CA that vouches for this tool")
        certificate = inject.client_certificate if inject else ""
        return TlsTarget(target.address, ca or "", name or target.server_name, certificate)


class AgentTable(Table):
    """``[agents.NAME]``."""

    nodes: Names = ()
    uid: Annotated[Any, BeforeValidator(_uid)]


class BindingTable(Table):
    """``[[bindings]]``."""

    agent: AgentName
    service: ServiceName
    listen: Listen
    callers: Annotated[Callers, NotStrict] = Callers.KERNEL

    @field_validator("listen")
    @classmethod
    def _alone(cls, listen: int | str, info: ValidationInfo) -> int | str:
        defined = _defined(info)
        what = f"port {listen}" if isinstance(listen, int) else f"socket {listen}"
        for node in sorted(defined.nodes.get(info.data.get("agent", ""), ())):
            if defined.entrances[node, listen] > 1:
                raise fault(f"{what} of node {quoted(node)} has several bindings", "give each its own")
        return listen


class RuleTable(Table):
    """``[[grants]]`` and ``[[denies]]``."""

    later: ClassVar = frozenset({"http", "mcp"})

    id: Annotated[Name, AfterValidator(_rule_id)]
    agents: Annotated[tuple[AgentName, ...], NotStrict] = ()
    services: Annotated[tuple[ServiceName, ...], NotStrict] = ()
    segments: Annotated[tuple[SegmentName, ...], NotStrict] = ()
    expires: Annotated[Wall | None, BeforeValidator(_expires)] = None
    owner: Note = ""
    ticket: Note = ""


class TestTable(Table):
    """``[[tests]]``."""

    later: ClassVar = frozenset({"request"})

    agent: AgentName
    service: ServiceName
    expect: Annotated[Verdict, NotStrict]


class PolicyTables(Table):
    """The whole file."""

    later: ClassVar = frozenset({"apply-approvals", "escalations", "requires"})

    segments: dict[Name, SegmentTable] = Field(default_factory=dict)
    services: dict[Name, ServiceTable] = Field(default_factory=dict)
    agents: dict[Name, AgentTable] = Field(default_factory=dict)
    bindings: Annotated[tuple[BindingTable, ...], NotStrict] = ()
    grants: Annotated[tuple[RuleTable, ...], NotStrict] = ()
    denies: Annotated[tuple[RuleTable, ...], NotStrict] = ()
    tests: Annotated[tuple[TestTable, ...], NotStrict] = ()

    @field_validator("segments", mode="before")
    @classmethod
    def _with_presets(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: {**PRESETS.get(name, {}), **table} if isinstance(table, dict) else table
            for name, table in value.items()
        }
