"""`lockgate dev` from outside: what it prints and keeps, how it starts, resumes and ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecar.control.client import call
from tests.clients import ask, connect, how_it_ends, knock, read_all
from tests.mesh import (
    CEILING_SECONDS,
    LOCKGATE,
    Mesh,
    curl,
    dev_mesh,
    has,
    is_root,
    lockgate,
    read_env,
    until,
)

END_SECONDS = 10.0
NOBODY = 65534
NOT_GRANTED = """
[segments.retrieval]
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:9"
protocol = "tcp"
"""

pytestmark = pytest.mark.skipif(not has("curl"), reason="curl is not installed")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh for the tests that only look at it."""
    with dev_mesh(tmp_path_factory.mktemp("dev") / "D", "--nodes", "2") as running:
        yield running


def wiki_answers(mesh: Mesh) -> bool:
    return curl("--fail", f"{mesh.env['WIKI']}/api/pages").returncode == 0


def echo_port(mesh: Mesh) -> int:
    return int(mesh.env["ECHO"].rpartition(":")[2])


def processes_of(root: Path) -> set[int]:
    """Every live process whose command line names something in D, or whose output goes there."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and _belongs(entry, str(root)):
            found.add(int(entry.name))
    return found


def _belongs(process: Path, root: str) -> bool:
    try:
        if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        return root in process.joinpath("cmdline").read_text() or os.readlink(
            process / "fd" / "1"
        ).startswith(root)
    except OSError:
        return False


def listening(mesh_root: Path) -> list[int]:
    """Those of the mesh's ports on which somebody still listens."""
    ports = json.loads((mesh_root / "dev.json").read_text())
    every = [ports["ca"], ports["ca_control"]]
    every += [port for group in ("nodes", "tools", "bindings") for port in ports[group].values()]
    return [port for port in every if _listens(port)]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nothing_is_left(root: Path) -> None:
    assert processes_of(root) == set()
    assert listening(root) == []
    assert sorted(root.rglob("*.sock")) == []


# -- what it gives


def test_every_member_of_d_is_usable_as_dir(mesh: Mesh) -> None:
    """D/ca and each node answer `status`, as ready; two tool nodes were asked for, and both serve the wiki."""
    names = {name: mesh.status(name)["name"] for name in ("agents-1", "tools-1", "tools-2")}
    assert names == {name: name for name in names}
    assert mesh.status("ca")["role"] == "ca"
    assert all(mesh.cli("status", member=name).code == 0 for name in ("ca", *names))
    assert "dev" in mesh.cli("status", member="tools-2").out
    assert [wiki_answers(mesh) for _ in range(4)] == [True] * 4


def test_both_operators_have_their_roles(mesh: Mesh) -> None:
    """alice, with all roles, may apply the policy; bob, approver and responder, may lock and may not apply."""
    policy = str(mesh.root / "policy.toml")
    assert mesh.cli("policy", "apply", policy, operator="alice").code == 0
    refused = mesh.cli("policy", "apply", policy, operator="bob")
    assert (refused.code, refused.out) == (1, "")
    assert "admin" in refused.err
    lock = mesh.cli("lock", "service:vault", "--json", operator="bob")
    assert lock.code == 0, lock
    assert set(lock.json["nodes"]) == {"agents-1", "tools-1", "tools-2"}
    assert mesh.cli("unlock", lock.json["id"], operator="alice").code == 0


def test_env_is_what_a_shell_can_read(mesh: Mesh) -> None:
    """WIKI is a base URL without trailing slash, ECHO host:port, SID the bare id, *_PID the daemons."""
    script = '. "$0" && echo "$WIKI" "$ECHO" "$SID" "$CA_PID" "$AGENTS_PID" "$TOOLS_PID"'
    done = subprocess.run(
        ["sh", "-c", script, str(mesh.root / "env")], capture_output=True, text=True, check=True
    )
    wiki, echo, session, *pids = done.stdout.split()
    assert curl("--fail", f"{wiki}/api/pages/welcome").returncode == 0
    assert wiki.startswith("http://127.0.0.1:")
    assert not wiki.endswith("/")
    host, _, port = echo.partition(":")
    with socket.create_connection((host, int(port)), timeout=CEILING_SECONDS) as stream:
        assert ask(stream, b"hello") == b"hello"
    assert (len(session), session.isalnum()) == (26, True)
    assert session in mesh.cli("session", "ls").out
    for pid, folder in zip(pids, ("ca", "agents-1", "tools-1"), strict=True):
        assert str(mesh.root / folder) in Path(f"/proc/{pid}/cmdline").read_text()


def test_the_sample_policy_stands_in_d_and_is_good(mesh: Mesh) -> None:
    """D/policy.toml is what is in force, checks clean, and grants wiki and echo but not vault."""
    done = mesh.cli("policy", "check", str(mesh.root / "policy.toml"), "--json")
    assert (done.code, done.json["good"]) == (0, True)
    assert curl(f"{mesh.env['VAULT']}/api/pages").returncode != 0


def test_two_meshes_run_at_a_time(mesh: Mesh, tmp_path: Path) -> None:
    """Free ports, kept in D: a second mesh beside the first, each with its own wiki; the second is the tour's."""
    done = lockgate("dev", "--dir", str(tmp_path / "D"), "--tour")
    print(done.out)  # noqa: T201 - read with pytest -s
    assert done.code == 0, done
    assert "SURPRISE" not in done.out
    assert wiki_answers(mesh)
    nothing_is_left(tmp_path / "D")


def test_a_dead_child_neither_ends_the_mesh_nor_is_started_again(tmp_path: Path) -> None:
    """kill -9 of the CA and of the echo tool: the rest goes on, and Ctrl-C still ends all of it."""
    with dev_mesh(tmp_path / "D") as mesh:
        mesh.kill("ca")
        [echo] = [pid for pid in processes_of(mesh.root) if "sidecar.dev.echo" in cmdline(pid)]
        os.kill(echo, signal.SIGKILL)
        until(lambda: knock(echo_port(mesh)) == "reset", "the echo tool to be gone")
        assert wiki_answers(mesh)
        assert mesh.process.poll() is None
        assert mesh.cli("status", member="ca").code == 3
    nothing_is_left(mesh.root)


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


# -- how it ends and resumes


def test_ctrl_c_ends_everything_and_an_existing_d_resumes(tmp_path: Path) -> None:
    """One line on stdout; ends within 10 s with a stream open; resumes with its ports, CA, policy and a new session."""
    root = tmp_path / "D"
    with dev_mesh(root) as mesh, connect(echo_port(mesh)) as stream:
        first, ports = dict(mesh.env), (root / "dev.json").read_text()
        ca = (root / "ca" / "lib" / "bundle.statement", mesh.status("ca"))[1]["id"]
        policy = mesh.status("agents-1")["policy"]
        assert ask(stream, b"hello") == b"hello"
        started = time.monotonic()
        mesh.process.send_signal(signal.SIGINT)
        out, _ = mesh.process.communicate(timeout=CEILING_SECONDS)
        print(f"ended after {time.monotonic() - started:.2f} s")  # noqa: T201
        assert time.monotonic() - started < END_SECONDS
        assert how_it_ends(stream) == "reset"
    assert (out, mesh.process.returncode) == ("", 130)
    nothing_is_left(root)

    with dev_mesh(root) as mesh:
        assert (root / "dev.json").read_text() == ports
        assert mesh.status("ca")["id"] == ca
        assert mesh.status("agents-1")["policy"] == policy
        assert (mesh.env["WIKI"], mesh.env["ECHO"]) == (first["WIKI"], first["ECHO"])
        assert mesh.env["SID"] != first["SID"]
        assert wiki_answers(mesh)
        assert mesh.cli("audit", "verify").code == 0


def test_ctrl_c_to_the_whole_process_group_ends_everything(tmp_path: Path) -> None:
    """What a terminal does: SIGINT to every process of the group at once."""
    with dev_mesh(tmp_path / "D") as mesh:
        started = time.monotonic()
        os.killpg(mesh.process.pid, signal.SIGINT)
        assert mesh.process.wait(CEILING_SECONDS) == 130
        assert time.monotonic() - started < END_SECONDS
    nothing_is_left(mesh.root)
    assert "Traceback" not in everything_said(mesh.root)


def test_ctrl_c_before_it_is_ready_leaves_nothing(tmp_path: Path) -> None:
    """Interrupted while it is still making things: ends, and nothing runs on."""
    root = tmp_path / "D"
    process = subprocess.Popen(
        [*LOCKGATE, "dev", "--dir", str(root), "--json"], stdout=subprocess.PIPE, text=True
    )
    until(lambda: (root / "ca" / "run" / "admin.sock").exists(), "the CA to be there")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=CEILING_SECONDS)
    assert process.returncode == 130
    assert '"ready"' not in out
    nothing_is_left(root)


def test_a_mesh_killed_whole_starts_over_its_leftovers(tmp_path: Path) -> None:
    """kill -9 of everything, dev too: stale sockets and open logs are no obstacle, and the lock in force still is."""
    root = tmp_path / "D"
    with dev_mesh(root) as mesh:
        lock = mesh.cli("lock", "service:echo", "--json", operator="alice")
        assert lock.code == 0, lock
        for pid in processes_of(root):
            with_no_fuss(pid)
        mesh.process.wait(CEILING_SECONDS)
        until(lambda: processes_of(root) == set(), "everything to be dead")
    assert sorted(path.parent.parent.name for path in root.rglob("admin.sock")) == [
        "agents-1",
        "ca",
        "tools-1",
    ]
    with dev_mesh(root) as mesh:
        assert wiki_answers(mesh)
        assert [one["id"] for one in mesh.status("tools-1")["locks"]] == [lock.json["id"]]
        assert knock(echo_port(mesh)) == "reset"
        assert mesh.cli("audit", "verify", member="tools-1").code == 0


def with_no_fuss(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It died with its parent.


# -- a policy of one's own


def test_a_policy_of_ones_own_is_applied_as_it_stands(tmp_path: Path) -> None:
    """--policy FILE: no sample rules beside it; without the sample's agent there is no session, and no WIKI."""
    own = tmp_path / "own.toml"
    own.write_text(NOT_GRANTED)
    with dev_mesh(tmp_path / "D", "--policy", str(own)) as mesh:
        assert (mesh.root / "policy.toml").read_text() == NOT_GRANTED
        status = mesh.status("agents-1")
        assert (status["bindings"], set(status["segments"])) == ([], {"retrieval"})
        assert (mesh.env["WIKI"], mesh.env["SID"]) == ("", "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[services.wiki\n", "line 1"),
        (NOT_GRANTED + '[[grants]]\nid = "x"\nagents = ["ghost"]\nservices = ["wiki"]\n', "ghost"),
    ],
    ids=["syntax", "dangling-name"],
)
def test_a_bad_policy_ends_it_with_the_fault_and_nothing_running(
    tmp_path: Path, text: str, said: str
) -> None:
    """One clear error that names the file's fault, exit 1, no traceback, no process left."""
    own = tmp_path / "own.toml"
    own.write_text(text)
    done = lockgate("dev", "--dir", str(tmp_path / "D"), "--policy", str(own))
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert str(own) in done.err
    assert "Traceback" not in done.err
    assert processes_of(tmp_path / "D") == set()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """D that holds other things: refused, nothing written."""
    (tmp_path / "precious").write_text("do not touch")
    done = lockgate("dev", "--dir", str(tmp_path), "--json")
    assert done.code == 1
    assert "not empty" in done.json["error"]["message"]
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


# -- an ordinary user


@pytest.mark.skipif(
    not (is_root() and has("setpriv")), reason="it takes root and setpriv to become somebody else"
)
def test_an_ordinary_user_can_run_it(tmp_path: Path) -> None:
    """As nobody, with a home of his own: the tour goes through but for what takes root, which it skips with a word."""
    python = readable_python(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], **python}
    command = [*become, sys.executable, "-m", "sidecar.cli", "dev", "--dir", str(home / "D"), "--tour"]
    done = subprocess.run(
        command,
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=CEILING_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done
    assert "skipped: it takes root" in done.stdout
    nothing_is_left(home / "D")


# -- drain


def test_a_node_told_to_end_lets_live_streams_finish(tmp_path: Path) -> None:
    """SIGTERM: a live stream goes on, a new one is refused as draining, and the node ends with the last stream."""
    with dev_mesh(tmp_path / "D") as mesh, connect(echo_port(mesh)) as stream:
        assert ask(stream, b"before") == b"before"
        os.kill(mesh.pid("tools-1"), signal.SIGTERM)
        until(lambda: mesh.status("tools-1")["draining"], "the node to drain")
        assert knock(echo_port(mesh)) == "reset"
        assert ask(stream, b"during") == b"during"
        refused = until(lambda: mesh.records("tools-1", kind="denied"), "the refusal")
        assert {one["reason"] for one in refused} == {"draining"}
        stream.shutdown(socket.SHUT_WR)
        assert read_all(stream) == b""
        until(lambda: "Z" in state(mesh.pid("tools-1")), "the node to end")
        [closed] = mesh.records("tools-1", kind="closed", service="echo")
        assert closed["bytes_in"] == len(b"beforeduring")
        assert mesh.records("tools-1")[-1]["kind"] == "stop"
        assert mesh.cli("audit", "verify", member="tools-1").code == 0


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def everything_said(root: Path) -> str:
    return "".join(path.read_text() for path in (root / "logs").glob("*.log"))
