import socket
from pathlib import Path

import pytest

from sidecar.systemd import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_the_supervisor_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram with the state, to a path or an abstract name."""
    name = str(tmp_path / "notify") if kind == "path" else f"\0lockgate-test-{tmp_path.name}-{id(tmp_path)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(name)
        monkeypatch.setenv("NOTIFY_SOCKET", name.replace("\0", "@"))
        notify("READY=1")
        assert supervisor.recv(100) == b"READY=1"


@pytest.mark.parametrize("where", ["", "relative", "/nowhere/at/all", "@lockgate-nobody-listens"])
def test_without_a_supervisor_nothing_happens(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon in the foreground, or one whose supervisor is gone, goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", where)
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")
