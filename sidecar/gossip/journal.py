"""The statements on disk: SQLite, committed and synced before anything is acknowledged.

Blocking: the shell calls it from a thread. What a member has judged and written is not judged again at start.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from pki.clock import Wall
from pki.errors import LocalError, RemoteError
from pki.statement import Adoption, parse
from sidecar.gossip.store import Entry

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE statements (
    id TEXT PRIMARY KEY, raw BLOB NOT NULL, author TEXT NOT NULL, accepted INTEGER NOT NULL, adoption BLOB
) STRICT;
CREATE TABLE heartbeat (
    only INTEGER PRIMARY KEY CHECK (only = 1), raw BLOB NOT NULL, boot_id TEXT NOT NULL, received INTEGER NOT NULL,
    confirmed INTEGER NOT NULL
) STRICT;
"""


class Journal:
    """One file. ``create`` makes it at join; ``open`` refuses when it is missing, corrupt or newer."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        if not create and not path.exists():
            raise LocalError(f"{path}: the statement store is gone; restore it, or join again in an empty folder")
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            version = self._database.execute("PRAGMA user_version").fetchone()[0]
            if version == 0 and create:
                self._database.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
            elif version != SCHEMA_VERSION:
                raise LocalError(f"{path}: schema version {version}, this version reads {SCHEMA_VERSION}")
            if self._database.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise LocalError(f"{path}: the statement store is corrupt; restore it from a copy")
        except sqlite3.DatabaseError as error:
            raise LocalError(f"{path}: {error}") from None
        self._path = path

    def close(self) -> None:
        self._database.close()

    def append(self, entries: Iterable[Entry]) -> None:
        """Write entries, replacing those of the same id; durable on return. Raises LocalError."""
        rows = [
            (e.statement.id, e.statement.raw, e.author, e.accepted, e.adoption.raw if e.adoption else None)
            for e in entries
        ]
        self._write("INSERT OR REPLACE INTO statements VALUES (?, ?, ?, ?, ?)", rows)

    def delete(self, ids: Iterable[str]) -> None:
        self._write("DELETE FROM statements WHERE id = ?", [(name,) for name in ids])

    def keep_heartbeat(self, raw: bytes, boot_id: str, received: int, confirmed: bool) -> None:
        row = (1, raw, boot_id, received, int(confirmed))
        self._write("INSERT OR REPLACE INTO heartbeat VALUES (?, ?, ?, ?, ?)", [row])

    def heartbeat(self) -> tuple[bytes, str, int, bool] | None:
        """The newest heartbeat kept: envelope, the boot it came in, boot time (us), whether complete then."""
        row = self._database.execute("SELECT raw, boot_id, received, confirmed FROM heartbeat").fetchone()
        return None if row is None else (row[0], row[1], row[2], bool(row[3]))

    def entries(self) -> list[Entry]:
        """Everything held; raises LocalError when a row does not parse."""
        rows = self._database.execute("SELECT raw, author, accepted, adoption FROM statements").fetchall()
        try:
            return [_entry(*row) for row in rows]
        except RemoteError as error:
            raise LocalError(f"{self._path}: a row is corrupt ({error}); restore it from a copy") from None

    def _write(self, statement: str, rows: list[tuple[object, ...]] | list[tuple[str]]) -> None:
        if not rows:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise LocalError(f"{self._path}: {error}") from None


def _entry(raw: bytes, author: str, accepted: int, adoption: bytes | None) -> Entry:
    adopted = None if adoption is None else parse(adoption)
    if adopted is not None and not isinstance(adopted.body, Adoption):
        raise RemoteError("not an adoption")
    return Entry(parse(raw), author, Wall(accepted), adopted)
