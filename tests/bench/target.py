"""The tool that all pairs lead to, in a process of its own: ``python -m tests.bench.target PORT``.

The first byte of a connection says what it is for: E is echoed, and all that follows; S is swallowed with all that
follows; G is answered with bytes without end. The kernel does what it can (sendfile, one buffer for all reads), so
that little of a measurement is the target's. It ends when its standard input does, so it outlives nobody.
"""

import os
import selectors
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

BACKLOG = 1_024
SOURCE_BYTES = 4 * 1024 * 1024
BUFFER = bytearray(512 * 1024)

ECHO, SWALLOW, GIVE = b"E", b"S", b"G"


@dataclass(eq=False)
class Served:
    """One connection. What it is for comes with its first byte."""

    stream: socket.socket
    source: int
    mode: bytes = b""
    offset: int = 0

    def on_readable(self) -> bool:
        """Whether it goes on."""
        size = self.stream.recv_into(BUFFER, 0 if self.mode == SWALLOW else 65_536)
        if not size:
            return False
        self.mode = self.mode or bytes(BUFFER[:1])
        if self.mode == ECHO:
            self.stream.sendall(memoryview(BUFFER)[:size])  # A few bytes: the socket's buffer has room.
        return True

    def on_writable(self) -> None:
        self.offset += os.sendfile(
            self.stream.fileno(),
            self.source,
            self.offset % SOURCE_BYTES,
            SOURCE_BYTES - self.offset % SOURCE_BYTES,
        )


def serve(port: int) -> None:
    """Serve until standard input ends."""
    source = memory_file(SOURCE_BYTES)
    with (
        selectors.DefaultSelector() as selector,
        socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener,
    ):
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            for key, ready in selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is listener:
                    for stream in accepted(listener):
                        selector.register(stream, selectors.EVENT_READ, Served(stream, source))
                else:
                    advance(selector, key.data, ready)


def advance(selector: selectors.BaseSelector, served: Served, ready: int) -> None:
    """What one connection is ready for."""
    going = True
    try:
        if ready & selectors.EVENT_READ:
            going = served.on_readable()
            if going and served.mode == GIVE:
                selector.modify(served.stream, selectors.EVENT_READ | selectors.EVENT_WRITE, served)
        if going and ready & selectors.EVENT_WRITE:
            served.on_writable()
    except BlockingIOError:
        return
    except ConnectionError:
        going = False
    if not going:
        selector.unregister(served.stream)
        served.stream.close()


def accepted(listener: socket.socket) -> Iterator[socket.socket]:
    """All that wait in line."""
    with suppress(BlockingIOError):
        while True:
            stream, _ = listener.accept()
            stream.setblocking(False)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield stream


def memory_file(size: int) -> int:
    """A descriptor of ``size`` random bytes in memory, for sendfile."""
    descriptor = os.memfd_create("bench")
    for _ in range(size // 65_536):
        os.write(descriptor, os.urandom(65_536))
    return descriptor


if __name__ == "__main__":
    serve(int(sys.argv[1]))
