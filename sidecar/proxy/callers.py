"""Who is at the other end of an accepted connection, whatever kind of binding it came in by.

TCP: the exact socket in the kernel's table (:mod:`sidecar.proxy.sockdiag`). Unix: SO_PEERCRED for the uid, and the
process's cgroup for the session, read through a pidfd, so that a process that took over the number of one that is
gone is never asked about. The pidfd comes from the connection itself (SO_PEERPIDFD, Linux 6.5); an older kernel gives
one for the number alone, and a process of the same uid could then win a race for its sibling's session
(docs/threat-model.md). A caller that is gone is refused.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import Self

from pki.errors import LocalError
from sidecar.peercred import peer_cred
from sidecar.pidfd import peer_pidfd, pid_of
from sidecar.proxy.attribute import ESTABLISHED, SocketOwner
from sidecar.proxy.sockdiag import Connection, Endpoint, SockDiag

MAX_PROC_BYTES = 65_536
PROC = Path("/proc")


class Over(StrEnum):
    """What a caller came over, for the record."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    UNIX = "unix"

    @classmethod
    def of(cls, accepted: Connection) -> Self:
        """By the address of our own end, which it has also when the caller is gone."""
        here = accepted.getsockname()
        if not isinstance(here, tuple):
            return cls("unix")
        return cls("ipv4" if Endpoint.of(here).address.version == 4 else "ipv6")


class Callers:
    """Asks the kernel. ``cgroups``: where cgroup v2 is mounted; None: nowhere, all callers are known by their uid."""

    def __init__(self, diag: SockDiag, cgroups: Path | None) -> None:
        self._diag = diag
        self._cgroups = cgroups

    def caller_of(self, accepted: Connection) -> SocketOwner | None:
        """The owner of the other end, None when it is gone; raises LocalError when the kernel cannot be asked."""
        if isinstance(accepted.getsockname(), tuple):
            return self._diag.caller_of(accepted)
        cred = peer_cred(accepted)
        pidfd = peer_pidfd(accepted, cred.pid)
        if pidfd is None:
            return None
        try:
            return SocketOwner(ESTABLISHED, cred.uid, 1, self._cgroup_of(pidfd))
        except ProcessLookupError:
            return None
        finally:
            os.close(pidfd)

    def _cgroup_of(self, pidfd: int) -> int | None:
        """The id of a live process's cgroup: the inode of its directory. Raises ProcessLookupError for a dead one."""
        if self._cgroups is None:
            return None
        pid = pid_of(pidfd)
        path = _cgroup_path(PROC / str(pid) / "cgroup")
        if pid_of(pidfd) != pid:  # It lived all the while, so what was read was its own.
            raise ProcessLookupError
        try:
            return (self._cgroups / path.lstrip("/")).stat().st_ino
        except OSError as error:
            raise LocalError(f"cgroup {path}: {error.strerror}") from None


def _cgroup_path(file: Path) -> str:
    """The cgroup v2 path in /proc/PID/cgroup (cgroups(7)); raises ProcessLookupError when there is none."""
    try:
        text = _read(file)
    except LocalError:
        raise ProcessLookupError from None
    for line in text.splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::")
    raise ProcessLookupError


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return os.fsdecode(opened.read(MAX_PROC_BYTES))
    except OSError as error:
        raise LocalError(f"{file}: {error.strerror}") from None
