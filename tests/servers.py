"""Real servers for black-box tests: PostgreSQL, Redis and whatever else is a command, on loopback, ended by the test."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mesh import is_root, until

STOP_SECONDS = 10.0
POSTGRES_BINARIES = Path("/usr/lib/postgresql")
DATABASE_USER = "agent"

Command = list[str | Path]


@contextmanager
def serving(command: Command, is_ready: Callable[[], bool], log: Path) -> Iterator[None]:
    """Run a server from its being ready to its end; SIGINT is a quick but orderly one for all that we run."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def serves() -> bool:
        assert process.poll() is None, f"{command[0]} ended: {log.read_text(errors='replace')}"
        return is_ready()

    try:
        until(serves, f"{command[0]} to serve")
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    """Whether anybody serves a port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL of our own; ``socket`` is the Unix socket it listens on beside its port."""

    port: int
    folder: Path
    binaries: Path

    @property
    def socket(self) -> Path:
        return self.folder / f".s.PGSQL.{self.port}"

    def is_ready(self) -> bool:
        command: Command = [self.binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0


def postgres_binaries() -> Path | None:
    """The newest PostgreSQL with a server; Debian puts none of these on the PATH."""
    found = [path.parent for path in POSTGRES_BINARIES.glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


@contextmanager
def postgres(port: int) -> Iterator[Postgres]:
    """A PostgreSQL with nothing in it. It refuses to be root, so root runs it as somebody else."""
    binaries = postgres_binaries()
    assert binaries is not None
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # Short: a socket's path has 107 bytes.
    try:
        become = _own(folder)
        data = folder / "data"
        made: Command = [
            *become,
            binaries / "initdb",
            "-D",
            data,
            "-U",
            DATABASE_USER,
            "-A",
            "trust",
            "--no-sync",
        ]
        subprocess.run([*made, "--locale=C", "-E", "UTF8"], check=True, capture_output=True)
        settings = [
            f"port={port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={folder}",
            "fsync=off",
        ]
        server: Command = [
            *become,
            binaries / "postgres",
            "-D",
            data,
            *(word for one in settings for word in ("-c", one)),
        ]
        running = Postgres(port, folder, binaries)
        with serving(server, running.is_ready, folder / "log"):
            yield running
    finally:
        shutil.rmtree(folder)


def _own(folder: Path) -> list[str]:
    """Give ``folder`` to an unprivileged user, and say how to become that user; nothing to do where we are one."""
    if not is_root():
        return []
    users = {user.pw_name: user for user in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
