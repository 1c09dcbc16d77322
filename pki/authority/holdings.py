"""Who holds which certificate, and by which token: what `lockgate ca status` shows. Blocking."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from pki.authority import bans
from pki.clock import Wall
from pki.spiffe import SpiffeId
from pki.svid import BACKDATE

LATE = 0.35
"""Below this part of its life a certificate that is renewed at half life, give or take a tenth, is overdue."""


@dataclass(frozen=True, slots=True)
class Holding:
    """The newest certificate of somebody. ``origin``: what its line began with, a token's id or a session's node."""

    id: str
    serial: str
    lineage: str
    not_before: Wall
    not_after: Wall
    origin: str
    revoked: bool

    def ends_soon(self, now: Wall) -> bool:
        """Whether it should have been renewed by now."""
        return not self.revoked and self.not_after - now < LATE * (self.not_after - self.not_before)


def holdings(db: sqlite3.Connection, now: Wall) -> Iterator[Holding]:
    """Everybody's newest certificate that has not expired, within the caller's transaction."""
    query = """SELECT c.spiffe_id, c.serial, c.lineage, c.not_before, c.not_after, coalesce(f.basis, '')
        FROM certificates c LEFT JOIN certificates f ON f.serial = c.lineage
        WHERE c.not_after > ? ORDER BY c.not_before, c.rowid"""
    newest = {row[0]: row for row in db.execute(query, (now,))}
    for name, serial, lineage, begins, ends, origin in sorted(newest.values()):
        since = bans.banned_since(db, SpiffeId.parse(name), lineage, begins + BACKDATE)
        yield Holding(name, serial, lineage, Wall(begins), Wall(ends), origin, since is not None)
