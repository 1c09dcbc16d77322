from pathlib import Path

import pytest

from pki.errors import ConfigError, Fault, LocalError, UnreachableError
from sidecar.cli import selfcheck
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon, lockgate

STATUS = {
    "unready": "",
    "ready": True,
    "policy": {"sequence": 1},
    "bindings": [{"address": "127.0.0.1:15001", "problem": ""}],
    "audit": {"available": True, "trouble": ""},
    "peers": ["tools-1"],
}


@pytest.fixture
def sound(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """A node with nothing wrong, whose CA and certificate are not looked at."""
    daemon.paths.etc.mkdir(parents=True)
    daemon.paths.node_toml.write_text(
        'name = "agents-1"\ntrust-domain = "example.org"\nca = "127.0.0.1:1"\nca-control = "127.0.0.1:2"\n'
    )
    daemon.paths.audit_dir.mkdir(parents=True)
    daemon.paths.statements.write_bytes(b"")
    daemon.says("GET /v1/status", **STATUS)
    monkeypatch.setattr(selfcheck, "_certificate", lambda _: "valid")
    monkeypatch.setattr(selfcheck, "_ca", lambda *_: "answers")
    return daemon


def failed(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if line.startswith("FAIL")]


def test_a_sound_node_passes_line_by_line(sound: FakeDaemon) -> None:
    """Each thing that was looked at has a line."""
    done = sound.run("check")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["ok", "config"],
        ["ok", "certificate"],
        ["ok", "state"],
        ["ok", "ca"],
        ["ok", "daemon"],
    ]
    assert [one["exit"] for one in sound.run("check", "--json").json["checks"]] == [0] * 5


def test_a_folder_that_never_joined_fails_at_everything_and_says_what_to_do(tmp_path: Path) -> None:
    """All of it at once, in one go."""
    done = lockgate("--dir", tmp_path, "check")
    assert done.code == Exit.NO
    assert failed(done.out) == ["config", "certificate", "state", "daemon"]
    assert "run: lockgate join" in done.out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnreachableError("CA 127.0.0.1:1: refused"), Exit.UNCONFIRMED),
        (LocalError("CA: another node's certificate"), Exit.NO),
        (ConfigError([Fault("node.toml:1", "is wrong")]), Exit.NO),
        (OSError(13, "Permission denied", "/x"), Exit.NO),
    ],
    ids=["unreachable", "refused", "config", "file"],
)
def test_the_exit_code_tells_a_fault_from_silence(
    error: Exception, code: Exit, sound: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 where somebody only does not answer, 1 where something is wrong."""

    def fails(*_: object) -> str:
        raise error

    monkeypatch.setattr(selfcheck, "_ca", fails)
    done = sound.run("check")
    assert (done.code, failed(done.out)) == (code, ["ca"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unready": "the store cannot be synced"}, "the store cannot be synced"),
        ({"policy": {"sequence": 0}}, "no policy"),
        ({"bindings": [{"address": "127.0.0.1:1", "problem": "in use"}]}, "binding 127.0.0.1:1: in use"),
        ({"audit": {"available": False, "trouble": "disk full"}}, "audit log: disk full"),
        ({"ready": False}, "not fresh"),
    ],
    ids=["unready", "no policy", "binding", "audit", "stale"],
)
def test_what_ails_the_daemon_is_a_fault(change: dict[str, object], words: str, sound: FakeDaemon) -> None:
    """In its own words."""
    sound.says("GET /v1/status", **STATUS | change)
    done = sound.run("check")
    assert done.code == Exit.NO
    assert words in done.out


def test_state_that_is_gone_is_a_fault(sound: FakeDaemon) -> None:
    """A node that forgot its revocations must not serve."""
    sound.paths.statements.unlink()
    assert failed(sound.run("check").out) == ["state"]
