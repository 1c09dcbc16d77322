from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.audit import record
from sidecar.audit.record import Ending, Record, Role, Ruling, Subject, Traffic
from sidecar.audit.search import story
from sidecar.audit.volume import Site, open_volume
from sidecar.disk import RealDisk
from sidecar.reasons import Reason
from tests.auditlog import NOON

MINE, OTHER, CHILD, STATEMENT = ("m" * 26, "i" * 26, "e" * 26, "a" * 26)
TRACE = "ab" * 16


def subject(session: str, *parents: str, trace: str = TRACE) -> Subject:
    span = f"00-{trace}-{'1' * 16}-01"
    return Subject(stream=session[:1] * 26, role=Role.AGENT, session=session, parents=parents, trace=span)


def log(folder: Path, *records: Record) -> Path:
    folder.mkdir()
    open_volume(Site(RealDisk(), folder, "agents-1"), NOON, list(records)).volume.close()
    return folder


def denied(session: str, *parents: str, rule: str = "", trace: str = TRACE) -> Record:
    return record.denied(NOON, subject(session, *parents, trace=trace), Ruling(verdict="deny", rule=rule))


def kinds(folders: list[Path], word: str) -> list[tuple[str, str]]:
    return [(one["kind"], one.get("session", "")) for one in story(folders, word)]


def test_a_session_is_found_with_its_children(tmp_path: Path) -> None:
    """And with nobody else's records, though they be of the same rule."""
    folder = log(
        tmp_path / "a",
        denied(MINE, rule="read"),
        denied(OTHER, rule="read", trace="cd" * 16),
        denied(CHILD, MINE),
    )
    assert kinds([folder], MINE) == [("denied", MINE), ("denied", CHILD)]


def test_a_trace_is_found_with_its_sessions_whole(tmp_path: Path) -> None:
    """A session's end does not name the trace."""
    ended = record.session(NOON, "ended", MINE, "researcher")
    folder = log(tmp_path / "a", denied(MINE), denied(OTHER, trace="cd" * 16), ended)
    assert kinds([folder], TRACE) == [("denied", MINE), ("session", MINE)]


def test_what_cut_a_stream_comes_with_it(tmp_path: Path) -> None:
    """Wherever it stands, and without the others that it cut."""
    cut = record.cut(NOON, subject(MINE), Ending(Reason.LOCKED, STATEMENT), Traffic(0, 0))
    lock = record.lock(NOON, "applied", STATEMENT, "all")
    other = record.lock(NOON, "applied", "u" * 26, "all")
    near = log(tmp_path / "a", cut, denied(OTHER, rule=STATEMENT, trace="cd" * 16))
    far = log(tmp_path / "b", lock, other)
    assert [one["kind"] for one in story([near, far], MINE)] == ["cut", "lock"]


def test_lines_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    """To find them is for `audit verify`."""
    folder = log(tmp_path / "a", denied(MINE))
    (volume,) = folder.iterdir()
    volume.write_bytes(
        volume.read_bytes() + f'{{"{MINE}\n["{MINE}"]\n'.encode() + b"[" * 5_000 + MINE.encode() + b"\n"
    )
    assert kinds([folder], MINE) == [("denied", MINE)]


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    """Rather than taken for a log in which nothing happened."""
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(LocalError, match=str(folder)):
            story([folder], MINE)


def test_a_story_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is held in memory."""
    monkeypatch.setattr("sidecar.audit.search.MAX_FOUND", 2)
    folder = log(tmp_path / "a", denied(MINE), denied(MINE), denied(MINE))
    with pytest.raises(LocalError, match="more than 2 records"):
        story([folder], MINE)
