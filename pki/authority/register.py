"""What a CA must never forget: tokens, certificates, bans, counters. SQLite, blocking; call it from a thread.

Rules:

1. A method is one transaction, and durable when it returns (WAL, synchronous=FULL). Nothing is signed or answered
   on the strength of a write that is not.
2. Writers begin IMMEDIATE: two that read first and write later would both see an unspent token.
3. Each transaction has a connection of its own, so threads and processes (`token create` beside `ca serve`) are
   kept apart by SQLite alone. One idle connection stays open: when the last one closes, the log is folded into
   the database, three more syncs for each transaction.
4. A register that is missing, damaged or newer than this program is refused. A CA that begins with an empty one
   would issue to whom it has banned and give a statement's number twice.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from pki.authority import bans, schema
from pki.authority.bans import Cutoff
from pki.authority.entries import Invitation, Issuance, Issued, PolicyVersion, Proposal, Spending
from pki.authority.export import Revoked
from pki.authority.holdings import Holding, holdings
from pki.clock import Wall
from pki.errors import LocalError
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Target
from pki.svid import BACKDATE

BUSY_SECONDS = 10.0


class Register:
    """An open register. Safe to share between threads; close it when done."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._anchor = self._connect()

    @classmethod
    def create(cls, path: Path) -> None:
        """A new, empty register, for its owner only; raises LocalError if there is one."""
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise LocalError(f"register {path}: {error.strerror}") from None
        with _explained(path), closing(cls._connection(path)) as db:
            schema.create(db)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The register of a CA that exists; raises LocalError when it is missing, damaged, or newer than we are."""
        if not path.is_file():
            raise LocalError(f"register {path}: missing; {schema.RESTORE}")
        with _explained(path), closing(cls._connection(path)) as db:
            fault = schema.fault(db)
            if fault:
                raise LocalError(f"register {path}: {fault}")
            schema.migrate(db)
        return cls(path)

    def close(self) -> None:
        self._anchor.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Tokens

    def add_token(self, secret_hash: bytes, invitation: Invitation, at: Wall) -> None:
        """Keep a token by the SHA-256 of its secret; the secret itself is nowhere."""
        row = (
            secret_hash,
            invitation.kind,
            invitation.name,
            json.dumps(invitation.roles),
            invitation.expires,
            at,
        )
        with self._transaction() as db:
            db.execute(
                "INSERT INTO tokens (secret_hash, kind, name, roles, expires, created) VALUES (?, ?, ?, ?, ?, ?)",
                row,
            )

    def spend_token(self, secret_hash: bytes, spki_sha256: bytes, at: Wall) -> Spending | None:
        """Spend a token that is unspent and not expired; how it stands after that, None if there is no such token."""
        with self._transaction() as db:
            db.execute(
                "UPDATE tokens SET spent_by = ?, spent = ? WHERE secret_hash = ? AND spent_by IS NULL AND expires > ?",
                (spki_sha256, at, secret_hash, at),
            )
            row = db.execute(
                "SELECT kind, name, roles, expires, spent_by, answer FROM tokens WHERE secret_hash = ?",
                (secret_hash,),
            ).fetchone()
        if row is None:
            return None
        kind, name, roles, expires, spent_by, answer = row
        return Spending(
            Invitation(IdKind(kind), name, tuple(json.loads(roles)), Wall(expires)), spent_by, answer
        )

    def keep_answer(self, secret_hash: bytes, answer: bytes) -> None:
        """What the token's spender was answered, to be said again to the same key."""
        with self._transaction() as db:
            db.execute("UPDATE tokens SET answer = ? WHERE secret_hash = ?", (answer, secret_hash))

    def void_tokens(self) -> None:
        """No token that was made so far can be spent any more."""
        with self._transaction() as db:
            db.execute("UPDATE tokens SET expires = 0 WHERE spent_by IS NULL")

    # Certificates and sessions

    def add_certificate(self, issuance: Issuance) -> None:
        """Write a certificate down. Raises LocalError for a serial that was used before."""
        row = (
            issuance.serial,
            issuance.lineage,
            str(issuance.id),
            issuance.spki_sha256,
            issuance.not_before,
            issuance.not_after,
            issuance.basis,
            issuance.renewed,
            issuance.der,
            issuance.issuer,
        )
        with self._transaction() as db:
            db.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def renewal_of(self, serial: str) -> tuple[bytes, bytes] | None:
        """The certificate that followed this one: SHA-256 of its SPKI, and its DER; None if none did."""
        with self._transaction("DEFERRED") as db:
            query = "SELECT spki_sha256, der FROM certificates WHERE renewed = ?"
            row = db.execute(query, (serial,)).fetchone()
        return None if row is None else (row[0], row[1])

    def note_clone(self, serial: str, spki_sha256: bytes, at: Wall) -> None:
        """Keep that a certificate was to be renewed once more, with this other key. Again is nothing."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO clones VALUES (?, ?, ?)", (serial, spki_sha256, at))

    def clones(self) -> list[tuple[str, Wall]]:
        """The serials of certificates that somebody has a copy of, and when that showed."""
        with self._transaction("DEFERRED") as db:
            rows = db.execute("SELECT serial, at FROM clones ORDER BY at, serial").fetchall()
        return [(serial, Wall(at)) for serial, at in rows]

    def began(self, lineage: str) -> Wall | None:
        """The notBefore of the first certificate of a line; None for a line that is not known."""
        with self._transaction("DEFERRED") as db:
            query = "SELECT not_before FROM certificates WHERE serial = ?"
            row = db.execute(query, (lineage,)).fetchone()
        return None if row is None else Wall(row[0])

    def issuance_of(self, serial: str) -> Issued | None:
        """What is known of a certificate; None for one that was not issued here."""
        with self._transaction("DEFERRED") as db:
            query = "SELECT spiffe_id, lineage, not_after, not_before FROM certificates WHERE serial = ?"
            row = db.execute(query, (serial,)).fetchone()
        return None if row is None else Issued(row[0], row[1], Wall(row[2]), Wall(row[3] + BACKDATE))

    def holdings(self, now: Wall) -> list[Holding]:
        """The newest certificate of everybody that has not expired, by name."""
        with self._transaction("DEFERRED") as db:
            return list(holdings(db, now))

    def claim_session(self, session: SpiffeId, lineage: str, on_behalf_of: str = "") -> str | None:
        """The lineage of a session, ``lineage`` if it is new; None when its id belongs to another session.

        Two sessions of one id would be revoked together: a node could pick the id of another node's session.
        """
        with self._transaction() as db:
            row = (session.session, str(session), lineage, on_behalf_of)
            db.execute("INSERT OR IGNORE INTO sessions VALUES (?, ?, ?, ?)", row)
            owner, kept = db.execute(
                "SELECT spiffe_id, lineage FROM sessions WHERE session = ?", (session.session,)
            ).fetchone()
        return str(kept) if owner == str(session) else None

    def user_of(self, session: SpiffeId) -> str:
        """On whose behalf a session was started; empty: nobody's."""
        with self._transaction("DEFERRED") as db:
            query = "SELECT on_behalf_of FROM sessions WHERE spiffe_id = ?"
            row = db.execute(query, (str(session),)).fetchone()
        return "" if row is None else str(row[0])

    def spend_id_token(self, digest: bytes, expires: Wall, at: Wall) -> bool:
        """Whether this is the first use of an ID token. It is kept until it has expired."""
        with self._transaction() as db:
            db.execute("DELETE FROM id_tokens WHERE expires <= ?", (at,))
            done = db.execute("INSERT OR IGNORE INTO id_tokens VALUES (?, ?)", (digest, expires))
            return done.rowcount == 1

    # Bans

    def ban(self, target: Target, statement: str, at: Wall) -> None:
        """Keep for good that ``target`` was revoked by the statement of this id. Again is nothing."""
        with self._transaction() as db:
            bans.ban(db, target, statement, at)

    def cut_off(self, cutoff: Cutoff) -> None:
        """Keep for good that certificates issued before an instant are revoked. Again is nothing."""
        with self._transaction() as db:
            bans.cut_off(db, cutoff)

    def lift_bans(self, statements: Iterable[str], before: int, at: Wall) -> None:
        """What these statements revoked may be issued for again; what was issued before ``before`` stays refused."""
        with self._transaction() as db:
            bans.lift(db, statements, before, at)

    def line_of(self, serial: str) -> str | None:
        """The first serial of the line that a certificate belongs to; None for one that was not issued here."""
        with self._transaction("DEFERRED") as db:
            row = db.execute("SELECT lineage FROM certificates WHERE serial = ?", (serial,)).fetchone()
        return None if row is None else str(row[0])

    def revoked(self, issuer: str, now: Wall) -> list[Revoked]:
        """The certificates of one issuer (hex of its key identifier) that were revoked before their end."""
        query = "SELECT serial, spiffe_id, lineage, not_before FROM certificates WHERE not_after > ? AND issuer = ?"
        with self._transaction("DEFERRED") as db:
            held = db.execute(query, (now, issuer)).fetchall()
            found = [
                (serial, bans.banned_since(db, SpiffeId.parse(name), line, begin + BACKDATE))
                for serial, name, line, begin in held
            ]
        return [Revoked(serial, since) for serial, since in found if since is not None]

    def holders(self, now: Wall) -> list[Issued]:
        """The newest certificate of everybody who holds one that counts at ``now``, but for the revoked."""
        query = """SELECT spiffe_id, lineage, not_after, not_before, issuer, serial FROM certificates
            WHERE not_after > ? ORDER BY not_before, rowid"""
        with self._transaction("DEFERRED") as db:
            newest = {row[0]: row for row in db.execute(query, (now,))}
            found = [
                Issued(name, line, Wall(end), Wall(begin + BACKDATE), *rest)
                for name, line, end, begin, *rest in newest.values()
            ]
            return [
                one
                for one in found
                if bans.banned_since(db, SpiffeId.parse(one.id), one.lineage, one.issued) is None
            ]

    def is_banned(self, identity: SpiffeId, lineage: str = "", issued: int | None = None) -> bool:
        """Whether anything that stands for this identity, its line, or a certificate issued then, was revoked."""
        with self._transaction("DEFERRED") as db:
            return bans.banned_since(db, identity, lineage, issued) is not None

    # Trust bundles

    def keep_bundle(self, epoch: int, sequence: int, raw: bytes) -> None:
        """Write down a trust bundle that is in force. Again is nothing."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO bundles VALUES (?, ?, ?)", (epoch, sequence, raw))

    def bundles(self, epoch: int, sequence: int) -> list[bytes]:
        """The trust bundles that came after one, in their order."""
        query = "SELECT raw FROM bundles WHERE (epoch, sequence) > (?, ?) ORDER BY epoch, sequence LIMIT 64"
        with self._transaction("DEFERRED") as db:
            return [raw for (raw,) in db.execute(query, (epoch, sequence))]

    # Policies

    def keep_policy(self, version: PolicyVersion) -> None:
        """Write down what was published. Again is nothing."""
        row = (
            version.sequence,
            version.digest,
            version.author,
            version.approver,
            json.dumps(version.nodes),
            version.at,
        )
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO policies VALUES (?, ?, ?, ?, ?, ?)", row)

    def policies(self) -> list[PolicyVersion]:
        """Every version, the newest first."""
        with self._transaction("DEFERRED") as db:
            rows = db.execute("SELECT * FROM policies ORDER BY sequence DESC").fetchall()
        return [
            PolicyVersion(sequence, digest, author, approver, tuple(json.loads(nodes)), Wall(at))
            for sequence, digest, author, approver, nodes, at in rows
        ]

    def propose(self, proposal: Proposal) -> None:
        """Keep a proposal, in place of an older one of the same text."""
        row = (
            proposal.digest,
            proposal.base,
            proposal.author,
            proposal.terms,
            proposal.at,
            proposal.expires,
        )
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO proposals VALUES (?, ?, ?, ?, ?, ?)", row)

    def proposals(self, now: Wall) -> list[Proposal]:
        """Those that have not expired, the oldest first; the others are gone for good."""
        with self._transaction() as db:
            db.execute("DELETE FROM proposals WHERE expires <= ?", (now,))
            rows = db.execute("SELECT * FROM proposals ORDER BY at, digest").fetchall()
        return [Proposal(*row) for row in rows]

    def drop_proposal(self, digest: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM proposals WHERE digest = ?", (digest,))

    # Counters

    def next_number(self) -> int:
        """The next number of a statement, gone for good: commit first, sign then. A gap does no harm, a double does."""
        return self._next("number")

    def last_number(self) -> int:
        """The highest number given out; 0 before the first."""
        with self._transaction("DEFERRED") as db:
            row = db.execute("SELECT last FROM counters WHERE name = 'number'").fetchone()
        return int(row[0]) if row else 0

    def next_sequence(self, name: str) -> int:
        """The next sequence of what there is one newest of: ``policy``, ``member/node/tools-1``."""
        return self._next(f"sequence/{name}")

    def raise_counter(self, name: str, least: int) -> None:
        """What comes next of this name is above ``least``."""
        with self._transaction() as db:
            query = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last)"
            db.execute(query, (name, least))

    def copy(self, path: Path) -> None:
        """A consistent copy, while it is in use."""
        with _explained(path), closing(self._connect()) as db, closing(sqlite3.connect(path)) as other:
            db.backup(other)

    def _next(self, counter: str) -> int:
        with self._transaction() as db:
            query = "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last"
            return int(db.execute(query, (counter,)).fetchone()[0])

    @contextmanager
    def _transaction(self, mode: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with _explained(self._path), closing(self._connect()) as db:
            db.execute(f"BEGIN {mode}")
            yield db
            db.execute("COMMIT")  # left by an exception, closing rolls back

    def _connect(self) -> sqlite3.Connection:
        with _explained(self._path):
            return self._connection(self._path)

    @staticmethod
    def _connection(path: Path) -> sqlite3.Connection:
        # mode=rw: a file that has gone is an error, never a new and empty register.
        uri = f"{path.resolve().as_uri()}?mode=rw"
        db = sqlite3.connect(
            uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        db.execute("PRAGMA synchronous = FULL")
        return db


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise LocalError(f"register {path}: {error}") from None
    except sqlite3.Error as error:
        raise LocalError(f"register {path}: {error}; check the disk and the file") from None
