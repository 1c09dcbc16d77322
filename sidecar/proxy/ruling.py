"""A decision as the audit log keeps it: with all that it read, so that it can be made again anywhere."""

from typing import Protocol

from sidecar.audit import record
from sidecar.audit.record import Ruling
from sidecar.policy.decide import Decision, Request
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.snapshot import Moment, Snapshot

ENGINE = "1"
"""Version of the decision code: a record of another engine is not comparable."""


class Sight(Protocol):
    """What a decision read (:class:`sidecar.proxy.carry.Sight`)."""

    @property
    def snapshot(self) -> Snapshot: ...

    @property
    def moment(self) -> Moment: ...


def ruling(request: Request, decision: Decision, sight: Sight, first: str = "") -> Ruling:
    """The decision on ``request``, of what was in sight. ``first``: the stream or request whose decision it repeats."""
    moment = sight.moment
    asked: dict[str, record.Value] = {
        "service": request.service,
        "tool_node": request.tool_node,
        "line": decision.line,
    }
    return Ruling(
        verdict=verdict_of(decision),
        reason=decision.reason or decision.would_deny,
        rule=decision.rule,
        hint=decision.hint,
        decision=asked | ({"first": first} if first else {}) | ({"own": True} if decision.own else {}),
        moment={"wall": moment.wall, "floor": moment.floor, "as_of": moment.as_of},
        snapshot=sight.snapshot.digest,
        engine=ENGINE,
        facts={
            "id": str(request.session),
            "serials": list(request.serials),
            "not_after": request.not_after,
            **({} if request.issued is None else {"issued": request.issued}),
            **_narrowed(request.narrowing),
        },
    )


def spelled(operation: Operation | None) -> record.Facts:
    """An operation: names, and which predicates hold, never a value of a query or argument but by its digest."""
    if operation is None:
        return {}
    more: record.Facts = {
        "holds": list[record.Value](sorted(operation.holds)),
        "arguments": operation.arguments,
    }
    said = {name: value for name, value in more.items() if value}
    return {"method": operation.method, "name": operation.name, **said}


def verdict_of(decision: Decision) -> str:
    """As records say it: allow, deny or would_deny."""
    if decision.reason is not None:
        return "deny"
    return "allow" if decision.would_deny is None else "would_deny"


def _narrowed(left: Narrowing | None) -> dict[str, record.Value]:
    """Of a child session, what it has left: with this, and no more, the decision can be made again."""
    if left is None:
        return {}
    operations = None if left.operations is None else list[record.Value](left.operations)
    narrowing: dict[str, record.Value] = {
        "services": list[record.Value](sorted(left.services)),
        "operations": operations,
        "not_after": left.not_after,
        "children": list[record.Value](left.children),
    }
    return {"narrowing": narrowing}
