"""The files of the log: how one is begun, written, given up and continued. Blocking; one process at a time.

DIR/lib/audit holds volumes and nothing else, called ``<UTC of its beginning>-<ordinal>.jsonl``, with ``.zst`` behind
it once compressed. The ordinal (8 hex) puts them in order whatever the wall clock did. A volume comes into being with its header and first
records in one write; whatever fails in that leaves no file behind. On it goes by these rules:

- Records count as written after fdatasync, all of a write or none.
- A volume that could not be written or synced is given up: cut back to its last durable record, never
  written again.
- A new volume continues the newest that has a whole header, from its last complete line. What is torn off
  behind that line was never acknowledged; it is set aside in DIR/lib/audit-torn, and a recovery record says
  so.
- A volume that is not where it was any more, or has lost its end, while the daemon ran, is not continued either: the
  next one begins anew and names it.
- A newest volume that does not end in two lines that fit together was tampered with or rotted. It stays as
  it is, as evidence, and the next begins anew and says so: evidence must not stop the node from being
  heard.
"""

import errno
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from pki.clock import Wall
from pki.errors import RemoteError
from sidecar.audit import record
from sidecar.audit.chain import Broken, Head, Previous, VolumeCheck, seal, start, unseal
from sidecar.audit.checkpoint import EVERY_RECORDS, Note, Pen
from sidecar.audit.lines import PACKED, backward, extent, is_packed
from sidecar.audit.names import begun, name_of, order_of, ordinal_of
from sidecar.audit.record import Record
from sidecar.defaults import AUDIT_RESERVE_BYTES, AUDIT_VOLUME_BYTES
from sidecar.disk import AppendFile, Disk, write_durably


@dataclass(frozen=True, slots=True)
class Site:
    """Where a node's log stands."""

    disk: Disk
    folder: Path
    node: str
    volume_bytes: int = AUDIT_VOLUME_BYTES
    """A volume that has grown to so much is closed, and the next begun."""
    reserve_bytes: int = AUDIT_RESERVE_BYTES
    """Kept outside the volumes for a full disk (:mod:`sidecar.audit.reserve`)."""

    @property
    def reserve(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}-reserve")

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
        self._path = site.folder / name
        self.head = Head(name, -1, chain)
        """The last durable record."""
        self.unsigned = 0
        """How many records have come since the last checkpoint."""
        self.note: Note | None = None
        """The last checkpoint of this volume."""
        self._introduced = ""

    def append(self, records: Sequence[Record], pen: Pen | None = None) -> None:
        """Write ``records`` at once and sync; durable on return. Raises OSError. ``pen`` signs where it is time."""
        draft = _Draft(self.head, self.unsigned, self._introduced)
        for one in records:
            draft.add(one, self._site.node)
            if pen is not None and draft.unsigned >= EVERY_RECORDS:
                draft.sign(pen, self._site.node)
        if pen is not None and pen.must and draft.unsigned:
            draft.sign(pen, self._site.node)
        data = b"".join(draft.lines)
        write_durably(self._file, data)
        if not self._file.stands_at(self._path):  # what nobody can find is not on record
            raise FileNotFoundError(errno.ENOENT, "the volume is gone", str(self._path))
        self._size += len(data)
        self.head, self.unsigned, self._introduced = draft.head, draft.unsigned, draft.introduced
        self.note = draft.note or self.note

    @property
    def is_full(self) -> bool:
        """Whether it is time for the next one."""
        return self._size >= self._site.volume_bytes

    def give_up(self) -> None:
        """Take back what was not acknowledged, as far as the disk lets us, and close."""
        with suppress(OSError):
            self._file.truncate(self._size)
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()


@dataclass(slots=True)
class _Draft:
    """The lines of one write, with their chain."""

    head: Head
    unsigned: int
    introduced: str
    note: Note | None = None
    lines: list[bytes] = field(default_factory=list)

    def add(self, one: Record, node: str) -> None:
        line, chain = seal(self.head.chain, one.body(node, self.head.seq + 1))
        self.head = Head(self.head.volume, self.head.seq + 1, chain)
        self.lines.append(line)
        self.unsigned += 1

    def sign(self, pen: Pen, node: str) -> None:
        made, self.note = pen(self.head, self.introduced)
        self.add(made, node)
        self.unsigned, self.introduced = 0, self.note.leaf


@dataclass(frozen=True, slots=True)
class Opened:
    """A new volume, and why the one before it could not be continued (empty: it could, or there was none)."""

    volume: Volume
    broken: str


def open_volume(
    site: Site, at: Wall, records: Sequence[Record], after: Head | None = None, pen: Pen | None = None
) -> Opened:
    """Begin the next volume with ``records``, after putting right what the last one left. Raises OSError.

    ``after``: the last record that this daemon knows to be durable.
    """
    for folder in (site.folder, site.torn_folder):
        site.disk.make_folder(folder)
    previous, repairs = _previous(site, at)
    if after is not None and (fault := _lost(previous, after)):
        previous = Broken(after.volume, fault)
        repairs.append(record.finding(at, "audit_volume_broken", previous.facts()))
    name = _next_name(site, at)
    volume = Volume(site, site.disk.create(site.folder / name), name, start(previous))
    try:
        header = record.volume(at, name, None if previous is None else previous.facts())
        volume.append([header, *repairs, *records], pen)
        site.disk.sync_folder(site.folder)
    except OSError:
        volume.close()
        with suppress(OSError):
            site.disk.remove(site.folder / name)
        raise
    return Opened(volume, previous.what if isinstance(previous, Broken) else "")


def volume_names(disk: Disk, folder: Path) -> list[str]:
    """The volumes in ``folder``, oldest first; files of no volume's name come last. Raises OSError.

    A compressed one goes by the name that it had: :mod:`sidecar.audit.lines` finds it.
    """
    names = {name.removesuffix(PACKED) for name in disk.names(folder)}
    return sorted((name for name in names if name.endswith(".jsonl")), key=order_of)


def last_head(disk: Disk, path: Path) -> Head | None:
    """The last record of a volume, None without a whole header; RemoteError when its end is not right."""
    lines = list(islice(backward(disk, path, extent(disk, path).complete), 2))
    if not lines:
        return None
    volume = VolumeCheck(path.name, after=unseal(lines[1]) if len(lines) == 2 else None)
    volume.feed(lines[0])
    return volume.head


def _lost(previous: Previous, after: Head) -> str:
    """What became of the record ``after``, when the log does not end there or later any more; empty: it does."""
    if isinstance(previous, Broken):
        return ""
    if previous is None or order_of(previous.volume) < order_of(after.volume):
        return "it is gone"
    return "its end is gone" if previous.volume == after.volume and previous.seq < after.seq else ""


def _next_name(site: Site, at: Wall) -> str:
    """Counted over the torn ones too, so that no name is ever given twice."""
    names = [*site.disk.names(site.folder), *site.disk.names(site.torn_folder)]
    used = [ordinal for name in names if (ordinal := ordinal_of(name)) is not None]
    return name_of(max(used, default=-1) + 1, at)


def _previous(site: Site, at: Wall) -> tuple[Previous, list[Record]]:
    """What the next volume goes on from, and the records of what had to be put right first."""
    repairs: list[Record] = []
    for name in reversed([name for name in volume_names(site.disk, site.folder) if begun(name) is not None]):
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
    if is_packed(disk, path):  # none of ours: the newest is not compressed
        return 0
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
