"""Pairs of proxies: plain TCP in at a loopback port, mutual TLS 1.3 from one process to the other, plain TCP out.

The seam of the bench. A pair is started by a context manager and ended by it, whatever happens; the bench knows its
entrance and its two processes, and nothing else of it.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.mesh import until

STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Pair:
    """Two running processes."""

    name: str
    port: int
    """Where streams enter."""
    client_pid: int
    server_pid: int

    @property
    def pids(self) -> tuple[int, int]:
        return self.client_pid, self.server_pid


@dataclass(frozen=True)
class Site:
    """What a pair is given: a folder of its own, ports that are free, and where the target listens."""

    folder: Path
    target: int
    entrance: int
    between: int
    """Where the client side reaches the server side."""


Start = Callable[[Site], AbstractContextManager[Pair]]


@contextmanager
def running(command: list[str], folder: Path, ready: Callable[[], bool], name: str) -> Iterator[int]:
    """A process in the foreground, from when ``ready`` says so to its end; its pid. Ends with us even when we are killed."""
    leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*leash, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder
        )
    try:
        until(lambda: process.poll() is not None or ready(), f"{name} to be ready")
        assert process.poll() is None, f"{name} ended with {process.returncode}: {log.read_text()}"
        yield process.pid
    finally:
        end(process)


@contextmanager
def running_target(port: int) -> Iterator[int]:
    """The tool that all pairs lead to; its pid."""
    command = [sys.executable, "-m", "tests.bench.target", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", "the target did not start"
            yield process.pid
        finally:
            end(process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ask, wait, and insist."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens at a loopback port: asked of the kernel, so that nobody sees a connection."""
    wanted = f"0100007F:{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == wanted and row.split()[3] == "0A" for row in rows)


def first_words(*command: str, within: str = "") -> str:
    """The first line of what a program says of its version, in whichever stream; the first with ``within`` in it."""
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line.strip() for line in lines if within in line), "unknown")
