import json
from pathlib import Path

from sidecar.audit.volume import Site, open_volume
from sidecar.disk import RealDisk
from sidecar.exits import Exit
from tests.auditlog import NOON, note
from tests.sidecar.cli.world import lockgate


def log(folder: Path) -> Path:
    open_volume(Site(RealDisk(), folder / "audit", "tools-1"), NOON, [note(1), note(2)]).volume.close()
    return folder


def test_each_record_is_an_event_that_carries_its_line(tmp_path: Path) -> None:
    """JSON Lines; the raw line is the one that stands in the log, byte for byte."""
    folder = log(tmp_path)
    [volume] = (folder / "audit").iterdir()
    done = lockgate("audit", "export", "--ocsf", folder)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == Exit.YES
    assert [one["class_uid"] for one in events] == [2004, 2004]
    assert [one["raw_data"] for one in events] == volume.read_text().splitlines()[1:]


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    """So that a collector can go on where it was."""
    folder = log(tmp_path)
    assert lockgate("audit", "export", "--ocsf", "--since", "2026-01-01T00:00:01Z", folder).out == ""
    assert lockgate("audit", "export", "--ocsf", "--since", "9999d", folder).out.count("\n") == 2


def test_a_form_has_to_be_named(tmp_path: Path) -> None:
    """There may be others one day."""
    assert lockgate("audit", "export", log(tmp_path)).code == Exit.USAGE


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    """An empty answer would look like nothing had happened."""
    done = lockgate("audit", "export", "--ocsf", tmp_path)
    assert done.code == Exit.NO
    assert "holds no volume of an audit log" in done.err
