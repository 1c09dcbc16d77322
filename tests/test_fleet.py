"""Twelve sidecars as processes: a stop that no control plane is needed for, and who has confirmed it."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pki.clock import SECOND
from tests.clients import ask, connect, how_it_ends, knock
from tests.mesh import Mesh, dev_mesh, until

TOOL_NODES = 11
STREAMS = 33
CUT_SECONDS = 5.0
"""Loose: all of it runs on the cores of one machine. What was measured is printed."""

NODES = ["agents-1", *(f"tools-{n}" for n in range(1, TOOL_NODES + 1))]
STOPPED = ["tools-11", "tools-3", "tools-7"]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with dev_mesh(tmp_path_factory.mktemp("fleet") / "D", "--nodes", str(TOOL_NODES)) as mesh:
        yield mesh


@contextmanager
def stopped(mesh: Mesh, names: list[str]) -> Iterator[None]:
    """Alive for the kernel, silent for everybody else."""
    pids = [mesh.status(name)["pid"] for name in names]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def streams(mesh: Mesh) -> Iterator[list[socket.socket]]:
    """Echo streams over all tool nodes, each of which has echoed."""
    port = int(mesh.env["ECHO"].rpartition(":")[2])
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(port)) for _ in range(STREAMS)]
        assert [ask(stream, b"here") for stream in opened] == [b"here"] * STREAMS
        carried = {one["peer"] for one in mesh.cli("stream", "ls", "--json").json["streams"]}
        assert carried == set(NODES[1:])
        yield opened


def states(statement: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: one["state"] for name, one in statement.items()}


def test_stopped_nodes_are_named_and_cut_and_confirm_by_themselves_when_they_go_on(mesh: Mesh) -> None:
    """Exit 3 with exactly their names, every stream dead all the same; after SIGCONT they hold it, nobody asks them."""
    with streams(mesh) as live:
        with stopped(mesh, STOPPED):
            done = mesh.cli("lock", "service:echo", "--wait", "2s", "--json", operator="alice")
            assert done.code == 3, done
            lacking = [name for name, state in states(done.json["nodes"]).items() if state == "unconfirmed"]
            assert lacking == STOPPED
            assert [how_it_ends(stream) for stream in live] == ["reset"] * STREAMS
            fleet = mesh.cli("status", "--fleet")
            assert fleet.code == 3
            assert [line for line in fleet.out.splitlines() if line.endswith("unconfirmed")] == [
                f"{name}: 1 unconfirmed" for name in STOPPED
            ]
        until(lambda: mesh.cli("status", "--fleet").code == 0, "those that were stopped to confirm")
        for name in STOPPED:
            assert [one["id"] for one in mesh.status(name)["locks"]] == [done.json["id"]]
            assert mesh.records(name, kind="cut", reason="locked")
    assert mesh.cli("unlock", done.json["id"], operator="bob").code == 0


def test_with_the_ca_dead_a_revocation_at_any_node_ends_every_stream_of_the_session(mesh: Mesh) -> None:
    """Typed at the last node, in force at all twelve: every receipt is in, and every stream is dead."""
    port = int(mesh.env["ECHO"].rpartition(":")[2])
    with streams(mesh) as live:
        mesh.kill("ca")
        started = time.monotonic()
        done = mesh.cli("revoke", f"session:{mesh.env['SID']}", "--json", member=NODES[-1], operator="alice")
        assert done.code == 0, done
        assert [how_it_ends(stream) for stream in live] == ["reset"] * STREAMS
        elapsed = time.monotonic() - started
    assert states(done.json["nodes"]) == dict.fromkeys(NODES, "confirmed")
    issued = mesh.cli("status", "--fleet", "--json").json["statements"]
    [row] = [one for one in issued if one["id"] == done.json["id"]]
    slowest = max(one["since"] - row["issued"] for one in done.json["nodes"].values()) / SECOND
    print(f"in force at all after {slowest:.3f} s, last of {STREAMS} streams dead after {elapsed:.2f} s")  # noqa: T201 - the measured time is reported
    assert slowest < CUT_SECONDS
    cut = sum(one["cut"] for one in done.json["nodes"].values())
    assert cut == 2 * STREAMS
    assert knock(port) == "reset"
