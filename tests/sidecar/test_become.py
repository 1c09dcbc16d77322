import os
from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.become import run_as

NOBODY = 65534
NO_USER = 64_123

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def identity() -> bytes:
    return repr((os.getresuid(), os.getresgid(), os.getgroups())).encode()


def test_as_oneself_nothing_is_forked() -> None:
    """An agent's own command line has his rights already."""
    assert run_as(os.geteuid(), lambda: str(os.getpid()).encode()) == str(os.getpid()).encode()


@needs_root
def test_as_a_user_all_ids_and_groups_are_his() -> None:
    """Real, effective and saved: there is no way back."""
    ids, groups = (65534, 65534, 65534), [65534]
    assert run_as(NOBODY, identity) == repr((ids, ids, groups)).encode()


@needs_root
def test_a_number_without_a_user_has_no_groups() -> None:
    """Root's groups above all."""
    ids = (NO_USER, NO_USER, NO_USER)
    assert run_as(NO_USER, identity) == repr((ids, ids, [])).encode()


@needs_root
def test_what_fails_there_is_told_here(tmp_path: Path) -> None:
    """A file that the user may not write names itself."""
    tmp_path.chmod(0o700)

    def work() -> bytes:
        (tmp_path / "file").write_text("")
        return b""

    with pytest.raises(LocalError, match="file: Permission denied"):
        run_as(NOBODY, work)
    assert list(tmp_path.iterdir()) == []


@needs_root
def test_a_bug_there_never_runs_on_here() -> None:
    """Neither an exit nor any other exception leaves the child."""

    def leave() -> bytes:
        raise SystemExit(7)

    with pytest.raises(LocalError, match="7"):
        run_as(NOBODY, leave)


@needs_root
def test_a_helper_that_dies_is_named() -> None:
    """Killed for its memory, say: an empty answer is no answer."""

    def die() -> bytes:
        os.kill(os.getpid(), 9)
        return b"never"

    with pytest.raises(LocalError, match="the helper of uid 65534 died"):
        run_as(NOBODY, die)


def test_only_root_becomes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word is clear, and nothing is tried."""
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(LocalError, match="acting as uid 1002 takes root"):
        run_as(1002, identity)
