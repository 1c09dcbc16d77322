"""A real little HTTP tool: pages that can be listed, read and written, and a blob of reproducible bytes.

    GET  /api/pages            names, JSON
    GET  /api/pages/NAME       one page, text
    POST /api/pages/NAME       write one page
    GET  /api/blob?mib=N       N MiB, the same bytes every time

``python -m sidecar.dev.wiki PORT``; prints nothing, serves 127.0.0.1 until it is ended.
"""

import hashlib
import json
import signal
import sys
import threading  # noqa: TID251 - http.server answers each connection in a thread of its own
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MIB = 1024 * 1024
MAX_BLOB_MIB = 4_096
MAX_PAGE_BYTES = MIB
MAX_PAGES = 1_000
PAGES = "/api/pages"

_pages = {
    "welcome": "This page stands beside node tools-1. You read it through two sidecars.\n",
    "runbook": "1. Find the agent. 2. lockgate lock agent:NAME. 3. Read the audit log.\n",
}
_writing = threading.Lock()


def blob(mib: int) -> Iterator[bytes]:
    """``mib`` chunks of 1 MiB: chunk N is SHAKE-256 of its number, so any of them can be made again alone."""
    for number in range(mib):
        yield hashlib.shake_256(number.to_bytes(8, "big")).digest(MIB)


class Wiki(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "lockgate-dev-wiki"
    timeout = 60

    def do_GET(self) -> None:
        """List, read, or send a blob."""
        url = urlsplit(self.path)
        if url.path == PAGES:
            self._answer(HTTPStatus.OK, json.dumps(sorted(_pages)).encode(), "application/json")
        elif url.path.startswith(PAGES + "/"):
            page = _pages.get(url.path.removeprefix(PAGES + "/"))
            if page is None:
                self._answer(HTTPStatus.NOT_FOUND, b"no such page\n")
            else:
                self._answer(HTTPStatus.OK, page.encode())
        elif url.path == "/api/blob":
            self._send_blob(parse_qs(url.query).get("mib", ["1"])[0])
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"not found\n")

    def do_POST(self) -> None:
        """Write a page."""
        path, length = urlsplit(self.path).path, self.headers.get("content-length", "")
        name = path.removeprefix(PAGES + "/")
        if name in ("", path):
            self._refuse(HTTPStatus.NOT_FOUND, b"not found\n")
            return
        if not length.isdecimal() or int(length) > MAX_PAGE_BYTES:
            self._refuse(HTTPStatus.LENGTH_REQUIRED, b"a content-length of at most 1 MiB is needed\n")
            return
        text = self.rfile.read(int(length)).decode(errors="replace")
        with _writing:
            full = name not in _pages and len(_pages) >= MAX_PAGES
            if not full:
                _pages[name] = text
        self._answer(HTTPStatus.INSUFFICIENT_STORAGE if full else HTTPStatus.CREATED, b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        """Quiet: the audit log is what there is to read."""

    def _send_blob(self, mib: str) -> None:
        if not mib.isdecimal() or int(mib) > MAX_BLOB_MIB:
            self._answer(HTTPStatus.BAD_REQUEST, b"mib is a number up to 4096\n")
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("content-type", "application/octet-stream")
        self.send_header("content-length", str(int(mib) * MIB))
        self.end_headers()
        for chunk in blob(int(mib)):
            self.wfile.write(chunk)

    def _refuse(self, status: HTTPStatus, why: bytes) -> None:
        """Without reading the body, so the connection is of no more use."""
        self.close_connection = True
        self._answer(status, why)

    def _answer(
        self, status: HTTPStatus, body: bytes, content_type: str = "text/plain; charset=utf-8"
    ) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was cut off is what this mesh is for: no traceback."""


def main() -> None:
    """Serve until ended; Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _Server(("127.0.0.1", int(sys.argv[1])), Wiki).serve_forever()


if __name__ == "__main__":
    main()
