from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.audit.chain import GENESIS, Head, seal, unseal
from sidecar.audit.closed import compress
from sidecar.audit.lines import packed_path
from sidecar.audit.record import Facts, retention
from sidecar.audit.report import BadRecord, Report
from sidecar.audit.verify import judge, verify_folder
from sidecar.audit.volume import Site, last_head, open_volume
from sidecar.disk import RealDisk
from tests.auditlog import FOLDER, NOON, note, site, write_log
from tests.faultdisk import FaultDisk


def first_bad(disk: FaultDisk) -> tuple[str, int] | None:
    bad = verify_folder(FOLDER, disk).first_bad
    return None if bad is None else (bad.volume, bad.line)


def lines_of(disk: FaultDisk, path: Path) -> list[bytes]:
    return disk.content(path).splitlines(keepends=True)


def test_a_right_log_is_complete_up_to_its_head() -> None:
    """What is shown is said, and what cannot be shown too."""
    disk, [*_, newest] = write_log(2, 0, 3)
    report = verify_folder(FOLDER, disk)
    assert (report.volumes, report.records, report.first_bad) == (3, 8, None)
    assert (report.torn, report.gaps) == (0, [])
    assert report.head is not None
    assert report.head.volume == newest.name
    assert f"complete up to {newest.name} record 3" in report.provable
    assert "a cut-off tail needs witnesses" in report.provable


def test_a_folder_without_volumes_does_not_pass() -> None:
    """Deleting all of a log is not a way to make it right."""
    disk = FaultDisk()
    disk.make_folder(FOLDER)
    with pytest.raises(LocalError, match="holds no audit volumes"):
        verify_folder(FOLDER, disk)


def test_a_volume_caught_at_its_beginning_shows_nothing() -> None:
    """No record is not the same as no fault."""
    disk, [first] = write_log(0)
    disk.put(first, b'{"at":17')
    report = verify_folder(FOLDER, disk)
    assert (report.records, report.torn, report.first_bad) == (0, 8, None)
    assert "nothing is shown" in report.provable


def test_a_folder_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    """A mistyped path does not verify."""
    with pytest.raises(LocalError, match="absent: No such file or directory; name a folder"):
        verify_folder(tmp_path / "absent")


def test_a_log_on_a_real_disk_verifies(tmp_path: Path) -> None:
    """The same from files."""
    real = Site(RealDisk(), tmp_path / "audit", "tools-1")
    for _ in range(2):
        open_volume(real, NOON, [note(n) for n in range(1_000)]).volume.close()
    assert verify_folder(tmp_path / "audit").records == 2_002


SOUND, VOLUMES = write_log(2, 3)


@given(st.data())
def test_any_changed_byte_is_found_and_its_record_named(data: st.DataObject) -> None:
    """In every line of every volume; a lost LF counts to the line that it ended."""
    path = data.draw(st.sampled_from(VOLUMES))
    content = SOUND.content(path)
    at = data.draw(st.integers(0, len(content) - 1 - (path == VOLUMES[-1])))
    byte = data.draw(st.integers(0, 255).filter(lambda new: new != content[at]))
    disk, _ = write_log(2, 3)
    disk.put(path, content[:at] + bytes([byte]) + content[at + 1 :])
    assert first_bad(disk) == (path.name, content[:at].count(b"\n") + 1)


def test_the_last_line_of_all_without_its_end_is_torn() -> None:
    """It was never acknowledged, or cannot be told from one that was not: noted, no fault."""
    disk, [_, newest] = write_log(2, 3)
    disk.put(newest, disk.content(newest)[:-1])
    report = verify_folder(FOLDER, disk)
    assert (report.records, report.first_bad) == (6, None)
    assert report.torn == len(lines_of(SOUND, newest)[-1]) - 1


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("line", [1, 2, 3])
def test_a_removed_line_is_found_where_it_is_missing(number: int, line: int) -> None:
    """The last line of an older volume too: the next one names it."""
    disk, volumes = write_log(2, 3)
    lines = lines_of(disk, volumes[number])
    disk.put(volumes[number], b"".join(lines[: line - 1] + lines[line:]))
    assert first_bad(disk) == (volumes[number].name, line)


def test_the_last_line_of_all_can_be_removed_unseen() -> None:
    """Stands here so that nobody believes otherwise; `provable` says it."""
    disk, [_, newest] = write_log(2, 3)
    disk.put(newest, b"".join(lines_of(disk, newest)[:-1]))
    assert first_bad(disk) is None


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2), (1, 2)])
def test_swapped_lines_are_found_at_the_first_of_them(one: int, other: int) -> None:
    """Each line is bound to its place."""
    disk, [first, _] = write_log(2, 3)
    lines = lines_of(disk, first)
    lines[one], lines[other] = lines[other], lines[one]
    disk.put(first, b"".join(lines))
    assert first_bad(disk) == (first.name, one + 1)


def test_what_comes_before_the_fault_is_right() -> None:
    """The report says how far the log can be relied on."""
    disk, [_, second] = write_log(2, 3)
    lines = lines_of(disk, second)
    disk.put(second, b"".join([lines[0], *lines[2:]]))
    report = verify_folder(FOLDER, disk)
    assert (report.volumes, report.records) == (2, 4)
    assert report.head is not None
    assert (report.head.volume, report.head.seq) == (second.name, 0)
    assert str(report.first_bad) == f"{second.name}: line 2 record 2 stands where record 1 belongs"


def test_a_record_forged_onto_an_older_volume_is_found() -> None:
    """It chains rightly, since a chain has no key; but the next volume knows what was last."""
    disk, [first, _] = write_log(2, 3)
    last = unseal(lines_of(disk, first)[-1][:-1])
    forged, _ = seal(last.chain, note(9).body("tools-1", 3))
    disk.put(first, disk.content(first) + forged)
    report = verify_folder(FOLDER, disk)
    assert report.first_bad == BadRecord(
        first.name, 4, "stands after the last record that the next volume knows of"
    )
    assert report.records == 3


def test_an_older_volume_computed_anew_is_found() -> None:
    """Its last record is not the one that the next volume goes on from."""
    disk, [first, _] = write_log(2, 3)
    lines = lines_of(disk, first)
    before = unseal(lines[-2][:-1])
    forged, _ = seal(before.chain, note(9).body("tools-1", 2))
    disk.put(first, b"".join([*lines[:-1], forged]))
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(
        first.name, 3, "is not the record that the next volume goes on from"
    )


def test_a_volume_removed_from_the_middle_is_found() -> None:
    """The header after it names a volume that is not here."""
    disk, [_, middle, last] = write_log(1, 1, 1)
    disk.remove(middle)
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(
        last.name, 1, f"goes on from {middle.name}, which is not here"
    )


def test_the_oldest_volumes_may_have_been_removed_on_record() -> None:
    """What the folder does not hold, and a later record names, is noted, no fault."""
    disk, [first, _, _] = write_log(1, 1, 1)
    head = last_head(disk, first)
    assert head is not None
    removed: Facts = {"records": 2, "last": head.chain.hex(), "bytes": 9, "why": "age"}
    open_volume(site(disk), NOON, [retention(NOON, first.name, removed)])
    disk.remove(first)
    report = verify_folder(FOLDER, disk)
    assert report.first_bad is None
    assert report.gaps == [f"{first.name} and all before it were removed, as is on record"]


@pytest.mark.parametrize("said", [{}, {"records": 3}, {"last": "ab" * 32}, {"name": "other"}], ids=str)
def test_a_log_whose_beginning_was_cut_off_is_found(said: dict[str, Any]) -> None:
    """No record says that the volume was removed, or it says so of another one."""
    disk, [first, second] = write_log(1, 1)
    head = last_head(disk, first)
    assert head is not None
    removed: Facts = {"records": 2, "last": head.chain.hex(), "bytes": 9, "why": "age", **said}
    if said:
        open_volume(site(disk), NOON, [retention(NOON, said.get("name", first.name), removed)])
    disk.remove(first)
    what = f"goes on from {first.name}, which is not here, and no record says that it was removed"
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(second.name, 1, what)


def test_a_compressed_volume_is_judged_by_what_it_holds() -> None:
    """A log is the same before and after."""
    disk, paths = write_log(3, 2, 1)
    before = verify_folder(FOLDER, disk)
    for path in paths[:2]:
        compress(site(disk), path.name)
    after = verify_folder(FOLDER, disk)
    assert (after.first_bad, after.records, after.head) == (None, before.records, before.head)


def test_any_changed_byte_of_a_compressed_volume_is_found() -> None:
    """Frame, checksum, or what comes behind: none of it can be changed unseen."""
    disk, [first, _] = write_log(3, 1)
    compress(site(disk), first.name)
    packed = packed_path(first)
    whole = disk.content(packed)
    changed = [whole[:n] + bytes([whole[n] ^ 0xFF]) + whole[n + 1 :] for n in range(len(whole))]
    for content in (*changed, whole + b"x", whole[:-1], whole + whole):
        disk.put(packed, content)
        bad = verify_folder(FOLDER, disk).first_bad
        assert bad is not None
        assert bad.volume == first.name


def test_a_log_that_begins_anew_is_found() -> None:
    """A node that lost its log does not pass for one that never had any."""
    disk, [first, second] = write_log(1, 0)
    header = unseal(lines_of(disk, second)[0][:-1]).body
    disk.put(second, seal(GENESIS, {**header, "previous": None})[0])
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(
        second.name, 1, f"begins anew, as if {first.name} had not been"
    )


def test_a_damage_that_was_mended_later_is_still_said() -> None:
    """The volume after it has it on record."""
    disk, [first] = write_log(1)
    whole = disk.content(first)
    disk.put(first, whole + b"garbage\n")
    second = open_volume(site(disk), NOON, []).volume.head.volume
    disk.put(first, whole)
    bad = verify_folder(FOLDER, disk).first_bad
    assert bad is not None
    assert (bad.volume, bad.line) == (second, 1)
    assert f"says that {first.name} could not be continued: at its end a line does not end" in bad.what


def test_a_renamed_volume_is_found() -> None:
    """A header names its own file."""
    disk, [first] = write_log(1)
    disk.rename(first, FOLDER / "mine.jsonl")
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(
        "mine.jsonl", 1, "is the header of another volume"
    )


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_a_torn_line_before_another_volume_is_a_fault(keep: int) -> None:
    """The start that wrote the next volume would have set it aside."""
    disk, [first, _] = write_log(1, 1)
    disk.put(first, b"".join(lines_of(disk, first)[:keep]) + b"torn")
    assert first_bad(disk) == (first.name, keep + 1)


def test_an_empty_volume_before_another_is_a_fault() -> None:
    """Only the newest can have been caught at its beginning."""
    disk, _ = write_log(1)
    stray = FOLDER / "20251231T000000Z-00000000.jsonl"
    disk.put(stray, b"")
    assert verify_folder(FOLDER, disk).first_bad == BadRecord(
        stray.name, 1, "is torn, though a volume follows"
    )


def test_a_broken_header_accuses_its_own_volume_only() -> None:
    """What it says of the volume before it counts only if it is right."""
    disk, [_, second] = write_log(2, 1)
    disk.put(second, disk.content(second).replace(b'"seq":2,"volume"', b'"seq":1,"volume"', 1))
    assert first_bad(disk) == (second.name, 1)


def test_volumes_are_judged_as_lines_alone() -> None:
    """The judgement knows no files."""
    report = Report()
    judge(report, VOLUMES[0].name, (line[:-1] for line in lines_of(SOUND, VOLUMES[0])), None)
    assert report.records == 3
    assert report.first_bad is None
    assert report.head == Head(VOLUMES[0].name, 2, unseal(lines_of(SOUND, VOLUMES[0])[-1][:-1]).chain)
