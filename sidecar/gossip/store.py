"""The statement store: one merge, grow-only, idempotent, free of order for what the CA numbered.

Rules:

1. An entry is never evicted. It leaves when its statement has expired by the floor for longer than RETENTION,
   or when a newer statement of the same subject (policy, bundle, member of one name) supersedes it.
2. In force = restrictions that have not ended by the floor, less the ids that an unlock (for locks) or an
   unrevoke (for revocations) names. A lift may arrive before what it lifts: nothing depends on order. A lift
   counts only once it is durable, a restriction at once.
3. An adoption is the CA's number on somebody else's restriction. The restriction keeps its own id, and both
   ids count as held.

Pure: who signed is judged before (:mod:`pki.judge`), durability comes after (:mod:`sidecar.gossip.journal`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pki.clock import HOUR, MINUTE, Wall
from pki.judge import Word
from pki.statement import KINDS, Adoption, Bundle, Lift, Lock, Member, Policy, Receipt, Revocation, Statement
from sidecar.gossip import digest

OPERATOR_LOCK_LIFE = 4 * HOUR

RETENTION = MINUTE
"""How much longer than its expiry a statement is kept, so that a heartbeat's set is still whole (us)."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement as held. ``adoption`` is the CA's statement that took it over, if any."""

    statement: Statement
    author: str
    accepted: Wall
    adoption: Statement | None = None

    @property
    def numbered(self) -> Statement | None:
        """The statement that carries the CA's number for this entry."""
        if self.adoption is not None:
            return self.adoption
        return self.statement if self.statement.payload.number else None

    @property
    def ends(self) -> int:
        """When a restriction ends (wall, us). An operator alone stops the mesh for OPERATOR_LOCK_LIFE at most."""
        if self.adoption is not None:
            return self.adoption.payload.expires
        expires = self.statement.payload.expires
        if self.statement.kind == "lock" and self.numbered is None:
            return min(expires, self.accepted + OPERATOR_LOCK_LIFE)
        return expires


class Store:
    """What a member holds. Changed by :meth:`merge` and :meth:`expire` only."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._adoptions: dict[str, str] = {}
        self._newest: dict[tuple[str, str], str] = {}
        self._settled: set[str] = set()
        self._ids_digest: str | None = None

    def __contains__(self, statement_id: str) -> bool:
        return statement_id in self._entries or statement_id in self._adoptions

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, statement_id: str) -> Entry | None:
        return self._entries.get(self._adoptions.get(statement_id, statement_id))

    def raw(self, statement_id: str) -> bytes | None:
        """The envelope of an id that is held."""
        entry = self.entry(statement_id)
        if entry is None:
            return None
        if statement_id in self._adoptions and entry.adoption is not None:
            return entry.adoption.raw
        return entry.statement.raw

    def ids(self) -> list[str]:
        return [*self._entries, *self._adoptions]

    def ids_digest(self) -> str:
        if self._ids_digest is None:
            self._ids_digest = digest.of_ids(self.ids())
        return self._ids_digest

    def merge(self, word: Word, original: Statement | None, at: Wall) -> bool:
        """Take in a verified statement; ``original`` is what an adoption wraps. False: nothing changed."""
        statement = word.statement
        if statement.id in self:
            return False
        if isinstance(statement.body, Adoption) and original is not None:
            self._adopt(statement, original, word.author, at)
        elif not self._supersede(statement):
            return False
        else:
            self._entries[statement.id] = Entry(statement, word.author, at)
        self._ids_digest = None
        return True

    def restore(self, entry: Entry) -> None:
        """Put back an entry that was merged before a restart."""
        self._entries[entry.statement.id] = entry
        if entry.adoption is not None:
            self._adoptions[entry.adoption.id] = entry.statement.id
        key = _subject(entry.statement)
        if key is not None:
            self._newest[key] = entry.statement.id
        self._settled.add(entry.statement.id)
        self._ids_digest = None

    def settle(self, ids: Iterable[str]) -> None:
        """These are durable now. A lift counts only from here on: what permits is never taken from memory."""
        self._settled.update(name for name in ids if name in self._entries)

    def forget(self, ids: Iterable[str]) -> None:
        """Let go of what could not be made durable; repair brings it again."""
        for name in ids:
            if name in self._entries:
                self._drop(name)

    def expire(self, floor: Wall) -> list[str]:
        """Delete what ended more than RETENTION before ``floor``; the ids that went."""
        gone = [name for name, entry in self._entries.items() if _gone_after(entry) + RETENTION <= floor]
        for name in gone:
            self._drop(name)
        return gone

    def numbered_digest(self, after: int) -> str:
        """The set that a heartbeat issued at ``after`` (us) promises: all numbered that expire later."""
        return digest.of_numbered(
            (numbered.payload.number, numbered.digest)
            for entry in self._entries.values()
            if (numbered := entry.numbered) is not None and numbered.payload.expires > after
        )

    def in_force(self, floor: Wall) -> Iterator[Entry]:
        """The restrictions that hold at ``floor``."""
        lifted = self._lifted()
        for name, entry in self._entries.items():
            if isinstance(entry.statement.body, Lock | Revocation) and entry.ends > floor:
                if (entry.statement.kind, name) not in lifted:
                    yield entry

    def newest(self, kind: str, subject: str = "") -> Entry | None:
        """The policy or bundle statement in force, or a member's entry (``node/NAME``, ``operator/NAME``)."""
        name = self._newest.get((kind, subject))
        return None if name is None else self._entries[name]

    def members(self) -> Iterator[Member]:
        for kind, subject in self._newest:
            entry = self.newest(kind, subject)
            if entry is not None and isinstance(entry.statement.body, Member):
                yield entry.statement.body

    def receipts(self, statement_id: str) -> dict[str, Receipt]:
        """Who acknowledged a statement: author's SPIFFE ID to its receipt."""
        found = {}
        for entry in self._entries.values():
            body = entry.statement.body
            if isinstance(body, Receipt) and any(line.id == statement_id for line in body.applied):
                found[entry.author] = body
        return found

    def _lifted(self) -> set[tuple[str, str]]:
        lifts = {"unlock": "lock", "unrevoke": "revocation"}
        return {
            (lifts[entry.statement.kind], name)
            for entry in self._entries.values()
            if isinstance(entry.statement.body, Lift) and entry.statement.id in self._settled
            for name in entry.statement.body.ids
        }

    def _adopt(self, adoption: Statement, original: Statement, author: str, at: Wall) -> None:
        known = self._entries.get(original.id)
        entry = known or Entry(original, author, at)
        self._entries[original.id] = replace(entry, adoption=adoption)
        self._adoptions[adoption.id] = original.id

    def _supersede(self, statement: Statement) -> bool:
        """Whether ``statement`` is to be kept; drops what it supersedes."""
        key = _subject(statement)
        if key is None:
            return True
        held = self.newest(*key)
        if held is not None:
            if _order(held.statement) >= _order(statement):
                return False
            self._drop(held.statement.id)
        self._newest[key] = statement.id
        return True

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name)
        self._settled.discard(name)
        if entry.adoption is not None:
            del self._adoptions[entry.adoption.id]
        key = _subject(entry.statement)
        if key is not None and self._newest.get(key) == name:
            del self._newest[key]
        self._ids_digest = None


def merge_order(statements: Iterable[Statement]) -> list[Statement]:
    """Bundles, then the CA's in its order, then the rest: who may sign is known before what was signed."""
    return sorted(statements, key=lambda s: (s.kind != "bundle", s.payload.number == 0, s.payload.number))


def is_restriction(statement: Statement) -> bool:
    """Whether it only ever takes away: such a statement acts before it is durable."""
    kind = KINDS.get(statement.kind)
    return statement.kind == "adoption" or (kind is not None and kind.restriction)


def _gone_after(entry: Entry) -> int:
    adopted = entry.adoption.payload.expires if entry.adoption else 0
    return max(entry.statement.payload.expires, adopted)


def _subject(statement: Statement) -> tuple[str, str] | None:
    body = statement.body
    if isinstance(body, Policy | Bundle):
        return statement.kind, ""
    if isinstance(body, Member):
        kind = type(body.member).__name__.lower()
        return statement.kind, f"{kind}/{body.member.name}"
    return None


def _order(statement: Statement) -> tuple[int, int, int]:
    body = statement.body
    sequence = 0
    if isinstance(body, Policy | Bundle):
        sequence = body.sequence
    elif isinstance(body, Member):
        sequence = body.member.sequence
    return statement.payload.epoch, sequence, statement.payload.number
