import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.exits import Exit
from tests.sidecar.cli.test_session import ID, SESSION, STARTED
from tests.sidecar.cli.world import FakeDaemon

PATH = f"/v1/sessions/{ID}/client-certificates"
UID = 64_123

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another uid")


def certifies(daemon: FakeDaemon, uid: int = os.geteuid()) -> None:
    daemon.says("GET /v1/sessions", sessions=[{**SESSION, "uid": uid}])
    daemon.says("POST /v1/sessions", **{**STARTED, "uid": uid})
    daemon.says(f"GET {PATH}", services=["vault", "wiki"])
    daemon.says(f"POST {PATH}", certificate="CERTIFICATE\n", roots="ROOTS\n", not_after=1_900_000_000_000_000)


def test_one_file_for_each_binding_and_one_to_check_the_server_by(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Certificate and key in one, replaced whole, with a key of its own; for their owner alone."""
    certifies(daemon)
    folder = tmp_path / "pem"
    done = daemon.run("session", "client-certificate", ID, folder)
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "until 2030-03-17 17:46:40 UTC",
        f"  vault {folder / 'vault.pem'}",
        f"  wiki {folder / 'wiki.pem'}",
    ]
    assert (folder / "ca.crt").read_text() == "ROOTS\n"
    written = [(folder / f"{service}.pem").read_bytes() for service in ("vault", "wiki")]
    keys = [load_pem_private_key(pem.removeprefix(b"CERTIFICATE\n"), None) for pem in written]
    assert keys[0].public_key() != keys[1].public_key()
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_session_starts_with_them(daemon: FakeDaemon, tmp_path: Path) -> None:
    """One command for both, and --json says where they are."""
    certifies(daemon)
    words = ("session", "start", "--agent", "researcher", "--client-certificate", tmp_path, "--json")
    body = daemon.run(*words).json
    assert (body["session"], body["ca"]) == (ID, str(tmp_path / "ca.crt"))
    assert body["client_certificates"]["wiki"] == str(tmp_path / "wiki.pem")


def test_a_session_that_cannot_have_them_is_not_left_behind(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Nobody would know its id."""
    certifies(daemon)
    daemon.says(f"GET {PATH}", services=[])
    daemon.says(f"DELETE /v1/sessions/{ID}", **SESSION)
    done = daemon.run("session", "start", "--agent", "researcher", "--client-certificate", tmp_path)
    assert (done.code, done.err.count("\n")) == (Exit.NO, 1)
    assert 'no binding of this agent here has callers = "mtls"' in done.err
    assert daemon.asked[-1][0] == f"DELETE /v1/sessions/{ID}"


def test_a_session_of_somebody_else_has_none_for_us(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The daemon shows us our own sessions only."""
    daemon.says("GET /v1/sessions", sessions=[])
    done = daemon.run("session", "client-certificate", ID, tmp_path)
    assert done.err == f"lockgate: session {ID}: you have no such session on this node\n"


@needs_root
def test_root_writes_with_the_rights_of_the_sessions_user(daemon: FakeDaemon, tmp_path: Path) -> None:
    """They are his files, and where he may not write, root does not either."""
    certifies(daemon, UID)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    his, roots = tmp_path / "his", tmp_path / "roots"
    his.mkdir()
    os.chown(his, UID, UID)
    roots.mkdir()
    (his / "pem").symlink_to(roots)
    assert daemon.run("session", "client-certificate", ID, his).code == 0
    assert {path.stat().st_uid for path in his.glob("*.*")} == {UID}
    done = daemon.run("session", "client-certificate", ID, his / "pem")
    assert (done.code, "Permission denied" in done.err) == (Exit.NO, True)
    assert list(roots.iterdir()) == []
