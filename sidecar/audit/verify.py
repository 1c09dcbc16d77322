"""Whether a folder of volumes is what was written: the first bad record, or how far it can be shown.

Each volume is checked line by line by :mod:`sidecar.audit.chain`, and held against what its neighbours say
of it: the next volume's header names the last record of this one. Judged is what the folder holds; nothing
else is asked.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path

from pki.errors import LocalError, RemoteError
from sidecar.audit.chain import Broken, Head, Previous, VolumeCheck
from sidecar.audit.lines import extent, forward
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk, RealDisk


@dataclass(frozen=True, slots=True)
class BadRecord:
    """The first record that is not what was written; ``line`` counts from 1, the header."""

    volume: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.volume}: line {self.line} {self.what}"


@dataclass(slots=True)
class Report:
    """What a log shows. Everything before ``first_bad`` is right."""

    volumes: int = 0
    records: int = 0
    """Those that are right."""
    first_bad: BadRecord | None = None
    head: Head | None = None
    """The last record that is right."""
    torn: int = 0
    """Bytes after the last line of the newest volume: a write that was under way or cut short. No fault."""
    gaps: list[str] = field(default_factory=list)
    """What the folder does not hold and need not: volumes expire. No fault."""

    @property
    def provable(self) -> str:
        """How much is shown, in words."""
        if self.head is None:
            return "nothing is shown: there is no record that is right"
        shown = f"complete up to {self.head.volume} record {self.head.seq}, chain {self.head.chain.hex()}"
        return f"{shown}; a cut-off tail needs witnesses: only a later head kept elsewhere would show it"


def verify_folder(folder: Path, disk: Disk | None = None) -> Report:
    """Check the volumes in ``folder``, up to the first bad record; raises LocalError if there are none."""
    disk = disk or RealDisk()
    try:
        names = volume_names(disk, folder)
        if not names:  # a mistyped folder, or an emptied one, must not pass for a right log
            raise LocalError(f"{folder}: holds no audit volumes (*.jsonl); name a folder that does")
        report = Report(volumes=len(names))
        for name, following in zip_longest(names, names[1:]):
            size = extent(disk, folder / name)
            successor = None if following is None else _named_by(disk, folder / following, name)
            judge(report, name, forward(disk, folder / name, 0, size.complete), successor)
            if following is None:
                report.torn = size.torn
            elif report.first_bad is None and (size.torn or not size.complete):
                report.first_bad = BadRecord(
                    name, _next_line(report, name), "is torn, though a volume follows"
                )
            if report.first_bad is not None:
                break
    except OSError as error:
        raise LocalError(
            f"{error.filename or folder}: {error.strerror}; name a folder of audit volumes"
        ) from None
    return report


def judge(report: Report, name: str, lines: Iterable[bytes], successor: Head | None) -> None:
    """Add the next volume to ``report``. Pure. ``successor``: the record that the volume after it names."""
    volume, before, line = VolumeCheck(name), report.head, 0
    for line, data in enumerate(lines, start=1):
        if what := _fault(volume, data, successor) or (_misfit(before, volume.previous) if line == 1 else ""):
            report.first_bad = BadRecord(name, line, what)
            return
        report.records += 1
        report.head = volume.head
    if before is None and volume.previous is not None:
        report.gaps.append(f"{name} goes on from {volume.previous.volume}, which is not here")
    if successor is not None and line <= successor.seq:
        report.first_bad = BadRecord(
            name, line + 1, f"is missing: the next volume goes on from record {successor.seq}"
        )


def _fault(volume: VolumeCheck, data: bytes, successor: Head | None) -> str:
    """What is wrong with the next line of a volume; empty if nothing is."""
    if successor is not None and volume.head is not None and volume.head.seq == successor.seq:
        return "stands after the last record that the next volume knows of"
    try:
        volume.feed(data)
    except RemoteError as error:
        return str(error)
    if successor is not None and volume.head is not None and volume.head.seq == successor.seq:
        return "" if volume.head == successor else "is not the record that the next volume goes on from"
    return ""


def _misfit(before: Head | None, previous: Previous) -> str:
    """What is wrong with a header naming ``previous`` when ``before`` is the last record before it."""
    if before is None:
        return ""
    if previous is None:
        return f"begins anew, as if {before.volume} had not been"
    if isinstance(previous, Broken):
        return f"says that {previous.volume} could not be continued: {previous.what}"
    return "" if previous.volume == before.volume else f"goes on from {previous.volume}, which is not here"


def _named_by(disk: Disk, path: Path, name: str) -> Head | None:
    """The record of the volume ``name`` that the header of ``path`` names, if that header is right."""
    volume = VolumeCheck(path.name)
    with suppress(RemoteError):
        for line in islice(forward(disk, path, 0, extent(disk, path).complete), 1):
            volume.feed(line)
    previous = volume.previous if volume.head is not None else None
    return previous if isinstance(previous, Head) and previous.volume == name else None


def _next_line(report: Report, name: str) -> int:
    return report.head.seq + 2 if report.head is not None and report.head.volume == name else 1
