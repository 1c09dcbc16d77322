"""A log on its way into PostgreSQL: what is there is not sent again, and what is sent was checked first. Blocking.

Batches are transactions, and a record has its place (node, volume, seq) for its key. So whichever side dies, what was
committed is whole and the next run goes on behind it; run twice, or from two machines, the result is the same. What is
shipped of a volume is fed through its chain from the header on: nothing behind a bad record goes out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from pki.errors import LocalError, RemoteError, UnreachableError
from sidecar.audit import warehouse
from sidecar.audit.chain import Sealed, VolumeCheck
from sidecar.audit.lines import extent, forward
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk, RealDisk

BATCH = 1_000
CONNECT_SECONDS = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[Any, ...]


@dataclass(slots=True)
class Shipped:
    """What one run did for one log. ``fault``: why it ended before the log did; empty: it did not."""

    node: str = ""
    records: int = 0
    fault: str = ""


def check_target(url: str) -> str:
    """The URL; raises LocalError for one that is none, or has a password in it, which `ps` would show."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        raise LocalError("--to: not a URL such as postgresql://collector@db.example.org/audit") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise LocalError("--to: not a URL such as postgresql://collector@db.example.org/audit")
    if password is not None:
        raise LocalError(
            "--to: no password on the command line; put it into ~/.pgpass, or the file PGPASSFILE names"
        )
    return url


def ship(folder: Path, url: str, disk: Disk | None = None) -> Shipped:
    """Send what the database lacks of the log in ``folder``. Raises UnreachableError, LocalError."""
    disk, done = disk or RealDisk(), Shipped()
    try:
        names = volume_names(disk, folder)
        if not names:
            raise LocalError(f"{folder}: holds no volume of an audit log")
        with psycopg.connect(check_target(url), autocommit=True, connect_timeout=CONNECT_SECONDS) as database:
            database.execute(warehouse.TABLES)
            _ship(disk, folder, names, database, done)
    except psycopg.OperationalError as error:
        raise UnreachableError(
            f"the database: {_brief(error)}; run it again, it goes on from there"
        ) from None
    except psycopg.Error as error:
        raise LocalError(f"the database refuses: {_brief(error)}") from None
    except OSError as error:
        raise LocalError(f"{error.filename or folder}: {error.strerror}") from None
    return done


def _ship(
    disk: Disk, folder: Path, names: list[str], database: "psycopg.Connection[Row]", done: Shipped
) -> None:
    held: dict[str, tuple[int, str]] | None = None
    try:
        for name in names:
            rows = _rows(disk, folder, name)
            last = -1
            while batch := list(islice(rows, BATCH)):
                if held is None:
                    done.node = batch[0][0]
                    held = {row[0]: row[1:] for row in database.execute(warehouse.SHIPPED, (done.node,))}
                there = held.get(name, (-1, ""))
                _send(database, [row for row in batch if _is_new(row, there)], done)
                last = batch[-1][2]
            if held and held.get(name, (-1, ""))[0] > last:
                raise RemoteError(f"{name}: the database holds more of it than is here: its end was cut off")
    except RemoteError as error:
        done.fault = str(error)


def _is_new(row: Row, there: tuple[int, str]) -> bool:
    """Whether the database lacks it; raises RemoteError where it holds another record in its place."""
    if row[2] == there[0] and row[3] != there[1]:
        raise RemoteError(f"{row[1]}: the database holds another record {row[2]}: one of both was forged")
    return bool(row[2] > there[0])


def _rows(disk: Disk, folder: Path, name: str) -> Iterator[Row]:
    """The records of a volume, as far as they are right; then raises RemoteError for the first that is not."""
    volume = VolumeCheck(name)
    for line in forward(disk, folder / name, 0, extent(disk, folder / name).complete):
        try:
            yield _row(name, line, volume.feed(line))
        except RemoteError as error:
            raise RemoteError(f"{name}: {error}") from None


def _row(name: str, line: bytes, sealed: Sealed) -> Row:
    body = sealed.body
    text = line.decode()
    named = (
        _text(body.get(key)) for key in ("role", "agent", "session", "service", "verdict", "reason", "rule")
    )
    at = _EPOCH + timedelta(microseconds=int(str(body["at"])))
    # PostgreSQL's jsonb holds no NUL; the line has it as it was.
    asked = json.dumps(body).replace("\\u0000", "\\ufffd")
    return (
        str(body["node"]), name, body["seq"], sealed.chain.hex(), at, str(body["kind"]), *named, text, asked,
    )  # fmt: skip


def _send(database: "psycopg.Connection[Row]", rows: list[Row], done: Shipped) -> None:
    if not rows:
        return
    with database.transaction(), database.cursor() as cursor:
        cursor.execute(warehouse.ARRIVING)
        with cursor.copy(warehouse.COPY) as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(warehouse.TAKE)
        taken = cursor.rowcount
        other = cursor.execute(warehouse.OTHERS).fetchone()
        if other is not None:
            raise RemoteError(
                f"{other[0]}: the database holds another record {other[1]}: one of both was forged"
            )
    done.records += taken


def _text(value: object) -> str | None:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else None


def _brief(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
