"""The statement store: one merge, grow-only, idempotent, free of order for what the CA numbered.

Rules:

1. An entry is never evicted. It leaves when its statement has expired by the floor for longer than RETENTION (so
   that a heartbeat's set is still whole), or when a newer, *settled* statement of the same subject (policy, canary,
   bundle, member of one name, audit head of one node) supersedes it.
2. In force = restrictions that have not ended by the floor, less the ids that an unlock (for locks) or an
   unrevoke (for revocations) names. A lift may arrive before what it lifts: nothing depends on order. An unrevoke
   leaves a cutoff, in the same statement: no member can ever hold the one without the other.
3. A restriction counts from the merge on. What permits (a lift, a roster entry, a policy, a bundle) counts once it
   is *settled*, which is to say durable; until then the one before it stays.
4. An adoption is the CA's number on somebody else's restriction. The restriction keeps its own id, and the ids of
   both count as held. Adopted twice, it has two numbers and ends at the later of the two.
5. A signer beyond its quota is refused; what it has in force stays. Without a quota one stolen key could fill the
   disk of every member. What the CA numbers has none.

Pure: who signed is judged before (:mod:`sidecar.gossip.intake`), durability comes after
(:mod:`sidecar.gossip.journal`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from pki.certificate import read
from pki.clock import Wall
from pki.errors import RemoteError
from pki.judge import Word
from pki.profile import check_leaf
from pki.spiffe import IdKind
from pki.statement import (
    KINDS,
    Adoption,
    Cutoff,
    Edition,
    Finding,
    Lift,
    Lock,
    Member,
    Revocation,
    RolloverAck,
    Statement,
)
from sidecar.defaults import OPERATOR_LOCK_MAX_TTL, RETENTION
from sidecar.gossip import digest
from sidecar.gossip.quota import allowance, quotas_of
from sidecar.gossip.versions import is_conflict, is_superseded, order_of, subject_of

_CA = "ca"


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement as held. ``accepted`` is when it was first seen; ``author`` a SPIFFE ID, or ca or root."""

    statement: Statement
    author: str
    accepted: Wall
    adoptions: tuple[Statement, ...] = ()
    """The CA's statements that took it over, by number."""

    @property
    def numbered(self) -> tuple[Statement, ...]:
        """The statements that carry a number of the CA's for this entry."""
        own = (self.statement,) if self.statement.payload.number else ()
        return (*own, *self.adoptions)

    @property
    def ends(self) -> int:
        """When a restriction ends (wall, us). An operator alone stops the mesh for OPERATOR_LOCK_MAX_TTL at most."""
        if self.numbered:
            return max(statement.payload.expires for statement in self.numbered)
        expires = self.statement.payload.expires
        is_short = self.statement.kind in ("lock", "finding")
        return min(expires, self.accepted + OPERATOR_LOCK_MAX_TTL) if is_short else expires


class Store:
    """What a member holds. Changed by :meth:`merge`, :meth:`settle`, :meth:`forget` and :meth:`expire` only."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._adoptions: dict[str, str] = {}
        self._subjects: dict[tuple[str, str], set[str]] = {}
        self._settled: set[str] = set()
        self._quota: Counter[tuple[str, str]] = Counter()
        self._ids_digest: str | None = None
        self._keys: frozenset[bytes] | None = None
        self._epoch = 0
        self.named = ""
        """The digest of the policy that the newest heartbeat names."""

    def __contains__(self, statement_id: str) -> bool:
        return statement_id in self._entries or statement_id in self._adoptions

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, statement_id: str) -> Entry | None:
        """The entry of a statement, by its own id or by that of an adoption."""
        return self._entries.get(self._adoptions.get(statement_id, statement_id))

    def raw(self, statement_id: str) -> bytes | None:
        """The envelope of an id that is held."""
        entry = self.entry(statement_id)
        held = (entry.statement, *entry.adoptions) if entry else ()
        return next((statement.raw for statement in held if statement.id == statement_id), None)

    def last_number(self) -> int:
        """The highest number of the CA's that is held; 0 before the first."""
        numbers = (one.payload.number for entry in self._entries.values() for one in entry.numbered)
        return max(numbers, default=0)

    def ids(self) -> list[str]:
        return [*self._entries, *self._adoptions]

    def ids_digest(self) -> str:
        if self._ids_digest is None:
            self._ids_digest = digest.of_ids(self.ids())
        return self._ids_digest

    def trust(self, keys: Iterable[bytes], epoch: int) -> None:
        """From now on only these statement keys (certificates, DER), and this epoch, count in a heartbeat's set."""
        self._keys, self._epoch = frozenset(keys), epoch

    def counts(self, statement: Statement) -> bool:
        """Whether a statement of the CA's is under a key and an epoch that are trusted now."""
        is_trusted = self._keys is None or statement.envelope.chain[0] in self._keys
        return is_trusted and self._epoch in (0, statement.payload.epoch)

    def purge(self) -> list[str]:
        """Drop what the CA permitted under keys and epochs that count no more; the ids that went. Stops stay."""
        gone = [
            name
            for name, entry in self._entries.items()
            if entry.author == _CA
            and not is_restriction(entry.statement)
            and not self.counts(entry.statement)
        ]
        for name in gone:
            self._drop(name)
        return gone

    def merge(self, word: Word, original: Statement | None, at: Wall) -> bool:
        """Take in a verified statement; ``original`` is what an adoption wraps. False: nothing changed.

        Raises RemoteError when its signer has had its quota.
        """
        statement = word.statement
        if statement.id in self:
            return False
        if isinstance(statement.body, Adoption) and original is not None:
            known = self._entries.get(original.id)
            entry = known or Entry(original, _signer_of(original) or word.author, at)
            self._hold(replace(entry, adoptions=by_number((*entry.adoptions, statement))))
            return True
        entry = Entry(statement, word.author, at)
        if any(is_superseded(statement, rival.statement) for rival in self._rivals(entry)):
            return False
        self._check_quota(entry)
        self._hold(entry)
        return True

    def of_kinds(self, *kinds: str) -> Iterator[Entry]:
        """What counts of these kinds: settled, or a restriction, which counts at once."""
        for name, entry in self._entries.items():
            kind = entry.statement.kind
            if kind in kinds and (name in self._settled or is_restriction(entry.statement)):
                yield entry

    def restore(self, entry: Entry) -> None:
        """Put back an entry that was settled before a restart; :meth:`settle` them all once they are back."""
        self._hold(entry)

    def settle(self, ids: Iterable[str]) -> list[str]:
        """These are durable now, so that what permits counts; the ids of what that superseded, now gone."""
        gone: list[str] = []
        for name in ids:
            entry = self._entries.get(name)
            if entry is None:
                continue
            self._settled.add(name)
            for rival in self._rivals(entry):
                if is_superseded(rival.statement, entry.statement):
                    self._drop(rival.statement.id)
                    gone.append(rival.statement.id)
        return gone

    def forget(self, ids: Iterable[str]) -> None:
        """Let go of what could not be made durable; repair brings it again."""
        for name in ids:
            if name in self._entries and name not in self._settled:
                self._drop(name)

    def expire(self, floor: Wall) -> list[str]:
        """Delete what ended more than RETENTION before ``floor``; the ids that went."""
        gone = [name for name, entry in self._entries.items() if _expires(entry) + RETENTION <= floor]
        for name in gone:
            self._drop(name)
        return gone

    def numbered_digest(self, after: int, up_to: int | None = None) -> str:
        """The set that a heartbeat issued at ``after`` (us) promises: all numbered, up to its number, that expire later."""
        return digest.of_numbered(
            (statement.payload.number, statement.digest)
            for entry in self._entries.values()
            for statement in entry.numbered
            if statement.payload.expires > after and (up_to is None or statement.payload.number <= up_to)
            if self.counts(statement)
        )

    def in_force(self, floor: Wall) -> Iterator[Entry]:
        """The restrictions that hold at ``floor``."""
        lifted = self._lifted()
        for name, entry in self._entries.items():
            is_live = isinstance(entry.statement.body, Lock | Revocation) and entry.ends > floor
            if is_live and (entry.statement.kind, name) not in lifted:
                yield entry

    def cutoffs(self, floor: Wall) -> Iterator[tuple[Entry, Wall]]:
        """The CA's cutoffs, and what is left of revocations that were lifted: with the instant that they reach to."""
        lifted = self._lifted()
        for name, entry in self._entries.items():
            body = entry.statement.body
            before = body.before if isinstance(body, Cutoff) else 0
            before = lifted.get((entry.statement.kind, name), before)
            if isinstance(body, Cutoff | Revocation) and before and entry.ends > floor:
                yield entry, Wall(before)

    def findings(self, author: str, floor: Wall) -> Iterator[Entry]:
        """What a node found and acts on, until its end or an unlock."""
        lifted = self._lifted()
        for name, entry in self._entries.items():
            body = entry.statement.body
            is_live = isinstance(body, Finding) and body.enforced and entry.ends > floor
            if is_live and entry.author == author and ("finding", name) not in lifted:
                yield entry

    def is_lifted(self, kind: str, name: str) -> bool:
        """Whether a statement of this kind and id was lifted."""
        return (kind, name) in self._lifted()

    def newest(self, kind: str, subject: str = "") -> Entry | None:
        """The newest policy, canary or bundle statement, or a member's entry (``node/NAME``, ``operator/NAME``)."""
        held = self._subjects.get((kind, subject), ())
        settled = [self._entries[name] for name in held if name in self._settled]
        return max(settled, key=lambda entry: self._precedence(entry.statement), default=None)

    def conflicts(self, statement: Statement) -> list[str]:
        """What is held and says something else at the same sequence: evidence that a key signs for two."""
        entry = self.entry(statement.id)
        rivals = [rival.statement for rival in self._rivals(entry)] if entry else []
        return [rival.id for rival in rivals if is_conflict(rival, statement)]

    def _precedence(self, statement: Statement) -> tuple[int, int, bool, int, bytes]:
        """By sequence; of two policies at one, that which the heartbeat names, else whichever all agree on."""
        epoch, sequence, number, digest = order_of(statement)
        is_named = isinstance(statement.body, Edition) and statement.body.digest == self.named
        return epoch, sequence, is_named, number, digest

    def members(self) -> Iterator[Member]:
        """The newest entry of each member."""
        for kind, subject in self._subjects:
            entry = self.newest(kind, subject)
            if entry is not None and isinstance(entry.statement.body, Member):
                yield entry.statement.body

    def acknowledgements(self) -> dict[str, RolloverAck]:
        """What each node said last of the trust bundle that it has in force: author's SPIFFE ID to its word."""
        found: dict[str, Entry] = {}
        for entry in self._entries.values():
            if isinstance(entry.statement.body, RolloverAck):
                found[entry.author] = max(found.get(entry.author, entry), entry, key=_issued)
        return {author: entry.statement.body for author, entry in found.items()}  # type: ignore[misc]  # all RolloverAcks

    def of_the_ca(self) -> Iterator[Entry]:
        """All that the CA said itself or took over."""
        return (entry for entry in self._entries.values() if entry.numbered)

    def _lifted(self) -> dict[tuple[str, str], int]:
        """What is lifted, with its kind: a stolen unlock must not be worth an unrevoke; and down to which cutoff.

        Lifted twice, the earlier cutoff holds: a mistake is lifted whole (0), whatever was said before or after.
        """
        lifts = {"unlock": ("lock", "finding"), "unrevoke": ("revocation", "cutoff")}
        lifted: dict[tuple[str, str], int] = {}
        for entry in self._entries.values():
            body = entry.statement.body
            if isinstance(body, Lift) and entry.statement.id in self._settled:
                for key in product(lifts[entry.statement.kind], body.ids):
                    lifted[key] = min(body.before, lifted.get(key, body.before))
        return lifted

    def _rivals(self, entry: Entry) -> list[Entry]:
        """What is held of the same subject, itself included."""
        subject = subject_of(entry.statement, entry.author)
        return [self._entries[name] for name in self._subjects.get(subject, ())] if subject else []

    def _check_quota(self, entry: Entry) -> None:
        for quota in quotas_of(entry.author, entry.statement):
            if self._quota[quota] >= allowance(quota):
                raise RemoteError(
                    f"statement {entry.statement.kind}: its signer has {self._quota[quota]} live already, the most there may be"
                )

    def _hold(self, entry: Entry) -> None:
        name = entry.statement.id
        if name not in self._entries:
            self._count(entry, 1)
        self._entries[name] = entry
        self._adoptions |= {adoption.id: name for adoption in entry.adoptions}
        subject = subject_of(entry.statement, entry.author)
        if subject is not None:
            self._subjects.setdefault(subject, set()).add(name)
        self._ids_digest = None

    def _drop(self, name: str) -> None:
        entry = self._entries.pop(name)
        self._count(entry, -1)
        self._settled.discard(name)
        for adoption in entry.adoptions:
            del self._adoptions[adoption.id]
        subject = subject_of(entry.statement, entry.author)
        if subject is not None:
            self._subjects[subject].discard(name)
            if not self._subjects[subject]:
                del self._subjects[subject]
        self._ids_digest = None

    def _count(self, entry: Entry, change: int) -> None:
        self._quota += Counter(dict.fromkeys(quotas_of(entry.author, entry.statement), change))


def stages(statements: Iterable[Statement]) -> list[list[Statement]]:
    """Bundles, the CA's in its order, receipts, the rest: who may sign, and what bears witness, before what is judged."""
    bundles: list[Statement] = []
    numbered: list[Statement] = []
    receipts: list[Statement] = []
    others: list[Statement] = []
    for statement in statements:
        rest = receipts if statement.kind == "receipt" else others
        stage = bundles if statement.kind == "bundle" else numbered if statement.payload.number else rest
        stage.append(statement)
    numbered.sort(key=lambda statement: statement.payload.number)
    return [stage for stage in (bundles, numbered, receipts, others) if stage]


def by_number(adoptions: Iterable[Statement]) -> tuple[Statement, ...]:
    """Adoptions of one statement in the order in which an entry keeps them."""
    return tuple(sorted(adoptions, key=lambda adoption: (adoption.payload.number, adoption.digest)))


def is_restriction(statement: Statement) -> bool:
    """Whether it only ever takes away: such a statement acts before it is durable."""
    kind = KINDS.get(statement.kind)
    return statement.kind == "adoption" or (kind is not None and kind.restriction)


def _signer_of(statement: Statement) -> str:
    """Whom its own chain names: the CA, which adopted it, has judged that. Empty if that is nobody."""
    try:
        name, _ = check_leaf(read(statement.envelope.chain[0]), "")
    except RemoteError:
        return ""
    # The CA's own word, adopted after a rollover of its statement key, stays the CA's.
    return str(name) if name is not None and name.kind is not IdKind.CA else ""


def _expires(entry: Entry) -> int:
    return max(statement.payload.expires for statement in (entry.statement, *entry.adoptions))


def _issued(entry: Entry) -> tuple[int, str]:
    return entry.statement.payload.issued, entry.statement.id
