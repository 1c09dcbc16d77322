"""A cgroup for each session, so that the kernel can tell one agent's sessions apart.

    <cgroup v2 mount>/lockgate/<session>        root-owned, 0711; membership only, no controllers
    <cgroup v2 mount>/lockgate/lock             0700; what is locked while one is made or all are swept

A socket carries the cgroup its creator was in, and sock_diag reports that by id: the inode number of the
directory, which the kernel uses once between boots. It is attribution only as long as no agent can move itself:

- The directories belong to root. Without the rights, on a read-only mount, or on a machine without cgroup v2
  none is made: :meth:`SessionCgroups.create` logs why and gives None, and the session is known by its uid.
  A tree that somebody else owns or may write is refused: he could walk from session to session.
- A process enters first, before it gives up root and before it makes a socket. Root enters by itself
  (:func:`enter_new`), also where the daemon is nobody in particular. Anybody else is moved by a daemon that is root, and
  named by a pidfd: the number of one that died may be a stranger's by now, and he would be moved in its place.
- A name is used once. A daemon that is root holds a lock on the cgroup of each of its sessions (flock(2)), which ends
  with it, however it ends. What nobody holds is of a session that no daemon knows any more: it is removed when it is empty
  (:meth:`SessionCgroups.sweep`), never taken over. Its processes are not killed, since a daemon's crash must not
  end an agent's work; they reach nothing, and ``lockgate status`` names them.

The mount is looked up in /proc/self/mountinfo: on a hybrid hierarchy it is /sys/fs/cgroup/unified.
Formats: Documentation/admin-guide/cgroup-v2.rst, proc_pid_mountinfo(5).
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import structlog

from pki.errors import LocalError
from pki.ids import is_id
from sidecar.pidfd import pid_of

MOUNTINFO = Path("/proc/self/mountinfo")
TREE = "lockgate"
LOCK = "lock"

_ROOT_UID = 0
_MAX_FILE_BYTES = 65_536
_GONE = (errno.ENOENT, errno.ENODEV)  # removed before it was opened, or while it was open
_OCTAL = re.compile(rb"\\([0-7]{3})")

_log = structlog.get_logger(__name__)


class Claim:
    """A lock on a cgroup's directory that stands for as long as this process, or until it is released."""

    def __init__(self, path: Path) -> None:
        self._held: int | None = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._held, fcntl.LOCK_SH)

    def release(self) -> None:
        """Again is nothing: the descriptor may be somebody else's by then."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


@dataclass(frozen=True, slots=True)
class SessionCgroup:
    """The cgroup of one session."""

    session: str
    path: Path
    id: int
    """Inode number of the directory: the cgroup id that sock_diag reports."""
    claim: "Claim | None" = field(default=None, compare=False, repr=False)
    """Our lock on it, where it is ours."""

    def enter(self, pid: int = 0) -> None:
        """Move a process into it, all its threads, by default the calling one; raises LocalError."""
        try:
            _write(self.path / "cgroup.procs", str(pid))
        except OSError as error:
            raise self._fault("cannot enter it", error) from error

    def take_in(self, pidfd: int) -> None:
        """Move the process behind ``pidfd`` into it; raises LocalError when it is dead.

        Its number may have been a stranger's by then, who is now here. He stays, in a cgroup that is nobody's.
        """
        try:
            pid = pid_of(pidfd)
            self.enter(pid)
            if pid_of(pidfd) != pid:
                raise ProcessLookupError
        except ProcessLookupError:
            raise LocalError(f"cgroup of session {self.session}: the process that asked is gone") from None

    def members(self) -> list[int]:
        """The processes in it, by their number in our namespace; none once it is gone."""
        try:
            return [int(line) for line in _read(self.path / "cgroup.procs").splitlines()]
        except OSError:
            return []

    def populated(self) -> bool:
        """Whether a live process is in it or below; False once it is gone; raises LocalError."""
        try:
            events = _read(self.path / "cgroup.events")
        except OSError as error:
            if error.errno in _GONE:
                return False
            raise self._fault("cannot tell whether it is empty", error) from error
        return "populated 0" not in events.splitlines()

    def remove(self) -> bool:
        """Remove it; whether it is gone now. It stays while a process or another cgroup is in it."""
        try:
            self.path.rmdir()
        except OSError as error:
            if error.errno not in _GONE:
                return False
        if self.claim is not None:
            self.claim.release()
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
            return self.make(session)
        except (LocalError, OSError) as error:
            _log.warning("session cgroup unavailable", session=session, reason=str(error))
            return None

    def find(self, session: str) -> SessionCgroup | None:
        """The cgroup that root made for ``session``; None when there is none that only root could have made."""
        if self.mount is None or not is_id(session):
            return None
        path = self.mount / TREE / session
        try:
            if not (self._is_ours(path.parent.lstat()) and self._is_ours(path.lstat())):
                return None
            found = SessionCgroup(session, path, path.lstat().st_ino)
        except OSError:
            return None
        with suppress(OSError):  # Only root may lock it; whoever made it does so as well.
            return replace(found, claim=Claim(path))
        return found

    def standing(self) -> list[SessionCgroup]:
        """Every session cgroup that exists, of live sessions and of ended ones; none if there is no tree.

        Raises OSError where that cannot be told: taken for none, what ended sessions left would be free to start anew.
        """
        if self.mount is None:
            return []
        try:
            with os.scandir(self.mount / TREE) as entries:
                found = [one for one in entries if is_id(one.name) and one.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return [SessionCgroup(one.name, Path(one.path), one.inode()) for one in found]

    def sweep(self, live: Container[str]) -> list[SessionCgroup]:
        """Remove the empty cgroups of sessions that no daemon knows; the others of those, still populated."""
        if self.mount is None:
            return []
        try:
            with _locked(self.mount / TREE):
                stale = [one for one in self.standing() if one.session not in live]
                left = [one for one in stale if not _is_claimed(one.path)]
                return [one for one in left if one.populated() or not one.remove()]
        except OSError:  # There is no tree, or it is root's and we are not: nothing there is ours.
            return []

    def make(self, session: str) -> SessionCgroup:
        """The same as :meth:`create`, but raises LocalError or OSError where that cannot be."""
        if self.mount is None:
            raise LocalError("cgroup v2 is not mounted")
        tree = self.mount / TREE
        tree.mkdir(exist_ok=True)
        if not self._is_ours(tree.lstat()):
            raise LocalError(f"{tree} is not a directory that only root may write")
        tree.chmod(0o755)  # Daemons that are not root see which cgroups are sessions', too.
        (tree / LOCK).mkdir(mode=0o700, exist_ok=True)
        path = tree / session
        with _locked(tree):  # Before our claim stands, a daemon that starts could take it for a dead one's.
            path.mkdir()
            path.chmod(0o711)  # To see who is in it takes x; to hold a lock on it r.
            return SessionCgroup(session, path, path.lstat().st_ino, Claim(path))

    def _is_ours(self, status: os.stat_result) -> bool:
        writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == self.owner and not writable


def enter_new(session: str) -> bool:
    """Move this process into a new cgroup for ``session``; False where that cannot be: we are not root, or there is no tree."""
    try:
        cgroups = SessionCgroups.of_machine()
        cgroups.sweep(())
        made = cgroups.make(session)
        made.enter()
    except (LocalError, OSError):
        return False
    if made.claim is not None:
        made.claim.release()  # With us in it nobody takes it away; whether its session lives, the daemon knows.
    return True


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


@contextmanager
def _locked(tree: Path) -> Iterator[None]:
    """Keep other daemons of this machine from making or sweeping meanwhile: milliseconds."""
    # Nobody but root may open it: whoever can, can hold the lock for ever.
    held = os.open(tree / LOCK, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _is_claimed(path: Path) -> bool:
    try:
        probe = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(probe)
    return False


def _write(file: Path, text: str) -> None:
    """Write to a file that exists: on cgroupfs a missing one means an old kernel, not a new file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_MAX_FILE_BYTES).decode("ascii", "replace")
