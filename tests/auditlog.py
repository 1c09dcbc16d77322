"""Audit logs on a disk in memory, for the tests that read or damage them."""

from dataclasses import dataclass, field
from pathlib import Path

from pki.clock import SECOND, Wall
from sidecar.audit.checkpoint import Note, Pen, Signatory, introduction
from sidecar.audit.record import Kind, Record, finding
from sidecar.audit.volume import Site, open_volume, volume_names
from sidecar.defaults import AUDIT_VOLUME_BYTES
from tests.authority import TinyCa, new_key, tiny_ca
from tests.faultdisk import FaultDisk

FOLDER = Path("/state/lib/audit")
TORN_FOLDER = Path("/state/lib/audit-torn")
NOON = Wall(1_767_225_600 * SECOND)
"""2026-01-01T00:00:00Z."""


def site(disk: FaultDisk, volume_bytes: int = AUDIT_VOLUME_BYTES, reserve_bytes: int = 0) -> Site:
    return Site(disk, FOLDER, "tools-1", volume_bytes, reserve_bytes)


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


@dataclass
class Keeper:
    """A node that keeps a signed log on a disk of its own; ``notes`` are its checkpoints, oldest first."""

    name: str = "tools-1"
    ca: TinyCa = field(default_factory=tiny_ca)
    disk: FaultDisk = field(default_factory=FaultDisk)
    notes: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.signatory = self.signs(self.name)

    def signs(self, name: str) -> Signatory:
        """A member of the same mesh with a key of its own."""
        key, node = new_key(), self.ca.node(name)
        return Signatory(node, self.ca.issue(node, key), key, self.ca.bundle_statement.raw)

    @property
    def site(self) -> Site:
        return Site(self.disk, FOLDER, self.name, reserve_bytes=0)

    @property
    def paths(self) -> list[Path]:
        return [FOLDER / name for name in volume_names(self.disk, FOLDER)]

    def writes(self, *groups: int) -> None:
        """One more volume, of groups of so many notes, each group with a checkpoint behind it."""
        at = Wall(NOON + 3600 * SECOND * len(self.paths if FOLDER in self.disk.folders else []))
        pen = Pen(self.signatory, at, must=True)
        volume = open_volume(self.site, at, [note(0)], pen=pen).volume
        for group in groups:
            volume.append([note(number) for number in range(group)], pen)
            assert volume.note is not None
            self.notes.append(volume.note)
        volume.close()

    def keeps(self, other: "Keeper") -> None:
        """One more volume, with all heads of ``other``."""
        at = Wall(NOON + 3600 * SECOND * len(self.paths if FOLDER in self.disk.folders else []))
        who = introduction(other.signatory.chain)
        kept = [Record(Kind.WITNESS, NOON, {"of": other.name, **one.facts(), **who}) for one in other.notes]
        open_volume(self.site, at, kept, pen=Pen(self.signatory, at, must=True)).volume.close()
