"""`lockgate dev` from outside: what it prints and keeps, how it starts, resumes and ends."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

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
    until,
)

END_SECONDS = 10.0
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
ROOT = Path(__file__).parents[1]
TRY_OUT = (
    "import subprocess, sys, sidecar.cli.dev, OpenSSL; subprocess.run([sys.executable, '-c', ''], check=True)"
)
NO_AGENT = """
[segments.own-segment]
class = "read"
stale-after = "5m"

[services.wiki]
segment = "own-segment"
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


@pytest.fixture(scope="module")
def own_policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh with a policy of its own, and no agent in it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.toml").write_text(NO_AGENT)
    with dev_mesh(folder / "D", "--policy", str(folder / "own.toml")) as running:
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
        if state(int(process.name)) == "Z":
            return False
        return root in process.joinpath("cmdline").read_text() or os.readlink(
            process / "fd" / "1"
        ).startswith(root)
    except OSError:
        return False


def every_port(root: Path) -> list[int]:
    """Where the mesh listens."""
    ports = json.loads((root / "dev.json").read_text())
    return [
        ports["ca"],
        ports["ca_control"],
        *(port for group in ("nodes", "tools", "bindings") for port in ports[group].values()),
    ]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def nothing_is_left(root: Path) -> None:
    assert processes_of(root) == set()
    assert [port for port in every_port(root) if _listens(port)] == []
    assert sorted(root.rglob("*.sock")) == []


# -- what it gives


def test_every_member_of_d_is_usable_as_dir(mesh: Mesh) -> None:
    """D/ca and each node answer `status`, as ready; two tool nodes were asked for, and both serve the wiki."""
    names = {name: mesh.status(name)["name"] for name in ("agents-1", "tools-1", "tools-2")}
    assert names == {name: name for name in names}
    assert mesh.status("ca")["role"] == "ca"
    assert all(mesh.cli("status", member=name).code == 0 for name in ("ca", *names))
    assert "dev" in mesh.cli("status", member="tools-2").out
    assert all(mesh.cli("audit", "verify", member=name).code == 0 for name in ("ca", *names))
    assert [wiki_answers(mesh) for _ in range(4)] == [True] * 4


def test_both_operators_have_their_roles(mesh: Mesh) -> None:
    """alice, with all roles, may apply the policy; bob, approver and responder, may lock and may not apply."""
    policy = str(mesh.root / "policy.toml")
    assert mesh.cli("policy", "apply", "--yes", policy, operator="alice").code == 0
    refused = mesh.cli("policy", "apply", "--yes", policy, operator="bob")
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


def test_two_meshes_run_at_a_time(mesh: Mesh, own_policy: Mesh) -> None:
    """Free ports, kept in D: a second mesh beside the first has none of its ports, and both are ready."""
    ports = [set(every_port(one.root)) for one in (mesh, own_policy)]
    assert ports[0] & ports[1] == set()
    assert [one.cli("status").code for one in (mesh, own_policy)] == [0, 0]


# -- how it ends and resumes


def test_ctrl_c_ends_everything_and_an_existing_d_resumes_even_after_kill_9(tmp_path: Path) -> None:
    """The same ports, CA, policy and locks and a new session, also over stale sockets and logs without an end."""
    root = tmp_path / "D"
    with dev_mesh(root) as mesh, connect(echo_port(mesh)) as stream:
        first, ports, about = dict(mesh.env), (root / "dev.json").read_text(), what_lasts(mesh)
        assert ask(stream, b"hello") == b"hello"
        assert mesh.cli("lock", "service:echo", operator="alice").code == 0
    nothing_is_left(root)
    assert mesh.process.returncode == 130

    with dev_mesh(root) as mesh:
        assert what_lasts(mesh) == about
        assert (root / "dev.json").read_text() == ports
        assert (mesh.env["WIKI"], mesh.env["ECHO"]) == (first["WIKI"], first["ECHO"])
        assert mesh.env["SID"] != first["SID"]
        assert wiki_answers(mesh)
        for pid in processes_of(root):
            kill_if_there(pid)
        mesh.process.wait(CEILING_SECONDS)
        until(lambda: processes_of(root) == set(), "everything to be dead")
    assert sorted(path.parent.parent.name for path in root.rglob("admin.sock")) == [
        "agents-1",
        "ca",
        "tools-1",
    ]

    with dev_mesh(root) as mesh:
        assert what_lasts(mesh) == about
        assert wiki_answers(mesh)
        assert knock(echo_port(mesh)) == "reset"
        assert [one["target"] for one in mesh.status("tools-1")["locks"]] == ["service:echo"]
        assert [mesh.cli("audit", "verify", member=name).code for name in ("agents-1", "tools-1")] == [0, 0]
    nothing_is_left(root)


def what_lasts(mesh: Mesh) -> tuple[object, ...]:
    return (
        mesh.status("ca")["id"],
        mesh.status("agents-1")["policy"],
        (mesh.root / "policy.toml").read_bytes(),
    )


def kill_if_there(pid: int) -> None:
    with suppress(ProcessLookupError):  # It may have died with its parent.
        os.kill(pid, signal.SIGKILL)


def last_kind(mesh: Mesh, name: str) -> str:
    """Of a node's log, but for the checkpoint that seals it."""
    return [str(one["kind"]) for one in mesh.records(name) if one["kind"] != "checkpoint"][-1]


def test_an_interrupted_start_leaves_nothing_and_is_taken_up(tmp_path: Path) -> None:
    """Ctrl-C while it is still making things: ends with 130, nothing runs on, and the next start goes on from there."""
    root = tmp_path / "D"
    process = subprocess.Popen(
        [*LOCKGATE, "dev", "--dir", str(root), "--json"], stdout=subprocess.PIPE, text=True
    )
    until((root / "operators" / "alice" / "chain.pem").exists, "the first operator to have joined")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=CEILING_SECONDS)
    assert (process.returncode, out) == (130, "")
    nothing_is_left(root)
    with dev_mesh(root) as mesh, connect(echo_port(mesh)) as stream:
        assert ask(stream, b"hello") == b"hello"
        with_the_terminal = ctrl_c_to_the_group(mesh)
        # A reset when a node ends first, a clean end when the echo tool does.
        assert how_it_ends(stream) in ("reset", "closed")
    print(f"Ctrl-C to the process group: {with_the_terminal:.2f} s")  # noqa: T201 - the measured time is reported
    nothing_is_left(root)
    assert all("Traceback" not in log.read_text() for log in (root / "logs").glob("*.log"))
    assert [last_kind(mesh, name) for name in ("agents-1", "tools-1")] == ["stop", "stop"]


def ctrl_c_to_the_group(mesh: Mesh) -> float:
    """What a terminal does: SIGINT to every process of the group at once. Nothing more may be on stdout."""
    started = time.monotonic()
    os.killpg(mesh.process.pid, signal.SIGINT)
    out, _ = mesh.process.communicate(timeout=CEILING_SECONDS)
    elapsed = time.monotonic() - started
    assert (mesh.process.returncode, out) == (130, "")
    assert elapsed < END_SECONDS
    return elapsed


# -- a policy of one's own


def test_a_policy_of_ones_own_is_applied_as_it_stands(own_policy: Mesh) -> None:
    """--policy FILE: nothing of the sample beside it; without the sample's agent no session, and no WIKI."""
    mesh = own_policy
    assert (mesh.root / "policy.toml").read_text() == NO_AGENT
    status = mesh.status("agents-1")
    assert status["bindings"] == []
    assert status["segments"]["own-segment"]["fresh"]
    assert (mesh.env["WIKI"], mesh.env["SID"]) == ("", "")


def test_a_dead_child_neither_ends_the_mesh_nor_is_started_again(own_policy: Mesh) -> None:
    """kill -9 of the CA: the rest goes on, and nobody serves in its place."""
    mesh = own_policy
    mesh.kill("ca")
    assert mesh.cli("status", member="ca").code == 3
    assert mesh.cli("status").code == 0
    assert mesh.process.poll() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[services.wiki\n", "own.toml:1"),
        (NO_AGENT + '[[grants]]\nid = "x"\nagents = ["ghost"]\nservices = ["wiki"]\n', "ghost"),
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


def test_an_ordinary_user_plays_the_tour() -> None:
    """As nobody, in a folder of his own: every step as it should be, less what takes root, skipped with a word."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    become = AS_NOBODY if is_root() else ()
    python = python_for(become, environment)
    with tempfile.TemporaryDirectory(prefix="lockgate-nobody-") as home:
        if become:
            os.chown(home, NOBODY, NOBODY)
        root = Path(home) / "D"
        done = subprocess.run(
            [*become, python, "-m", "sidecar.cli", "dev", "--dir", str(root), "--tour"],
            env={**environment, "HOME": home},
            cwd=home,
            capture_output=True,
            text=True,
            timeout=CEILING_SECONDS,
            check=False,
        )
        print(done.stdout)  # noqa: T201 - read with pytest -s
        assert done.returncode == 0, done
        assert "SURPRISE" not in done.stdout
        assert "skipped: it takes root" in done.stdout
        nothing_is_left(root)


def python_for(become: Sequence[str], environment: dict[str, str]) -> str:
    """A Python that this user may run, and that finds us; skips when there is none."""
    if become and not has("setpriv"):
        pytest.skip("it takes setpriv to become somebody else")
    for python in (
        sys.executable,
        shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin"),
    ):
        command = [*become, str(python), "-c", TRY_OUT]
        if (
            subprocess.run(command, env=environment, cwd="/", capture_output=True, check=False).returncode
            == 0
        ):
            return str(python)
    pytest.skip("neither this Python nor the system's can be run by another user")


# -- drain


def test_a_node_told_to_end_lets_live_streams_finish(mesh: Mesh) -> None:
    """SIGTERM: live streams go on, new ones are refused there and taken elsewhere, the last one ends the node."""
    until(lambda: mesh.status("agents-1")["streams"] == 0, "all streams to end")
    with connect(echo_port(mesh)) as stream:
        assert ask(stream, b"before") == b"before"
        with connect(echo_port(mesh)) as other:
            assert ask(other, b"before") == b"before"
            assert [mesh.status(name)["streams"] for name in ("tools-1", "tools-2")] == [1, 1]
            os.kill(mesh.pid("tools-1"), signal.SIGTERM)
            until(lambda: mesh.status("tools-1")["draining"], "the node to drain")
            with connect(echo_port(mesh)) as late:
                assert ask(late, b"late") == b"late"
        [refused] = until(lambda: mesh.records("tools-1", kind="denied"), "the refusal")
        assert refused["reason"] == "draining"
        assert mesh.records("tools-2", kind="opened", stream=refused["stream"])
        assert ask(stream, b"during") == b"during"
        stream.shutdown(socket.SHUT_WR)
        assert read_all(stream) == b""
    until(lambda: state(mesh.pid("tools-1")) == "Z", "the node to end")
    [closed] = mesh.records("tools-1", kind="closed", service="echo", bytes_in=len(b"beforeduring"))
    assert closed["bytes_out"] == closed["bytes_in"]
    assert last_kind(mesh, "tools-1") == "stop"
    mesh.start("tools-1")


def state(pid: int) -> str:
    """As /proc has it: Z is a process that ended, and that `lockgate dev` reaps at its own end."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
