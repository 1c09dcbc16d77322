"""References are checked field by field against the names that the file defines.

They are read from the raw tables and handed to the validators as their context. So a misspelt name is reported
together with every other fault, even in an entry that is wrong in other ways too.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from sidecar.policy.features import ENFORCED, Feature
from sidecar.policy.tables.presets import PRESETS
from sidecar.policy.target import UNIX
from sidecar.toml import did_you_mean, fault, quoted


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
    protocols: Mapping[str, str]
    """What each service speaks."""
    pins: Counter[tuple[str, str]]
    """How many pins a tool of a service has."""
    enforced: frozenset[Feature] = ENFORCED

    @classmethod
    def by(cls, tables: Mapping[str, Any], enforced: frozenset[Feature] = ENFORCED) -> "Defined":
        names = {kind: frozenset(_table(tables, f"{kind}s")) for kind in ("segment", "service", "agent")}
        nodes = {name: _strings(agent, "nodes") for name, agent in _table(tables, "agents").items()}
        rules = [row for key in _WITH_IDS for row in _rows(tables, key)]
        return cls(
            names=names | {"segment": names["segment"] | PRESETS.keys()},
            rule_ids=Counter(row["id"] for row in rules if isinstance(row.get("id"), str)),
            nodes=nodes,
            entrances=_entrances(tables, nodes),
            protocols={
                name: row.get("protocol", "tcp") if isinstance(row, dict) else "tcp"
                for name, row in _table(tables, "services").items()
            },
            pins=Counter((str(row.get("service")), str(row.get("tool"))) for row in _rows(tables, "pins")),
            enforced=enforced,
        )


def _entrances(
    tables: Mapping[str, Any], nodes: Mapping[str, frozenset[str]]
) -> Counter[tuple[str, int | str]]:
    return Counter(
        (node, listen)
        for row in _rows(tables, "bindings")
        if (listen := _entrance(row.get("listen"))) and isinstance(row.get("agent"), str)
        for node in nodes.get(row["agent"], ())
    )


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


_WITH_IDS = ("grants", "denies", "escalations", "invalidations")


def defined(info: ValidationInfo) -> Defined:
    """What the whole file defines, for a validator of one field."""
    assert isinstance(info.context, Defined)  # noqa: S101 - ours: PolicyTables is loaded with it, always
    return info.context


def known(kind: str) -> AfterValidator:
    """The name of a segment, service or agent of the file."""

    def check(name: str, info: ValidationInfo) -> str:
        names = defined(info).names[kind]
        if name not in names:
            raise fault(f"there is no {kind} {quoted(name)}", did_you_mean(name, names))
        return name

    return AfterValidator(check)


def needs(feature: Feature) -> BeforeValidator:
    """For a field that is refused until the data path enforces it."""

    def check(value: object, info: ValidationInfo) -> object:
        if feature not in defined(info).enforced:
            raise fault(
                "not enforced by this version", "remove it, and check that the rest says what you mean"
            )
        return value

    return BeforeValidator(check)


def rule_id(value: str, info: ValidationInfo) -> str:
    """Grants, denies and escalations draw from one set of names."""
    if defined(info).rule_ids[value] > 1:
        raise fault(f"{quoted(value)} is the id of several rules", "a decision names its rule by id")
    return value


def spoken(service: str, info: ValidationInfo) -> str:
    """The protocol of a service as the file has it."""
    return defined(info).protocols.get(service, "tcp")
