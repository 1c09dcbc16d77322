"""Run an agent's command: as the agent's user, with no inherited sockets, its exit code and signals passed on.

Like a shell's job, in one process group with us. What the terminal tells the group (Ctrl-C, Ctrl-Z) the command hears
from the kernel; what somebody sends to us alone is passed on. When the command stops, we stop, so that whoever waits
for us sees it; when we are continued, so is the command.
"""

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sidecar.exits import Exit

PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCONT,
    signal.SIGWINCH,
)
FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH)
"""Typed there, or its size: the kernel has told the whole process group, the command too."""
SIGNALLED = 128

Process = subprocess.Popen[bytes]


def run_command(command: list[str], environment: dict[str, str], uid: int) -> int:
    """Run ``command`` to its end; its exit code, 128 + N for signal N, or 125, 126, 127 for our own failures."""
    with _passing_on() as passing:
        try:
            child = _start(command, environment, uid)
        except FileNotFoundError:
            return _fail(Exit.NOT_FOUND, f"{command[0]}: not found")
        except PermissionError:
            return _fail(Exit.CANNOT_EXECUTE, f"{command[0]}: may not be executed")
        except KeyError:
            return _fail(Exit.EXEC_FAILED, f"uid {uid}: no such user on this machine")
        except (OSError, subprocess.SubprocessError) as error:
            return _fail(Exit.EXEC_FAILED, f"{command[0]}: {error}")
        passing.to(child)
        code = _wait(child)
    return code if code >= 0 else SIGNALLED - code


class _Passing:
    """Signals on their way to the command; those that came before it ran wait for it."""

    def __init__(self) -> None:
        self._child: Process | None = None
        self._early: list[int] = []

    def to(self, child: Process) -> None:
        self._child = child
        for number in self._early:
            _send(child, number)

    def note(self, number: int) -> None:
        if number in FROM_TERMINAL and _has_terminal():
            return
        if self._child is None:
            self._early.append(number)
        else:
            _send(self._child, number)


@contextmanager
def _passing_on() -> Iterator[_Passing]:
    passing = _Passing()
    kept = {number: signal.signal(number, lambda n, _: passing.note(n)) for number in PASSED_ON}
    try:
        yield passing
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _send(child: Process, number: int) -> None:
    if child.returncode is None:  # Reaped, its number may be another's.
        with suppress(ProcessLookupError):
            os.kill(child.pid, number)


def _wait(child: Process) -> int:
    """Until it ends, as Popen.returncode; while it is stopped, so are we."""
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(os.getpid(), signal.SIGSTOP)
            continue
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode


def _has_terminal() -> bool:
    """Whether our process group is the one that the terminal talks to."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _start(command: list[str], environment: dict[str, str], uid: int) -> Process:
    """As the agent's uid and groups when started by root; a caller who is not root is the agent already."""
    if os.geteuid() != 0 or uid == 0:
        return subprocess.Popen(command, env=environment, close_fds=True)
    entry = pwd.getpwuid(uid)
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    environment = {**environment, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    return subprocess.Popen(
        command, env=environment, close_fds=True, user=uid, group=entry.pw_gid, extra_groups=groups
    )


def _fail(code: Exit, why: str) -> int:
    sys.stderr.write(f"lockgate: {why}\n")
    return code
