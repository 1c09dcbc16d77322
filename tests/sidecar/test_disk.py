import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecar.disk import AppendFile, Disk, RealDisk, write_durably
from tests.faultdisk import FaultDisk

BOTH = pytest.mark.parametrize("make", [RealDisk, FaultDisk])


@BOTH
def test_a_created_file_is_new_and_grows_at_its_end(make: Callable[[], Disk], tmp_path: Path) -> None:
    """Nothing that stands in a file is ever overwritten."""
    disk, path = make(), tmp_path / "lib/log"
    disk.make_folder(path.parent)
    disk.make_folder(path.parent)
    file = disk.create(path)
    write_durably(file, b"one,")
    file.close()
    with pytest.raises(FileExistsError):
        disk.create(path)
    file = disk.append(path)
    write_durably(file, b"two,three")
    file.truncate(7)
    file.close()
    disk.sync_folder(path.parent)
    assert disk.size(path) == 7
    assert disk.read(path, 0, 100) == b"one,two"
    assert disk.read(path, 4, 2) == b"tw"
    assert disk.read(path, 7, 2) == b""


@BOTH
def test_a_rename_takes_the_place_of_what_is_there(make: Callable[[], Disk], tmp_path: Path) -> None:
    """Readers see the old file or the new one, never none."""
    disk, old, new = make(), tmp_path / "lib/old", tmp_path / "lib/new"
    disk.make_folder(old.parent)
    for path in (old, new):
        file = disk.create(path)
        write_durably(file, path.name.encode())
        file.close()
    disk.rename(old, new)
    assert disk.names(old.parent) == ["new"]
    assert disk.read(new, 0, 10) == b"old"
    disk.remove(new)
    assert disk.names(old.parent) == []


@BOTH
def test_what_is_not_there_is_an_os_error(make: Callable[[], Disk], tmp_path: Path) -> None:
    """A missing file or folder never reads as an empty one."""
    disk = make()
    for attempt in (disk.append, disk.size, disk.remove, disk.names):
        with pytest.raises(FileNotFoundError):
            attempt(tmp_path / "absent")


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    """Another uid on the machine cannot read the log."""
    disk = RealDisk()
    disk.make_folder(tmp_path / "lib")
    disk.create(tmp_path / "lib/log").close()
    assert (tmp_path / "lib").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "lib/log").stat().st_mode & 0o777 == 0o600


def test_a_short_write_is_a_full_disk() -> None:
    """What was only partly taken is never synced and called written."""
    disk = FaultDisk()
    disk.room = 3
    file: AppendFile = disk.create(Path("/log"))
    with pytest.raises(OSError, match="short write") as caught:
        write_durably(file, b"four")
    assert caught.value.errno == errno.ENOSPC
    assert disk.fdatasyncs == 0


def test_only_what_was_synced_survives_a_power_cut() -> None:
    """The fake loses unsynced bytes and names, as disks do; a torn write keeps its first bytes."""
    disk, folder = FaultDisk(), Path("/lib")
    disk.make_folder(folder)
    file = disk.create(folder / "kept")
    write_durably(file, b"synced")
    disk.sync_folder(folder)
    file.write(b" and not")
    disk.create(folder / "name-not-synced")
    assert disk.crash().content(folder / "kept") == b"synced"
    assert disk.crash(torn=4).content(folder / "kept") == b"synced and"
    assert disk.crash().names(folder) == ["kept"]


def test_a_failed_sync_loses_bytes_although_the_next_one_succeeds() -> None:
    """The fake does what Linux does: trying a failed fdatasync again proves nothing."""
    disk, path = FaultDisk(), Path("/lib/log")
    disk.make_folder(path.parent)
    file = disk.create(path)
    disk.sync_folder(path.parent)
    disk.sick.add(path)
    with pytest.raises(OSError, match="input/output"):
        write_durably(file, b"lost")
    file.fdatasync()
    assert disk.content(path) == b"lost"
    assert disk.crash().content(path) == b""


@BOTH
def test_what_is_allocated_is_there(make: Callable[[], Disk], tmp_path: Path) -> None:
    """Under a new name, for its owner only."""
    disk, path = make(), tmp_path / "lib/reserve"
    disk.make_folder(path.parent)
    disk.allocate(path, 10_000)
    assert disk.size(path) == 10_000
    with pytest.raises(FileExistsError):
        disk.allocate(path, 1)


def test_an_allocation_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """It would take the room that is left."""
    with pytest.raises(OSError, match=r"space|large"):
        RealDisk().allocate(tmp_path / "reserve", 1 << 62)
    assert list(tmp_path.iterdir()) == []
    disk = FaultDisk()
    disk.make_folder(tmp_path)
    for disk.room in (0, 5):
        with pytest.raises(OSError, match="space"):
            disk.allocate(tmp_path / "reserve", 10)
        assert disk.paths == set()


@BOTH
def test_a_file_knows_whether_its_name_is_still_its_own(make: Callable[[], Disk], tmp_path: Path) -> None:
    """Removed, moved, or another in its place: whoever looks for it there does not find it."""
    disk, path = make(), tmp_path / "lib/log"
    disk.make_folder(path.parent)
    file = disk.create(path)
    assert file.stands_at(path)
    disk.rename(path, path.with_name("moved"))
    assert not file.stands_at(path)
    disk.create(path).close()
    assert not file.stands_at(path)
    file.close()
