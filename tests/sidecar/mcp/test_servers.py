from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

import sidecar.mcp.servers
from pki.errors import LocalError
from sidecar.disk import RealDisk
from sidecar.mcp.pinfile import PinFile
from sidecar.mcp.pins import Key, Pin, digest
from sidecar.mcp.servers import Servers

TOOL: dict[str, Any] = {"name": "get"}
CHANGED = {**TOOL, "description": "Other."}


def pins_in(path: Path) -> PinFile:
    return PinFile(RealDisk(), path / "pins.json")


async def until_kept(file: PinFile) -> None:
    with trio.fail_after(20):
        while not file.read():  # noqa: ASYNC110 - a file tells nobody
            await trio.sleep(0.001)


class FullDisk(PinFile):
    """Fails once."""

    def __init__(self, path: Path) -> None:
        super().__init__(RealDisk(), path / "pins.json")
        self.tries = 0

    def write(self, pins: Mapping[Key, Pin]) -> None:
        self.tries += 1
        if self.tries == 1:
            raise LocalError("full")
        super().write(dict(pins))


async def test_what_is_seen_is_kept(tmp_path: Path, nursery: trio.Nursery) -> None:
    """The next daemon knows it, and so sees what has changed meanwhile."""
    servers = Servers(pins_in(tmp_path))
    nursery.start_soon(servers.run)
    servers.pins.see("wiki", TOOL, {})
    await until_kept(pins_in(tmp_path))
    told: list[Key] = []
    later = Servers(pins_in(tmp_path), lambda key, _pin: told.append(key))
    assert not later.pins.see("wiki", CHANGED, {})
    assert told == [("wiki", "get")]


async def test_an_approval_is_kept_before_it_is_confirmed(tmp_path: Path) -> None:
    """Else a crash would take it back."""
    servers = Servers(pins_in(tmp_path))
    servers.pins.see("wiki", TOOL, {})
    servers.pins.see("wiki", CHANGED, {})
    await servers.approve("wiki", "get", digest(CHANGED))
    assert not pins_in(tmp_path).read()["wiki", "get"].drifted


async def test_a_disk_that_fails_is_tried_again(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile the pins count all the same."""
    monkeypatch.setattr(sidecar.mcp.servers, "RETRY_SECONDS", 0.0)
    file = FullDisk(tmp_path)
    servers = Servers(file)
    nursery.start_soon(servers.run)
    servers.pins.see("wiki", TOOL, {})
    await until_kept(file)
    assert file.tries == 2
    assert file.read() == dict(servers.pins)


async def test_without_a_file_pins_last_as_long_as_the_process() -> None:
    """For tests, and for carriers that no daemon runs."""
    servers = Servers()
    servers.pins.see("wiki", TOOL, {})
    await servers.approve("wiki", "get", digest(TOOL))
    with pytest.raises(LocalError):
        await servers.approve("wiki", "put", digest(TOOL))
