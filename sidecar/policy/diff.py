"""What changes from one policy to another: who may do what, and what the names in it stand for. Pure.

Two texts may differ in every line and permit the same, and one line may move a service into another segment. So
permissions are compared as :mod:`sidecar.policy.effective` reads them. What a permission does not show, such as the
target behind a service's name, is compared table by table: a name that is kept can be made to mean something else.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from pki.clock import Wall
from pki.errors import LocalError
from sidecar.duration import format_duration
from sidecar.policy.effective import Permission, permissions
from sidecar.policy.model import (
    Hours,
    InjectHeader,
    Objective,
    Policy,
    Quota,
    Segment,
    ServiceOperation,
    When,
    Window,
)
from sidecar.policy.slices import as_pattern, requests_of
from sidecar.policy.target import TlsTarget

MAX_PERMISSIONS = 1_000_000
"""Of one policy. Rules by segment can mean far more than they name."""

_DURATIONS = {"stale_after", "decision_ttl", "session_lifetime", "session_idle", "max_ttl", "p99", "per"}


class Kind(StrEnum):
    GAINED = "gained"
    LOST = "lost"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True)
class Change:
    """What one agent gains, loses, or may do on other terms. Both sides are of one agent, service and operation."""

    before: tuple[Permission, ...]
    after: tuple[Permission, ...]

    @property
    def subject(self) -> tuple[str, str, str]:
        return (self.after or self.before)[0].subject

    @property
    def kind(self) -> Kind:
        if not self.before:
            return Kind.GAINED
        return Kind.CHANGED if self.after else Kind.LOST


@dataclass(frozen=True, slots=True)
class Edit:
    """A setting of a table, such as ``service wiki``, that changes.

    Of a table that is new or gone, ``setting`` is empty, and one side holds the whole of it.
    """

    table: str
    setting: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Difference:
    """From one policy to another. Equal in both: nothing that a decision reads has changed."""

    changes: tuple[Change, ...]
    edits: tuple[Edit, ...]

    def __bool__(self) -> bool:
        return bool(self.changes or self.edits)

    def by_agent(self) -> dict[str, list[Change]]:
        found: dict[str, list[Change]] = defaultdict(list)
        for change in self.changes:
            found[change.subject[0]].append(change)
        return dict(found)

    def count(self, kind: Kind) -> int:
        return sum(change.kind is kind for change in self.changes)


def difference(before: Policy | None, after: Policy, now: Wall) -> Difference:
    """What ``after`` changes at ``now`` (us); None: there was no policy. Raises LocalError when one permits too much."""
    old, new = (_permitted(policy, now) if policy else {} for policy in (before, after))
    changes = [
        Change(tuple(old.get(subject, ())), tuple(new.get(subject, ())))
        for subject in sorted(old.keys() | new.keys())
        if _terms(old.get(subject, ())) != _terms(new.get(subject, ()))
    ]
    return Difference(tuple(changes), tuple(_edits(before, after)))


def _permitted(policy: Policy, now: Wall) -> dict[tuple[str, str, str], list[Permission]]:
    found: dict[tuple[str, str, str], list[Permission]] = defaultdict(list)
    for count, permission in enumerate(permissions(policy, now)):
        if count == MAX_PERMISSIONS:
            raise LocalError(f"a policy of over {MAX_PERMISSIONS} permissions is too large to be compared")
        found[permission.subject].append(permission)
    return found


def _terms(found: Iterable[Permission]) -> list[Any]:
    return sorted(permission.terms for permission in found)


def _edits(before: Policy | None, after: Policy) -> Iterator[Edit]:
    old, new = (_tables(policy) if policy else {} for policy in (before, after))
    for table in sorted(old.keys() | new.keys()):
        if table not in old or table not in new:
            yield Edit(table, "", _whole(old.get(table)), _whole(new.get(table)))
            continue
        for setting, becomes in new[table].items():
            if old[table][setting] != becomes:
                yield Edit(table, setting, old[table][setting], becomes)


def _tables(policy: Policy) -> dict[str, dict[str, str]]:
    """Every table that rules only name, and each of its settings as text."""
    return {
        **{f"segment {name}": _settings(one) for name, one in policy.segments.items()},
        **{f"service {name}": _settings(one) for name, one in policy.services.items()},
        **{f"agent {name}": _settings(one) for name, one in policy.agents.items()},
        **{f"escalation {name}": _settings(one) for name, one in policy.escalations.items()},
        **{
            f"binding of {one.agent} to {one.service}": {"listen": one.address, "callers": one.callers}
            for one in policy.bindings
        },
        **{f"pin of {tool} of {service}": {"digest": pin} for (service, tool), pin in policy.pins.items()},
        "policy": {
            "requires": _shown(policy.requires),
            "apply-approvals": str(policy.apply_approvals),
        },
    }


def _whole(settings: Mapping[str, str] | None) -> str:
    """A table that only one side has; empty for the side that lacks it."""
    return ", ".join(f"{key} {text}" for key, text in (settings or {}).items() if text)


def _settings(table: Any, without: tuple[str, ...] = ("name", "line", "id")) -> dict[str, str]:
    return {
        field.name.replace("_", "-"): _shown(getattr(table, field.name), field.name in _DURATIONS)
        for field in fields(table)
        if field.name not in without
    }


def _shown(value: Any, is_duration: bool = False) -> str:
    """A setting as text: equal for equal settings, and only for those."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int() if is_duration:
            return format_duration(value)
        case frozenset() | tuple():
            texts = map(_shown, value)
            return ", ".join(sorted(texts) if isinstance(value, frozenset) else texts)
        case Segment():
            return value.name
        case ServiceOperation():
            return _operation(value)
        case TlsTarget():
            parts = (f"ca {value.ca}", f"server-name {value.server_name}", value.client_certificate)
            return f"{value} ({', '.join(part for part in parts if part)})"
        case Quota() | Window() | Objective() | InjectHeader() | When() | Hours():
            return " ".join(f"{key} {text}" for key, text in _settings(value, ()).items() if text)
        case _:
            return str(value)


def _operation(one: ServiceOperation) -> str:
    """One entry of ``operations``, in braces: its own parts have commas."""
    parts = (
        requests_of(as_pattern(one)),
        f"segment {one.segment.name}",
        f"class {one.operation_class}" if one.operation_class else "",
        f"blast-radius {' '.join(sorted(one.blast_radius))}" if one.blast_radius else "",
    )
    return f"{{{', '.join(part for part in parts if part)}}}"
