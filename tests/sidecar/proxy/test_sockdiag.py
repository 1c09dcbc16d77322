"""The codec against bytes of any kind, the lookup against real sockets on loopback."""

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Self

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.proxy.attribute import (
    ESTABLISHED,
    Attribution,
    Candidate,
    Method,
    Refused,
    SocketOwner,
    attribute,
)
from sidecar.proxy.sockdiag import (
    MAX_REPLY_BYTES,
    Connection,
    Endpoint,
    Row,
    SockDiag,
    connect_kernel,
    decode_reply,
    encode_request,
)
from sidecar.reasons import Reason

FIN_WAIT1, FIN_WAIT2 = 4, 5
NOBODY = 65534

CALLER = Endpoint(IPv4Address("127.0.0.1"), 50876)
LISTENER = Endpoint(IPv4Address("127.0.0.1"), 15001)
OWNER = SocketOwner(ESTABLISHED, uid=1001, inode=8845, cgroup_id=25)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another uid")


# --- the codec ---


def message(kind: int, payload: bytes, sequence: int = 7) -> bytes:
    """A netlink message of the kernel."""
    return struct.pack("=IHHII", 16 + len(payload), kind, 0, sequence, 6803) + payload


def attribute_of(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def row(
    owner: SocketOwner = OWNER,
    local: Endpoint = CALLER,
    remote: Endpoint = LISTENER,
    family: int = socket.AF_INET,
    tail: bytes = b"",
) -> bytes:
    """An inet_diag_msg as tcp_diag fills it, with the attributes of Linux 6.18 around the cgroup id."""
    fixed = struct.pack("=BBBB", family, owner.state, 0, 0)
    fixed += struct.pack("!HH16s16s", local.port, remote.port, _raw(family, local), _raw(family, remote))
    fixed += struct.pack("=III", 0, 0x60, 0) + struct.pack("=IIIII", 0, 0, 0, owner.uid, owner.inode)
    attributes = attribute_of(8, b"\0") + attribute_of(15, bytes(4))
    if owner.cgroup_id is not None:
        attributes += attribute_of(21, struct.pack("=Q", owner.cgroup_id))
    return fixed + attributes + attribute_of(22, b"\x52\0") + tail


def _raw(family: int, endpoint: Endpoint) -> bytes:
    mapped = family == socket.AF_INET6 and isinstance(endpoint.address, IPv4Address)
    return bytes(10) + b"\xff\xff" + endpoint.address.packed if mapped else endpoint.address.packed


PORTS = st.integers(0, 65535)
WORDS = st.integers(0, 2**32 - 1)
OWNERS = st.builds(SocketOwner, st.integers(0, 255), WORDS, WORDS, st.none() | st.integers(0, 2**64 - 1))
V4 = st.builds(Endpoint, st.ip_addresses(v=4), PORTS)
V6 = st.builds(Endpoint, st.ip_addresses(v=6), PORTS)


@given(
    OWNERS,
    st.tuples(V4, V4, st.just(socket.AF_INET)) | st.tuples(V4 | V6, V4 | V6, st.just(socket.AF_INET6)),
)
def test_a_row_gives_back_what_the_kernel_put_in(
    owner: SocketOwner, ends: tuple[Endpoint, Endpoint, int]
) -> None:
    """Every field of every family, an IPv6 socket with IPv4-mapped addresses too, which come out as IPv4."""
    local, remote, family = ends
    reply = message(20, row(owner, local, remote, family))
    assert decode_reply(reply, 7) == Row(local, remote, owner)


def test_a_request_is_72_bytes_that_name_one_tuple() -> None:
    """Written out by hand from inet_diag.h, so that encoder and decoder cannot be wrong together."""
    header = struct.pack("=IHHII", 72, 20, 1, 7, 0)
    request = struct.pack("=BBBBI", socket.AF_INET, 6, 0, 0, 0xFFFFFFFF)
    ports = bytes.fromhex("c6bc3a99")
    address = bytes.fromhex("7f000001") + bytes(12)
    cookie = bytes(4) + b"\xff" * 8
    assert encode_request(CALLER, LISTENER, 7) == header + request + ports + address + address + cookie


def test_the_ends_of_a_connection_are_of_one_family() -> None:
    """A mixed pair is no connection, and the kernel must not be asked for half of it."""
    with pytest.raises(LocalError, match="IPv4 and an IPv6"):
        encode_request(CALLER, Endpoint(IPv6Address("::1"), 1), 7)


def test_a_mapped_address_is_its_ipv4_address() -> None:
    """What a dual-stack listener sees of an IPv4 caller is looked up as IPv4."""
    assert Endpoint.of(("::ffff:127.0.0.1", 50876, 0, 0)) == CALLER
    assert Endpoint.of(("::1", 1, 0, 0)).family == socket.AF_INET6


@pytest.mark.parametrize("port", [-1, 65536])
def test_an_endpoint_has_a_real_port(port: int) -> None:
    """A port that does not fit 16 bits is a bug of ours."""
    with pytest.raises(ValueError, match="a port is"):
        Endpoint(IPv4Address("127.0.0.1"), port)


def test_no_such_socket_is_a_value() -> None:
    """ENOENT is the ordinary answer for a caller that has gone."""
    assert decode_reply(message(2, struct.pack("=i", -errno.ENOENT) + bytes(72)), 7) is None


BAD_REPLIES = {
    "empty": b"",
    "less than a header": message(20, b"")[:15],
    "too long": message(20, row(tail=bytes(MAX_REPLY_BYTES))),
    "cut off": message(20, row())[:-4],
    "followed by more": message(20, row()) + b"\0",
    "another question's": message(20, row(), sequence=6),
    "an unknown type": message(3, row()),
    "an error without a code": message(2, b"\0\0"),
    "an error of another kind": message(2, struct.pack("=i", -errno.EPERM)),
    "an acknowledgement": message(2, struct.pack("=i", 0)),
    "an unnamed error": message(2, struct.pack("=i", -100_000)),
    "half a row": message(20, row()[:71]),
    "another family": message(20, row(family=socket.AF_UNIX)),
    "half an attribute header": message(20, row(tail=b"\x05\0")),
    "an attribute of no length": message(20, row(tail=bytes(4))),
    "an attribute longer than the message": message(20, row(tail=struct.pack("=HH", 9, 1))),
    "an attribute without its padding": message(20, row(tail=struct.pack("=HHB", 5, 1, 0))),
    "two cgroup ids": message(20, row(tail=attribute_of(21, bytes(8)))),
    "two cgroup ids, one with flags": message(20, row(tail=attribute_of(0x8000 | 21, bytes(8)))),
    "a short cgroup id": message(20, row(SocketOwner(1, 0, 0, None), tail=attribute_of(21, bytes(4)))),
}


@pytest.mark.parametrize("reply", BAD_REPLIES.values(), ids=BAD_REPLIES.keys())
def test_a_reply_that_is_not_the_one_expected_is_an_error(reply: bytes) -> None:
    """Nothing is guessed from a reply that is cut, long, foreign or says a thing twice."""
    with pytest.raises(LocalError, match="sock_diag: "):
        decode_reply(reply, 7)


MANGLED = st.builds(
    lambda whole, at, junk, to: whole[: at % len(whole)] + junk + whole[to % len(whole) :],
    st.sampled_from([message(20, row()), message(2, struct.pack("=i", -2) + bytes(72))]),
    WORDS,
    st.binary(max_size=16),
    WORDS,
)


@given(st.binary(max_size=300) | MANGLED | MANGLED.map(lambda raw: message(20, raw[16:])))
def test_any_bytes_give_a_row_none_or_an_error(reply: bytes) -> None:
    """The decoder is total: no input raises anything but LocalError."""
    try:
        decoded = decode_reply(reply, 7)
    except LocalError:
        return
    assert decoded is None or isinstance(decoded, Row)


# --- a kernel that misbehaves ---


class FakeKernel:
    """Hands out sockets on which the given replies already wait, one list per socket."""

    def __init__(self, *replies: list[bytes]) -> None:
        self.replies = iter(replies)
        self.ends: list[socket.socket] = []

    def __call__(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.ends.append(theirs)
        for reply in next(self.replies):
            theirs.send(reply)
        return ours

    def close(self) -> None:
        for end in self.ends:
            end.close()


@contextmanager
def diag_with(*replies: list[bytes]) -> Iterator[SockDiag]:
    """A SockDiag that asks a fake kernel."""
    kernel = FakeKernel(*replies)
    diag = SockDiag(kernel)
    try:
        yield diag
    finally:
        diag.close()
        kernel.close()


def test_a_late_answer_is_never_the_next_questions() -> None:
    """After a failure the socket is replaced, so whatever still waits in the old one is gone with it."""
    stale = [message(20, row(), sequence=9), message(20, row(), sequence=2)]
    with diag_with(stale, [message(2, struct.pack("=i", -errno.ENOENT), sequence=2)]) as diag:
        with pytest.raises(LocalError, match="another question"):
            diag.lookup(CALLER, LISTENER)
        assert diag.lookup(CALLER, LISTENER) is None


def test_no_answer_is_an_error_and_does_not_wait() -> None:
    """The Trio thread asks: a kernel that stays silent must not hold it."""
    with diag_with([], [message(20, row(), sequence=2)]) as diag:
        with pytest.raises(LocalError, match="EAGAIN"):
            diag.lookup(CALLER, LISTENER)
        assert diag.lookup(CALLER, LISTENER) == OWNER


def test_an_oversized_reply_is_refused_not_cut_to_size() -> None:
    """A datagram is read with a byte to spare, so that one too long cannot pass for a whole one."""
    oversized = message(20, row(tail=bytes(2 * MAX_REPLY_BYTES)), sequence=1)
    with diag_with([oversized]) as diag, pytest.raises(LocalError, match="impossible size"):
        diag.lookup(CALLER, LISTENER)


def test_a_row_of_another_tuple_is_no_answer() -> None:
    """The kernel falls back to a listener on the caller's port; its owner is not the caller."""
    listening = Endpoint(IPv4Address("0.0.0.0"), 0)
    with diag_with([message(20, row(remote=listening), sequence=1)]) as diag:
        assert diag.lookup(CALLER, LISTENER) is None


def test_the_sequence_number_stays_in_its_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that asks 2**32 times goes on asking."""
    with diag_with([message(20, row(), sequence=0)]) as diag:
        monkeypatch.setattr(diag, "_sequence", 2**32 - 1)
        assert diag.lookup(CALLER, LISTENER) == OWNER


def test_without_netlink_the_error_says_what_to_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that forgets AF_NETLINK fails at start, with the cure in the message."""

    def forbidden(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", forbidden)
    with pytest.raises(LocalError, match=r"EAFNOSUPPORT.*allow AF_NETLINK"):
        connect_kernel()


def test_a_socket_the_kernel_will_not_talk_to_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure half-way leaves no descriptor behind."""
    made: list[socket.socket] = []

    class Deaf(socket.socket):
        def connect(self, _: object, /) -> None:
            made.append(self)
            raise OSError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(socket, "socket", Deaf)
    with pytest.raises(LocalError, match="ECONNREFUSED"):
        connect_kernel()
    assert [one.fileno() for one in made] == [-1]


# --- the real kernel ---


@pytest.fixture
def diag() -> Iterator[SockDiag]:
    opened = SockDiag()
    yield opened
    opened.close()


Address = tuple[socket.AddressFamily, str]
V4_LOOPBACK: Address = (socket.AF_INET, "127.0.0.1")
V6_LOOPBACK: Address = (socket.AF_INET6, "::1")

PAIRS: dict[str, tuple[Address, Address]] = {
    "IPv4": (V4_LOOPBACK, V4_LOOPBACK),
    "IPv6": (V6_LOOPBACK, V6_LOOPBACK),
    "an IPv4 caller of a dual-stack listener": (V4_LOOPBACK, (socket.AF_INET6, "::")),
    "an IPv6 socket with mapped addresses": ((socket.AF_INET6, "::ffff:127.0.0.1"), V4_LOOPBACK),
}


class Pair:
    """A connection through a real listener, with both ends at hand."""

    def __init__(
        self, caller: Address = V4_LOOPBACK, listen: Address = V4_LOOPBACK, source: str = ""
    ) -> None:
        """``source``: the caller's own address, where nobody else's connections may take its port meanwhile."""
        family, host = listen
        self.listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
        self.caller = socket.socket(caller[0])
        if source:
            self.caller.bind((source, 0))
        self.caller.connect((caller[1], self.listener.getsockname()[1]))
        self.accepted, _ = self.listener.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self.caller, self.accepted, self.listener):
            one.close()


def reset(opened: socket.socket) -> None:
    """Close with RST."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


CALLER_PROGRAM = """
import os, socket, sys
os.setgroups([])
os.setuid(int(sys.argv[1]))
opened = socket.socket()
opened.connect(("127.0.0.1", int(sys.argv[2])))
sys.stdin.read()
"""


@contextmanager
def caller_of_uid(uid: int, port: int) -> Iterator[None]:
    """Another process, of another uid, that connects to ``port`` and holds the connection."""
    command = [sys.executable, "-I", "-S", "-c", CALLER_PROGRAM, str(uid), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE):  # leaving closes its stdin, which ends it
        yield


@pytest.mark.parametrize(("caller", "listen"), PAIRS.values(), ids=PAIRS.keys())
def test_the_kernel_names_the_holder_of_the_callers_socket(
    diag: SockDiag, caller: Address, listen: Address
) -> None:
    """Uid and inode are those of the caller's own descriptor, through every pairing of address families."""
    if socket.AF_INET6 in (caller[0], listen[0]) and not _has_ipv6():
        pytest.skip("no IPv6 on this machine")
    with Pair(caller, listen) as pair:
        owner = diag.caller_of(pair.accepted)
        assert owner is not None
        held = os.fstat(pair.caller.fileno())
        assert (owner.state, owner.uid, owner.inode) == (ESTABLISHED, os.geteuid(), held.st_ino)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_a_trio_socket_can_be_asked_about(diag: SockDiag) -> None:
    """The data path accepts with Trio: its sockets serve as they are."""
    with Pair() as pair:
        accepted = trio.socket.from_stdlib_socket(pair.accepted)
        owner = diag.caller_of(accepted)
        assert owner is not None
        assert owner.uid == os.geteuid()


@needs_root
def test_a_process_of_another_uid_is_refused_by_its_uid(diag: SockDiag) -> None:
    """The port alone is no identity: the kernel names the stranger and the record can."""
    with socket.create_server(("127.0.0.1", 0)) as listener, caller_of_uid(NOBODY, listener.getsockname()[1]):
        listener.settimeout(10)
        accepted, _ = listener.accept()
        with accepted:
            owner = diag.caller_of(accepted)
    assert owner is not None
    session = Candidate("mine", NOBODY, None)
    expected = Attribution("mine", Method.UID, NOBODY, owner.cgroup_id)
    assert attribute(owner, [session], NOBODY) == expected
    assert attribute(owner, [session], NOBODY - 1) == Refused(Reason.WRONG_CALLER, NOBODY)


def test_a_caller_that_closed_is_refused(diag: SockDiag) -> None:
    """Its row outlives it, as uid 0 and inode 0 of a state that is not ESTABLISHED."""
    with Pair() as pair:
        pair.caller.close()
        owner = diag.caller_of(pair.accepted)
        assert owner is not None
        assert (owner.state == ESTABLISHED, owner.inode) == (False, 0)
        session = Candidate("mine", os.geteuid(), None)
        assert attribute(owner, [session], os.geteuid()) == Refused(Reason.WRONG_CALLER, None)


def test_a_caller_that_reset_is_gone(diag: SockDiag) -> None:
    """Nothing is left to ask about on either end."""
    with Pair() as pair:
        reset(pair.caller)
        assert diag.caller_of(pair.accepted) is None


def test_a_half_closed_caller_still_holds_its_socket(diag: SockDiag) -> None:
    """It is named with its uid and inode, but no longer as ESTABLISHED."""
    with Pair() as pair:
        pair.caller.shutdown(socket.SHUT_WR)
        owner = diag.caller_of(pair.accepted)
        assert owner is not None
        assert owner.state in (FIN_WAIT1, FIN_WAIT2)
        assert (owner.uid, owner.inode) == (os.geteuid(), os.fstat(pair.caller.fileno()).st_ino)


def test_a_listener_is_not_taken_for_a_caller(diag: SockDiag) -> None:
    """Asked for a tuple that does not exist, the kernel offers who listens on its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert diag.lookup(Endpoint.of(listener.getsockname()), LISTENER) is None


class NamesOf(Connection):
    """An accepted connection that was asked for its names while it still had them."""

    def __init__(self, accepted: socket.socket) -> None:
        self.accepted = accepted
        self.names = accepted.getsockname(), accepted.getpeername()

    def getsockname(self) -> tuple[str, int]:
        here: tuple[str, int] = self.names[0]
        return here

    def getpeername(self) -> tuple[str, int]:
        there: tuple[str, int] = self.names[1]
        return there

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        return self.accepted.getsockopt(level, optname, buflen)


def test_bytes_of_a_stranger_are_not_laid_on_who_took_its_port(diag: SockDiag) -> None:
    """Between names and lookup the connection dies and its tuple is taken: the old end is asked again, and gone."""
    with Pair(source="127.0.77.1") as pair, socket.socket() as successor:
        strangers = NamesOf(pair.accepted)
        tuple_of_both = pair.caller.getsockname()
        reset(pair.caller)
        successor.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        successor.bind(tuple_of_both)
        successor.connect(pair.listener.getsockname())
        accepted, _ = pair.listener.accept()
        with accepted:
            here, there = map(Endpoint.of, strangers.names)
            assert diag.lookup(there, here) is not None
            assert diag.caller_of(strangers) is None
            assert diag.caller_of(accepted) is not None


def test_a_lookup_leaves_no_descriptor_behind(diag: SockDiag) -> None:
    """One netlink socket serves every lookup, and close() returns it."""
    with Pair() as pair:
        diag.caller_of(pair.accepted)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(50):
            diag.caller_of(pair.accepted)
        assert len(os.listdir("/proc/self/fd")) == before
        diag.close()
        assert len(os.listdir("/proc/self/fd")) == before - 1
