"""A CA as `lockgate ca init` makes it and `lockgate ca serve` runs it, in a thread of this process."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from sidecar import lifecycle, log, systemd
from sidecar.ca import daemon
from sidecar.exits import Exit
from sidecar.lifecycle import Signals
from sidecar.paths import Paths
from tests.sidecar.cli.world import Done, lockgate

CEILING_SECONDS = 30.0


@dataclass
class LiveCa:
    root: Path
    api: str

    def run(self, *words: object) -> Done:
        return lockgate("--dir", self.root, *words)

    def token(self, member: str, *words: str) -> str:
        return str(self.run("token", "create", member, *words, "--json").json["token"])


def init(root: Path, *words: object) -> Done:
    """A CA that will listen on free ports of loopback."""
    listen = [
        word for option in ("--listen", "--control-listen") for word in (option, f"127.0.0.1:{_free_port()}")
    ]
    return lockgate("--dir", root, "ca", "init", "--trust-domain", "example.org", *listen, *words)


@contextmanager
def live_ca(root: Path) -> Iterator[LiveCa]:
    """A new one, for a module's tests."""
    assert init(root, "--no-passphrase").code == Exit.YES
    with pytest.MonkeyPatch.context() as patch, serving(root, patch) as live:
        yield live


@contextmanager
def serving(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveCa]:
    """Until the end of the block. Signals are for the main thread, the log and the supervisor for a real daemon."""
    started: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def until_stopped(_: Signals) -> None:
        stop = trio.Event()
        started.append((trio.lowlevel.current_trio_token(), stop))
        await stop.wait()

    ready = socket.socketpair()
    monkeypatch.setattr(lifecycle, "until_stopped", until_stopped)
    monkeypatch.setattr(log, "configure", lambda _: None)
    monkeypatch.setattr(systemd, "notify", lambda _: ready[1].send(b"!"))
    paths = Paths.below(root)
    with capture_logs(), ready[0], ready[1], ThreadPoolExecutor() as pool:
        done = pool.submit(trio.run, daemon.run, paths)
        done.add_done_callback(lambda _: ready[1].close())
        ready[0].settimeout(CEILING_SECONDS)
        assert ready[0].recv(1), done.exception()
        try:
            yield LiveCa(root, str(daemon.read_config(paths).listen[0]))
        finally:
            [(token, stop)] = started
            token.run_sync_soon(stop.set)
            done.result()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
