"""`python -m tests.bench.containment [RUNS]`: how long live streams outlive a revocation with the CA dead, on twelve sidecars.

Each run opens streams over all tool nodes, kills the CA, and types one command at the last node; the time is from the
start of that command to the end of the last stream.
"""

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.clients import ask, connect, how_it_ends
from tests.mesh import Mesh, dev_mesh, until

TOOL_NODES = 11
STREAMS = (50, 500)
RUNS = 20


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with (
        tempfile.TemporaryDirectory(prefix="lockgate-bench-") as folder,
        dev_mesh(Path(folder) / "D", "--nodes", str(TOOL_NODES)) as mesh,
    ):
        for streams in STREAMS:
            took = sorted(run(mesh, streams) for _ in range(runs))
            words = f"{streams} streams, {runs} runs: p50 {statistics.median(took):.2f} s, maximum {took[-1]:.2f} s"
            sys.stdout.write(f"{words}\n")
            sys.stdout.flush()


def run(mesh: Mesh, streams: int) -> float:
    """One revocation; the mesh is whole again afterwards."""
    port = int(mesh.env["ECHO"].rpartition(":")[2])
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(port)) for _ in range(streams)]
        assert [ask(stream, b"here") for stream in opened] == [b"here"] * streams
        mesh.kill("ca")
        started = time.monotonic()
        target = f"session:{mesh.env['SID']}"
        done = mesh.cli("revoke", target, "--wait", "0s", member=f"tools-{TOOL_NODES}", operator="alice")
        assert "revoked" in done.out, done
        assert {how_it_ends(stream) for stream in opened} == {"reset"}
        took = time.monotonic() - started
    mesh.start("ca")
    mesh.ready("agents-1")
    started_session = mesh.cli("session", "start", "--agent", "researcher", "--json")
    assert started_session.code == 0, started_session
    mesh.env["SID"] = str(started_session.json["session"])
    until(lambda: _answers(port), "a stream to open again")
    return took


def _answers(port: int) -> bool:
    try:
        with connect(port) as stream:
            return ask(stream, b"here") == b"here"
    except (OSError, AssertionError):
        return False


if __name__ == "__main__":
    main()
