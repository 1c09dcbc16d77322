"""Audit logs on a disk in memory, for the tests that read or damage them."""

from pathlib import Path

from pki.clock import SECOND, Wall
from sidecar.audit.record import Record, finding
from sidecar.audit.volume import Site, open_volume
from tests.faultdisk import FaultDisk

FOLDER = Path("/state/lib/audit")
TORN_FOLDER = Path("/state/lib/audit-torn")
NOON = Wall(1_767_225_600 * SECOND)
"""2026-01-01T00:00:00Z."""


def site(disk: FaultDisk) -> Site:
    return Site(disk, FOLDER, "tools-1")


def note(number: int, text: str = "") -> Record:
    return finding(NOON, f"note {number}", {"text": text})


def write_volume(disk: FaultDisk, notes: int) -> Path:
    """One more volume: a header and as many notes. An hour passes between one volume and the next."""
    at = Wall(NOON + 3600 * SECOND * len(disk.names(FOLDER) if FOLDER in disk.folders else []))
    volume = open_volume(site(disk), at, [note(n) for n in range(notes)]).volume
    volume.close()
    return FOLDER / volume.head.volume


def write_log(*notes: int) -> tuple[FaultDisk, list[Path]]:
    """A log of volumes of so many notes each."""
    disk = FaultDisk()
    return disk, [write_volume(disk, count) for count in notes]
