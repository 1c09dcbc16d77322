"""A cgroup for each session, so that the kernel can tell one agent's sessions apart.

    <cgroup v2 mount>/lockgate/<session>        root-owned; membership only, no controllers

A socket carries the cgroup its creator was in, and sock_diag reports that by id: the inode number of the
directory, which the kernel uses once between boots. It is attribution only as long as no agent can move itself:

- The directories belong to root. Without the rights, on a read-only mount, or on a machine without cgroup v2
  none is made: :meth:`SessionCgroups.create` logs why and gives None, and the session is known by its uid.
  A tree that somebody else owns or may write is refused: he could walk from session to session.
- A process enters first, before it gives up root and before it makes a socket.
- A name is used once. What a killed daemon left behind is removed by :meth:`SessionCgroups.sweep`, never taken
  over, and what still has processes in it is handed to the caller to kill.

The mount is looked up in /proc/self/mountinfo: on a hybrid hierarchy it is /sys/fs/cgroup/unified.
Formats: Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5).
"""

import errno
import os
import re
import stat
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

from pki.errors import LocalError
from pki.ids import is_id

MOUNTINFO = Path("/proc/self/mountinfo")
TREE = "lockgate"

_ROOT_UID = 0
_MAX_EVENTS_BYTES = 4096
_GONE = (errno.ENOENT, errno.ENODEV)  # removed before it was opened, or while it was open
_OCTAL = re.compile(rb"\\([0-7]{3})")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SessionCgroup:
    """The cgroup of one session."""

    session: str
    path: Path
    id: int
    """Inode number of the directory: the cgroup id that sock_diag reports."""

    def enter(self, pid: int = 0) -> None:
        """Move a process into it, all its threads, by default the calling one; raises LocalError."""
        try:
            _write(self.path / "cgroup.procs", str(pid))
        except OSError as error:
            raise self._fault("cannot enter it", error) from error

    def populated(self) -> bool:
        """Whether a live process is in it or below; False once it is gone; raises LocalError."""
        try:
            events = _read(self.path / "cgroup.events")
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise self._fault("cannot tell whether it is empty", error) from error
        return "populated 0" not in events.splitlines()

    def kill(self) -> bool:
        """Kill every process in it and below. False where the kernel has no cgroup.kill (before 5.14).

        The processes are gone when :meth:`populated` says so. Raises LocalError when it is not permitted.
        """
        try:
            _write(self.path / "cgroup.kill", "1")
        except OSError as error:
            if error.errno in _GONE:
                return not self.path.exists()
            raise self._fault("cannot kill what is in it", error) from error
        return True

    def remove(self) -> bool:
        """Remove it; whether it is gone now. It stays while a process or another cgroup is in it."""
        try:
            self.path.rmdir()
        except OSError as error:
            return error.errno in _GONE
        return True

    def _fault(self, what: str, error: OSError) -> LocalError:
        return LocalError(f"cgroup of session {self.session}: {what} ({error.strerror})")


@dataclass(frozen=True, slots=True)
class SessionCgroups:
    """All session cgroups of this machine."""

    mount: Path | None
    """Where cgroup v2 is mounted; None: nowhere."""
    owner: int = _ROOT_UID
    """The only uid that may own the tree. Another than root is for tests on a plain directory."""

    @classmethod
    def of_machine(cls, mountinfo: Path = MOUNTINFO) -> Self:
        """Below the first cgroup v2 mount that is not hidden under another one; raises LocalError."""
        try:
            mounts = cgroup2_mounts(mountinfo.read_bytes())
        except OSError as error:
            raise LocalError(f"{mountinfo}: cannot read the mounts ({error.strerror})") from error
        return cls(next((one for one in mounts if (one / "cgroup.procs").exists()), None))

    def create(self, session: str) -> SessionCgroup | None:
        """A new cgroup for ``session``; None, with the reason in the log, where that cannot be.

        Raises LocalError when ``session`` is not an id: it becomes a file name.
        """
        if not is_id(session):
            raise LocalError("cgroup: not a session id")
        try:
            return self._make(session)
        except (LocalError, OSError) as error:
            _log.warning("session cgroup unavailable", session=session, reason=str(error))
            return None

    def standing(self) -> list[SessionCgroup]:
        """Every session cgroup that exists, of live sessions and of ended ones; none if there is no tree."""
        if self.mount is None:
            return []
        try:
            with os.scandir(self.mount / TREE) as entries:
                found = [one for one in entries if is_id(one.name) and one.is_dir(follow_symlinks=False)]
        except OSError:
            return []
        return [SessionCgroup(one.name, Path(one.path), one.inode()) for one in found]

    def sweep(self, live: Container[str]) -> list[SessionCgroup]:
        """Remove the empty cgroups of sessions not in ``live``; the others of those, still populated.

        For the start of a daemon: a session that is just being started has an empty one too.
        """
        stale = [one for one in self.standing() if one.session not in live]
        return [one for one in stale if one.populated() or not one.remove()]

    def _make(self, session: str) -> SessionCgroup:
        if self.mount is None:
            raise LocalError("cgroup v2 is not mounted")
        tree = self.mount / TREE
        tree.mkdir(mode=0o755, exist_ok=True)
        if not self._is_ours(tree.lstat()):
            raise LocalError(f"{tree} is not a directory that only root may write")
        path = tree / session
        path.mkdir(mode=0o755)
        return SessionCgroup(session, path, path.lstat().st_ino)

    def _is_ours(self, status: os.stat_result) -> bool:
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == self.owner and not writable


def cgroup2_mounts(mountinfo: bytes) -> list[Path]:
    """The mount points of cgroup v2, in the order of ``mountinfo`` (the contents of that file)."""
    mounts = []
    for line in mountinfo.splitlines():
        mount, _, filesystem = line.partition(b" - ")
        fields = mount.split(b" ")
        if filesystem.startswith(b"cgroup2 ") and len(fields) > 4:
            mounts.append(Path(os.fsdecode(_OCTAL.sub(_octet, fields[4]))))
    return mounts


def _octet(escape: re.Match[bytes]) -> bytes:
    """The byte that mountinfo wrote as backslash and three octal digits."""
    return bytes([int(escape[1], 8) & 0xFF])


def _write(file: Path, text: str) -> None:
    """Write to a file that exists: on cgroupfs a missing one means an old kernel, not a new file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_MAX_EVENTS_BYTES).decode("ascii", "replace")
