"""Run an agent's command: as the agent's user, with no inherited sockets, its exit code and signals passed on."""

import os
import pwd
import signal
import subprocess
import sys
from contextlib import suppress

from sidecar.exits import Exit

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
SIGNALLED = 128


def run_command(command: list[str], environment: dict[str, str], uid: int) -> int:
    """Run ``command`` to its end; its exit code, 128 + N for signal N, or 125, 126, 127 for our own failures."""
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
    kept = {number: signal.signal(number, lambda n, _: _pass_on(child, n)) for number in PASSED_ON}
    try:
        code = child.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return code if code >= 0 else SIGNALLED - code


def _pass_on(child: "subprocess.Popen[bytes]", number: int) -> None:
    if number in (signal.SIGINT, signal.SIGQUIT) and _has_terminal():
        return  # Typed there: the kernel has told the whole process group, the child too.
    with suppress(ProcessLookupError):
        child.send_signal(number)


def _has_terminal() -> bool:
    """Whether our process group is the one that the terminal talks to."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _start(command: list[str], environment: dict[str, str], uid: int) -> "subprocess.Popen[bytes]":
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
