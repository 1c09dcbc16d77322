"""The files of the log: how one is begun, written, given up and continued. Blocking; one process at a time.

DIR/lib/audit holds volumes and nothing else, called ``<UTC of its beginning>-<ordinal>.jsonl``. The ordinal
(8 hex) puts them in order whatever the wall clock did. A volume comes into being with its header and first
records in one write; whatever fails in that leaves no file behind. On it goes by these rules:

- Records count as written after fdatasync, all of a write or none.
- A volume that could not be written or synced is given up: cut back to its last durable record, never
  written again.
- A new volume continues the newest that has a whole header, from its last complete line. What is torn off
  behind that line was never acknowledged; it is set aside in DIR/lib/audit-torn, and a recovery record says
  so.
- A newest volume that does not end in two lines that fit together was tampered with or rotted. It stays as
  it is, as evidence, and the next begins anew and says so: evidence must not stop the node from being
  heard.
"""

import errno
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pki.clock import SECOND, Wall
from pki.errors import RemoteError
from sidecar.audit import record
from sidecar.audit.chain import Broken, Head, Previous, VolumeCheck, seal, start, unseal
from sidecar.audit.lines import backward, extent
from sidecar.audit.record import Record
from sidecar.disk import AppendFile, Disk, write_durably

_NAME = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{8,})\.jsonl")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node's log stands."""

    disk: Disk
    folder: Path
    node: str

    @property
    def torn_folder(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-torn")


class Volume:
    """An open volume. After an OSError from `append` there is only `give_up`."""

    def __init__(self, site: Site, file: AppendFile, name: str, chain: bytes) -> None:
        """An empty file, whose header will build on ``chain``."""
        self._site = site
        self._file = file
        self._size = 0
        self.head = Head(name, -1, chain)
        """The last durable record."""

    def append(self, records: Sequence[Record]) -> None:
        """Write ``records`` at once and sync; durable on return. Raises OSError."""
        head, lines = self.head, []
        for one in records:
            line, chain = seal(head.chain, one.body(self._site.node, head.seq + 1))
            head = Head(head.volume, head.seq + 1, chain)
            lines.append(line)
        data = b"".join(lines)
        write_durably(self._file, data)
        self._size += len(data)
        self.head = head

    def give_up(self) -> None:
        """Take back what was not acknowledged, as far as the disk lets us, and close."""
        with suppress(OSError):
            self._file.truncate(self._size)
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


@dataclass(frozen=True, slots=True)
class Opened:
    """A new volume, and why the one before it could not be continued (empty: it could, or there was none)."""

    volume: Volume
    broken: str


def open_volume(site: Site, at: Wall, records: Sequence[Record]) -> Opened:
    """Begin the next volume with ``records``, after putting right what the last one left. Raises OSError."""
    for folder in (site.folder, site.torn_folder):
        site.disk.make_folder(folder)
    previous, repairs = _previous(site, at)
    name = _next_name(site, at)
    volume = Volume(site, site.disk.create(site.folder / name), name, start(previous))
    try:
        header = record.volume(at, name, None if previous is None else previous.facts())
        volume.append([header, *repairs, *records])
        site.disk.sync_folder(site.folder)
    except OSError:
        volume.close()
        with suppress(OSError):
            site.disk.remove(site.folder / name)
        raise
    return Opened(volume, previous.what if isinstance(previous, Broken) else "")


def volume_names(disk: Disk, folder: Path) -> list[str]:
    """The volumes in ``folder``, oldest first; files of no volume's name come last. Raises OSError."""
    return sorted((name for name in disk.names(folder) if name.endswith(".jsonl")), key=_order)


def last_head(disk: Disk, path: Path) -> Head | None:
    """The last record of a volume, None without a whole header; RemoteError when its end is not right."""
    lines = list(islice(backward(disk, path, extent(disk, path).complete), 2))
    if not lines:
        return None
    volume = VolumeCheck(path.name, after=unseal(lines[1]) if len(lines) == 2 else None)
    volume.feed(lines[0])
    return volume.head


def _order(name: str) -> tuple[int, int, str]:
    parts = _NAME.fullmatch(name)
    return (1, 0, name) if parts is None else (0, int(parts[1], 16), name)


def _next_name(site: Site, at: Wall) -> str:
    """Counted over the torn ones too, so that no name is ever given twice."""
    names = [*site.disk.names(site.folder), *site.disk.names(site.torn_folder)]
    used = [int(parts[1], 16) for name in names if (parts := _NAME.match(name))]
    return (
        f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(at // SECOND))}-{max(used, default=-1) + 1:08x}.jsonl"
    )


def _previous(site: Site, at: Wall) -> tuple[Previous, list[Record]]:
    """What the next volume goes on from, and the records of what had to be put right first."""
    repairs: list[Record] = []
    for name in reversed([name for name in volume_names(site.disk, site.folder) if _NAME.fullmatch(name)]):
        try:
            head = last_head(site.disk, site.folder / name)
            torn = _set_aside(site, name)
        except RemoteError as error:
            broken = Broken(name, f"at its end a line {error}")
        except OSError as error:
            if error.errno != errno.EIO:
                raise  # a full disk is no evidence of anything: the writer tries again
            broken = Broken(name, "it cannot be read or synced")
        else:
            if torn:
                repairs.append(record.recovery(at, "torn_line_set_aside", {"volume": name, "bytes": torn}))
            if head is not None:
                return head, repairs
            continue
        return broken, [*repairs, record.finding(at, "audit_volume_broken", broken.facts())]
    return None, repairs


def _set_aside(site: Site, name: str) -> int:
    """Move what no LF ends, or a volume of nothing else, out of the log; how many bytes. Syncs the volume."""
    disk, path, aside = site.disk, site.folder / name, site.torn_folder / f"{name}.torn"
    size = extent(disk, path)
    if not size.complete:
        disk.rename(path, aside)
        disk.sync_folder(site.torn_folder)
        disk.sync_folder(site.folder)
        return size.torn
    if size.torn:
        _keep(disk, aside, disk.read(path, size.complete, size.torn))
    file = disk.append(path)
    try:
        file.truncate(size.complete)
        file.fdatasync()  # what the next header names must not be lost after it
    finally:
        file.close()
    return size.torn


def _keep(disk: Disk, path: Path, data: bytes) -> None:
    if path.name in disk.names(path.parent):  # an earlier start was killed between this and the cut
        disk.remove(path)
    file = disk.create(path)
    try:
        write_durably(file, data)
    finally:
        file.close()
    disk.sync_folder(path.parent)
