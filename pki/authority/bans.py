"""What the register refuses for good: names and lines that were revoked, and what is left of a revocation once lifted.

A **ban** hits every certificate of a name or line, a **cutoff** those issued before an instant. A lifted ban leaves a
cutoff behind, unless it was a mistake: certificates that were stolen before it stay dead. Each works inside the
caller's transaction.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from pki.clock import Wall
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Target


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Certificates of ``target`` issued before ``before`` (wall, us) are revoked, by the statement of this id."""

    statement: str
    target: Target
    before: int


def ban(db: sqlite3.Connection, target: Target, statement: str, at: Wall) -> None:
    """Again is nothing."""
    value = target.value
    if target.kind == "serial":
        # One certificate is revoked with all its renewals, past and to come.
        value = f"{int(value, 16):x}"
        row = db.execute("SELECT lineage FROM certificates WHERE serial = ?", (value,)).fetchone()
        value = row[0] if row else value
    db.execute("INSERT OR IGNORE INTO bans VALUES (?, ?, ?, ?, NULL)", (statement, target.kind, value, at))


def cut_off(db: sqlite3.Connection, cutoff: Cutoff) -> None:
    """Again is nothing."""
    row = (cutoff.statement, cutoff.target.kind, cutoff.target.value, cutoff.before)
    db.execute("INSERT OR IGNORE INTO cutoffs VALUES (?, ?, ?, ?, NULL)", row)


def lift(db: sqlite3.Connection, statements: Iterable[str], before: int, at: Wall) -> None:
    """Lift bans, each down to a cutoff at ``before``; 0: whole, and cutoffs of these statements with them."""
    for name in statements:
        db.execute("UPDATE bans SET lifted = ? WHERE statement = ? AND lifted IS NULL", (at, name))
        if before:
            copied = "INSERT OR IGNORE INTO cutoffs SELECT statement, kind, value, ?, NULL FROM bans WHERE statement = ?"
            db.execute(copied, (before, name))
        else:
            db.execute("UPDATE cutoffs SET lifted = ? WHERE statement = ? AND lifted IS NULL", (at, name))


def banned_since(
    db: sqlite3.Connection, identity: SpiffeId, lineage: str, issued: int | None = None
) -> Wall | None:
    """Since when a certificate of this identity and line is refused; None: it is not. ``issued`` None: by name alone."""
    since: list[int] = []
    for name in (*_names(identity), ("serial", lineage)):
        since += _earliest(
            db, "SELECT min(at) FROM bans WHERE kind = ? AND value = ? AND lifted IS NULL", name
        )
        if issued is not None:
            query = "SELECT min(before) FROM cutoffs WHERE kind = ? AND value = ? AND before > ? AND lifted IS NULL"
            since += _earliest(db, query, (*name, issued))
    return Wall(min(since)) if since else None


def _earliest(db: sqlite3.Connection, query: str, row: tuple[object, ...]) -> list[int]:
    return [at for (at,) in db.execute(query, row) if at is not None]


def _names(identity: SpiffeId) -> list[tuple[str, str]]:
    """All targets of a revocation that mean this identity, but for its serial."""
    if identity.kind is not IdKind.AGENT:
        return [(identity.kind, identity.name)]
    return [
        ("id", str(identity)),
        ("agent", identity.name),
        ("node", identity.node),
        ("session", identity.session),
    ]
