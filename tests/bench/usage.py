"""What processes have used, as /proc tells it (proc(5))."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
QUIET_SHARE = 0.05
"""Of one CPU. A lockgate pair that carries nothing uses less: heartbeats and gossip, once a second."""
PATIENCE_SECONDS = 2.0


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes, all threads. In steps of 10 ms."""
    return sum(_ticks(pid) for pid in pids) / TICKS


def memory_kib(pids: Iterable[int]) -> int:
    """PSS: pages shared by n processes count 1/n. What the kernel holds for sockets is not in it."""
    return sum(_pss(pid) for pid in pids)


def wait_until_quiet(pids: Iterable[int], window: float = 0.2) -> None:
    """Let what the last case left behind come to its end, so that the next one does not pay for it."""
    watched = list(pids)
    deadline = time.monotonic() + PATIENCE_SECONDS
    before = cpu_seconds(watched)
    while time.monotonic() < deadline:
        time.sleep(window)  # noqa: TID251 - other processes tell nobody that they are done
        now = cpu_seconds(watched)
        if now - before <= QUIET_SHARE * window:
            return
        before = now


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, size = line.partition(":")
        if name == "Pss":
            return int(size.split()[0])
    return 0
