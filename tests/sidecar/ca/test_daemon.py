from pathlib import Path

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from pki.errors import ConfigError, LocalError
from sidecar import log
from sidecar.audit.record import Kind, Record
from sidecar.ca.daemon import _noter, read_config, reload
from sidecar.paths import Paths
from tests.authority import NOW
from tests.clock import ManualClock

TEXT = 'name = "ca-1"\ntrust-domain = "example.org"\n'


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
    paths.ca_toml.write_text(TEXT)
    return paths


def test_without_ca_toml_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    """Whoever starts a CA in the wrong folder reads what to do."""
    with pytest.raises(LocalError, match=r"ca\.toml: No such file .*; run: lockgate ca init"):
        read_config(Paths.below(tmp_path))


async def test_reload_says_which_keys_wait_for_a_restart(paths: Paths, levels: list[str]) -> None:
    """As the file spells them; the log level does not."""
    running = read_config(paths)
    paths.ca_toml.write_text(
        f'{TEXT}log-level = "debug"\ncontrol-listen = "10.0.0.1:1"\n[lifetimes]\nnode = "1h"\n'
    )
    with capture_logs() as logs:
        assert await reload(paths, running) == ["control-listen", "lifetimes.node"]
    assert levels == ["debug"]
    assert [(one["event"], one["needs_restart"]) for one in logs] == [
        ("reloaded", ["control-listen", "lifetimes.node"])
    ]


async def test_a_bad_file_changes_nothing_and_the_log_says_why(paths: Paths, levels: list[str]) -> None:
    """Every fault is in the one line."""
    running = read_config(paths)
    paths.ca_toml.write_text(f"{TEXT}foo = 1\nbar = 2\n")
    with capture_logs() as logs, pytest.raises(ConfigError):
        await reload(paths, running)
    assert levels == []
    [entry] = logs
    assert entry["event"] == "reload refused, the old configuration stays"
    assert "foo" in entry["why"]
    assert "bar" in entry["why"]


async def test_a_strangers_refusals_do_not_fill_the_log(autojump_clock: MockClock) -> None:
    """Anybody may ask for what is not there, as often as they like: one record with its count; what was issued is one each."""
    written: list[Record] = []
    cloned: list[str] = []
    note = _noter(written.append, cloned.append, ManualClock())
    enrolled = {"spiffe_id": "spiffe://example.org/node/n", "serial": "a1", "not_after": NOW}
    with capture_logs() as logs:
        for _ in range(9):
            note({"event": "refused", "path": "/x", "reason": "bad_request", "message": "no", "peer": ""})
            note({"event": "enrolled", **enrolled})
    assert [one["event"] for one in logs].count("refused") == 1
    assert [one["event"] for one in logs].count("enrolled") == 9
    issued = [one for one in written if one.kind is Kind.RENEWAL]
    assert [(one.fields["what"], one.fields["serial"]) for one in issued] == [("enrolled", "a1")] * 9
    (refused,) = [one for one in written if one.kind is Kind.FINDING]
    assert {key: refused.fields[key] for key in ("what", "reason", "why", "count")} == {
        "what": "refused",
        "reason": "bad_request",
        "why": "no",
        "count": 1,
    }


async def test_a_clone_is_on_record_and_its_node_is_told_on() -> None:
    """Who asked with the other key is the node whose certificate somebody has copied."""
    written: list[Record] = []
    cloned: list[str] = []
    note = _noter(written.append, cloned.append, ManualClock())
    peer = "spiffe://example.org/node/agents-1"
    with capture_logs():
        note({"event": "refused", "path": "/v1/renew", "reason": "clone", "message": "twice", "peer": peer})
    assert cloned == ["agents-1"]
    assert [(one.kind, one.fields["what"]) for one in written] == [
        (Kind.FINDING, "clone"),
        (Kind.FINDING, "refused"),
    ]
