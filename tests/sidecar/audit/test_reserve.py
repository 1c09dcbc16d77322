import errno
from pathlib import Path

import pytest

from sidecar.audit import reserve
from sidecar.audit.record import Kind
from sidecar.audit.volume import Site
from sidecar.disk import RealDisk
from tests.auditlog import site
from tests.faultdisk import FaultDisk

RESERVE = 1_000


def test_the_reserve_is_made_once_and_given_up(tmp_path: Path) -> None:
    """On a real disk it takes what it says."""
    one = Site(RealDisk(), tmp_path / "lib/audit", "tools-1", reserve_bytes=100_000)
    assert reserve.take(one)
    assert reserve.take(one)
    assert one.reserve.stat().st_blocks * 512 >= 100_000
    reserve.release(one)
    reserve.release(one)
    assert not one.reserve.exists()


def test_another_size_is_made_anew() -> None:
    """After a change of the configuration, or of a daemon that was killed in between."""
    disk = FaultDisk()
    disk.put(site(disk).reserve, b"short")
    assert reserve.take(site(disk, reserve_bytes=RESERVE))
    assert disk.size(site(disk).reserve) == RESERVE


def test_without_room_there_is_none() -> None:
    """And no half of one takes the room that is left."""
    disk = FaultDisk()
    disk.room = RESERVE // 2
    assert not reserve.take(site(disk, reserve_bytes=RESERVE))
    assert disk.used == 0


def test_a_broken_disk_is_no_full_one() -> None:
    """It shows when it is written to."""
    disk = FaultDisk()
    disk.down = OSError(errno.EROFS, "read-only file system")
    assert reserve.take(site(disk, reserve_bytes=RESERVE))
    assert reserve.take(site(disk))


@pytest.mark.parametrize(("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_what_a_full_disk_says(number: int, full: bool) -> None:
    """A quota that is used up is one, too."""
    assert reserve.is_full(OSError(number, "")) is full


def test_what_stops_is_urgent_and_what_lets_through_is_not() -> None:
    """On a full disk nothing is let through that needs a record."""
    assert {Kind.CUT, Kind.DENIED, Kind.LOCK, Kind.REVOCATION} <= reserve.URGENT
    assert not {Kind.ADMITTED, Kind.REQUEST, Kind.OPENED, Kind.SESSION} & reserve.URGENT
