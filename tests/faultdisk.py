"""A disk in memory that fails as disks do, behind the seam of `sidecar.disk`.

Each file has what its readers see and what would survive a power cut; each folder has its names and those
that would. `crash` gives the disk that the next boot finds.
"""

import errno
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.disk import AppendFile


@dataclass(eq=False)
class _Inode:
    cached: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    doomed: bool = False
    """An fdatasync failed: its pages were dropped and marked clean; later ones succeed and do nothing."""


class FaultDisk:
    """Set `room`, `sick` or `down` to make it fail."""

    def __init__(self) -> None:
        self.room: int | None = None
        """Bytes that may stand in all files together; then ENOSPC, after a short write of what still fits."""
        self.sick: set[Path] = set()
        """Files whose next fdatasync fails with EIO."""
        self.down: OSError | None = None
        """Every operation fails with it."""
        self.fdatasyncs = 0
        self._names: dict[Path, _Inode] = {}
        self._durable_names: dict[Path, _Inode] = {}
        self.folders: set[Path] = set()

    def crash(self, torn: int = 0) -> "FaultDisk":
        """The disk after a power cut; of each file's unsynced end, the first ``torn`` bytes made it."""
        after = FaultDisk()
        after.folders = set(self.folders)
        for path, inode in self._durable_names.items():
            kept = inode.durable
            if inode.cached.startswith(kept):
                kept = bytes(inode.cached[: len(kept) + torn])
            after._names[path] = after._durable_names[path] = _Inode(bytearray(kept), kept)
        return after

    @property
    def paths(self) -> set[Path]:
        return set(self._names)

    @property
    def used(self) -> int:
        """Bytes that stand in all files together."""
        return sum(len(inode.cached) for inode in self._names.values())

    def content(self, path: Path) -> bytes:
        return bytes(self._names[path].cached)

    def put(self, path: Path, content: bytes) -> None:
        """Set a file as it were long there: what an earlier process, or an attacker, left."""
        self._names[path] = self._durable_names[path] = _Inode(bytearray(content), content)

    def create(self, path: Path) -> AppendFile:
        self._check()
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "there already", str(path))
        self._names[path] = _Inode()
        return _OpenFile(self, path)

    def append(self, path: Path) -> AppendFile:
        self._inode(path)
        return _OpenFile(self, path)

    def allocate(self, path: Path, size: int) -> None:
        file = self.create(path)
        try:
            if file.write(bytes(size)) < size:
                raise OSError(errno.ENOSPC, "no space left on device", str(path))
        except OSError:
            self.remove(path)
            raise

    def read(self, path: Path, offset: int, size: int) -> bytes:
        return bytes(self._inode(path).cached[offset : offset + size])

    def size(self, path: Path) -> int:
        return len(self._inode(path).cached)

    def names(self, folder: Path) -> list[str]:
        self._check()
        if folder not in self.folders:
            raise FileNotFoundError(errno.ENOENT, "no such folder", str(folder))
        return [path.name for path in self._names if path.parent == folder]

    def make_folder(self, folder: Path) -> None:
        self._check()
        self.folders.add(folder)

    def rename(self, old: Path, new: Path) -> None:
        inode = self._inode(old)
        del self._names[old]
        self._names[new] = inode

    def lose(self, folder: Path) -> None:
        """Somebody removes the folder with all that is in it."""
        self.folders.discard(folder)
        for path in [path for path in self._names if path.parent == folder]:
            del self._names[path]
            self._durable_names.pop(path, None)

    def remove(self, path: Path) -> None:
        self._inode(path)
        del self._names[path]

    def sync_folder(self, folder: Path) -> None:
        self._check()
        for path in [path for path in self._durable_names if path.parent == folder]:
            del self._durable_names[path]
        self._durable_names |= {path: inode for path, inode in self._names.items() if path.parent == folder}

    def _inode(self, path: Path) -> _Inode:
        self._check()
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
        return self._names[path]

    def _check(self) -> None:
        if self.down is not None:
            raise self.down

    def _take(self, data: bytes) -> bytes:
        """What of ``data`` there is room for."""
        if self.room is None:
            return data
        left = self.room - self.used
        if left <= 0:
            raise OSError(errno.ENOSPC, "no space left on device")
        return data[:left]


class _OpenFile:
    def __init__(self, disk: FaultDisk, path: Path) -> None:
        self._disk = disk
        self._path = path
        self._inode = disk._names[path]

    def write(self, data: bytes) -> int:
        self._disk._check()
        taken = self._disk._take(data)
        self._inode.cached += taken
        return len(taken)

    def fdatasync(self) -> None:
        self._disk._check()
        self._disk.fdatasyncs += 1
        if self._path in self._disk.sick:
            self._disk.sick.discard(self._path)
            self._inode.doomed = True
            raise OSError(errno.EIO, "input/output error", str(self._path))
        if self._inode.doomed:
            self._inode.durable = self._inode.durable[: len(self._inode.cached)]
        else:
            self._inode.durable = bytes(self._inode.cached)

    def truncate(self, size: int) -> None:
        self._disk._check()
        del self._inode.cached[size:]

    def stands_at(self, path: Path) -> bool:
        return self._disk._names.get(path) is self._inode

    def close(self) -> None:
        pass
