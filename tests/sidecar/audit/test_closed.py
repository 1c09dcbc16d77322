import errno
import json
from collections.abc import Callable
from typing import TypeVar

import pytest
import trio

from pki.clock import DAY, HOUR, SECOND, Boot, Wall
from sidecar.audit.closed import ClosedVolumes, Keep, compress
from sidecar.audit.lines import forward, is_packed, packed_path
from sidecar.audit.record import Record
from sidecar.audit.verify import verify_folder
from sidecar.audit.volume import Site, Volume, open_volume, volume_names
from tests.auditlog import FOLDER, NOON, site, write_log
from tests.faultdisk import FaultDisk


class Noon:
    def wall(self) -> Wall:
        return NOON

    def boot(self) -> Boot:
        return Boot(0)


T = TypeVar("T")


async def at_once(work: Callable[[], T], /) -> T:
    await trio.lowlevel.checkpoint()
    return work()


class Written:
    """A log that writes into a new volume."""

    def __init__(self, disk: FaultDisk) -> None:
        self.site: Site = site(disk)
        self.records: list[Record] = []
        self.before: Callable[[], None] = lambda: None
        self.volume: Volume | None = None

    async def commit(self, record: Record) -> None:
        self.before()
        await trio.lowlevel.checkpoint()
        self.records.append(record)
        if self.volume is None:
            self.volume = open_volume(self.site, Wall(NOON + DAY), []).volume
        self.volume.append([record])


def closed(log: Written, keep: Keep = Keep(), floor: int = 0) -> ClosedVolumes:  # noqa: B008 - a frozen value
    return ClosedVolumes(log, keep, Noon(), lambda: Wall(floor), at_once)


async def test_every_volume_but_the_newest_is_compressed() -> None:
    """And the log is what it was."""
    disk, [first, second, newest] = write_log(200, 5, 2)
    before = verify_folder(FOLDER, disk)
    size = disk.size(first)
    await closed(Written(disk)).tidy()
    assert [is_packed(disk, path) for path in (first, second, newest)] == [True, True, False]
    assert disk.size(packed_path(first)) < size / 3
    after = verify_folder(FOLDER, disk)
    assert (after.first_bad, after.head, after.records) == (None, before.head, before.records)


async def test_a_log_of_one_volume_is_left_alone() -> None:
    """It is being written."""
    disk, [only] = write_log(3)
    await closed(Written(disk), Keep(age=1, size=1), floor=NOON + DAY).tidy()
    assert disk.paths == {only}


@pytest.mark.parametrize("torn", [0, 10])
def test_a_power_cut_leaves_one_of_both_whole(torn: int) -> None:
    """At every step of it."""
    disk, [first, _] = write_log(3, 1)
    content = disk.content(first)
    for step in ("rename", "sync_folder", "remove"):
        other, _ = write_log(3, 1)

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "power")

        setattr(other, step, fail)
        with pytest.raises(OSError, match="power"):
            compress(site(other), first.name)
        after = other.crash(torn)
        assert b"".join(line + b"\n" for line in forward(after, first, 0, len(content))) == content


async def test_what_a_killed_daemon_left_is_removed_and_made_anew() -> None:
    """A half compressed file, and one that is whole beside its plain one."""
    disk, [first, _] = write_log(3, 1)
    whole = disk.content(first)
    compress(site(disk), first.name)
    disk.put(first, whole)
    half = FOLDER / f"{first.name}.zst.new"
    disk.put(half, b"half")
    await closed(Written(disk)).tidy()
    assert half not in disk.paths
    assert is_packed(disk, first)
    assert verify_folder(FOLDER, disk).first_bad is None


async def test_a_full_disk_keeps_the_plain_volume() -> None:
    """And no half of a compressed one."""
    disk, paths = write_log(50, 1)
    disk.room = disk.used + 10
    await closed(Written(disk)).tidy()
    assert disk.paths == set(paths)
    disk.room = None
    await closed(Written(disk)).tidy()
    assert is_packed(disk, paths[0])


async def test_volumes_go_when_they_are_old_and_the_log_says_so_first() -> None:
    """Age counts from when the next one was begun; the record is durable before the file is gone."""
    disk, [first, second, third] = write_log(2, 2, 2)
    log = Written(disk)
    seen: list[bool] = []
    log.before = lambda: seen.append(first.name in volume_names(disk, FOLDER))
    await closed(log, Keep(age=DAY), floor=NOON + DAY + HOUR).tidy()
    assert [(one.fields["volume"], one.fields["records"], one.fields["why"]) for one in log.records] == [
        (first.name, 3, "age")
    ]
    assert seen == [True]
    assert volume_names(disk, FOLDER)[:2] == [second.name, third.name]
    report = verify_folder(FOLDER, disk)
    assert report.first_bad is None
    assert report.gaps == [f"{first.name} and all before it were removed, as is on record"]


async def test_volumes_go_while_all_take_too_much() -> None:
    """The oldest first; the newest stays, whatever it takes."""
    disk, paths = write_log(40, 40, 40, 40)
    log = Written(disk)
    await closed(log, Keep(size=1)).tidy()
    assert [one.fields["volume"] for one in log.records[:4]] == [path.name for path in paths]
    assert {one.fields["why"] for one in log.records} == {"size"}
    assert verify_folder(FOLDER, disk).first_bad is None


async def test_nothing_goes_before_its_time() -> None:
    """Not by a wall clock that was set ahead, and not without a limit."""
    disk, [first, *_] = write_log(1, 1, 1)
    for keep, floor in ((Keep(), NOON + 400 * DAY), (Keep(age=DAY), 0), (Keep(age=DAY), NOON + DAY)):
        log = Written(disk)
        await closed(log, keep, floor).tidy()
        assert log.records == []
    assert first.name in volume_names(disk, FOLDER)


async def test_a_volume_that_cannot_be_read_stays() -> None:
    """What is on record of it could not be said."""
    disk, [first, _] = write_log(1, 1)
    disk.put(first, b"garbage\n")
    log = Written(disk)
    await closed(log, Keep(age=1), floor=NOON + DAY).tidy()
    assert log.records == []
    assert first.name in volume_names(disk, FOLDER)


async def test_files_that_are_no_volumes_are_left_alone() -> None:
    """Somebody put them there."""
    disk, _ = write_log(1, 1)
    stranger = FOLDER / "notes.jsonl"
    disk.put(stranger, json.dumps({"at": SECOND}).encode())
    await closed(Written(disk), Keep(size=1)).tidy()
    assert stranger in disk.paths


async def test_it_looks_again_every_minute(autojump_clock: trio.testing.MockClock) -> None:
    """What is closed while the daemon runs is compressed, too."""
    disk, [first] = write_log(2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closed(Written(disk)).run)
        await trio.testing.wait_all_tasks_blocked()
        open_volume(site(disk), Wall(NOON + HOUR), []).volume.close()
        assert not is_packed(disk, first)
        await trio.sleep(61)
        assert is_packed(disk, first)
        nursery.cancel_scope.cancel()
