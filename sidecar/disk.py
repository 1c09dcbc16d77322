"""The seam for disk: the few operations that durable state needs. Blocking; a shell calls them from a thread.

What POSIX promises, and what code above this seam has to live with:

- a write may be short, and on a full disk is: nothing is written until the count says so;
- nothing is durable before ``fdatasync`` of the file *and*, for a new, renamed or removed name,
  ``sync_folder``;
- a failed ``fdatasync`` is final. The kernel may have dropped the pages and marked them clean, so that the
  next call succeeds and the bytes are gone: give the file up, never try again and hope.

Every operation raises OSError.
"""

import errno
import os
from pathlib import Path
from typing import Protocol


class AppendFile(Protocol):
    """A file open for appending."""

    def write(self, data: bytes) -> int:
        """Append; how many bytes were taken, possibly fewer than given."""

    def fdatasync(self) -> None: ...
    def truncate(self, size: int) -> None: ...
    def stands_at(self, path: Path) -> bool:
        """Whether ``path`` still names this file: it was neither removed nor moved, nor its folder."""

    def close(self) -> None: ...


class Disk(Protocol):
    """The seam."""

    def create(self, path: Path) -> AppendFile:
        """A new file, for the owner only (0600); FileExistsError if there is one."""

    def append(self, path: Path) -> AppendFile:
        """An existing file."""

    def allocate(self, path: Path, size: int) -> None:
        """A new file of ``size`` bytes that are really there; OSError, and no file, if they are not."""

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """At most ``size`` bytes from ``offset``; fewer only at the end of the file."""

    def size(self, path: Path) -> int: ...
    def names(self, folder: Path) -> list[str]: ...
    def make_folder(self, folder: Path) -> None:
        """The folder (0700) and those above it; nothing if it is there."""

    def rename(self, old: Path, new: Path) -> None:
        """Give ``old`` a new name at once, in place of any file that has it."""

    def remove(self, path: Path) -> None: ...
    def sync_folder(self, folder: Path) -> None: ...


def write_durably(file: AppendFile, data: bytes) -> None:
    """Append all of ``data`` and sync it. After an OSError any part of it may stand in the file."""
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, "short write")
    file.fdatasync()


class RealDisk:
    """The machine's own."""

    def create(self, path: Path) -> AppendFile:
        return _Descriptor(
            os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        )

    def append(self, path: Path) -> AppendFile:
        return _Descriptor(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def allocate(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def rename(self, old: Path, new: Path) -> None:
        old.rename(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Descriptor:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes) -> int:
        return os.write(self._descriptor, data)

    def fdatasync(self) -> None:
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def stands_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)
