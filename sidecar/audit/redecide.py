"""Decisions made again from their records: what was asked, verified and in force then must give the same answer now.

A record of a decision names its snapshot by digest; the bodies are kept by digest, too, so nothing about them has to
be trusted. The rest of what was read stands in the record. The decision is pure, so machine, hash seed and time of day
do not matter. One thing does: which version of it decided (``engine``). Of another version it is said that it cannot be
compared, and no more.

Not made again are refusals that are no word of the policy (``own``: no room, draining, a request that cannot be
read), and refusals before anybody was known.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pki.clock import Wall
from pki.errors import LockgateError, RemoteError
from pki.spiffe import SpiffeId
from sidecar.audit.chain import Head, Sealed
from sidecar.audit.record import Facts, Kind
from sidecar.audit.report import BadRecord, Report
from sidecar.manifest import snapshot_of
from sidecar.policy.decide import Decision, Request, decide
from sidecar.policy.model import Policy
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import Operation
from sidecar.proxy.ruling import ENGINE, verdict_of
from sidecar.snapshot import Moment, Snapshot

MAX_DIFFERENCES = 100
"""Told one by one; all are counted."""
_SNAPSHOTS = 64
_DECIDED = frozenset({Kind.ADMITTED, Kind.REQUEST, Kind.DENIED})


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that is not what it was, or cannot be made again: where it stands, and why."""

    volume: str
    line: int
    what: str


class Redecided:
    """Makes each recorded decision again (:class:`sidecar.audit.verify.Observer`).

    ``body`` finds a body by its digest; ``policy_of`` reads a policy.
    """

    def __init__(
        self, body: Callable[[str], bytes | None], policy_of: Callable[[bytes, str], Policy]
    ) -> None:
        self.decisions = 0
        """Those that were made again."""
        self.disagreements = 0
        self.not_comparable = 0
        """Those of another version of the decision."""
        self.missing = 0
        """Those whose snapshot, or a part of it, is not at hand or is not what its digest says."""
        self.differences: list[Difference] = []
        self.engines: Counter[str] = Counter()
        self._body = body
        self._policy_of = policy_of
        self._policies: dict[str, Policy] = {}
        self._snapshots: dict[str, Snapshot | RemoteError] = {}

    @property
    def is_right(self) -> bool:
        return not self.disagreements and not self.missing

    def take(self, sealed: Sealed, head: Head, _: Report) -> str:
        """Disagreement is no fault of the chain: it is counted, and the reading goes on."""
        body = sealed.body
        if body.get("kind") not in _DECIDED or "engine" not in body or _dict(body, "decision").get("own"):
            return ""
        if body["engine"] != ENGINE:
            self.not_comparable += 1
            self.engines[str(body["engine"])] += 1
            return ""
        try:
            what = self._again(body, self._snapshot(str(body.get("snapshot"))))
        except RemoteError as error:
            self.missing += 1
            self._tell(head, str(error))
            return ""
        self.decisions += 1
        if what:
            self.disagreements += 1
            self._tell(head, what)
        return ""

    def end(self, _: Report) -> BadRecord | None:
        return None

    def _tell(self, head: Head, what: str) -> None:
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(Difference(head.volume, head.seq + 1, what))

    def _again(self, body: Facts, snapshot: Snapshot) -> str:
        """In what the decision made now is another one; empty: in nothing."""
        try:
            return _difference(body, snapshot)
        except (KeyError, TypeError, ValueError, AttributeError):  # a forger's own types
            raise RemoteError("does not say what was asked, or when") from None

    def _snapshot(self, digest: str) -> Snapshot:
        found = self._snapshots.get(digest)
        if found is None:
            try:
                found = snapshot_of(digest, self._body, self._policy)
            except LockgateError as error:
                found = RemoteError(f"its snapshot cannot be had: {error}")
            while len(self._snapshots) >= _SNAPSHOTS:
                del self._snapshots[next(iter(self._snapshots))]
            self._snapshots[digest] = found
        if isinstance(found, RemoteError):
            raise found
        return found

    def _policy(self, text: bytes, digest: str) -> Policy:
        """Most snapshots share theirs."""
        if digest not in self._policies:
            self._policies.clear()
            self._policies[digest] = self._policy_of(text, digest)
        return self._policies[digest]


def _difference(body: Facts, snapshot: Snapshot) -> str:
    asked, moment = request_of(body), moment_of(body)
    made = decide(asked, snapshot, moment)
    recorded = tuple(body.get(key, "") for key in ("verdict", "reason", "rule"))
    recorded = (*recorded, _dict(body, "decision").get("line", 0))
    if (now := _spelled(made)) != recorded:
        return f"was {_words(recorded)}, and is {_words(now)}"
    for operation in _also(body):
        if not decide(replace(asked, operation=operation), snapshot, moment).allowed:
            return f"let {operation.method} {operation.name} through beside it, which is refused"
    return ""


def _spelled(made: Decision) -> tuple[Any, ...]:
    return verdict_of(made), str(made.reason or made.would_deny or ""), made.rule, made.line


def _words(decided: tuple[Any, ...]) -> str:
    verdict, reason, rule, line = decided
    by = f" by {rule}" if rule else ""
    return f"{verdict} {reason}{by} (line {line})".replace("  ", " ")


def request_of(body: Facts) -> Request:
    """What was asked, from the record of its decision."""
    facts, decision = _dict(body, "facts"), _dict(body, "decision")
    issued = facts.get("issued")
    return Request(
        session=SpiffeId.parse(facts["id"]),
        service=decision["service"],
        tool_node=decision["tool_node"],
        serials=tuple(facts["serials"]),
        not_after=Wall(facts["not_after"]),
        narrowing=_narrowing(facts.get("narrowing")),
        operation=_operation(body.get("operation")),
        issued=None if issued is None else Wall(issued),
    )


def moment_of(body: Facts) -> Moment:
    """When, by all clocks."""
    found = _dict(body, "moment")
    as_of = found["as_of"]
    return Moment(Wall(found["wall"]), Wall(found["floor"]), None if as_of is None else Wall(as_of))


def _narrowing(facts: Any) -> Narrowing | None:
    if facts is None:
        return None
    operations = facts["operations"]
    return Narrowing(
        frozenset(facts["services"]),
        None if operations is None else tuple(operations),
        Wall(facts["not_after"]),
        tuple(facts["children"]),
    )


def _operation(facts: Any) -> Operation | None:
    if facts is None:
        return None
    holds = frozenset(facts.get("holds", ()))
    return Operation(facts["method"], facts["name"], holds, facts.get("arguments", ""))


def _also(body: Facts) -> Iterator[Operation]:
    for one in body.get("also") or ():  # type: ignore[union-attr]  # a list, as the schema has it
        if (operation := _operation(one)) is not None:
            yield operation


def _dict(body: Facts, key: str) -> dict[str, Any]:
    found = body.get(key)
    return found if isinstance(found, dict) else {}
