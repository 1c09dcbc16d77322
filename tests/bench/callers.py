"""What it costs to know who calls: the look-up and the judgement of one accepted connection, in this process.

Among a hundred live sessions of the agent, each with a cgroup; the kernel does the same work as for a real caller.
"""

import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from sidecar.proxy.attribute import Candidate, attribute
from sidecar.proxy.callers import Callers
from sidecar.proxy.sockdiag import SockDiag
from sidecar.session.cgroup import SessionCgroups

SESSIONS = 100


def attribution(count: int) -> dict[str, float]:
    """Medians in microseconds, over loopback TCP and over a Unix socket."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(Path(folder, "binding.sock")))
        unix.listen()
        diag = SockDiag()
        stack.callback(diag.close)
        callers = Callers(diag, SessionCgroups.of_machine().mount)
        numbers = {}
        for name, listener in (("tcp", tcp), ("unix", unix)):
            client = stack.enter_context(socket.socket(listener.family))
            client.connect(listener.getsockname())
            accepted = stack.enter_context(listener.accept()[0])
            numbers[f"attribution-{name}"] = _median_us(_judging(callers, accepted), count)
        return numbers


def _judging(callers: Callers, accepted: socket.socket) -> Callable[[], object]:
    uid = os.getuid()
    sessions = [Candidate(f"session-{number}", uid, number) for number in range(SESSIONS)]
    claimed = frozenset(range(SESSIONS))
    return lambda: attribute(callers.caller_of(accepted), sessions, uid, claimed)


def _median_us(work: Callable[[], object], count: int) -> float:
    times = []
    for _ in range(count):
        before = time.perf_counter()
        work()
        times.append(time.perf_counter() - before)
    return statistics.median(times) * 1e6
