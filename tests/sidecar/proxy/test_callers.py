"""Callers on Unix sockets, by real processes: who they are, and in which cgroup."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.pidfd import SO_PEERPIDFD
from sidecar.proxy.attribute import ESTABLISHED
from sidecar.proxy.callers import Callers, Over
from sidecar.proxy.sockdiag import SockDiag
from sidecar.session.cgroup import SessionCgroups
from tests.authority import SESSION

CALLER = """
import os, socket, sys
path, uid, procs = sys.argv[1:]
if procs:
    open(procs, "w").write("0")
if uid:
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))
with socket.socket(socket.AF_UNIX) as caller:
    caller.connect(path)
    caller.recv(1)
"""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    path = tmp_path / "binding.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(folder.stat().st_mode | 0o011)
        listener.listen()
        yield listener


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    diag = SockDiag()
    yield diag
    diag.close()


def accept(
    listener: socket.socket, uid: str = "", procs: str = ""
) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    child = subprocess.Popen([sys.executable, "-c", CALLER, listener.getsockname(), uid, procs])
    accepted, _ = listener.accept()
    return accepted, child


def finish(accepted: socket.socket, child: "subprocess.Popen[bytes]") -> None:
    accepted.close()
    child.wait()


def test_a_unix_caller_is_known_by_its_uid(listener: socket.socket, diag: SockDiag) -> None:
    """As the kernel wrote it down at connect; without cgroups there is nothing more to know."""
    uid = "65534" if os.geteuid() == 0 else ""
    accepted, child = accept(listener, uid)
    owner = Callers(diag, None).caller_of(accepted)
    finish(accepted, child)
    assert owner is not None
    assert (owner.state, owner.uid, owner.cgroup_id) == (ESTABLISHED, int(uid or os.geteuid()), None)
    assert owner.inode > 0


def test_a_unix_caller_is_known_by_its_session_cgroup(listener: socket.socket, diag: SockDiag) -> None:
    """The id is the one that the session's cgroup has, and that a TCP socket of it would show."""
    cgroups = SessionCgroups.of_machine()
    cgroup = cgroups.create(SESSION)
    if cgroup is None:
        pytest.skip("no cgroup v2 that may be written: it takes root")
    try:
        accepted, child = accept(listener, procs=str(cgroup.path / "cgroup.procs"))
        owner = Callers(diag, cgroups.mount).caller_of(accepted)
        finish(accepted, child)
        assert owner is not None
        assert owner.cgroup_id == cgroup.id
    finally:
        cgroup.remove()


def test_a_unix_caller_that_is_gone_is_nobody(listener: socket.socket, diag: SockDiag) -> None:
    """Its number may be another process's by now: it is not asked about."""
    accepted, child = accept(listener)
    child.kill()
    child.wait()
    mount = SessionCgroups.of_machine().mount
    if mount is None:
        pytest.skip("no cgroup v2")
    assert Callers(diag, mount).caller_of(accepted) is None
    accepted.close()


def test_a_tcp_caller_is_looked_up_as_before(diag: SockDiag) -> None:
    """One question for both kinds of binding."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as caller,
    ):
        accepted, _ = server.accept()
        with accepted:
            assert Callers(diag, None).caller_of(accepted) == diag.caller_of(accepted)
            assert caller.fileno() > 0


class NoHandle:
    """An accepted Unix connection of which the kernel gives no pidfd."""

    def __init__(self, accepted: socket.socket, code: int) -> None:
        self.accepted = accepted
        self.code = code

    def getsockname(self) -> str:
        return str(self.accepted.getsockname())

    def getpeername(self) -> str:
        return str(self.accepted.getpeername())

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        if optname == SO_PEERPIDFD:
            raise OSError(self.code, os.strerror(self.code))
        return self.accepted.getsockopt(level, optname, buflen)


@pytest.mark.parametrize(
    ("code", "is_found"),
    [(errno.ENOPROTOOPT, True), (errno.EINVAL, False), (errno.ESRCH, False), (errno.ENODATA, False)],
)
def test_only_an_old_kernel_is_asked_by_number(
    listener: socket.socket, diag: SockDiag, code: int, is_found: bool
) -> None:
    """One that knows handles and has none says that the caller is gone: its number may be somebody else's by now."""
    accepted, child = accept(listener)
    owner = Callers(diag, None).caller_of(NoHandle(accepted, code))
    finish(accepted, child)
    assert (owner is not None) is is_found


@pytest.mark.parametrize(
    ("family", "host", "over"),
    [
        (socket.AF_INET, "127.0.0.1", Over.IPV4),
        (socket.AF_INET6, "::1", Over.IPV6),
        (socket.AF_INET6, "::ffff:127.0.0.1", Over.IPV4),
    ],
)
def test_a_record_can_say_what_a_caller_came_over(family: int, host: str, over: Over) -> None:
    """By our own end's address; an IPv4-mapped one is IPv4."""
    with socket.socket(family) as end:
        end.bind((host, 0))
        assert Over.of(end) is over


def test_a_unix_socket_is_said_to_be_one(listener: socket.socket) -> None:
    """Its name is a path, or none."""
    assert Over.of(listener) is Over.UNIX
