"""Handles on processes (pidfd_open(2)): the number of a process is another's once it is gone, its handle never.

SO_PEERPIDFD (Linux 6.5) gives the handle of the very process that connected. An older kernel gives one for the
number alone, which may be another's by then: what that opens is in docs/threat-model.md.
"""

import errno
import os
import socket
import sys
from pathlib import Path

from pki.errors import LocalError
from sidecar.peercred import UnixConnection

SO_PEERPIDFD = 77
MAX_FDINFO_BYTES = 4_096
FDINFO = Path("/proc/self/fdinfo")


def peer_pidfd(connection: UnixConnection, pid: int) -> int | None:
    """A handle on the process at the other end, to be closed by the caller; None when it is gone. LocalError: no handle."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, 4)
    except OSError as error:
        # A kernel that knows the option and gives no handle says that the process is gone. To ask for its number
        # then would be to ask for whoever has it now.
        if error.errno != errno.ENOPROTOOPT:
            return None
    else:
        return int.from_bytes(raw, sys.byteorder, signed=True)
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise LocalError(f"pidfd of a caller: {error.strerror}") from None


def pid_of(pidfd: int) -> int:
    """The process's number in our namespace; raises ProcessLookupError once it is reaped, LocalError without /proc."""
    try:
        with (FDINFO / str(pidfd)).open("rb") as opened:
            text = opened.read(MAX_FDINFO_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise LocalError(f"{FDINFO / str(pidfd)}: {error.strerror}") from None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "Pid" and int(value) > 0:
            return int(value)
    raise ProcessLookupError
