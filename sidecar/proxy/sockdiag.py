"""Who holds the other end of a local TCP connection: one exact lookup in the kernel (sock_diag(7)).

The question is about the CALLER's socket, so the 4-tuple is as the caller sees it: ``local`` is the caller's
address, ``remote`` is our listener's. One request of 72 bytes, one reply, about 30 microseconds; the kernel
answers inside the send, so nothing here waits and the Trio thread may call it.

What keeps an answer honest:

- Asked for a connection that is gone, the kernel falls back to a *listener* on the caller's port. A row that
  does not name the asked tuple is no answer.
- IPv4-mapped IPv6 addresses are IPv4 addresses, here and in the kernel's tables: a dual-stack listener sees
  ``::ffff:127.0.0.1`` where its caller has a plain IPv4 socket, and the other way round.
- A tuple can be used again. Someone connects, sends, resets, and before we look an agent's connection lands
  on the same port: the lookup would name the agent for the stranger's bytes. So :meth:`SockDiag.caller_of`
  looks at our own end *after* the lookup: while that one stands, nobody else can have had its tuple.
- The netlink socket is connected to the kernel, which then lets no other process answer.
- Whatever is not exactly the one expected reply raises LocalError, and the socket is replaced: an answer that
  comes late must not become the next question's.

Formats: include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h. Integers are in host order, ports and addresses
in network order.
"""

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Protocol, Self

from pki.errors import LocalError
from sidecar.proxy.attribute import CLOSE_WAIT, ESTABLISHED, SocketOwner

MAX_REPLY_BYTES = 4096

_NETLINK_SOCK_DIAG = 4
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_SOCK_DIAG_BY_FAMILY = 20
_INET_DIAG_CGROUP_ID = 21
_ALL_STATES = _NO_COOKIE = 0xFFFFFFFF
_ATTRIBUTE_FLAGS = 0xC000  # NLA_F_NESTED, NLA_F_NET_BYTEORDER

_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_REQUEST = struct.Struct("=BBBxI")  # family, protocol, extensions, states; a socket id follows
_PORTS = struct.Struct("!HH16s16s")  # the head of a socket id: ports, addresses
_COOKIE = struct.Struct("=III")  # its tail: interface, cookie
_ROW = struct.Struct("=BBxx48x12xII")  # family, state, (timers, socket id, queues), uid, inode
_ROW_PORTS_AT = 4
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_CGROUP_ID = struct.Struct("=Q")
_ERROR = struct.Struct("=i")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address and a port. An IPv4-mapped IPv6 address is the IPv4 address it maps."""

    address: IPv4Address | IPv6Address
    port: int

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError("a port is 0 to 65535")
        if isinstance(self.address, IPv6Address) and self.address.ipv4_mapped is not None:
            object.__setattr__(self, "address", self.address.ipv4_mapped)

    @classmethod
    def of(cls, sockaddr: tuple[Any, ...]) -> Self:
        """The value of what getsockname() and getpeername() give for IPv4 and IPv6."""
        return cls(ip_address(sockaddr[0]), sockaddr[1])

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6


@dataclass(frozen=True, slots=True)
class Row:
    """One socket of the kernel's table."""

    local: Endpoint
    remote: Endpoint
    owner: SocketOwner


class Connection(Protocol):
    """What :meth:`SockDiag.caller_of` needs of an accepted socket, the standard library's or Trio's."""

    def getsockname(self) -> Any: ...
    def getpeername(self) -> Any: ...
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


class SockDiag:
    """A netlink socket to ask with, kept open. For one thread; opens itself anew after a failure."""

    def __init__(self, connect: Callable[[], socket.socket] | None = None) -> None:
        """Raise LocalError where netlink is not permitted. ``connect`` is the seam for a kernel of tests."""
        self._connect = connect or connect_kernel
        self._sequence = 0
        self._socket: socket.socket | None = self._connect()

    def caller_of(self, accepted: Connection) -> SocketOwner | None:
        """Who is at the other end of ``accepted``; None when that end, or this one, is gone.

        Raises LocalError when the kernel cannot be asked; the caller is then to be refused (wrong_caller).
        """
        try:
            here, there = Endpoint.of(accepted.getsockname()), Endpoint.of(accepted.getpeername())
            owner = self.lookup(local=there, remote=here)
            return owner if _stands(accepted) else None
        except OSError:  # ENOTCONN: reset before we came to ask
            return None

    def lookup(self, local: Endpoint, remote: Endpoint) -> SocketOwner | None:
        """The owner of the TCP socket with exactly this tuple in our network namespace, or None.

        Raises LocalError when the kernel cannot be asked or its reply is not what it must be.
        """
        self._sequence = (self._sequence + 1) % 2**32
        try:
            reply = self._exchange(encode_request(local, remote, self._sequence))
            row = decode_reply(reply, self._sequence)
        except LocalError:
            self.close()
            raise
        if row is None or (row.local, row.remote) != (local, remote):
            return None
        return row.owner

    def close(self) -> None:
        """Close the socket; a later lookup opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> bytes:
        if self._socket is None:
            self._socket = self._connect()
        try:
            self._socket.send(request)
            return self._socket.recv(MAX_REPLY_BYTES + 1)
        except OSError as error:
            raise LocalError(f"sock_diag: no answer from the kernel ({_name(error.errno)})") from error


def connect_kernel() -> socket.socket:
    """A non-blocking netlink socket that only the kernel can answer on; raises LocalError."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_SOCK_DIAG)
    except OSError as error:
        raise LocalError(
            f"sock_diag: cannot open a netlink socket ({_name(error.errno)}): allow AF_NETLINK to this process"
        ) from error
    try:
        opened.connect((0, 0))
    except OSError as error:
        opened.close()
        raise LocalError(f"sock_diag: cannot connect to the kernel ({_name(error.errno)})") from error
    return opened


def encode_request(local: Endpoint, remote: Endpoint, sequence: int) -> bytes:
    """The netlink message that asks for one TCP socket; raises LocalError when the families differ."""
    if local.family != remote.family:
        raise LocalError("sock_diag: an IPv4 and an IPv6 address are not the ends of one connection")
    body = _REQUEST.pack(local.family, socket.IPPROTO_TCP, 0, _ALL_STATES)
    body += _PORTS.pack(local.port, remote.port, local.address.packed, remote.address.packed)
    body += _COOKIE.pack(0, _NO_COOKIE, _NO_COOKIE)
    length = _NLMSGHDR.size + len(body)
    return _NLMSGHDR.pack(length, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, sequence, 0) + body


def decode_reply(reply: bytes, sequence: int) -> Row | None:
    """The row in ``reply``, or None for "no such socket"; raises LocalError for anything else."""
    if not _NLMSGHDR.size <= len(reply) <= MAX_REPLY_BYTES:
        raise LocalError("sock_diag: a reply of impossible size")
    length, kind, _, answered, _ = _NLMSGHDR.unpack_from(reply)
    if length != len(reply):
        raise LocalError("sock_diag: the reply is not one whole message")
    if answered != sequence:
        raise LocalError("sock_diag: a reply to another question")
    payload = reply[_NLMSGHDR.size :]
    if kind == _NLMSG_ERROR:
        _expect_absent(payload)
        return None
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise LocalError(f"sock_diag: a reply of unknown type {kind}")
    return _decode_row(payload)


def _expect_absent(payload: bytes) -> None:
    """Raise LocalError for any error but "no such socket"."""
    if len(payload) < _ERROR.size:
        raise LocalError("sock_diag: a truncated error")
    code = -_ERROR.unpack_from(payload)[0]
    if code != errno.ENOENT:
        raise LocalError(f"sock_diag: the kernel says {_name(code)}")


def _decode_row(payload: bytes) -> Row:
    if len(payload) < _ROW.size:
        raise LocalError("sock_diag: a truncated row")
    family, state, uid, inode = _ROW.unpack_from(payload)
    local_port, remote_port, local, remote = _PORTS.unpack_from(payload, _ROW_PORTS_AT)
    return Row(
        local=Endpoint(_address(family, local), local_port),
        remote=Endpoint(_address(family, remote), remote_port),
        owner=SocketOwner(state, uid, inode, _cgroup_id(payload[_ROW.size :])),
    )


def _address(family: int, raw: bytes) -> IPv4Address | IPv6Address:
    if family == socket.AF_INET:
        return IPv4Address(raw[:4])
    if family == socket.AF_INET6:
        return IPv6Address(raw)
    raise LocalError(f"sock_diag: a row of address family {family}")


def _cgroup_id(attributes: bytes) -> int | None:
    found = [value for kind, value in _attributes(attributes) if kind == _INET_DIAG_CGROUP_ID]
    if not found:
        return None
    if len(found) > 1 or len(found[0]) != _CGROUP_ID.size:
        raise LocalError("sock_diag: not exactly one cgroup id of 8 bytes")
    (cgroup_id,) = _CGROUP_ID.unpack(found[0])
    return int(cgroup_id)


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute; a value is padded to a multiple of 4 bytes, the last one's too."""
    while raw:
        length, kind = _ATTRIBUTE.unpack_from(raw) if len(raw) >= _ATTRIBUTE.size else (0, 0)
        padded = (length + 3) & ~3
        if length < _ATTRIBUTE.size or padded > len(raw):
            raise LocalError("sock_diag: an attribute that does not fit its message")
        yield kind & ~_ATTRIBUTE_FLAGS, raw[_ATTRIBUTE.size : length]
        raw = raw[padded:]


def _stands(accepted: Connection) -> bool:
    """Whether our end still holds its tuple in the kernel's table; the caller may have half-closed."""
    (state,) = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)  # tcp_info.tcpi_state
    return state in (ESTABLISHED, CLOSE_WAIT)


def _name(code: int | None) -> str:
    return errno.errorcode.get(code or 0, f"error {code}")
