import sqlite3
from pathlib import Path

import pytest

from pki.clock import Boot, Wall
from pki.errors import LocalError
from sidecar.gossip.freshness import Beat
from sidecar.gossip.journal import Journal, KeptBeat
from sidecar.gossip.store import Entry, by_number
from tests.authority import NOW
from tests.statements import Mint, lock

MINT = Mint()
ALICE = MINT.operator("alice")
LOCK = ALICE.says("lock", lock())
ADOPTIONS = by_number(MINT.adopts(LOCK) for _ in range(2))
ENTRIES = [
    Entry(LOCK, str(ALICE.id), Wall(NOW), ADOPTIONS),
    Entry(MINT.policy(1), "ca", Wall(NOW + 1)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "statements.db"


def by_id(entries: list[Entry]) -> dict[str, Entry]:
    return {entry.statement.id: entry for entry in entries}


def test_what_was_appended_is_read_after_a_restart(path: Path) -> None:
    """Statements, who said them, when they were first seen, and all their adoptions."""
    first = Journal(path, create=True)
    first.append(ENTRIES)
    first.close()
    assert by_id(Journal(path).entries()) == by_id(ENTRIES)


def test_what_was_appended_survives_without_a_close(path: Path) -> None:
    """A killed daemon closes nothing."""
    first = Journal(path, create=True)
    first.append(ENTRIES)
    assert by_id(Journal(path).entries()) == by_id(ENTRIES)


def test_appending_again_adds_only_what_is_new(path: Path) -> None:
    """An adoption comes later than its original, whose first sight stays."""
    journal = Journal(path, create=True)
    journal.append([Entry(LOCK, str(ALICE.id), Wall(NOW))])
    journal.append([Entry(LOCK, "ca", Wall(NOW + 9), ADOPTIONS)])
    journal.append([])
    assert journal.entries() == [Entry(LOCK, str(ALICE.id), Wall(NOW), ADOPTIONS)]


def test_deleting_takes_the_adoptions_along(path: Path) -> None:
    """No number is left without its statement."""
    journal = Journal(path, create=True)
    journal.append(ENTRIES)
    journal.delete([LOCK.id, "no such id"])
    assert journal.entries() == ENTRIES[1:]
    journal.append([Entry(LOCK, "ca", Wall(NOW))])
    assert by_id(journal.entries())[LOCK.id].adoptions == ()


def test_a_failed_append_leaves_nothing_behind(path: Path) -> None:
    """All of a batch is durable or none of it, and the next try is not harmed."""
    journal = Journal(path, create=True)
    journal._database.execute(
        "CREATE TRIGGER full BEFORE INSERT ON adoptions BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(LocalError, match=r"statements\.db: disk full"):
        journal.append(ENTRIES)
    assert journal.entries() == []
    journal._database.execute("DROP TRIGGER full")
    journal.append(ENTRIES)
    assert by_id(journal.entries()) == by_id(ENTRIES)


def test_a_database_that_cannot_be_locked_is_our_own_fault(path: Path) -> None:
    """Two daemons in one folder: said, not crashed."""
    journal, other = Journal(path, create=True), sqlite3.connect(path, isolation_level=None)
    journal._database.execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LocalError, match="locked"):
        journal.append(ENTRIES)
    other.close()


def test_the_newest_heartbeats_are_kept(path: Path) -> None:
    """Each newer one in the place of the one before."""
    journal = Journal(path, create=True)
    assert journal.heartbeats() == (None, None)
    first, second = KeptBeat(b"1", "boot", 5), KeptBeat(b"2", "boot", -6)
    journal.keep_heartbeats(first, None)
    assert journal.heartbeats() == (first, None)
    journal.keep_heartbeats(second, first)
    assert Journal(path).heartbeats() == (second, first)


@pytest.mark.parametrize(
    ("boot_id", "received", "expected"), [("ours", 7, 7), ("another", 7, None), ("ours", None, None)]
)
def test_a_kept_heartbeat_has_an_age_in_its_own_boot_only(
    boot_id: str, received: int | None, expected: int | None
) -> None:
    """Boot time of another boot says nothing."""
    raw = MINT.beats("0" * 64).raw
    beat = KeptBeat(raw, boot_id, received).beat("ours")
    assert beat.received == expected
    assert beat.statement.raw == raw


def test_a_kept_heartbeat_is_what_was_kept() -> None:
    """There and back."""
    beat = KeptBeat(MINT.beats("0" * 64).raw, "boot", 7).beat("boot")
    assert isinstance(beat, Beat)
    assert beat.received == Boot(7)
    assert KeptBeat.of(beat, "boot") == KeptBeat(beat.statement.raw, "boot", 7)


@pytest.mark.parametrize("raw", [b"junk", LOCK.raw])
def test_a_damaged_heartbeat_is_our_own_fault(raw: bytes) -> None:
    """The daemon refuses to start: a floor that was lost could end locks late, or a freshness begin too early."""
    with pytest.raises(LocalError, match="heartbeat that was kept"):
        KeptBeat(raw, "boot", 1).beat("boot")


def test_a_missing_file_where_one_was_is_refused(path: Path) -> None:
    """An empty store would serve the revoked; only joining makes a new one."""
    with pytest.raises(LocalError, match="is gone; restore it, or join again"):
        Journal(path)
    assert not path.exists()


def test_creating_over_a_store_keeps_it(path: Path) -> None:
    """A second join is harmless."""
    Journal(path, create=True).append(ENTRIES)
    assert len(Journal(path, create=True).entries()) == 2


def test_a_folder_that_is_not_there_is_our_own_fault(tmp_path: Path) -> None:
    """Named, with the path."""
    with pytest.raises(LocalError, match="No such file"):
        Journal(tmp_path / "nowhere" / "statements.db", create=True)


@pytest.mark.parametrize(
    "content", [b"not a database, and far too long to be the beginning of one" * 40, b""]
)
def test_a_file_that_is_no_store_is_refused(path: Path, content: bytes) -> None:
    """Junk, or nothing at all where a store was."""
    path.write_bytes(content)
    with pytest.raises(LocalError, match=r"restore it from a copy"):
        Journal(path)


def test_a_store_of_a_newer_version_is_refused(path: Path) -> None:
    """Nothing is guessed about its tables."""
    Journal(path, create=True)._database.execute("PRAGMA user_version = 2")
    with pytest.raises(LocalError, match="schema version 2, this version reads 1"):
        Journal(path)


def test_a_damaged_page_is_refused(path: Path) -> None:
    """The whole file is checked at start."""
    journal = Journal(path, create=True)
    journal.append(ENTRIES * 5)
    journal._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    content = bytearray(path.read_bytes())
    content[-4096:] = bytes(4096)
    path.write_bytes(content)
    with pytest.raises(LocalError, match="restore it from a copy"):
        Journal(path)


def test_content_that_breaks_its_own_schema_is_refused(path: Path) -> None:
    """Nothing of ours could have written it."""
    database = Journal(path, create=True)._database
    database.execute("PRAGMA ignore_check_constraints = ON")
    database.execute("INSERT INTO heartbeats VALUES ('oldest', x'00', 'boot', 1)")
    with pytest.raises(LocalError, match="the statement store is corrupt"):
        Journal(path)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE statements SET raw = x'00'",
        "UPDATE adoptions SET raw = x'00'",
        "UPDATE adoptions SET raw = (SELECT raw FROM statements WHERE author = 'ca')",
        "UPDATE statements SET raw = (SELECT raw FROM statements WHERE author = 'ca')",
    ],
)
def test_a_damaged_row_is_refused(path: Path, damage: str) -> None:
    """Or exchanged for another: what stands there must be what was judged."""
    journal = Journal(path, create=True)
    journal.append(ENTRIES)
    journal._database.execute(damage)
    with pytest.raises(LocalError, match="a row is corrupt"):
        journal.entries()


def test_a_read_that_fails_is_our_own_fault(path: Path) -> None:
    """Said with the path, like any other trouble of the disk."""
    journal = Journal(path, create=True)
    journal._database.execute("DROP TABLE adoptions")
    with pytest.raises(LocalError, match="no such table"):
        journal.entries()


def test_the_store_is_its_owners_alone(path: Path) -> None:
    """A stranger who may read SQLite's files may also lock them, and keep every revocation from being durable."""
    journal = Journal(path, create=True)
    journal.append(ENTRIES)
    found = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(found.values()) == {0o600}, found
