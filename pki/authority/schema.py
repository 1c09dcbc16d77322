"""The tables of the register, and how an older register becomes a newer one."""

import sqlite3

APPLICATION_ID = 0x4C4B4754  # "LKGT"

RESTORE = "restore it from a backup: a CA that forgot its bans and numbers must not serve"


def create(db: sqlite3.Connection) -> None:
    """Make an empty database a register. WAL is kept in the file; synchronous is a matter of each connection."""
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    migrate(db)


def fault(db: sqlite3.Connection) -> str:
    """What keeps a database from serving as the register, and what to do; empty when nothing does."""
    if db.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        return f"not a register; {RESTORE}"
    if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        return f"damaged; {RESTORE}"
    if db.execute("PRAGMA user_version").fetchone() > (len(_MIGRATIONS),):
        return "written by a newer lockgate; install that version"
    return ""


def migrate(db: sqlite3.Connection) -> None:
    """Bring a register up to this version, in one transaction."""
    db.execute("BEGIN IMMEDIATE")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    for statements in _MIGRATIONS[version:]:
        for statement in statements:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
    db.execute("COMMIT")


# One entry a version, never changed once released. user_version counts those that were applied.
_MIGRATIONS = (
    (
        """CREATE TABLE tokens (
            secret_hash BLOB PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, roles TEXT NOT NULL,
            expires INTEGER NOT NULL, created INTEGER NOT NULL, spent_by BLOB, spent INTEGER, answer BLOB
        ) STRICT""",
        """CREATE TABLE certificates (
            serial TEXT PRIMARY KEY, lineage TEXT NOT NULL, spiffe_id TEXT NOT NULL, spki_sha256 BLOB NOT NULL,
            not_before INTEGER NOT NULL, not_after INTEGER NOT NULL, basis TEXT NOT NULL
        ) STRICT""",
        "CREATE TABLE sessions (session TEXT PRIMARY KEY, spiffe_id TEXT NOT NULL, lineage TEXT NOT NULL) STRICT",
        """CREATE TABLE bans (
            statement TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT NOT NULL, at INTEGER NOT NULL, lifted INTEGER
        ) STRICT""",
        "CREATE INDEX bans_by_name ON bans (kind, value)",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT",
    ),
    (
        # Which certificate a renewal followed: a second one after the same is a clone's.
        "ALTER TABLE certificates ADD COLUMN renewed TEXT",
        "ALTER TABLE certificates ADD COLUMN der BLOB",
        "CREATE UNIQUE INDEX one_renewal ON certificates (renewed) WHERE renewed IS NOT NULL",
    ),
    (
        """CREATE TABLE policies (
            sequence INTEGER PRIMARY KEY, digest TEXT NOT NULL, author TEXT NOT NULL, approver TEXT NOT NULL,
            nodes TEXT NOT NULL, at INTEGER NOT NULL
        ) STRICT""",
        """CREATE TABLE proposals (
            digest TEXT PRIMARY KEY, base TEXT NOT NULL, author TEXT NOT NULL, terms TEXT NOT NULL,
            at INTEGER NOT NULL, expires INTEGER NOT NULL
        ) STRICT""",
    ),
    (
        # Keys that asked for a certificate's renewal after another key had it.
        """CREATE TABLE clones (
            serial TEXT NOT NULL, spki_sha256 BLOB NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (serial, spki_sha256)
        ) STRICT""",
    ),
    (
        "ALTER TABLE sessions ADD COLUMN on_behalf_of TEXT NOT NULL DEFAULT ''",
        # What was signed in each ID token that started a session: it starts no other.
        "CREATE TABLE id_tokens (digest BLOB PRIMARY KEY, expires INTEGER NOT NULL) STRICT",
    ),
    (
        # Under which issuing key a certificate hangs, by its key identifier: what a rollover of it would end.
        "ALTER TABLE certificates ADD COLUMN issuer TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX certificates_by_end ON certificates (not_after)",
        # Every trust bundle that was in force, for whoever slept through the ones in between.
        """CREATE TABLE bundles (
            epoch INTEGER NOT NULL, sequence INTEGER NOT NULL, raw BLOB NOT NULL, PRIMARY KEY (epoch, sequence)
        ) STRICT""",
    ),
    (
        # Certificates of a name that were issued before an instant are revoked; those after it are not.
        """CREATE TABLE cutoffs (
            statement TEXT PRIMARY KEY, kind TEXT NOT NULL, value TEXT NOT NULL, before INTEGER NOT NULL,
            lifted INTEGER
        ) STRICT""",
        "CREATE INDEX cutoffs_by_name ON cutoffs (kind, value)",
    ),
)
