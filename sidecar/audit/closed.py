"""Closed volumes: compressed, and in the end removed, never without a record that says so.

- Every volume but the newest is compressed, in one zstd frame with a checksum, under its name and ``.zst``. The
  compressed file is durable before the plain one is removed: whatever happens, one of both is whole.
- Volumes are removed from the oldest on, when they are older than `keep`, or while all take more than `keep_bytes`.
  The newest stays. The record of it is durable before the file is removed, in a volume that stays longer.
- Age is how long ago the next volume was begun, by a clock that cannot be set ahead: a wrong one must not empty a log.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import structlog
import trio
import zstandard

from pki.clock import Clock, Wall
from pki.errors import LocalError, RemoteError
from sidecar.audit.lines import is_packed, packed_path
from sidecar.audit.names import begun
from sidecar.audit.record import Facts, Record, retention
from sidecar.audit.volume import Site, last_head, volume_names
from sidecar.audit.writer import Offload, thread_of_its_own
from sidecar.disk import AppendFile

PAUSE = 60.0
"""Between two looks at what is closed (s)."""

_LEVEL = 6
_BLOCK = 1024 * 1024
_FRESH = ".new"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long volumes stay, in microseconds, and how much they may take; None: no limit."""

    age: int | None = None
    size: int | None = None


class Log(Protocol):
    """The log (:class:`sidecar.audit.writer.AuditWriter`)."""

    site: Site

    async def commit(self, record: Record) -> None: ...


class ClosedVolumes:
    """Looks after the closed volumes of ``log``. ``floor`` is for ages: a clock that cannot be set ahead."""

    def __init__(
        self,
        log: Log,
        keep: Keep,
        clock: Clock,
        floor: Callable[[], Wall],
        offload: Offload | None = None,
    ) -> None:
        self.keep = keep
        self._site = log.site
        self._log = log
        self._clock = clock
        self._floor = floor
        self._offload = offload or thread_of_its_own()  # the writer must not wait for it

    async def run(self) -> None:
        """Until cancelled. A failing disk does not end it."""
        while True:
            await self.tidy()
            await trio.sleep(PAUSE)

    async def tidy(self) -> None:
        """Compress and remove what is due now."""
        try:
            await self._offload(self._compress)
            while (due := await self._offload(self._due)) is not None:
                name, facts = due
                await self._log.commit(retention(self._clock.wall(), name, facts))
                await self._offload(partial(self._remove, name))
        except (OSError, LocalError, RemoteError) as error:
            log.warning("closed audit volumes are left as they are", why=str(error))

    def _compress(self) -> None:
        site = self._site
        for name in site.disk.names(site.folder):
            if name.endswith(_FRESH):  # of a daemon that was killed
                site.disk.remove(site.folder / name)
        for name in volume_names(site.disk, site.folder)[:-1]:
            if begun(name) is not None and not is_packed(site.disk, site.folder / name):
                compress(site, name)

    def _due(self) -> tuple[str, Facts] | None:
        """The oldest volume, if it is to go, and what to say of it."""
        site, keep = self._site, self.keep
        names = [name for name in volume_names(site.disk, site.folder) if begun(name) is not None]
        if len(names) < 2:
            return None
        name, closed = names[0], begun(names[1])
        sizes = [_stored(site, one) for one in names]
        if keep.age is not None and closed is not None and closed + keep.age <= self._floor():
            why = "age"
        elif keep.size is not None and sum(sizes) > keep.size:
            why = "size"
        else:
            return None
        head = last_head(site.disk, site.folder / name)
        if head is None:
            raise LocalError(f"{site.folder / name}: holds no record")
        facts: Facts = {"records": head.seq + 1, "last": head.chain.hex(), "bytes": sizes[0], "why": why}
        return name, facts

    def _remove(self, name: str) -> None:
        site = self._site
        for path in (site.folder / name, packed_path(site.folder / name)):
            with suppress(FileNotFoundError):
                site.disk.remove(path)
        site.disk.sync_folder(site.folder)


def compress(site: Site, name: str) -> None:
    """Put the compressed volume in place of the plain one. Raises OSError, and then the plain one is still there."""
    disk, plain = site.disk, site.folder / name
    packed = packed_path(plain)
    fresh = packed.with_name(packed.name + _FRESH)
    file = disk.create(fresh)
    try:
        for piece in _packed_pieces(site, name):
            _write(file, piece)
        file.fdatasync()
    except OSError:
        file.close()
        disk.remove(fresh)
        raise
    file.close()
    disk.rename(fresh, packed)
    disk.sync_folder(site.folder)
    disk.remove(plain)
    disk.sync_folder(site.folder)


def _packed_pieces(site: Site, name: str) -> Iterator[bytes]:
    path = site.folder / name
    size = site.disk.size(path)
    frame = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compressobj(size=size)
    for offset in range(0, size, _BLOCK):
        yield frame.compress(site.disk.read(path, offset, _BLOCK))
    yield frame.flush()


def _write(file: AppendFile, data: bytes) -> None:
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, "short write")


def _stored(site: Site, name: str) -> int:
    path = site.folder / name
    return site.disk.size(packed_path(path) if is_packed(site.disk, path) else path)
