"""Bodies kept once under their SHA-256: policy texts, and what audit records refer to by digest."""

import hashlib
import os
import re
from itertools import count
from pathlib import Path

from pki.errors import LocalError
from sidecar.defaults import POLICY_BYTES
from sidecar.disk import Disk, RealDisk, write_durably

MAX_OBJECT_BYTES = POLICY_BYTES

_DIGEST = re.compile(r"[0-9a-f]{64}")

_fresh = count()


class Kept:
    """A folder of files named by the hex SHA-256 of their content, to be read. Blocking."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self._folder = folder
        self._disk = disk or RealDisk()

    def read(self, digest: str) -> bytes | None:
        """The object, or None when it is not held; raises LocalError when it cannot be read or was changed."""
        if not _DIGEST.fullmatch(digest):  # it may come from a log, and becomes a path
            return None
        try:
            data = self._content(digest)
        except OSError as error:
            raise LocalError(f"{self._folder / digest}: {error.strerror}") from None
        if data is not None and hashlib.sha256(data).hexdigest() != digest:
            raise LocalError(f"{self._folder / digest}: its content is not what its name says; delete it")
        return data

    def _content(self, digest: str) -> bytes | None:
        try:
            return self._disk.read(self._folder / digest, 0, MAX_OBJECT_BYTES + 1)
        except FileNotFoundError:
            return None


class Objects(Kept):
    """The same, to be written to."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        super().__init__(folder, disk)
        self._disk.make_folder(folder)

    def put(self, data: bytes) -> str:
        """Keep ``data``; its digest. Durable on return; raises LocalError when it cannot be written."""
        if len(data) > MAX_OBJECT_BYTES:
            raise LocalError(f"an object of {len(data)} bytes, at most {MAX_OBJECT_BYTES} are kept")
        try:
            return self.keep(data)
        except OSError as error:
            digest = hashlib.sha256(data).hexdigest()
            raise LocalError(f"{self._folder / digest}: {error.strerror}") from None

    def keep(self, data: bytes) -> str:
        """The same for what is known to be small; raises OSError."""
        digest = hashlib.sha256(data).hexdigest()
        if self._content(digest) != data:
            self._write(self._folder / digest, data)
        return digest

    def _write(self, path: Path, data: bytes) -> None:
        # The name is ours alone, or another process's that is gone: two writers never share a file.
        fresh = path.with_name(f"{path.name}.{os.getpid()}-{next(_fresh)}.new")
        if fresh.name in self._disk.names(self._folder):
            self._disk.remove(fresh)
        file = self._disk.create(fresh)
        try:
            write_durably(file, data)
        except OSError:
            self._disk.remove(fresh)
            raise
        finally:
            file.close()
        self._disk.rename(fresh, path)
        self._disk.sync_folder(self._folder)
