from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sidecar.cli.world import FakeDaemon, fake_daemon


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have a mesh and credentials of their own."""
    for name in ("LOCKGATE_DIR", "LOCKGATE_OPERATOR", "LOCKGATE_PASSPHRASE_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with fake_daemon(tmp_path / "d") as fake:
        yield fake
