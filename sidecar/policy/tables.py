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
from sidecar.policy.model import Audit, OnStale, OperationClass, Protocol, Verdict
from sidecar.toml import (
    AddressField,
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
    ports: Counter[tuple[str, int]]
    """How many bindings want a port of a node."""

    @classmethod
    def by(cls, tables: Mapping[str, Any]) -> "Defined":
        names = {kind: frozenset(_table(tables, f"{kind}s")) for kind in ("segment", "service", "agent")}
        nodes = {name: _strings(agent, "nodes") for name, agent in _table(tables, "agents").items()}
        ports = Counter(
            (node, row["listen"])
            for row in _rows(tables, "bindings")
            if isinstance(row.get("listen"), int) and isinstance(row.get("agent"), str)
            for node in nodes.get(row["agent"], ())
        )
        rules = (*_rows(tables, "grants"), *_rows(tables, "denies"))
        ids = Counter(row["id"] for row in rules if isinstance(row.get("id"), str))
        return cls(names | {"segment": names["segment"] | PRESETS.keys()}, ids, nodes, ports)


def _table(tables: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = tables.get(key)
    return value if isinstance(value, dict) else {}


def _rows(tables: Mapping[str, Any], key: str) -> Iterator[dict[str, Any]]:
    value = tables.get(key)
    return (row for row in value if isinstance(row, dict)) if isinstance(value, list) else iter(())


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


def _target(value: object) -> object:
    if isinstance(value, str) and value.startswith(("unix:", "tls:")):
        raise fault(f"{quoted(value)} is not dialled by this version", 'only "host:port" is')
    return value


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


def _listen(value: object) -> object:
    if isinstance(value, str) and value.startswith("unix:"):
        raise fault("Unix sockets are not served by this version", "give a port")
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
Port = Annotated[int, BeforeValidator(_listen), Field(ge=1, le=65_535)]
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


class ServiceTable(Table):
    """``[services.NAME]``."""

    later: ClassVar = frozenset({"ca", "host", "inject", "operations", "server-name"})

    segment: SegmentName
    nodes: Names = ()
    target: Annotated[AddressField, BeforeValidator(_target)]
    protocol: Annotated[Protocol, NotStrict, BeforeValidator(_protocol)] = Protocol.TCP
    blast_radius: Names = ()
    open_target: bool = False


class AgentTable(Table):
    """``[agents.NAME]``."""

    nodes: Names = ()
    uid: Annotated[Any, BeforeValidator(_uid)]


class BindingTable(Table):
    """``[[bindings]]``."""

    agent: AgentName
    service: ServiceName
    listen: Port

    @field_validator("listen")
    @classmethod
    def _alone(cls, port: int, info: ValidationInfo) -> int:
        defined = _defined(info)
        for node in sorted(defined.nodes.get(info.data.get("agent", ""), ())):
            if defined.ports[node, port] > 1:
                raise fault(f"port {port} of node {quoted(node)} has several bindings", "give each its own")
        return port


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
