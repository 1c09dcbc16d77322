"""An HTTP tool of the tests' own that remembers every request as it received it."""

import hashlib
import json
import threading  # noqa: TID251 - http.server answers each connection in a thread of its own
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

PIECE = b"\xa5" * 65_536


@dataclass(frozen=True)
class Received:
    """A request: its first line's words, its fields with names in lower case, and what it carried."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    size: int
    sha256: str

    def field(self, name: str) -> str:
        return ", ".join(value for known, value in self.fields if known == name)


@dataclass
class Memory:
    """What a tool received, and what its answers wait for."""

    requests: list[Received] = field(default_factory=list)
    heads: int = 0
    """Requests that began, complete or not."""
    go_on: threading.Event = field(default_factory=threading.Event)

    def clear(self) -> None:
        self.requests.clear()
        self.heads = 0
        self.go_on.clear()


class Tool(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "counting-tool"
    timeout = 60
    memory: ClassVar[Memory]

    def do_GET(self) -> None:
        self._receive()
        path = self.path.partition("?")[0]
        if path == "/api/blob":
            self._blob(int(self.path.partition("=")[2]))
        elif path == "/api/events":
            self._events()
        elif path == "/api/ambiguous":
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            )
        else:
            self._answer()

    do_HEAD = do_OPTIONS = do_DELETE = do_GET  # noqa: N815 - the names they have in the base class

    def do_POST(self) -> None:
        if self.path == "/api/early":
            self.memory.heads += 1
            self.close_connection = True
            self._respond(413, b"too much")
            return
        digest, size = hashlib.sha256(), 0
        for piece in self._body():
            digest.update(piece)
            size += len(piece)
        self._receive(size, digest.hexdigest())
        self._answer()

    do_PUT = do_PATCH = do_POST  # noqa: N815 - the names they have in the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        """Quiet."""

    def _receive(self, size: int = 0, sha256: str = "") -> None:
        fields = [(name.lower(), value) for name, value in self.headers.items()]
        self.memory.heads += 1
        self.memory.requests.append(Received(self.command, self.path, fields, size, sha256))

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("content-length", "0"))
        while left:
            piece = self.rfile.read(min(left, 65_536))
            if not piece:
                raise ConnectionAbortedError
            left -= len(piece)
            yield piece

    def _answer(self) -> None:
        last = self.memory.requests[-1]
        said = {"method": last.method, "target": last.target, "size": last.size, "sha256": last.sha256}
        self._respond(200, json.dumps(said).encode())

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _blob(self, mib: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(mib * 1024 * 1024))
        self.end_headers()
        for _ in range(mib * 16):
            self.wfile.write(PIECE)

    def _events(self) -> None:
        """One event at once, a second when the test says so, and the end."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in (1, 2):
            event = b"data: %d\n\n" % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
            if number == 1:
                self.memory.go_on.wait(60)
        self.wfile.write(b"0\r\n\r\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is cut off is what is tested."""


@contextmanager
def http_tool(port: int) -> Iterator[Memory]:
    """The tool on a port of loopback, to the test's end."""
    memory = Memory()
    handler = type("Handler", (Tool,), {"memory": memory})
    with _Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield memory
        memory.go_on.set()
        server.shutdown()
