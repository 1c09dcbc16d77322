"""What a log shows beyond its own chain: by its node's signatures, and by what its peers have kept. Pure.

Signed     each checkpoint is its node's word for all before it; a log computed anew would need the node's key
Witnessed  each head that a peer kept is a record of this log still; what the node itself took back shows here
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pki.bundle import TrustBundle
from pki.errors import RemoteError
from sidecar.audit.chain import Head, Sealed
from sidecar.audit.checkpoint import EVERY_RECORDS, Note, Signers, note_of
from sidecar.audit.names import order_of
from sidecar.audit.record import Facts, Kind
from sidecar.audit.report import BadRecord, Report

MOST_UNSIGNED = 2 * EVERY_RECORDS
"""Records that may stand without a checkpoint behind them: those of a volume that a crash ended, and of the next."""


class Signed:
    """Judges the checkpoints of one log (:class:`sidecar.audit.verify.Observer`)."""

    def __init__(self, anchor: TrustBundle) -> None:
        self._signers = Signers(anchor)
        self._before: Head | None = None
        self._unsigned = 0

    def take(self, sealed: Sealed, head: Head, report: Report) -> str:
        before, self._before = self._before, head
        if sealed.body.get("kind") != Kind.CHECKPOINT:
            self._unsigned += 1
            too_many = self._unsigned > MOST_UNSIGNED
            return f"has {MOST_UNSIGNED} records before it that no checkpoint signs" if too_many else ""
        try:
            self._check(sealed.body, before)
        except RemoteError as error:
            return f"{error}: what stands before it since the last checkpoint is not shown either"
        self._unsigned = 0
        report.checkpoints += 1
        report.signed = before
        return ""

    def end(self, report: Report) -> BadRecord | None:
        if report.signed is None and report.head is not None:
            return BadRecord(report.head.volume, 1, "begins a log that no checkpoint signs")
        return None

    def _check(self, body: Facts, before: Head | None) -> None:
        note = note_of(body)
        self._signers.learn(body)
        place = (before.volume, before.seq + 1, before.chain.hex()) if before else ()
        if (note.volume, note.count, note.head) != place:
            raise RemoteError("is a checkpoint of another place")
        self._signers.check(note, str(body.get("node")))


@dataclass(frozen=True, slots=True)
class Kept:
    """A head of ``node``'s log, as ``by`` keeps it."""

    node: str
    by: str
    note: Note

    def __str__(self) -> str:
        return f"{self.by} holds record {self.note.count - 1} of {self.note.volume}"


class KeptHeads:
    """The heads that a log keeps of others. It is read whatever else is wrong with that log: each stands by itself."""

    def __init__(self, anchor: TrustBundle) -> None:
        self.kept: list[Kept] = []
        self._signers = Signers(anchor)

    def take(self, body: Mapping[str, object]) -> None:
        """One record of the kind witness; what nobody signed is passed over."""
        try:
            facts: Facts = body  # type: ignore[assignment]  # as a parser of JSON gives it
            note, node = note_of(facts), str(body.get("of"))
            self._signers.learn(facts)
            self._signers.check(note, node)
        except RemoteError:
            return
        self.kept.append(Kept(node, str(body.get("node")), note))


class Witnessed:
    """Holds one log against what others keep of it (:class:`sidecar.audit.verify.Observer`)."""

    def __init__(self, kept: Iterable[Kept]) -> None:
        self._kept: dict[tuple[str, int], list[Kept]] = {}
        for one in kept:
            self._kept.setdefault((one.note.volume, one.note.count - 1), []).append(one)
        self._first: str | None = None

    def take(self, _: Sealed, head: Head, report: Report) -> str:
        self._first = self._first or head.volume
        for one in self._kept.pop((head.volume, head.seq), ()):
            if one.note.head != head.chain.hex():
                return f"is not what its node signed: {one}, and it is another; the log was computed anew, or forked"
            report.witnessed = head
        return ""

    def end(self, _: Report) -> BadRecord | None:
        first = order_of(self._first or "")
        missing = [place for place in self._kept if order_of(place[0]) >= first]
        if not missing:
            return None
        volume, seq = min(missing, key=lambda place: (order_of(place[0]), place[1]))
        one = self._kept[volume, seq][0]
        return BadRecord(
            volume, seq + 1, f"is missing: {one}, signed by its node; the end of the log was cut off"
        )


def forks(kept: Iterable[Kept]) -> list[str]:
    """Where a node signed two heads for one place, which shows without its log."""
    seen: dict[tuple[str, str, int], Kept] = {}
    found = []
    for one in kept:
        first = seen.setdefault((one.node, one.note.volume, one.note.count), one)
        if first.note.head != one.note.head:
            found.append(f"{one.node} signed two logs: {first}; {one}, and it is another")
    return found
