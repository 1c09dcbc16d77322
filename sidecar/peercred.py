"""Who is at the other end of a Unix socket (SO_PEERCRED, unix(7))."""

import socket
import struct
from dataclasses import dataclass
from typing import Protocol

from pki.errors import LocalError

_UCRED = struct.Struct("=iII")
_NOBODY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PeerCred:
    """Taken by the kernel when the peer connected (or listened): a later exec or setuid does not change it.

    ``pid`` may be reused by now and is 0 for a process of another pid namespace: for records, not for decisions.
    """

    pid: int
    uid: int
    gid: int


class UnixConnection(Protocol):
    """A connected Unix socket, the standard library's or Trio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_cred(connection: UnixConnection) -> PeerCred:
    """The credentials of the peer; raises LocalError when the socket has none (not connected, not Unix)."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError as error:
        raise LocalError(f"peer credentials: the socket has none ({error.strerror})") from error
    if len(raw) != _UCRED.size:
        raise LocalError("peer credentials: not a struct ucred")
    cred = PeerCred(*_UCRED.unpack(raw))
    if _NOBODY in (cred.uid, cred.gid):  # what the kernel fills in for a socket without a peer
        raise LocalError("peer credentials: the socket has no Unix peer")
    return cred
