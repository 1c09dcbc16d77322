"""Callers on Unix sockets, by real processes: who they are, and in which cgroup."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.proxy.attribute import ESTABLISHED
from sidecar.proxy.callers import Callers
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
