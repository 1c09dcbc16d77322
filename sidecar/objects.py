"""Bodies kept once under their SHA-256: policy texts, and what audit records refer to by digest."""

import hashlib
import os
from pathlib import Path

from pki.errors import LocalError

MAX_OBJECT_BYTES = 1024 * 1024


class Objects:
    """A folder of files named by the hex SHA-256 of their content. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Keep ``data``; its digest. Durable on return; raises LocalError when it cannot be written."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._folder / digest
        if path.exists():
            return digest
        fresh = path.with_suffix(f".{os.getpid()}.new")
        try:
            with fresh.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        except OSError as error:
            raise LocalError(f"{path}: {error.strerror}") from None
        return digest

    def read(self, digest: str) -> bytes | None:
        """The object, or None when it is not held; raises LocalError when the file was changed."""
        try:
            data = (self._folder / digest).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(data).hexdigest() != digest:
            raise LocalError(f"{self._folder / digest}: its content is not what its name says; delete it")
        return data
