import os
import socket
import struct
import subprocess
import sys

import pytest
import trio

from pki.errors import LocalError
from sidecar.peercred import PeerCred, peer_cred

NOBODY = 65534

CALLER = """
import os, socket, sys
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
opened = socket.socket(socket.AF_UNIX)
opened.connect("\\0" + sys.argv[2])
sys.stdin.read()
"""


class Answer:
    """A socket that answers the one question with these bytes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def getsockopt(self, _level: int, _optname: int, _buflen: int, /) -> bytes:
        return self.raw


def test_the_peer_is_who_connected() -> None:
    """Pid, uid and gid are those of the process at the other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_cred(ours) == PeerCred(os.getpid(), os.geteuid(), os.getegid())


async def test_a_trio_socket_can_be_asked() -> None:
    """The agent socket accepts with Trio: its sockets serve as they are."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        assert peer_cred(ours).uid == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another uid")
def test_a_peer_of_another_uid_is_named() -> None:
    """The kernel's word, not the peer's: a caller that dropped root is not root."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # the kernel picks an abstract name, which needs no directory the caller may enter
        listener.listen()
        listener.settimeout(10)
        name = listener.getsockname()[1:].decode()
        program = [sys.executable, "-I", "-S", "-c", CALLER, str(NOBODY), name]
        with subprocess.Popen(program, stdin=subprocess.PIPE) as caller:
            accepted, _ = listener.accept()
            with accepted:
                assert peer_cred(accepted) == PeerCred(caller.pid, NOBODY, NOBODY)


def test_a_peer_of_another_pid_namespace_is_still_known_by_uid() -> None:
    """Its pid cannot be named here and shows as 0."""
    assert peer_cred(Answer(struct.pack("=iII", 0, 1001, 1001))) == PeerCred(0, 1001, 1001)


def test_a_socket_without_a_unix_peer_has_no_credentials() -> None:
    """The kernel fills in uid 2**32 - 1 for TCP and for what is not connected: nobody's, never a uid."""
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as unconnected:
        for one in (tcp, unconnected):
            with pytest.raises(LocalError, match="no Unix peer"):
                peer_cred(one)


@pytest.mark.parametrize(("uid", "gid"), [(2**32 - 1, 0), (0, 2**32 - 1)])
def test_half_a_credential_is_none(uid: int, gid: int) -> None:
    """Either half missing means that the kernel had nobody to name."""
    with pytest.raises(LocalError, match="no Unix peer"):
        peer_cred(Answer(struct.pack("=iII", 1, uid, gid)))


@pytest.mark.parametrize("size", [0, 11, 13])
def test_an_answer_of_another_size_is_refused(size: int) -> None:
    """A struct ucred is 12 bytes."""
    with pytest.raises(LocalError, match="not a struct ucred"):
        peer_cred(Answer(bytes(size)))


def test_a_closed_socket_has_no_credentials() -> None:
    """A peer that cannot be asked about is an error of one type, whatever the kernel called it."""
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    with pytest.raises(LocalError, match="peer credentials"):
        peer_cred(ours)
