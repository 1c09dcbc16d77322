"""Records into a real PostgreSQL: each once, whatever dies on the way, and what its views say of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pki.errors import UnreachableError
from sidecar.audit import record, ship
from sidecar.audit.record import Record, Requested, Role, Ruling, Subject
from sidecar.audit.ship import Row
from sidecar.audit.volume import Site, open_volume
from sidecar.dev.layout import free_ports
from sidecar.disk import RealDisk
from sidecar.reasons import Reason
from tests.auditlog import NOON, note
from tests.mesh import lockgate
from tests.servers import DATABASE_USER, postgres, postgres_binaries

pytestmark = pytest.mark.skipif(postgres_binaries() is None, reason="PostgreSQL is not installed")

YES = Ruling(verdict="allow", rule="read-wiki")
NO = Ruling(verdict="deny", reason=Reason.NO_GRANT, hint="nobody grants it")
SOFT = Ruling(verdict="would_deny", reason=Reason.DENIED, rule="no-export")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL for the whole file; its URL without a database."""
    [port] = free_ports(1)
    with postgres(port):
        yield f"postgresql://{DATABASE_USER}@127.0.0.1:{port}"


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own; its URL."""
    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    return f"{server}/{name}"


def subject(role: Role, service: str = "wiki") -> Subject:
    return Subject(stream="b" * 26, role=role, agent="researcher", session="c" * 26, service=service)


def log(folder: Path, node: str, *records: Record, volume_bytes: int = 10**6) -> Path:
    site = Site(RealDisk(), folder / "audit", node, volume_bytes)
    open_volume(site, NOON, list(records)).volume.close()
    return folder


def mixed(folder: Path, node: str = "tools-1", role: Role = Role.TOOL) -> Path:
    """A stream, two requests, refusals that were folded, and one let through while observed."""
    asked = Requested(request="d" * 26, operation={"method": "GET", "name": "/api/\0"})
    refused = record.request_denied(NOON, subject(role), NO, asked)
    return log(
        folder,
        node,
        record.admitted(NOON, subject(role), YES),
        record.request(NOON, subject(role), YES, asked),
        record.request(NOON, subject(role), SOFT, asked),
        refused,
        record.folded(refused, 40, NOON),
        note(1),
    )


def shipped(folder: Path, database: str) -> dict[str, Any]:
    done = lockgate("--dir", str(folder / "none"), "audit", "ship", "--to", database, str(folder), "--json")
    assert done.code == 0, done.err
    return done.json


def asked(database: str, question: str) -> list[Row]:
    with psycopg.connect(database) as connection:
        return connection.execute(question).fetchall()


def test_each_record_is_there_once_however_often_it_is_shipped(tmp_path: Path, database: str) -> None:
    """With its line, byte for byte; a second run sends nothing, a third what is new."""
    folder = mixed(tmp_path)
    assert shipped(folder, database)["records"] == 7
    assert shipped(folder, database)["records"] == 0
    [volume] = (folder / "audit").iterdir()
    lines = asked(database, "SELECT line FROM lockgate_audit.records ORDER BY seq")
    assert [line for (line,) in lines] == volume.read_text().splitlines()
    log(tmp_path, "tools-1", note(2), note(3))
    assert shipped(folder, database)["records"] == 3


def test_the_views_say_who_did_what(tmp_path: Path, database: str) -> None:
    """A stream that two nodes let in is one; folded refusals count for as many as they are."""
    shipped(mixed(tmp_path / "tools-1"), database)
    shipped(log(tmp_path / "agents-1", "agents-1", record.admitted(NOON, subject(Role.AGENT), YES)), database)
    by = "SELECT streams, requests, refusals FROM lockgate_audit."
    assert asked(database, f"{by}by_agent WHERE agent = 'researcher'") == [(1, 2, 41)]
    assert asked(database, f"{by}by_service WHERE service = 'wiki'") == [(1, 2, 41)]
    refusals = asked(
        database, "SELECT reason, hint, method, times FROM lockgate_audit.refusals ORDER BY times"
    )
    assert refusals == [
        ("no_grant", "nobody grants it", "GET", 1),
        ("no_grant", "nobody grants it", "GET", 40),
    ]
    assert asked(database, "SELECT rule FROM lockgate_audit.would_deny") == [("no-export",)]


def many(folder: Path) -> Path:
    return log(folder, "tools-1", *(note(number) for number in range(99)))


def test_after_a_crash_of_ours_the_next_run_goes_on(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed stays, the batch under way is not there, and nothing is twice."""
    monkeypatch.setattr(ship, "BATCH", 10)
    send = ship._send
    sent: list[int] = []

    def dying(connection: "psycopg.Connection[Row]", rows: list[Row], done: ship.Shipped) -> None:
        if len(sent) == 3:
            raise KeyboardInterrupt
        sent.append(len(rows))
        send(connection, rows, done)

    monkeypatch.setattr(ship, "_send", dying)
    with pytest.raises(KeyboardInterrupt):
        ship.ship(many(tmp_path) / "audit", database)
    assert asked(database, "SELECT count(*) FROM lockgate_audit.records") == [(30,)]
    assert shipped(tmp_path, database)["records"] == 70
    assert asked(database, "SELECT count(*), max(seq) FROM lockgate_audit.records") == [(100, 99)]


def test_after_a_crash_of_the_database_the_next_run_goes_on(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backend is ended in the middle; exit code 3 says that it was not reached."""
    monkeypatch.setattr(ship, "BATCH", 10)
    send = ship._send
    sent: list[int] = []

    def cut_off(connection: "psycopg.Connection[Row]", rows: list[Row], done: ship.Shipped) -> None:
        sent.append(len(rows))
        if len(sent) == 4:
            with psycopg.connect(database, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        send(connection, rows, done)

    monkeypatch.setattr(ship, "_send", cut_off)
    with pytest.raises(UnreachableError, match="run it again"):
        ship.ship(many(tmp_path) / "audit", database)
    assert shipped(tmp_path, database)["records"] == 70
    assert asked(database, "SELECT count(*), max(seq) FROM lockgate_audit.records") == [(100, 99)]


def test_nothing_behind_a_bad_record_goes_out(tmp_path: Path, database: str) -> None:
    """Exit code 1, and which it is."""
    folder = many(tmp_path)
    [volume] = (folder / "audit").iterdir()
    volume.write_bytes(volume.read_bytes().replace(b'"note 50"', b'"nota 50"'))
    done = lockgate("--dir", str(tmp_path / "none"), "audit", "ship", "--to", database, str(folder))
    assert done.code == 1
    assert f"BAD: {volume.name}: its chain value does not fit" in done.out
    assert asked(database, "SELECT coalesce(max(seq), 0) <= 50 FROM lockgate_audit.records") == [(True,)]


def test_a_log_that_tells_another_story_is_not_mixed_in(tmp_path: Path, database: str) -> None:
    """The database holds another record in its place: one of both was forged, and the first stays."""
    shipped(log(tmp_path / "a", "tools-1", note(1), note(2)), database)
    second = log(tmp_path / "b", "tools-1", note(1), note(7), note(8))
    done = lockgate("--dir", str(tmp_path / "none"), "audit", "ship", "--to", database, str(second))
    assert done.code == 1
    assert "the database holds another record 2: one of both was forged" in done.out
    assert asked(database, "SELECT count(*) FROM lockgate_audit.records") == [(3,)]


def test_a_log_that_is_shorter_than_what_was_shipped_is_found(tmp_path: Path, database: str) -> None:
    """The database is a witness, too."""
    shipped(log(tmp_path / "a", "tools-1", note(1), note(2)), database)
    second = log(tmp_path / "b", "tools-1", note(1))
    done = lockgate("--dir", str(tmp_path / "none"), "audit", "ship", "--to", database, str(second))
    assert done.code == 1
    assert "the database holds more of it than is here: its end was cut off" in done.out


@pytest.mark.parametrize("url", ["mysql://db", "postgresql://u:secret@db/x", "postgresql://[", "db"])
def test_what_is_no_target_is_refused(tmp_path: Path, url: str) -> None:
    """Above all a password that `ps` would show."""
    done = lockgate("--dir", str(tmp_path), "audit", "ship", "--to", url)
    assert done.code == 1
    assert "--to: no" in done.err
    assert "secret" not in done.err


def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    """Exit code 3."""
    [port] = free_ports(1)
    folder = many(tmp_path)
    done = lockgate(
        "--dir", str(tmp_path), "audit", "ship", "--to", f"postgresql://x@127.0.0.1:{port}/y", str(folder)
    )
    assert done.code == 3
