"""Heads of logs as members tell each other: each keeps the others' in its own log, as a witness.

A node signs how far its log goes (:mod:`sidecar.audit.checkpoint`), and gossip carries the newest of that to all
members. Each writes it down with the signature. Who later cuts off the end of a log, or computes it anew, would have
to do the same on every other member: their words hold without trust in them, since the node signed for it itself.

A head that goes back, or two of one place that differ, is a finding at once: somebody has begun to tell another story.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from pki.clock import HOUR, Clock, Wall
from pki.judge import Word
from pki.statement import AuditHead, Statement, Terms, sign
from sidecar.audit.checkpoint import EVERY_SECONDS, Note, Signatory, introduction, is_signed, leaf_of
from sidecar.audit.names import order_of
from sidecar.audit.record import Kind, Record, finding

HEAD_LIFE = HOUR
POLL = 1.0


class Heads:
    """What this member has heard of the others' logs. ``name`` is its own: its own head is no witness."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._newest: dict[str, Note] = {}
        self._introduced: dict[str, tuple[str, str]] = {}

    def records_of(self, statement: Statement, word: Word, at: Wall, volume: str) -> list[Record]:
        """What to write down of a statement; ``volume``: that of our log, which may not know the signer yet."""
        body = statement.body
        if not isinstance(body, AuditHead) or word.by is None or word.by.name == self._name:
            return []
        node, chain = word.by.name, tuple(statement.envelope.chain)
        note = Note(
            by=str(word.by),
            volume=body.volume,
            count=body.count,
            head=body.head,
            at=Wall(body.at),
            signature=body.signature,
            leaf=leaf_of(chain),
        )
        if not is_signed(note, chain):  # a word that could not be shown to anybody else is none
            return [finding(at, "audit_head_unsigned", {"of": node})]
        who = {} if self._introduced.get(node) == (note.leaf, volume) else introduction(chain)
        self._introduced[node] = note.leaf, volume
        before = self._newest.get(node)
        self._newest[node] = note
        kept = Record(Kind.WITNESS, at, {"of": node, **note.facts(), **who})
        fault = _conflict(before, note) if before else ""
        if before is None or not fault:
            return [kept]
        return [kept, finding(at, fault, {"of": node, "before": before.facts(), "now": note.facts()})]


class Log(Protocol):
    """Our own log (:class:`sidecar.audit.writer.AuditWriter`)."""

    note: Note | None


class HeadTeller:
    """Tells the members how far our log goes. ``publish`` takes envelopes, ``epoch`` is the trust bundle's."""

    def __init__(
        self,
        log: Log,
        signatory: Callable[[], Signatory],
        epoch: Callable[[], int],
        clock: Clock,
        publish: Callable[[list[bytes]], None],
    ) -> None:
        self._log = log
        self._signatory = signatory
        self._epoch = epoch
        self._clock = clock
        self._publish = publish
        self._told: Note | None = None

    async def run(self) -> None:
        """Until cancelled: what is new, and not too often."""
        while True:
            was_new = self.tell()
            await trio.sleep(EVERY_SECONDS if was_new else POLL)

    def tell(self) -> bool:
        """Publish the newest head, if it is new; whether it was."""
        note, signatory = self._log.note, self._signatory()
        # After a renewal the next checkpoint, a moment away, is under the new key.
        if note is None or note == self._told or note.leaf != signatory.leaf:
            return False
        now = self._clock.wall()
        body = AuditHead(
            volume=note.volume, count=note.count, head=note.head, at=note.at, signature=note.signature
        )
        terms = Terms(self._epoch(), now, now + HEAD_LIFE)
        self._publish([sign("audit-head", body, terms, signatory.key, signatory.chain).raw])
        self._told = note
        return True


def _conflict(before: Note, now: Note) -> str:
    """What two heads of one log cannot both be, the second signed later; empty: they can."""
    old, new = (order_of(before.volume), before.count), (order_of(now.volume), now.count)
    if new < old:
        return "audit_head_went_back"
    return "audit_head_forked" if new == old and now.head != before.head else ""
