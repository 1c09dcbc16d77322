"""A real mesh for black-box tests: `lockgate dev` as a process, waited for by its ready line, reaped whatever happens.

Later tests build on this: N tool nodes, the command line as an admin types it, curl, and the records of any node.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pki.errors import LocalError, LockgateError
from sidecar.audit.reading import lines_in
from sidecar.control.client import call
from sidecar.disk import RealDisk

CEILING_SECONDS = 90.0
"""Generous: a test that waits this long has failed."""
STOP_SECONDS = 10.0
READINGS = 3
"""Of a log that changes meanwhile."""

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.out)
        return answer


@dataclass
class Mesh:
    """A running `lockgate dev` in ``root`` (D)."""

    root: Path
    process: "subprocess.Popen[str]"
    env: dict[str, str]
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def member(self, name: str) -> Path:
        return self.root / name

    def cli(self, *words: str, member: str = "agents-1", operator: str = "") -> Done:
        """Run lockgate with --dir of a member, and an operator's credential."""
        who = ["--operator", str(self.root / "operators" / operator)] if operator else []
        return lockgate("--dir", str(self.member(member)), *who, *words)

    def status(self, member: str) -> dict[str, Any]:
        return self.cli("status", "--json", member=member).json

    def records(self, member: str, **wanted: object) -> list[dict[str, Any]]:
        """The audit records of a member with these fields, oldest first."""
        folder = self.member(member) / "lib" / "audit"
        for _ in range(READINGS):
            try:
                lines = list(lines_in(RealDisk(), folder))
            except (
                LocalError
            ):  # Its first volume is not there yet, or one was closed and compressed as we looked.
                continue
            found = [json.loads(line) for line in lines]
            return [record for record in found if wanted.items() <= record.items()]
        return []

    def pid(self, member: str) -> int:
        return int(self.env[PIDS[member]])

    def kill(self, member: str) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.pid(member)
        os.kill(pid, signal.SIGKILL)
        until(lambda: _is_dead(pid), f"{member} to be dead")

    def start(self, member: str, environment: dict[str, str] | None = None) -> None:
        """Start a daemon of a killed member's folder, as an admin would by hand; back once it answers."""
        process = self.spawn(member, environment)

        def answers() -> bool:
            assert process.poll() is None, (self.root / "logs" / f"{member}.log").read_text()
            with suppress(LockgateError):
                return bool(call(self.member(member) / "run" / "admin.sock", "GET", "/v1/status"))
            return False

        until(answers, f"{member} to answer")

    def spawn(self, member: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """The same without waiting."""
        verb = ["ca", "serve"] if member == "ca" else ["run"]
        with (self.root / "logs" / f"{member}.log").open("ab") as log:
            command = [*LOCKGATE, "--dir", str(self.member(member)), *verb]
            around = {**os.environ, **(environment or {})}
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=around)
        self.started.append(process)
        self.env[PIDS[member]] = str(process.pid)
        return process

    def ready(self, member: str) -> None:
        """Wait until a member says that it is ready."""
        until(lambda: self.cli("status", member=member).code == 0, f"{member} to be ready")

    @contextmanager
    def paused(self, member: str) -> Iterator[None]:
        """SIGSTOP: alive for the kernel, silent for everybody else."""
        os.kill(self.pid(member), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(member), signal.SIGCONT)

    def copy_logs(self, there: Path, members: Sequence[str]) -> None:
        """What an auditor takes along: logs and bodies of these members, as they are at one moment.

        Stopped meanwhile: a head told between two copies would look like a cut end.
        """
        with ExitStack() as stack:
            for member in PIDS:
                stack.enter_context(self.paused(member))
            for member in members:
                for part in ("audit", "objects"):
                    unfinished = shutil.ignore_patterns("*.new")
                    shutil.copytree(
                        self.member(member) / "lib" / part, there / member / part, ignore=unfinished
                    )
        shutil.copy(self.member("ca") / "lib" / "authority" / "bundle.statement", there)

    def reap(self) -> None:
        """Kill what :meth:`start` started."""
        for process in self.started:
            process.kill()
            process.wait()


PIDS = {"ca": "CA_PID", "agents-1": "AGENTS_PID", "tools-1": "TOOLS_PID"}
LOCKGATE = [sys.executable, "-m", "sidecar.cli"]


def lockgate(*words: str, given: str | None = None, environment: dict[str, str] | None = None) -> Done:
    """Run the command line to its end."""
    done = subprocess.run(
        [*LOCKGATE, *words],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=CEILING_SECONDS,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def curl(*words: str, uid: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run curl, as another user where ``uid`` says so (root only)."""
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid is not None else []
    command = [*become, "curl", "--silent", "--show-error", "--max-time", "60", *words]
    return subprocess.run(command, capture_output=True, timeout=CEILING_SECONDS, check=False)


def until(condition: Callable[[], T], what: str) -> T:
    """The first true answer of ``condition``; fails when none comes within the ceiling."""
    deadline = time.monotonic() + CEILING_SECONDS
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"waited {CEILING_SECONDS:.0f} s for {what}"
        os.sched_yield()
        time.sleep(0.02)  # noqa: TID251 - polls other processes, which tell nobody
    return answer


@contextmanager
def dev_mesh(root: Path, *options: str, become: Sequence[str] = ()) -> Iterator[Mesh]:
    """`lockgate dev --dir ROOT --json` from its ready line to its end; ``become`` is put before the command."""
    log = root.with_name(root.name + ".stderr")
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*become, *LOCKGATE, "dev", "--dir", str(root), "--json", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    mesh = Mesh(root, process, {})
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert '"event": "ready"' in line, f"lockgate dev ended before it was ready: {line}{log.read_text()}"
        mesh.env.update(read_env(root / "env"))
        yield mesh
    finally:
        mesh.reap()
        stop(process)


def stop(process: "subprocess.Popen[str]") -> float:
    """Ctrl-C, and reap; seconds until it ended. Kills what is left of its process group."""
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS * 2)
    finally:
        elapsed = time.monotonic() - started
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return elapsed


def read_env(path: Path) -> dict[str, str]:
    """The exports of D/env."""
    lines = path.read_text().splitlines()
    pairs = (line.removeprefix("export ").partition("=") for line in lines)
    return {name: value.strip("'") for name, _, value in pairs}


def has(*programs: str) -> bool:
    return all(shutil.which(program) for program in programs)


def is_root() -> bool:
    return os.geteuid() == 0


def _is_dead(pid: int) -> bool:
    """Gone, or a zombie that waits for its parent: `lockgate dev` reaps at its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
