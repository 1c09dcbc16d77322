"""The statements on disk: SQLite, committed and synced before anything is acknowledged.

Blocking: the shell calls it from one thread at a time. What a member has judged and written is not judged again at
start. A missing or damaged file where one was is an error and never an empty store: a node that forgot its
revocations would serve the revoked.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pki.clock import Boot, Wall
from pki.errors import LocalError, RemoteError
from pki.statement import Adoption, Heartbeat, Statement, parse
from sidecar.gossip.freshness import Beat
from sidecar.gossip.store import Entry, by_number

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE statements (
    id TEXT PRIMARY KEY, raw BLOB NOT NULL, author TEXT NOT NULL, accepted INTEGER NOT NULL
) STRICT;
CREATE TABLE adoptions (
    id TEXT PRIMARY KEY, raw BLOB NOT NULL, original TEXT NOT NULL REFERENCES statements (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX adoptions_by_original ON adoptions (original);
CREATE TABLE heartbeats (
    standing TEXT PRIMARY KEY CHECK (standing IN ('newest', 'confirmed')),
    raw BLOB NOT NULL, boot_id TEXT NOT NULL, received INTEGER
) STRICT;
"""

Rows = Sequence[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class KeptBeat:
    """A heartbeat, the boot in which it came, and the boot time (us) then; None: before that boot."""

    raw: bytes
    boot_id: str
    received: int | None

    @classmethod
    def of(cls, beat: Beat, boot_id: str) -> Self:
        return cls(beat.statement.raw, boot_id, beat.received)

    def beat(self, boot_id: str) -> Beat:
        """The heartbeat as it counts in the boot ``boot_id``; raises LocalError when it is damaged."""
        try:
            statement = parse(self.raw)
        except RemoteError as error:
            raise LocalError(f"the heartbeat that was kept is damaged: {error}") from None
        if not isinstance(statement.body, Heartbeat):
            raise LocalError("the heartbeat that was kept is another statement")
        is_ours = self.boot_id == boot_id and self.received is not None
        return Beat(statement, statement.body, Boot(self.received or 0) if is_ours else None)


class Journal:
    """One file. ``create`` makes it at join; without it a missing file is refused. Raises LocalError throughout."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.exists():
            raise LocalError(
                f"{path}: the statement store is gone; restore it, or join again in an empty folder"
            )
        self._path = path
        if create:
            _make_private(path)
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise LocalError(f"{path}: {error}") from None
        try:
            self._open(create=create)
        except sqlite3.Error as error:
            self._database.close()
            raise LocalError(f"{path}: {error}; restore it from a copy") from None
        except LocalError:
            self._database.close()
            raise

    def close(self) -> None:
        self._database.close()

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries; of one that is held, only adoptions that are new. Durable on return, all or none."""
        statements: list[tuple[object, ...]] = []
        adoptions: list[tuple[object, ...]] = []
        for entry in entries:
            statement = entry.statement
            statements.append((statement.id, statement.raw, entry.author, entry.accepted))
            adoptions += [(adoption.id, adoption.raw, statement.id) for adoption in entry.adoptions]
        self._write(
            ("INSERT OR IGNORE INTO statements VALUES (?, ?, ?, ?)", statements),
            ("INSERT OR IGNORE INTO adoptions VALUES (?, ?, ?)", adoptions),
        )

    def delete(self, ids: Iterable[str]) -> None:
        """Delete entries with their adoptions."""
        self._write(("DELETE FROM statements WHERE id = ?", [(name,) for name in ids]))

    def keep_heartbeats(self, newest: KeptBeat, confirmed: KeptBeat | None) -> None:
        """Write the newest heartbeat, and the newest one at which this member was complete."""
        kept = {"newest": newest, "confirmed": confirmed}
        rows = [(standing, beat.raw, beat.boot_id, beat.received) for standing, beat in kept.items() if beat]
        self._write(("INSERT OR REPLACE INTO heartbeats VALUES (?, ?, ?, ?)", rows))

    def heartbeats(self) -> tuple[KeptBeat | None, KeptBeat | None]:
        """What :meth:`keep_heartbeats` wrote last: newest and confirmed."""
        rows = self._read("SELECT standing, raw, boot_id, received FROM heartbeats")
        kept = {standing: KeptBeat(*rest) for standing, *rest in rows}
        return kept.get("newest"), kept.get("confirmed")

    def entries(self) -> list[Entry]:
        """Everything held."""
        adoptions: dict[str, list[Statement]] = {}
        try:
            for original, raw in self._read("SELECT original, raw FROM adoptions"):
                adoptions.setdefault(original, []).append(_adoption(raw))
            rows = self._read("SELECT id, raw, author, accepted FROM statements")
            return [
                Entry(_statement(name, raw), author, Wall(accepted), by_number(adoptions.get(name, ())))
                for name, raw, author, accepted in rows
            ]
        except RemoteError as error:
            raise LocalError(f"{self._path}: a row is corrupt ({error}); restore it from a copy") from None

    def _open(self, *, create: bool) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and create:
            self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version == 0:
            raise LocalError(f"{self._path}: the statement store is empty; restore it from a copy")
        elif version != SCHEMA_VERSION:
            raise LocalError(f"{self._path}: schema version {version}, this version reads {SCHEMA_VERSION}")
        if self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise LocalError(f"{self._path}: the statement store is corrupt; restore it from a copy")

    def _read(self, query: str) -> list[tuple[Any, ...]]:
        """Rows whose types the STRICT schema fixes."""
        try:
            return self._database.execute(query).fetchall()
        except sqlite3.Error as error:
            raise LocalError(f"{self._path}: {error}") from None

    def _write(self, *work: tuple[str, Rows]) -> None:
        """One transaction. A failed one leaves nothing behind: SQLite writes its frames anew, so trying again is safe."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for statement, rows in work:
                self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise LocalError(f"{self._path}: {error}") from None


def _make_private(path: Path) -> None:
    """SQLite gives its other files this mode too. Whoever may read them may lock them, and stop every write."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror}") from None


def _adoption(raw: bytes) -> Statement:
    adoption = parse(raw)
    if not isinstance(adoption.body, Adoption):
        raise RemoteError("not an adoption")
    return adoption


def _statement(name: str, raw: bytes) -> Statement:
    statement = parse(raw)
    if statement.id != name:
        raise RemoteError("the id is another statement's")
    return statement
