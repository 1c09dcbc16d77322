"""Whether a folder of volumes is what was written: the first bad record, or how far it can be shown.

Each volume is checked line by line by :mod:`sidecar.audit.chain`, and held against what its neighbours say
of it: the next volume's header names the last record of this one. Judged is what the folder holds; nothing
else is asked.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import Protocol

from pki.errors import LocalError, RemoteError
from sidecar.audit.chain import Broken, Head, Previous, Sealed, VolumeCheck, previous_of
from sidecar.audit.lines import extent, forward
from sidecar.audit.record import Kind, Value
from sidecar.audit.report import BadRecord, Report
from sidecar.audit.volume import volume_names
from sidecar.disk import Disk, RealDisk


class Observer(Protocol):
    """Asks more of a log than that its chain holds."""

    def take(self, sealed: Sealed, head: Head, report: Report) -> str:
        """The next record that is right so far, and its place; what is wrong with it all the same, or empty."""

    def end(self, report: Report) -> BadRecord | None:
        """After the last record, if all were right."""


def verify_folder(folder: Path, disk: Disk | None = None, observers: Sequence[Observer] = ()) -> Report:
    """Check the volumes in ``folder``, up to the first bad record; raises LocalError if there are none."""
    disk = disk or RealDisk()
    observers = [_Removals(), *observers]
    try:
        names = volume_names(disk, folder)
        if not names:  # a mistyped folder, or an emptied one, must not pass for a right log
            raise LocalError(f"{folder}: holds no audit volumes (*.jsonl); name a folder that does")
        report = Report(volumes=len(names))
        for name, following in zip_longest(names, names[1:]):
            size = extent(disk, folder / name)
            successor = None if following is None else _named_by(disk, folder / following, name)
            lines = forward(disk, folder / name, 0, size.complete)
            judge(report, name, lines, successor, observers)
            if following is None:
                report.torn = size.torn
            elif report.first_bad is None and (size.torn or not size.complete):
                report.first_bad = BadRecord(
                    name, _next_line(report, name), "is torn, though a volume follows"
                )
            if report.first_bad is not None:
                return report
    except OSError as error:
        raise LocalError(
            f"{error.filename or folder}: {error.strerror}; name a folder of audit volumes"
        ) from None
    report.first_bad = next((bad for one in observers if (bad := one.end(report))), None)
    return report


def judge(
    report: Report,
    name: str,
    lines: Iterable[bytes],
    successor: Head | None,
    observers: Sequence[Observer] = (),
) -> None:
    """Add the next volume to ``report``. Pure. ``successor``: the record that the volume after it names."""
    volume, before, line = VolumeCheck(name), report.head, 0
    try:
        for line, data in enumerate(_readable(lines), start=1):
            sealed = _take(volume, data, successor)
            if line == 1 and (what := _misfit(before, volume.previous)):
                raise RemoteError(what)
            assert volume.head is not None  # noqa: S101 - it was fed
            for one in observers:
                if what := one.take(sealed, volume.head, report):
                    raise RemoteError(what)
            report.records += 1
            report.head = volume.head
    except RemoteError as error:
        report.first_bad = BadRecord(name, line, str(error))
        return
    if before is None and volume.previous is not None:
        report.gaps.append(f"{name} goes on from {volume.previous.volume}, which is not here")
    if successor is not None and line <= successor.seq:
        report.first_bad = BadRecord(
            name, line + 1, f"is missing: the next volume goes on from record {successor.seq}"
        )


class _Removals:
    """Whether what the log does not begin with was removed on record.

    Volumes are removed from the oldest on, and the record of it stands in one that stays: a log that begins with
    another volume than its first and has no such record was cut by somebody else.
    """

    def __init__(self) -> None:
        self._first: Previous = None
        self._began: Head | None = None
        self._removed: dict[str, tuple[Value, Value]] = {}

    def take(self, sealed: Sealed, head: Head, _: Report) -> str:
        if self._began is None:
            self._began, self._first = head, previous_of(sealed)
        if sealed.body.get("kind") == Kind.RETENTION:
            self._removed[str(sealed.body.get("volume"))] = (
                sealed.body.get("records"),
                sealed.body.get("last"),
            )
        return ""

    def end(self, report: Report) -> BadRecord | None:
        first = self._first
        if first is None or self._began is None:
            return None
        wanted = (first.seq + 1, first.chain.hex()) if isinstance(first, Head) else None
        if wanted is not None and self._removed.get(first.volume) == wanted:
            report.gaps[:] = [f"{first.volume} and all before it were removed, as is on record"]
            return None
        what = f"goes on from {first.volume}, which is not here, and no record says that it was removed"
        return BadRecord(self._began.volume, 1, what)


def _readable(lines: Iterable[bytes]) -> Iterator[bytes | RemoteError]:
    """The lines, and in place of the first that cannot be read why not."""
    try:
        yield from lines
    except RemoteError as error:
        yield error


def _take(volume: VolumeCheck, data: bytes | RemoteError, successor: Head | None) -> Sealed:
    """Check the next line of a volume; raises RemoteError that says what is wrong with it."""
    if isinstance(data, RemoteError):
        raise data
    if successor is not None and volume.head is not None and volume.head.seq == successor.seq:
        raise RemoteError("stands after the last record that the next volume knows of")
    sealed = volume.feed(data)
    is_last = successor is not None and volume.head is not None and volume.head.seq == successor.seq
    if is_last and volume.head != successor:
        raise RemoteError("is not the record that the next volume goes on from")
    return sealed


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
