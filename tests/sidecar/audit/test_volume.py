import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pki.clock import SECOND, Wall
from sidecar.audit.chain import Head, seal
from sidecar.audit.verify import verify_folder
from sidecar.audit.volume import last_head, open_volume, volume_names
from sidecar.disk import AppendFile
from tests.auditlog import FOLDER, NOON, TORN_FOLDER, note, site, write_log, write_volume
from tests.faultdisk import FaultDisk


def records(disk: FaultDisk, path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in disk.content(path).split(b"\n")[:-1]]


def whats(disk: FaultDisk, path: Path) -> list[str]:
    return [one.get("what", one["kind"]) for one in records(disk, path)]


def test_a_volume_is_called_by_its_beginning_and_its_ordinal() -> None:
    """An operator sees in the folder when each began."""
    _, [first, second] = write_log(0, 0)
    assert first.name == "20260101T000000Z-00000000.jsonl"
    assert second.name == "20260101T010000Z-00000001.jsonl"


def test_volumes_stand_in_order_when_the_wall_clock_was_set_back() -> None:
    """The ordinal decides; a file of no volume's name comes last, and what is no .jsonl is none of them."""
    disk, _ = write_log(0)
    open_volume(site(disk), Wall(NOON - 9_000 * SECOND), [])
    disk.put(FOLDER / "a.jsonl", b"")
    disk.put(FOLDER / "notes.txt", b"")
    assert volume_names(disk, FOLDER) == [
        "20260101T000000Z-00000000.jsonl",
        "20251231T213000Z-00000001.jsonl",
        "a.jsonl",
    ]
    assert verify_folder(FOLDER, disk).records == 2


def test_a_volume_is_durable_with_its_header_and_first_records() -> None:
    """As soon as it is open, header, records and name survive a power cut, at the price of one sync."""
    disk, [path] = write_log(2)
    assert disk.fdatasyncs == 1
    header, *notes = records(disk.crash(), path)
    assert (header["kind"], header["seq"], header["previous"]) == ("volume", 0, None)
    assert header["volume"] == path.name
    assert [one["what"] for one in notes] == ["note 0", "note 1"]


def test_the_next_volume_goes_on_from_the_last_record() -> None:
    """The chain runs over the end of a volume."""
    disk, [first, second] = write_log(2, 1)
    head = last_head(disk, first)
    assert head is not None
    assert records(disk, second)[0]["previous"] == head.facts()
    assert head.seq == 2


def test_a_group_is_written_at_once_and_synced_once() -> None:
    """However many records share it."""
    disk = FaultDisk()
    volume = open_volume(site(disk), NOON, []).volume
    before = disk.fdatasyncs
    volume.append([note(n) for n in range(100)])
    assert disk.fdatasyncs == before + 1
    assert volume.head.seq == 100
    assert last_head(disk, FOLDER / volume.head.volume) == volume.head


@pytest.mark.parametrize("fault", ["full", "sick"])
def test_a_volume_that_fails_is_cut_back_to_what_is_durable(fault: str) -> None:
    """Never half a record, and never one that was not acknowledged, before the next volume goes on."""
    disk, [path] = write_log(0)
    volume = open_volume(site(disk), NOON, [note(1)]).volume
    path = FOLDER / volume.head.volume
    kept, head = disk.content(path), volume.head
    disk.room = 2_000 if fault == "full" else None
    disk.sick = {path} if fault == "sick" else set()
    with pytest.raises(OSError, match=r"short write|input/output"):
        volume.append([note(2, "x" * 2_000)])
    assert disk.content(path) != kept
    volume.give_up()
    assert disk.content(path) == kept
    assert volume.head == head


def test_giving_up_does_not_mind_a_disk_that_is_gone() -> None:
    """There is nothing left to save then."""
    disk = FaultDisk()
    volume = open_volume(site(disk), NOON, []).volume
    disk.down = OSError(errno.EIO, "gone")
    volume.give_up()


@pytest.mark.parametrize("room", [0, 1, 300])
def test_a_volume_that_cannot_begin_leaves_no_file(room: int) -> None:
    """A full disk does not fill the folder with stumps."""
    disk, [path] = write_log(1)
    disk.room = disk.size(path) + room
    with pytest.raises(OSError, match=r"short write|no space"):
        open_volume(site(disk), NOON, [note(n) for n in range(9)])
    assert disk.names(FOLDER) == [path.name]


def test_a_torn_line_is_set_aside_and_said() -> None:
    """What was never acknowledged leaves the log, but not the machine."""
    disk, [first] = write_log(2)
    whole = disk.content(first)
    disk.put(first, whole + b'{"half":')
    second = write_volume(disk, 0)
    assert disk.content(first) == whole
    assert disk.content(TORN_FOLDER / f"{first.name}.torn") == b'{"half":'
    assert whats(disk, second) == ["volume", "torn_line_set_aside"]
    assert records(disk, second)[1]["bytes"] == len(b'{"half":')
    assert verify_folder(FOLDER, disk).first_bad is None


def test_setting_aside_is_done_over_when_it_was_cut_short() -> None:
    """A kill between the copy and the cut leaves a copy behind, which must not stop the next start."""
    disk, [first] = write_log(2)
    disk.put(TORN_FOLDER / f"{first.name}.torn", b'{"ha')
    disk.put(first, disk.content(first) + b'{"half":')
    write_volume(disk, 0)
    assert disk.content(TORN_FOLDER / f"{first.name}.torn") == b'{"half":'


def test_no_torn_bytes_are_dropped_before_their_copy_is_durable() -> None:
    """With no room for the copy the volume stays as it is, and the log waits."""
    disk, [first] = write_log(2)
    disk.put(first, disk.content(first) + b'{"half":')
    before = disk.content(first)
    disk.room = len(before) + 3
    with pytest.raises(OSError, match="short write"):
        write_volume(disk, 0)
    assert disk.content(first) == before


@pytest.mark.parametrize("stump", [b"", b'{"at":17'])
def test_a_volume_without_a_whole_header_is_set_aside_whole(stump: bytes) -> None:
    """The chain goes on from the volume before it, and its name is not given again."""
    disk, [first, second] = write_log(1, 0)
    disk.put(second, stump)
    third = write_volume(disk, 0)
    assert disk.content(TORN_FOLDER / f"{second.name}.torn") == stump
    assert third.name.endswith("-00000002.jsonl")
    previous = last_head(disk, first)
    assert previous is not None
    assert records(disk, third)[0]["previous"] == previous.facts()
    assert whats(disk, third)[1:] == (["torn_line_set_aside"] if stump else [])
    assert verify_folder(FOLDER, disk).first_bad is None


class NoMoreVolumes(FaultDisk):
    def create(self, path: Path) -> AppendFile:
        if path.suffix == ".jsonl":
            raise OSError(errno.ENFILE, "too many open files")
        return super().create(path)


@pytest.mark.parametrize("lines", [0, 2], ids=["of nothing", "of two lines"])
def test_what_was_set_aside_is_durable_before_the_next_volume_begins(lines: int) -> None:
    """A power cut in between finds the torn end in one place, not in both or none."""
    log, [first] = write_log(1)
    disk = NoMoreVolumes()
    whole = b"".join(log.content(first).splitlines(keepends=True)[:lines])
    disk.put(first, whole + b'{"half":')
    with pytest.raises(OSError, match="too many open files"):
        open_volume(site(disk), NOON, [])
    after = disk.crash()
    assert after.content(TORN_FOLDER / f"{first.name}.torn") == b'{"half":'
    assert after.names(FOLDER) == ([first.name] if lines else [])
    assert not lines or after.content(first) == whole


def test_what_the_next_header_names_is_synced_first() -> None:
    """After a kill -9 the last lines may be in memory only; a header that outlived them would accuse."""
    disk, [first] = write_log(1)
    head = last_head(disk, first)
    assert head is not None
    disk.append(first).write(seal(head.chain, note(1).body("tools-1", 2))[0])
    write_volume(disk, 0)
    report = verify_folder(FOLDER, disk.crash())
    assert (report.records, report.first_bad) == (4, None)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbage": lambda content: content + b"garbage\n",
    "last record changed": lambda content: content.replace(b'"what":"note 2"', b'"what":"note 9"'),
    "last line doubled": lambda content: content + content.split(b"\n")[-2] + b"\n",
    "all of it": lambda _: b"\n" * 5,
    "header of another volume": lambda content: content.split(b"\n")[0].replace(b"T00", b"T01") + b"\n",
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_evidence_of_tampering_does_not_stop_the_log(damage: str) -> None:
    """The next volume begins anew and says why; the damaged one stays as it is."""
    disk, [first] = write_log(3)
    disk.put(first, DAMAGES[damage](disk.content(first)))
    before = disk.content(first)
    opened = open_volume(site(disk), NOON, [note(7)])
    second = FOLDER / opened.volume.head.volume
    assert disk.content(first) == before
    assert opened.broken.startswith("at its end a line")
    assert whats(disk, second) == ["volume", "audit_volume_broken", "note 7"]
    assert records(disk, second)[0]["previous"] == {"volume": first.name, "broken": opened.broken}
    bad = verify_folder(FOLDER, disk).first_bad
    assert bad is not None
    assert bad.volume == first.name
    assert last_head(disk, second) == Head(second.name, 2, opened.volume.head.chain)


def test_a_volume_that_cannot_be_synced_is_not_built_upon() -> None:
    """Its last lines may be gone tomorrow."""
    disk, [first] = write_log(1)
    disk.sick.add(first)
    opened = open_volume(site(disk), NOON, [])
    assert opened.broken == "it cannot be read or synced"


def test_a_start_on_a_disk_that_is_gone_fails_and_can_be_tried_again() -> None:
    """Only EIO of one file is that file's end; anything else is the disk's."""
    disk, _ = write_log(1)
    disk.down = OSError(errno.EROFS, "read-only file system")
    with pytest.raises(OSError, match="read-only"):
        open_volume(site(disk), NOON, [])
    disk.down = None
    assert open_volume(site(disk), NOON, []).broken == ""
