"""Clients and tools of black-box tests, on plain sockets: one thread, no sleeps, everything with a deadline."""

import hashlib
import selectors
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CEILING_SECONDS = 60.0
"""Generous: a client that waits this long has failed."""
READ_BYTES = 256 * 1024


@dataclass(frozen=True)
class Heard:
    """What came back, to its clean end."""

    size: int
    sha256: str


def connect(port: int) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=CEILING_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def ask(stream: socket.socket, words: bytes) -> bytes:
    """Send ``words`` and read as many bytes back; fewer when the stream ends first."""
    stream.sendall(words)
    return read(stream, len(words))


def read(stream: socket.socket, size: int) -> bytes:
    """``size`` bytes, or fewer when the stream ends first."""
    found = b""
    while len(found) < size and (more := stream.recv(size - len(found))):
        found += more
    return found


def read_all(stream: socket.socket) -> bytes:
    """Everything to the clean end; a reset raises ConnectionResetError."""
    return b"".join(iter(lambda: stream.recv(READ_BYTES), b""))


def converse(stream: socket.socket, chunks: Iterable[bytes]) -> Heard:
    """Send all ``chunks`` while reading, end our direction, and go on reading to the other's clean end."""
    digest, size = hashlib.sha256(), 0
    pending, left = memoryview(b""), iter(chunks)
    stream.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while True:
            ready = selector.select(CEILING_SECONDS)
            assert ready, "the stream stands still"
            if ready[0][1] & selectors.EVENT_WRITE:
                pending = pending or memoryview(next(left, b""))
                if pending:
                    pending = pending[stream.send(pending) :]
                else:
                    stream.shutdown(socket.SHUT_WR)
                    selector.modify(stream, selectors.EVENT_READ)
            if ready[0][1] & selectors.EVENT_READ:
                data = stream.recv(READ_BYTES)
                if not data:
                    return Heard(size, digest.hexdigest())
                digest.update(data)
                size += len(data)


def expected(chunks: Iterable[bytes]) -> Heard:
    """What :func:`converse` hears when exactly ``chunks`` come back."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return Heard(size, digest.hexdigest())


def how_it_ends(stream: socket.socket) -> str:
    """Wait for the end: ``closed`` cleanly, ``reset``, or ``answered`` when bytes come instead."""
    try:
        return "answered" if stream.recv(1) else "closed"
    except ConnectionError:
        return "reset"


def knock(port: int, words: bytes = b"hello") -> str:
    """Open a stream, say ``words``, and tell how it goes (:func:`how_it_ends`)."""
    try:
        with connect(port) as stream:
            stream.sendall(words)
            return how_it_ends(stream)
    except ConnectionError:
        return "reset"


@contextmanager
def tool(port: int) -> Iterator[socket.socket]:
    """A listening tool on loopback, for the test itself to accept and answer on."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(CEILING_SECONDS)
        yield listener


def was_contacted(listener: socket.socket) -> bool:
    """Whether anybody stands in line at ``listener``; asks, and waits for nobody."""
    listener.setblocking(False)
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    finally:
        listener.settimeout(CEILING_SECONDS)
    return True
