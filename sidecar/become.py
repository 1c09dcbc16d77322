"""Do one thing as another user of this machine: in a forked child that can never come back to being root.

What root does in a folder that somebody else may write, that somebody steers: he puts a link where a file is expected.
So the command line does it with his rights and no others, his groups included.
"""

import os
import pwd
from collections.abc import Callable

from pki.errors import LocalError

_DONE, _FAILED = b"\0", b"\1"


def run_as(uid: int, work: Callable[[], bytes]) -> bytes:
    """What ``work`` returns, run as ``uid``; raises LocalError, with its words where it raised one or an OSError.

    Needs root, unless we are that user already. For single-threaded programs: it forks. What ``work`` imports must
    have been imported before: that user may not be allowed to read our files.
    """
    if os.geteuid() == uid:
        return work()
    if os.geteuid() != 0:
        raise LocalError(f"acting as uid {uid} takes root")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _answer(writing, uid, work)
    os.close(writing)
    with open(reading, "rb") as file:
        answer = file.read()
    os.waitpid(child, 0)
    if answer[:1] != _DONE:
        raise LocalError(answer[1:].decode(errors="replace") or f"the helper of uid {uid} died")
    return answer[1:]


def _answer(writing: int, uid: int, work: Callable[[], bytes]) -> None:
    """The whole life of the child."""
    try:
        _become(uid)
        answer = _DONE + work()
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's program
        answer = _FAILED + _words(error).encode(errors="replace")
    try:
        with open(writing, "wb") as file:
            file.write(answer)
    finally:
        os._exit(0)


def _become(uid: int) -> None:
    """Real, effective and saved, groups first."""
    try:
        entry = pwd.getpwuid(uid)
        group, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:  # A policy may name a number that is no user of this machine.
        group, groups = uid, []
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(uid, uid, uid)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
