import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.audit.volume import Site, open_volume
from sidecar.cli.audit import words
from sidecar.disk import RealDisk
from sidecar.exits import Exit
from sidecar.paths import Paths
from tests.auditlog import NOON, note
from tests.sidecar.cli.world import Done, lockgate

STREAM = {
    "schema": 1,
    "at": NOON,
    "node": "tools-1",
    "seq": 4,
    "chain": "ab" * 32,
    "role": "tool",
    "stream": "s" * 26,
    "session": "t" * 26,
    "agent": "researcher",
    "service": "wiki",
    "segment": "retrieval",
    "peer": "agents-1",
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """One volume of five notes, in a node's folder; its path."""
    folder = Paths.below(tmp_path).audit_dir
    site = Site(disk=RealDisk(), folder=folder, node="tools-1")
    volume = open_volume(site, NOON, [note(number) for number in range(5)]).volume
    volume.close()
    return folder / volume.head.volume


def run(log: Path, *words: object) -> Done:
    return lockgate("--dir", log.parents[2], "audit", *words)


def test_the_tail_is_lines_for_people(log: Path) -> None:
    """As many as asked for, the newest last; it ends by itself."""
    done = run(log, "tail", "-n", 2)
    assert done.out.splitlines() == [
        "2026-01-01 00:00:00 UTC  finding     note 3",
        "2026-01-01 00:00:00 UTC  finding     note 4",
    ]
    assert len(run(log, "tail").out.splitlines()) == 6


def test_with_json_the_tail_is_the_log_itself(log: Path) -> None:
    """JSON Lines, byte for byte, so that the chain can be checked elsewhere."""
    assert run(log, "tail", "--json").out == log.read_text()


def test_a_damaged_line_is_shown_as_it_is(log: Path) -> None:
    """Judging it is for `audit verify`; its control characters are not passed on."""
    log.write_bytes(log.read_bytes() + b'\x1b[2J{"at": \xff\n[1]\n{"at": "noon"}\n')
    assert [len(line) > 0 for line in run(log, "tail", "-n", 3).out.splitlines()] == [True] * 3
    assert "\x1b" not in run(log, "tail").out


def test_following_goes_on_until_interrupted(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is written meanwhile, and without a word at its end."""
    site = Site(disk=RealDisk(), folder=log.parent, node="tools-1")
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) > 1:
            raise KeyboardInterrupt
        open_volume(site, NOON, [note(9)]).volume.close()

    monkeypatch.setattr("time.sleep", nap)
    done = run(log, "tail", "-f", "-n", 0, "--json")
    assert (done.code, done.err) == (Exit.INTERRUPTED, "")
    assert json.loads(done.out.splitlines()[-1])["what"] == "note 9"


def test_without_a_log_the_tail_says_where_it_looked(tmp_path: Path) -> None:
    """A mistyped --dir is not an empty log."""
    done = lockgate("--dir", tmp_path, "audit", "tail")
    assert (done.code, done.err) == (Exit.NO, f"lockgate: {tmp_path}/lib/audit: No such file or directory\n")


def test_a_sound_log_verifies(log: Path) -> None:
    """By --dir, or as a folder copied from elsewhere."""
    for done in (run(log, "verify"), lockgate("audit", "verify", log.parent)):
        assert done.code == Exit.YES
        assert done.out.startswith("6 records in 1 volumes\n")
    body = run(log, "verify", "--json").json
    assert (body["records"], body["first_bad"], body["torn"], body["gaps"]) == (6, None, 0, [])
    assert body["provable"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"note 1", b"note 7"), *lines[3:]], 3),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
    ],
    ids=["changed", "removed", "swapped"],
)
def test_the_first_bad_record_is_named(log: Path, damage: Any, line: int) -> None:
    """Exit code 1, volume and line, in words and as an object."""
    log.write_bytes(b"".join(damage(log.read_bytes().splitlines(keepends=True))))
    done = run(log, "verify")
    assert done.code == Exit.NO
    assert f"FIRST BAD RECORD: {log.name} line {line}: " in done.out
    bad = run(log, "verify", "--json").json["first_bad"]
    assert (bad["volume"], bad["line"]) == (log.name, line)


def test_a_torn_end_is_noted(log: Path) -> None:
    """It is what a crash leaves, and no fault."""
    log.write_bytes(log.read_bytes() + b'{"at":')
    done = run(log, "verify")
    assert (done.code, "torn: 6 bytes" in done.out) == (Exit.YES, True)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            STREAM
            | {"kind": "denied", "reason": "no_grant", "hint": "no grant lets it", "uid": 7, "rule": ""},
            (
                f"denied      researcher -> wiki  no_grant  uid=7  peer=agents-1  session={'t' * 26}"
                f"  hint=no grant lets it  stream={'s' * 26}"
            ),
        ),
        (
            STREAM | {"kind": "closed", "bytes_in": 0, "bytes_out": 9},
            (
                f"closed      researcher -> wiki  peer=agents-1  session={'t' * 26}  bytes_in=0  bytes_out=9"
                f"  stream={'s' * 26}"
            ),
        ),
        ({"at": NOON, "kind": "start", "version": "1"}, "start       version=1"),
        (
            {"at": NOON, "kind": "session", "what": "started", "agent": "a", "uid": 0},
            "session     a  started  uid=0",
        ),
        ({"at": NOON, "kind": "stop", "why": "told\nto"}, "stop        why=told to"),
    ],
)
def test_a_record_in_words_says_when_what_who_and_why(record: dict[str, Any], line: str) -> None:
    """What is unknown or empty is left out; 0 says something."""
    assert words(record) == f"2026-01-01 00:00:00 UTC  {line}"
