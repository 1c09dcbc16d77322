"""A session's certificate chain, key and trust bundle as PEM files, replaced together on each renewal.

    DIR/                     0700, the session's user's
      ..data -> ..x          switched by rename(2): a reader sees the old files or the new ones, never half of each
      ..x/svid.pem           leaf first, without the root        0600
      ..x/svid_key.pem       PKCS #8                             0600
      ..x/svid_bundle.pem    the roots                           0600
      svid.pem -> ..data/svid.pem                                and so on

Who writes: the command line, with the rights of the session's user, told over the connection that holds the session.
Not the daemon: it is root and the folder an agent's, who could put a link in the place of every file, a slow file system
in the place of the folder, or hand over a descriptor of a folder that is not his. What the agent's own rights can
do to the agent's own files is nobody's loss.
"""

import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pki.errors import LocalError

FILES = ("svid.pem", "svid_key.pem", "svid_bundle.pem")
_DATA = "..data"


@dataclass(frozen=True, slots=True)
class Exported:
    """PEM texts."""

    svid: str
    key: str
    bundle: str


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """Call its methods as the user whose it is to be."""

    path: Path

    def write(self, exported: Exported) -> None:
        """Put these in place of earlier ones; raises LocalError."""
        try:
            self._check()
            fresh = Path(tempfile.mkdtemp(prefix="..", dir=self.path))
            for name, text in zip(FILES, (exported.svid, exported.key, exported.bundle), strict=True):
                _write(fresh / name, text)
            _link(self.path / _DATA, fresh.name)
            for name in FILES:
                _link(self.path / name, f"{_DATA}/{name}")
            self._forget(keep=fresh.name)
        except OSError as error:
            raise LocalError(f"{error.filename or self.path}: {error.strerror}") from None

    def remove(self) -> None:
        """Take away what :meth:`write` made, and the folder if nothing else is in it."""
        for name in (*FILES, _DATA):
            with suppress(OSError):
                (self.path / name).unlink()
        with suppress(OSError):
            self._forget(keep="")
            self.path.rmdir()

    def _check(self) -> None:
        """A key is not put where others could read or replace it."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        status = self.path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise LocalError(
                f"{self.path}: not a folder of uid {os.geteuid()}; give another, or none that exists"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise LocalError(f"{self.path}: others may enter it; run: chmod 0700 {self.path}")

    def _forget(self, keep: str) -> None:
        """Remove older versions."""
        for one in self.path.iterdir():
            if one.name.startswith("..") and one.name not in (keep, _DATA) and not one.is_symlink():
                for name in FILES:
                    with suppress(OSError):
                        (one / name).unlink()
                with suppress(OSError):
                    one.rmdir()


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def _link(path: Path, target: str) -> None:
    """Replaced in one step."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.rename(path)
