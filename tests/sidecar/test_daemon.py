from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from pki.clock import SECOND
from pki.errors import ConfigError, LocalError
from sidecar import log
from sidecar.audit.record import MAX_RECORD_BYTES, Kind
from sidecar.config import NodeConfig
from sidecar.daemon import read_config, reload
from sidecar.node import Node
from sidecar.paths import Paths
from tests.clock import ManualClock
from tests.datapath import LogBook

TEXT = """
name = "agents-1"
trust-domain = "example.org"
ca = "127.0.0.1:7444"
ca-control = "127.0.0.1:7446"
"""


@dataclass
class Seams:
    audit: LogBook = field(default_factory=LogBook)
    clock: ManualClock = field(default_factory=ManualClock)


@dataclass
class FakeNode:
    """What a reload sees of a node."""

    config: NodeConfig
    seams: Seams = field(default_factory=Seams)

    def reconfigure(self, config: NodeConfig) -> None:
        self.config = config


@pytest.fixture
def levels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The log levels that were taken up. The process's own log is not for tests to set."""
    taken: list[str] = []
    monkeypatch.setattr(log, "configure", taken.append)
    return taken


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths.below(tmp_path)
    paths.etc.mkdir()
    paths.node_toml.write_text(TEXT)
    return paths


async def reloaded(paths: Paths, node: FakeNode) -> list[str]:
    with capture_logs():
        return await reload(paths, cast("Node", node))


def test_without_node_toml_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    """Whoever runs a node in the wrong folder reads what to do."""
    with pytest.raises(LocalError, match=r"node\.toml: No such file .*; run: lockgate join"):
        read_config(Paths.below(tmp_path))


async def test_a_good_file_is_taken_up(paths: Paths, levels: list[str]) -> None:
    """What counts without a restart counts at once, and is on record."""
    node = FakeNode(read_config(paths))
    paths.node_toml.write_text(f'{TEXT}log-level = "warning"\n[limits]\nidle = "7s"\nstreams = 9\n')
    assert await reloaded(paths, node) == []
    assert node.config.limits.streams == 9
    assert node.config.limits.idle == 7 * SECOND
    assert levels == ["warning"]
    [record] = node.seams.audit.records
    assert (record.kind, record.fields["what"]) == (Kind.RELOAD, "applied")


async def test_what_only_a_restart_takes_up_stays_as_it_was(paths: Paths, levels: list[str]) -> None:
    """It is named, to whoever asked and on record: another identity cannot come into force half."""
    node = FakeNode(read_config(paths))
    paths.node_toml.write_text(
        TEXT.replace("agents-1", "agents-2") + 'listen = "10.0.0.1:1"\n[limits]\nhandshakes = 9\n'
    )
    waiting = ["name", "listen", "limits.handshakes"]
    for _ in range(2):
        assert await reloaded(paths, node) == waiting
    assert node.config.name == "agents-1"
    assert node.seams.audit.records[-1].fields["needs_restart"] == waiting


async def test_a_bad_file_keeps_the_old_and_says_why(paths: Paths, levels: list[str]) -> None:
    """In the log, on record, and to whoever asked: all its faults."""
    node = FakeNode(old := read_config(paths))
    paths.node_toml.write_text(f"{TEXT}foo = 1\nbar = 2\n")
    with capture_logs() as logs, pytest.raises(ConfigError) as refused:
        await reload(paths, cast("Node", node))
    assert len(refused.value.faults) == 2
    assert node.config is old
    assert levels == []
    [record] = node.seams.audit.records
    assert (record.kind, record.fields["what"]) == (Kind.RELOAD, "refused")
    for said in (str(logs[0]["why"]), str(record.fields["why"])):
        assert "foo" in said
        assert "bar" in said


async def test_a_file_that_is_gone_keeps_the_old(paths: Paths, levels: list[str]) -> None:
    """A daemon outlives its file."""
    node = FakeNode(old := read_config(paths))
    paths.node_toml.unlink()
    with pytest.raises(LocalError):
        await reloaded(paths, node)
    assert node.config is old
    assert node.seams.audit.records[0].fields["what"] == "refused"


async def test_any_number_of_faults_fits_a_record(paths: Paths, levels: list[str]) -> None:
    """A bad file must not be able to end the daemon."""
    node = FakeNode(read_config(paths))
    paths.node_toml.write_text(TEXT + "".join(f"key-{number} = 1\n" for number in range(5_000)))
    with pytest.raises(ConfigError):
        await reloaded(paths, node)
    assert node.seams.audit.records[0].size < MAX_RECORD_BYTES
