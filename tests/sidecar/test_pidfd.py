import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pki.errors import LocalError
from sidecar import pidfd
from sidecar.pidfd import SO_PEERPIDFD, peer_pidfd, pid_of


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


class Kernel:
    """A connection on a kernel that answers the option with an error."""

    def __init__(self, number: int) -> None:
        self._number = number

    def getsockopt(self, level: int, option: int, size: int, /) -> bytes:
        assert (level, option, size) == (socket.SOL_SOCKET, SO_PEERPIDFD, 4)
        raise OSError(self._number, os.strerror(self._number))


def closing(handle: int | None) -> int:
    assert handle is not None
    try:
        return pid_of(handle)
    finally:
        os.close(handle)


def test_the_peer_of_a_connection_is_a_process(ends: tuple[socket.socket, socket.socket]) -> None:
    """Whatever number is claimed, where the kernel knows better."""
    old_kernel = os.uname().release.split(".")[0] < "6"
    assert closing(peer_pidfd(ends[0], os.getpid() if old_kernel else 1)) == os.getpid()


def test_an_older_kernel_has_the_number_alone() -> None:
    """Then the handle is on whoever has it now, or on nobody."""
    kernel = Kernel(errno.ENOPROTOOPT)
    assert closing(peer_pidfd(kernel, os.getpid())) == os.getpid()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert peer_pidfd(kernel, gone.pid) is None
    with pytest.raises(LocalError, match="pidfd of a caller"):
        peer_pidfd(kernel, 0)


def test_a_peer_that_is_gone_is_not_asked_for_by_its_number() -> None:
    """It may be somebody else's by now."""
    assert peer_pidfd(Kernel(errno.EINVAL), os.getpid()) is None


def test_a_dead_process_has_no_number() -> None:
    """Once it is reaped; its handle is nobody else's for ever."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    handle = os.pidfd_open(process.pid)
    try:
        assert pid_of(handle) == process.pid
        process.communicate()
        with pytest.raises(ProcessLookupError):
            pid_of(handle)
    finally:
        os.close(handle)


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not the same as a dead process."""
    monkeypatch.setattr(pidfd, "FDINFO", pidfd.FDINFO / "absent")
    with pytest.raises(LocalError, match="absent"):
        pid_of(0)
