"""The command line in this process, before a daemon that answers what the test likes."""

import contextlib
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

from sidecar.cli import main
from sidecar.paths import Paths

Answers = dict[str, tuple[int, Any]]
"""By ``METHOD PATH``: HTTP status and body."""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """Exactly one object on stdout."""
        body: dict[str, Any] = json.loads(self.out)
        assert body["schema_version"] == 1
        return body


def lockgate(*words: object) -> Done:
    """Run the command line to its end."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


@dataclass
class FakeDaemon:
    """A daemon's folder, and what its sockets answer. ``asked`` is every request with its body."""

    root: Path
    answers: Answers = field(default_factory=dict)
    asked: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def paths(self) -> Paths:
        return Paths.below(self.root)

    def refuses(self, call: str, message: str, status: int = 400) -> None:
        self.answers[call] = status, {"error": {"reason": "refused", "message": message}}

    def says(self, call: str, **body: object) -> None:
        self.answers[call] = 200, {"schema_version": 1, **body}

    def run(self, *words: object) -> Done:
        return lockgate("--dir", self.root, *words)


@contextmanager
def fake_daemon(root: Path) -> Iterator[FakeDaemon]:
    """Both sockets of the folder, served until the end of the block."""
    fake = FakeDaemon(root)
    fake.paths.run.mkdir(parents=True)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            size = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(size)) if size else None
            call = f"{self.command} {self.path}"
            fake.asked.append((call, body))
            status, said = fake.answers.get(call, (404, {"error": {"message": f"{call}: no such call"}}))
            payload = json.dumps(said).encode()
            self.send_response_only(status)
            self.send_header("content-length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

    for method in ("GET", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)

    with (
        UnixStreamServer(str(fake.paths.admin_sock), Handler) as admin,
        UnixStreamServer(str(fake.paths.agent_sock), Handler) as agent,
        ThreadPoolExecutor() as pool,
    ):
        servers = admin, agent
        for server in servers:
            pool.submit(server.serve_forever, 0.001)
        try:
            yield fake
        finally:
            for server in servers:
                server.shutdown()
