"""What a statement must be, beside rightly signed, before it is let into the store. Pure.

Rules:

1. Nothing from the future: a rogue member could park statements that act later.
2. Nothing expired, by the very rule by which the store deletes: what one member deleted no other brings back.
3. No older bundle than the one in force: rolled back, it would revive a tainted key.
4. Nothing new from a revoked signer, or from a locked operator; what it said before stays in force until lifted.
5. No lock of an operator's own over four hours: a stolen key stops the mesh for so long at most.
6. No demand: it travels inside the unlock that it asks for. Whoever saw an operator's could send it again, and fill
   the operator's quota with what it said long ago.
7. No adoption of anything but a restriction: the CA signs permissions itself.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from pki.bundle import TrustBundle, open_successor
from pki.clock import Wall
from pki.errors import RemoteError
from pki.judge import Trust, Word, judge
from pki.spiffe import IdKind, SpiffeId
from pki.statement import (
    KINDS,
    Adoption,
    Bundle,
    Edition,
    Lock,
    Operator,
    Revocation,
    Signer,
    Statement,
    parse,
)
from pki.verify import Identity, verify
from sidecar.defaults import OPERATOR_LOCK_MAX_TTL, RETENTION, SKEW
from sidecar.gossip.store import Entry, Store
from sidecar.snapshot import Facts, Moment, Restrictions


@dataclass(frozen=True, slots=True)
class Ground:
    """What an intake rests on: whom we trust, what is in force, and what time it is."""

    bundle: TrustBundle
    operator: Callable[[str], Operator | None]
    restrictions: Restrictions
    moment: Moment
    witnessed: Callable[[str], Iterable[int]] = lambda _: ()
    """When nodes had a statement in force, by their receipts (wall, us)."""


def admit(statement: Statement, ground: Ground) -> Word:
    """Who says this, verified and not too late; raises RemoteError naming the rule that refuses it."""
    _check_times(statement, ground.moment)
    if statement.kind == "demand":
        raise RemoteError("statement demand: it travels inside an unlock or unrevoke only")
    if isinstance(statement.body, Bundle):
        return _admit_bundle(statement, ground.bundle)
    word, at = _judged(statement, ground)
    if word.by is not None and _is_revoked(word, word.by, ground, at):
        raise RemoteError(f"statement {statement.kind}: its signer {word.by} is revoked")
    if word.by is not None and _is_locked(word.by, ground):
        raise RemoteError(f"statement {statement.kind}: its signer {word.by} is locked")
    ttl = statement.payload.expires - statement.payload.issued
    if isinstance(statement.body, Lock) and Signer.CA not in word.signers and ttl > OPERATOR_LOCK_MAX_TTL:
        raise RemoteError("statement lock: an operator's lock lasts at most 4 h")
    return word


def _judged(statement: Statement, ground: Ground) -> tuple[Word, Wall]:
    """Who says this, and at what time that was so: now, or when a node's receipt bears witness that it was said.

    With the CA away nobody adopts an operator's restriction, and its certificate lasts 12 hours: whoever joins after
    that would never learn of it. Only for a stop, which a made-up receipt can revive and never lift.
    """
    trust, now = Trust(ground.bundle, ground.operator), ground.moment.now
    try:
        return judge(statement, trust, now), now
    except RemoteError:
        if not isinstance(statement.body, Lock | Revocation):
            raise
        # Receipts are many: looked through only for what a key of the roster did sign.
        judge(statement, trust, Wall(statement.payload.issued))
        for at in ground.witnessed(statement.id):
            with suppress(RemoteError):
                return judge(statement, trust, Wall(min(at, now))), Wall(min(at, now))
        raise


def original_of(statement: Statement) -> Statement | None:
    """What an adoption wraps, None for any other kind; raises RemoteError unless it is a restriction."""
    if not isinstance(statement.body, Adoption):
        return None
    original = parse(statement.body.original)
    kind = KINDS.get(original.kind)
    if kind is None or not kind.restriction:
        raise RemoteError("statement adoption: only restrictions are adopted")
    return original


def later_bundle(store: Store, current: TrustBundle) -> Entry | None:
    """A trust bundle that is held, durably, and not in force yet."""
    entry = store.newest("bundle")
    body = entry.statement.body if entry else None
    if entry is None or not isinstance(body, Bundle):
        return None
    is_later = (entry.statement.payload.epoch, body.sequence) > (current.epoch, current.sequence)
    return entry if is_later else None


def is_acknowledged(statement: Statement) -> bool:
    """Whether taking it in is answered by a receipt. A policy is answered once it is loaded.

    A session's end, said by its own node, is not: nobody waits for it, and an agent that starts and ends sessions all
    day would use up what receipts each node may have alive, those of a kill switch too.
    """
    kind, body = KINDS.get(statement.kind), statement.body
    is_own_end = isinstance(body, Revocation) and body.target.kind == "id"
    is_edition = isinstance(body, Edition)
    return kind is not None and kind.acknowledged and not is_edition and not is_own_end


def _check_times(statement: Statement, moment: Moment) -> None:
    if statement.payload.issued > moment.now + SKEW:
        raise RemoteError(f"statement {statement.kind}: issued in the future")
    if statement.payload.expires + RETENTION <= moment.floor:
        raise RemoteError(f"statement {statement.kind}: expired")


def _admit_bundle(statement: Statement, current: TrustBundle) -> Word:
    bundle = open_successor(statement, current)
    if bundle.digest != current.digest and not bundle.newer_than(current):
        raise RemoteError("trust bundle: older than the one in force")
    return Word(statement, frozenset({Signer.ROOT}), None)


def _is_locked(by: SpiffeId, ground: Ground) -> bool:
    """An operator by its own name: a lock of all stops streams, and must not silence those who could add to it."""
    is_operator = by.kind is IdKind.OPERATOR
    return is_operator and ground.restrictions.is_locked("operator", by.name, ground.moment.floor)


def _is_revoked(word: Word, by: SpiffeId, ground: Ground, at: Wall) -> bool:
    """By name, or by the certificate it signs with."""
    # The judge has verified this very chain at this very moment: the answer is remembered.
    identity = verify(word.statement.envelope.chain, ground.bundle, at)
    if not isinstance(identity, Identity):
        return False
    of_it = Facts(serials=(identity.lineage, identity.serial), issued=identity.issued)
    named = {
        IdKind.NODE: replace(of_it, nodes=(by.name,)),
        IdKind.OPERATOR: replace(of_it, operator=by.name),
        IdKind.AGENT: replace(of_it, id=str(by), agent=by.name, session=by.session, nodes=(by.node,)),
    }
    facts = named.get(by.kind)
    return facts is not None and ground.restrictions.revocation_of(facts) is not None
