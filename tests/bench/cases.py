"""What is measured: each case asks one thing of a running pair and answers with a few named numbers."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidecar.control.client import call
from tests.bench import load, usage
from tests.bench.lockgate import AGENT, Lockgate, new_session
from tests.bench.pairs import Pair
from tests.mesh import LOCKGATE


@dataclass(frozen=True)
class Effort:
    """How much of everything."""

    seconds: float = 1.5
    """Of bulk, and of opens by many clients."""
    opens: int = 300
    trips: int = 2_000
    idle: int = 500
    revoked: int = 100
    sessions: int = 20


QUICK = Effort(seconds=0.5, opens=50, trips=300, idle=100, revoked=20, sessions=4)


@dataclass(frozen=True)
class Metric:
    """A row of the tables."""

    key: str
    title: str
    digits: int = 0
    more_is_better: bool = False


METRICS = (
    Metric("down-1", "Gb/s to the client, 1 stream", 2, more_is_better=True),
    Metric("down-8", "Gb/s to the client, 8 streams", 2, more_is_better=True),
    Metric("up-1", "Gb/s to the tool, 1 stream", 2, more_is_better=True),
    Metric("cpu-down-1", "CPU s per GB, to the client, 1 stream", 2),
    Metric("cpu-down-8", "CPU s per GB, to the client, 8 streams", 2),
    Metric("cpu-up-1", "CPU s per GB, to the tool, 1 stream", 2),
    Metric("open-p50", "open to first echoed byte, p50, ms", 2),
    Metric("open-p99", "open to first echoed byte, p99, ms", 2),
    Metric("opens", f"opens per second, {load.CLIENTS} clients", 0, more_is_better=True),
    Metric("cpu-open", "CPU ms per open", 2),
    Metric("trip-p50", "warm round trip of 64 bytes, p50, µs"),
    Metric("trip-p99", "warm round trip of 64 bytes, p99, µs"),
    Metric("idle", "KiB per idle stream"),
    Metric("request-p50", "HTTP request, kept connection, 1 KiB answer, p50, µs"),
    Metric("request-p99", "HTTP request, kept connection, 1 KiB answer, p99, µs"),
    Metric("requests", "HTTP requests per second, 16 connections", 0, more_is_better=True),
    Metric("cpu-request", "CPU ms per HTTP request", 2),
)

Numbers = dict[str, float]
Case = Callable[[Pair, Effort], Numbers]


def bulk(name: str, streams: int, *, outwards: bool) -> Case:
    """Bytes as fast as they go, after a moment to get going."""

    def measure(pair: Pair, effort: Effort) -> Numbers:
        with load.Flow(pair.port, streams, outwards=outwards) as flow:
            flow.run(effort.seconds / 4)
            before, started = usage.cpu_seconds(pair.pids), time.perf_counter()
            speed = flow.run(effort.seconds)
            cpu = usage.cpu_seconds(pair.pids) - before
            size = speed * (time.perf_counter() - started)
        return {name: speed * 8 / 1e9, f"cpu-{name}": cpu / (size / 1e9)}

    return measure


def opens_alone(pair: Pair, effort: Effort) -> Numbers:
    """One client, one stream after the other."""
    load.open_times(pair.port, effort.opens // 10)
    times = load.open_times(pair.port, effort.opens)
    return {"open-p50": percentile(times, 50) * 1e3, "open-p99": percentile(times, 99) * 1e3}


def opens_together(pair: Pair, effort: Effort) -> Numbers:
    """Many clients, each the next stream as soon as one is done."""
    load.open_count(pair.port, effort.seconds / 4)
    before = usage.cpu_seconds(pair.pids)
    count = load.open_count(pair.port, effort.seconds)
    cpu = usage.cpu_seconds(pair.pids) - before
    return {"opens": count / effort.seconds, "cpu-open": cpu / count * 1e3}


def round_trips(pair: Pair, effort: Effort) -> Numbers:
    """Question and answer on one stream."""
    times = load.trip_times(pair.port, effort.trips)
    return {"trip-p50": percentile(times, 50) * 1e6, "trip-p99": percentile(times, 99) * 1e6}


CASES: tuple[Case, ...] = (
    bulk("down-1", 1, outwards=False),
    bulk("down-8", 8, outwards=False),
    bulk("up-1", 1, outwards=True),
    opens_alone,
    opens_together,
    round_trips,
)
"""Run in rounds, each case on every pair before the next case."""

DURABLE_CASES: tuple[Case, ...] = (opens_alone, opens_together)
"""What a record on disk before the first byte makes slower. After it, nothing is different."""


def idle_memory(pair: Pair, effort: Effort) -> Numbers:
    """Only of fresh processes: what a heap has grown to is not given back."""
    with load.idle_streams(pair.port, effort.idle // 10):
        pass
    usage.wait_until_quiet(pair.pids)
    before = usage.memory_kib(pair.pids)
    with load.idle_streams(pair.port, effort.idle):
        usage.wait_until_quiet(pair.pids)
        return {"idle": (usage.memory_kib(pair.pids) - before) / effort.idle}


def session_start(lockgate: Lockgate, effort: Effort) -> Numbers:
    """Milliseconds of a session's start: a key, a certificate from the CA, the record; by its API, and by exec.

    Medians. The second is the whole life of `session exec true`: the command line, a cgroup, the end.
    """
    sock = lockgate.mesh.member("agents-1") / "run" / "agent.sock"
    exec_true = [*LOCKGATE, "--dir", str(sock.parents[1]), "session", "exec", "--agent", AGENT, "--", "true"]
    started, ran = [], []
    for _ in range(effort.sessions):
        before = time.perf_counter()
        answer = call(sock, "POST", "/v1/sessions", {"agent": AGENT})
        started.append(time.perf_counter() - before)
        call(sock, "DELETE", f"/v1/sessions/{answer['session']}")
    for _ in range(max(1, effort.sessions // 4)):
        before = time.perf_counter()
        subprocess.run(exec_true, check=True)
        ran.append(time.perf_counter() - before)
    return {"session-start": statistics.median(started) * 1e3, "session-exec": statistics.median(ran) * 1e3}


def revocation(lockgate: Lockgate, session: str, effort: Effort) -> tuple[Numbers, str]:
    """Milliseconds from `revoke` on the other node to the last dead stream, in two ways; and the next session.

    From when the command was typed (its process was started), and from when a statement was signed.
    """
    member = str(lockgate.mesh.member("tools-1"))
    typed = [*LOCKGATE, "--dir", member, "revoke", f"session:{session}"]
    ended, started, _ = _until_dead(lockgate, typed, effort)
    numbers = {"revoke-typed": (ended - started) * 1e3}
    session = new_session(lockgate.mesh)
    operator = str(lockgate.mesh.root / "operators" / "alice")
    signed = [sys.executable, "-m", "tests.bench.revoke", member, operator, session]
    ended, _, words = _until_dead(lockgate, signed, effort)
    return numbers | {"revoke-signed": (ended - float(words)) * 1e3}, new_session(lockgate.mesh)


def _until_dead(lockgate: Lockgate, command: list[str], effort: Effort) -> tuple[float, float, str]:
    """When the last of the idle streams was dead, when the command was started, and what it said."""
    with load.idle_streams(lockgate.pair.port, effort.revoked) as streams:
        started = time.time()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            ended = load.last_end(streams)
            words, _ = process.communicate()
    assert process.returncode == 0, f"{command}: {process.returncode}"
    return ended, started, words


def percentile(values: Sequence[float], percent: int) -> float:
    """The usual one: linear between the two nearest ranks."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
