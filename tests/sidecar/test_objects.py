import hashlib
from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.objects import MAX_OBJECT_BYTES, Objects
from tests.faultdisk import FaultDisk

FOLDER = Path("/lib/objects")
TEXT = b"[services.wiki]\n"
DIGEST = hashlib.sha256(TEXT).hexdigest()


def test_an_object_is_read_under_its_digest(tmp_path: Path) -> None:
    """From a real disk, and by a process that comes later."""
    assert Objects(tmp_path / "objects").put(TEXT) == DIGEST
    assert Objects(tmp_path / "objects").read(DIGEST) == TEXT
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [DIGEST]


def test_what_is_not_held_is_none() -> None:
    """Not an error: a peer may ask for anything."""
    assert Objects(FOLDER, FaultDisk()).read(DIGEST) is None


def test_an_object_that_was_put_survives_a_crash() -> None:
    """Durable on return: the policy statement that names it comes after."""
    disk = FaultDisk()
    Objects(FOLDER, disk).put(TEXT)
    assert Objects(FOLDER, disk.crash()).read(DIGEST) == TEXT


def test_putting_it_again_writes_nothing() -> None:
    """It is kept once."""
    disk = FaultDisk()
    objects = Objects(FOLDER, disk)
    objects.put(TEXT)
    written = disk.fdatasyncs
    assert objects.put(TEXT) == DIGEST
    assert disk.fdatasyncs == written


def test_an_object_that_was_changed_is_refused_and_can_be_put_again() -> None:
    """A policy that someone edited on disk is never served and never in force."""
    disk = FaultDisk()
    objects = Objects(FOLDER, disk)
    objects.put(TEXT)
    disk.put(FOLDER / DIGEST, b"[services.evil]\n")
    with pytest.raises(LocalError, match="not what its name says; delete it"):
        objects.read(DIGEST)
    objects.put(TEXT)
    assert objects.read(DIGEST) == TEXT


def test_a_full_disk_leaves_no_half_object() -> None:
    """The write fails as a whole, and succeeds when there is room."""
    disk = FaultDisk()
    objects = Objects(FOLDER, disk)
    disk.room = 5
    with pytest.raises(LocalError, match=f"{DIGEST}: short write"):
        objects.put(TEXT)
    assert objects.read(DIGEST) is None
    assert disk.names(FOLDER) == []
    disk.room = None
    assert objects.put(TEXT) == DIGEST


def test_a_disk_that_cannot_be_read_is_our_own_fault() -> None:
    """Named with the path, like any other trouble of the disk."""
    disk = FaultDisk()
    objects = Objects(FOLDER, disk)
    disk.down = OSError(5, "input/output error")
    with pytest.raises(LocalError, match="input/output error"):
        objects.read(DIGEST)
    with pytest.raises(LocalError, match="input/output error"):
        objects.put(TEXT)


def test_an_object_too_large_is_refused() -> None:
    """Before a byte of it is written."""
    disk = FaultDisk()
    with pytest.raises(LocalError, match="at most 33554432 are kept"):
        Objects(FOLDER, disk).put(bytes(MAX_OBJECT_BYTES + 1))
    assert disk.names(FOLDER) == []


def test_a_leftover_of_a_killed_process_is_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process ids come again: a file of ours from before is replaced."""
    disk = FaultDisk()
    objects = Objects(FOLDER, disk)
    monkeypatch.setattr("sidecar.objects._fresh", iter([7, 7]))
    monkeypatch.setattr("os.getpid", lambda: 42)
    disk.put(FOLDER / f"{DIGEST}.42-7.new", b"half")
    objects.put(TEXT)
    assert objects.read(DIGEST) == TEXT
    assert disk.names(FOLDER) == [DIGEST]
