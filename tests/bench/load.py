"""The clients: what they ask of an entrance, and how long it takes. Plain sockets, one thread, the same for all pairs."""

import os
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.bench.target import ECHO, GIVE, SOURCE_BYTES, SWALLOW, memory_file

CEILING_SECONDS = 30.0
READ_BYTES = 512 * 1024
MESSAGE = b"sixty-four bytes, as a short question to a tool would have them."
CLIENTS = 8


def connect(port: int) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=CEILING_SECONDS)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def echo_stream(port: int) -> socket.socket:
    """A new stream whose first byte has come back."""
    stream = connect(port)
    stream.sendall(ECHO)
    if stream.recv(1) != ECHO:
        raise ConnectionError(f"port {port}: the stream ended before its first byte came back")
    return stream


def open_times(port: int, count: int) -> list[float]:
    """Seconds from connect to the first echoed byte, of ``count`` streams one after the other."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        with echo_stream(port):
            found.append(time.perf_counter() - started)
    return found


def trip_times(port: int, count: int) -> list[float]:
    """Seconds that 64 bytes take there and back on one stream, ``count`` times after some to warm up."""
    found = []
    with echo_stream(port) as stream:
        for _ in range(count + count // 5):
            started = time.perf_counter()
            stream.sendall(MESSAGE)
            size = 0
            while size < len(MESSAGE):
                size += _some(len(stream.recv(len(MESSAGE))), port)
            found.append(time.perf_counter() - started)
    return found[-count:]


def open_count(port: int, seconds: float) -> int:
    """How many streams ``CLIENTS`` clients open, each the next once its first byte has come back and it has closed."""
    count = 0
    deadline = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for _ in range(CLIENTS):
            selector.register(_asking(port), selectors.EVENT_READ)
        while time.perf_counter() < deadline:
            for key, _ in _ready(selector, port):
                stream = _stream_of(key)
                _some(len(stream.recv(1)), port)
                selector.unregister(stream)
                stream.close()
                count += 1
                selector.register(_asking(port), selectors.EVENT_READ)
        _close_all(selector)
    return count


@contextmanager
def idle_streams(port: int, count: int) -> Iterator[list[socket.socket]]:
    """``count`` streams that carried one byte each way and then say nothing."""
    streams: list[socket.socket] = []
    try:
        streams.extend(echo_stream(port) for _ in range(count))
        yield streams
    finally:
        for stream in streams:
            stream.close()


@dataclass
class Flow:
    """Bytes through ``count`` streams, towards the target or from it, as fast as they go."""

    port: int
    count: int
    outwards: bool
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _buffer: bytearray = field(default_factory=lambda: bytearray(READ_BYTES))

    def __enter__(self) -> "Flow":
        for _ in range(self.count):
            stream = connect(self.port)
            stream.sendall(SWALLOW if self.outwards else GIVE)
            stream.setblocking(False)
            self._selector.register(
                stream, selectors.EVENT_WRITE if self.outwards else selectors.EVENT_READ, _Offset()
            )
        self._source = memory_file(SOURCE_BYTES)
        return self

    def __exit__(self, *_: object) -> None:
        _close_all(self._selector)
        self._selector.close()
        os.close(self._source)

    def run(self, seconds: float) -> float:
        """Bytes per second of the next ``seconds``."""
        size = 0
        started = now = time.perf_counter()
        while now - started < seconds:
            for key, _ in _ready(self._selector, self.port):
                stream = _stream_of(key)
                size += self._send(stream, key.data) if self.outwards else self._receive(stream)
            now = time.perf_counter()
        return size / (now - started)

    def _send(self, stream: socket.socket, offset: "_Offset") -> int:
        sent = os.sendfile(stream.fileno(), self._source, offset.at, SOURCE_BYTES - offset.at)
        offset.at = (offset.at + sent) % SOURCE_BYTES
        return sent

    def _receive(self, stream: socket.socket) -> int:
        return _some(stream.recv_into(self._buffer), self.port)


@dataclass(eq=False)
class _Offset:
    """Where in the source a stream stands."""

    at: int = 0


def last_end(streams: list[socket.socket]) -> float:
    """Wait until all ``streams`` have ended; time.time() of the last one."""
    last = 0.0
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in _ready(selector, 0):
                if _has_ended(_stream_of(key)):
                    last = time.time()
                    selector.unregister(key.fileobj)
    return last


def _has_ended(stream: socket.socket) -> bool:
    try:
        return not stream.recv(1)
    except ConnectionError:
        return True


def _asking(port: int) -> socket.socket:
    """A stream whose first byte is on its way."""
    stream = connect(port)
    stream.sendall(ECHO)
    return stream


def _ready(selector: selectors.BaseSelector, port: int) -> list[tuple[selectors.SelectorKey, int]]:
    ready = selector.select(CEILING_SECONDS)
    if not ready:
        raise TimeoutError(f"port {port}: nothing came for {CEILING_SECONDS:.0f} s")
    return ready


def _stream_of(key: selectors.SelectorKey) -> socket.socket:
    assert isinstance(key.fileobj, socket.socket)
    return key.fileobj


def _close_all(selector: selectors.BaseSelector) -> None:
    for key in list(selector.get_map().values()):
        selector.unregister(key.fileobj)
        _stream_of(key).close()


def _some(size: int, port: int) -> int:
    """``size``, which is not nothing."""
    if not size:
        raise ConnectionError(f"port {port}: the stream ended early")
    return size
