"""Sessions of real processes: whose connection is whose, when a session ends, and what is told of it.

As root: only root may be several users and make cgroups.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from pki import keys, svid
from pki.bundle import TrustBundle
from pki.clock import SystemClock
from pki.errors import RefusedError
from pki.http.client import connect_ca
from sidecar.config import load_node_config
from sidecar.dev.layout import free_ports
from sidecar.identity import Credential, load_bundle
from sidecar.session.cgroup import SessionCgroups
from tests.mesh import LOCKGATE, Mesh, dev_mesh, is_root, until
from tests.test_dev import AS_NOBODY, python_for

pytestmark = pytest.mark.skipif(not is_root(), reason="takes several users and cgroups, so root")

ROOT = Path(__file__).parents[1]
AGENTS = {"clerk": "nobody", "porter": "daemon", "brief": "bin", "sleepy": "games"}
"""With the users of this machine that they run as."""
LIMITS = {"brief": 'session = { lifetime = "6s" }\n', "sleepy": 'session = { idle = "2s" }\n'}

ROAMER = """
[agents.roamer]
nodes = ["agents-1", "tools-1"]
uid = "sys"
"""
"""An agent that two nodes may run."""

AGENT = """
[agents.{name}]
nodes = ["agents-1"]
uid = "{uid}"
{limits}
[[bindings]]
agent = "{name}"
service = "echo"
listen = {port}

[[grants]]
id = "{name}-to-echo"
agents = ["{name}"]
services = ["echo"]
"""

ASK = """
import os, socket, sys
def ask():
    host, _, port = os.environ["LOCKGATE_ECHO_ADDR"].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 60) as stream:
            stream.sendall(b"hello")
            return stream.recv(5) == b"hello"
    except OSError:
        return False
def say(*words): print(*words, flush=True)
def wait(): return sys.stdin.readline()
say(os.environ["LOCKGATE_SESSION"], os.getpid())
"""
"""How an agent of the tests begins: its session and pid on the first line; then it does as its own lines say."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A dev mesh with an agent for each of several users, who reach its agent.sock."""
    with tempfile.TemporaryDirectory(prefix="lockgate-sessions-") as home, dev_mesh(Path(home) / "D") as mesh:
        Path(home).chmod(0o755)
        ports = dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True))
        added = [
            AGENT.format(name=name, uid=uid, port=ports[name], limits=LIMITS.get(name, ""))
            for name, uid in AGENTS.items()
        ]
        policy = mesh.root / "sessions-policy.toml"
        # One machine plays all nodes, so every target can be dialled around the mesh; here that is not the question.
        sample = (mesh.root / "policy.toml").read_text().replace("target = ", "open-target = true\ntarget = ")
        policy.write_text("".join([sample, *added, ROAMER]))
        applied = mesh.cli("policy", "apply", str(policy), "--yes", "--wait", "20s", operator="alice")
        assert applied.code == 0, applied.err
        yield mesh


@dataclass
class Run:
    """A running `session exec` of a script that begins with ASK."""

    mesh: Mesh
    process: "subprocess.Popen[str]"
    session: str = ""
    pid: int = 0
    """Of the command."""
    lines: list[str] = field(default_factory=list)

    def hear(self) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def asks(self) -> str:
        """Tell it to ask the echo tool; what it says of it."""
        self.tell()
        return self.hear()


@contextmanager
def run(mesh: Mesh, agent: str, script: str, lockgate: Sequence[str] = LOCKGATE) -> Iterator[Run]:
    command = [*lockgate, "--dir", str(mesh.member("agents-1")), "session", "exec", "--agent", agent]
    process = subprocess.Popen(
        [*command, "--", "/usr/bin/env", "python3", "-c", ASK + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        started = Run(mesh, process)
        try:
            started.session, pid = started.hear().split()
            started.pid = int(pid)
            yield started
        finally:
            process.kill()


LOOP = "while wait(): say(ask())\n"


def admitted(mesh: Mesh, session: str) -> list[dict[str, Any]]:
    return mesh.records("agents-1", kind="admitted", session=session)


def admissions(mesh: Mesh, session: str, count: int) -> list[dict[str, Any]]:
    until(lambda: len(admitted(mesh, session)) >= count, f"{count} streams of {session}")
    return admitted(mesh, session)


def ended(mesh: Mesh, session: str) -> str:
    """Why a session ended, once it has."""
    records = until(
        lambda: mesh.records("agents-1", kind="session", session=session, what="ended"), "its end"
    )
    return str(records[0]["why"])


def cuts(mesh: Mesh, node: str, stream: str) -> list[dict[str, Any]]:
    return until(lambda: mesh.records(node, kind="cut", stream=stream), f"{node} to cut {stream}")


def listed(mesh: Mesh, session: str) -> bool:
    return any(one["session"] == session for one in mesh.cli("session", "ls", "--json").json["sessions"])


def test_two_sessions_of_one_agent_and_one_of_another_user_are_each_their_own(mesh: Mesh) -> None:
    """By cgroup, in turns, over one port; the second user's by its own."""
    with ExitStack() as stack:
        runs = [stack.enter_context(run(mesh, agent, LOOP)) for agent in ("clerk", "clerk", "porter")]
        assert len({one.session for one in runs}) == 3
        for _ in range(3):
            assert [one.asks() for one in runs] == ["True"] * 3
        for one, uid in zip(runs, (65534, 65534, 1), strict=True):
            streams = admissions(mesh, one.session, 3)
            assert len(streams) == 3
            assert {each["attribution"]["method"] for each in streams} == {"cgroup"}
            assert {each["attribution"]["uid"] for each in streams} == {uid}
    for one in runs:
        assert ended(mesh, one.session) in ("empty", "asked")


def test_a_user_on_another_agents_port_is_refused(mesh: Mesh) -> None:
    """Whatever session it has itself."""
    with run(mesh, "clerk", LOOP) as clerk:
        start = mesh.cli("session", "show", clerk.session, "--json").json["services"]["echo"]
        script = f"os.environ['LOCKGATE_ECHO_ADDR'] = '{start}'\n{LOOP}"
        with run(mesh, "porter", script) as porter:
            assert porter.asks() == "False"
            assert admitted(mesh, porter.session) == []
    until(lambda: mesh.records("agents-1", kind="denied", reason="wrong_caller", uid=1), "the refusal")


def test_a_forked_child_and_a_daemonised_grandchild_are_the_session(mesh: Mesh) -> None:
    """It goes on after the command, until the last of them is gone."""
    script = (
        "if os.fork() == 0:\n"
        "    say(ask())\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    say(os.getpid())\n"
        "    wait()\n"
        "    say(ask())\n"
        "    wait()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "sys.exit(5)\n"
    )
    with run(mesh, "clerk", script) as one:
        assert one.hear() == "True"
        assert one.hear().isdigit()
        assert one.process.wait() == 5
        assert listed(mesh, one.session)
        assert one.asks() == "True"
        streams = admissions(mesh, one.session, 2)
        assert {each["attribution"]["method"] for each in streams} == {"cgroup"}
        assert mesh.records("agents-1", kind="session", session=one.session, what="ended") == []
        one.tell()
        assert ended(mesh, one.session) == "empty"
    cgroups = SessionCgroups.of_machine()
    until(lambda: one.session not in {each.session for each in cgroups.standing()}, "its cgroup to be gone")


def test_killing_exec_does_not_end_what_it_started(mesh: Mesh) -> None:
    """Its command is that session still; when it goes, the session does, and nobody renews it for ever."""
    with run(mesh, "clerk", LOOP) as one:
        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait()
        assert one.asks() == "True"
        assert listed(mesh, one.session)
        os.kill(one.pid, signal.SIGKILL)
        assert ended(mesh, one.session) == "empty"
    until(lambda: not listed(mesh, one.session), "it to be gone")


HOLDER = """
import sys
from pathlib import Path
from sidecar.control.client import Held
held = Held(Path(sys.argv[1]), "/v1/sessions", {"agent": "porter", "hold": True})
print(held.first["session"], held.first["attribution"], flush=True)
sys.stdin.read()
"""


def test_without_a_cgroup_a_session_ends_with_its_holder(mesh: Mesh) -> None:
    """As exec asks where the daemon can make none: kill -9 lets go of the connection."""
    sock = str(mesh.member("agents-1") / "run" / "agent.sock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, sock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        session, attribution = holder.stdout.readline().split()
        assert attribution == "uid"
        assert listed(mesh, session)
        holder.kill()
    assert ended(mesh, session) == "released"


@pytest.mark.parametrize(("agent", "reason"), [("brief", "lifetime"), ("sleepy", "idle")])
def test_a_session_ends_at_its_limit_and_its_streams_with_it(mesh: Mesh, agent: str, reason: str) -> None:
    """Live ones, on both nodes, for that reason; and its command gets no new ones."""
    script = (
        "host, _, port = os.environ['LOCKGATE_ECHO_ADDR'].rpartition(':')\n"
        "stream = socket.create_connection((host, int(port)))\n"
        "stream.sendall(b'hello')\n"
        "stream.recv(5)\n"
        "try: say(stream.recv(1))\n"
        "except OSError: say('cut')\n"
        "say(ask())\n"
    )
    with run(mesh, agent, script) as one:
        [stream] = admissions(mesh, one.session, 1)
        assert one.hear() == "cut"
        assert one.hear() == "False"
        assert ended(mesh, one.session) == reason
    for node in ("agents-1", "tools-1"):
        assert [one["reason"] for one in cuts(mesh, node, stream["stream"])] == [reason]


def test_signals_and_stops_go_through(mesh: Mesh) -> None:
    """Stopped with its command, continued with it; a signal's number is its exit code."""
    command = [*LOCKGATE, "--dir", str(mesh.member("agents-1")), "session", "exec", "--agent", "clerk", "--"]
    with subprocess.Popen(
        [*command, "sh", "-c", "echo $$; while :; do sleep 0.05; done"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    ) as process:
        assert process.stdout is not None
        command_pid = int(process.stdout.readline())
        process.send_signal(signal.SIGTSTP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        assert _state(command_pid) == "T"
        process.send_signal(signal.SIGCONT)
        until(lambda: _state(command_pid) != "T", "the command to go on")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def openssl(*words: object) -> bytes:
    return subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True).stdout


def test_an_exported_session_is_files_that_others_can_use(mesh: Mesh, tmp_path: Path) -> None:
    """openssl takes the chain for what it is, curl logs in with it; stopped, nothing is left but the record."""
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 1, 1)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)
    folder = home / "export"
    command = [*LOCKGATE, "--dir", str(mesh.member("agents-1")), "session", "start", "--agent", "porter"]
    with subprocess.Popen(
        [*command, "--export", str(folder), "--json"], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        started = json.loads(holder.stdout.readline())
        assert not {"key", "svid"} & started.keys()
        svid, key, bundle = (folder / name for name in ("svid.pem", "svid_key.pem", "svid_bundle.pem"))
        assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (1, 0o700)
        assert {(one.stat().st_uid, one.stat().st_mode & 0o777) for one in (svid, key, bundle)} == {
            (1, 0o600)
        }
        checked = openssl("verify", "-purpose", "sslclient", "-CAfile", bundle, "-untrusted", svid, svid)
        assert checked.decode().strip().endswith("OK")
        assert openssl("x509", "-in", svid, "-noout", "-pubkey") == openssl("pkey", "-in", key, "-pubout")
        assert started["id"] in openssl("x509", "-in", svid, "-noout", "-ext", "subjectAltName").decode()
        with live_endpoint(bundle, tmp_path) as url:
            shown = curl("--cert", svid, "--key", key, url)
            assert (shown.returncode, started["id"] in shown.stdout) == (0, True), shown
            assert curl(url).returncode != 0
        holder.send_signal(signal.SIGTERM)
        assert holder.wait() == 0
    assert not folder.exists()
    assert ended(mesh, started["session"]) == "released"
    [record] = mesh.records("agents-1", kind="session", session=started["session"], what="started")
    assert record["exported"] is True


@contextmanager
def live_endpoint(bundle: Path, folder: Path) -> Iterator[str]:
    """A TLS server that lets in whom the bundle vouches for, and tells a client what it showed."""
    own = folder / "endpoint.pem"
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
        *("-subj", "/CN=endpoint", "-keyout", own, "-out", folder / "endpoint.crt"),
    )
    with own.open("ab") as file:
        file.write((folder / "endpoint.crt").read_bytes())
    (port,) = free_ports(1)
    with subprocess.Popen(
        [
            *(
                "openssl",
                "s_server",
                "-accept",
                f"127.0.0.1:{port}",
                "-cert",
                str(own),
                "-www",
                "-naccept",
                "2",
            ),
            *("-CAfile", str(bundle), "-Verify", "5", "-verify_return_error", "-tls1_3"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        assert server.stdout is not None
        while b"ACCEPT" not in server.stdout.readline():
            assert server.poll() is None
        try:
            yield f"https://127.0.0.1:{port}/"
        finally:
            server.kill()


def curl(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    command = ["curl", "--silent", "--insecure", "--max-time", "60", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_ended_session_leaves_processes_that_reach_nothing(mesh: Mesh) -> None:
    """What is ended is refused from then on, its processes too."""
    with run(mesh, "clerk", LOOP) as clerk:
        other = mesh.cli("session", "end", "a" * 26)
        assert (other.code, "you have no such session" in other.err) == (1, True)
        done = mesh.cli("session", "end", clerk.session)
        assert done.code == 0
        assert ended(mesh, clerk.session) == "asked"
        assert clerk.asks() == "False"
    until(
        lambda: mesh.records("agents-1", kind="denied", reason="no_session", agent="clerk"),
        "its remains' refusal",
    )


def test_root_keeps_sessions_apart_where_the_daemon_is_an_ordinary_user() -> None:
    """As under the shipped unit: exec makes the cgroup itself, and the daemon sees when it is empty."""
    with nobodys_mesh() as mesh, run(mesh, "researcher", LOOP) as one, run(mesh, "researcher", LOOP) as other:
        assert [one.asks(), other.asks(), one.asks()] == ["True"] * 3
        for each, count in ((one, 2), (other, 1)):
            streams = admissions(mesh, each.session, count)
            assert [stream["attribution"]["method"] for stream in streams] == ["cgroup"] * count
        os.kill(one.process.pid, signal.SIGKILL)
        assert one.asks() == "True"
        os.kill(one.pid, signal.SIGKILL)
        assert ended(mesh, one.session) == "empty"
        assert other.asks() == "True"


def test_a_daemon_that_is_root_keeps_an_ordinary_users_sessions_apart(mesh: Mesh) -> None:
    """It makes the cgroup and takes in who asked; the user cannot leave it, and starts no other session from inside."""
    lockgate = [*as_nobody("/"), *LOCKGATE]
    escape = """
from pathlib import Path
here = Path("/proc/self/cgroup").read_text().partition("::")[2].strip().lstrip("/")
try:
    (Path(CGROUPS) / "cgroup.procs").write_text(str(os.getpid()))
except OSError:
    say(here.rpartition("/")[2])
""".replace("CGROUPS", repr(str(SessionCgroups.of_machine().mount)))
    with run(mesh, "clerk", LOOP, lockgate) as one, run(mesh, "clerk", LOOP, lockgate) as other:
        assert [one.asks(), other.asks(), one.asks()] == ["True"] * 3
        for each, count in ((one, 2), (other, 1)):
            streams = admissions(mesh, each.session, count)
            assert {stream["attribution"]["method"] for stream in streams} == {"cgroup"}
            assert {stream["attribution"]["uid"] for stream in streams} == {65534}
    assert ended(mesh, one.session) == "empty"
    with run(mesh, "clerk", escape, lockgate) as caught:
        assert caught.hear() == caught.session


def as_nobody(home: str) -> tuple[str, ...]:
    """What is put before `python ...` to run it as nobody, with our packages."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}"}
    python = python_for(AS_NOBODY, environment)
    given = [f"{name}={value}" for name, value in {**environment, "HOME": home}.items()]
    return (*AS_NOBODY, "env", "-i", "-C", home, *given, "sh", "-c", f'exec {python} "$@"')


@contextmanager
def nobodys_mesh() -> Iterator[Mesh]:
    """A dev mesh whose daemons are an ordinary user's."""
    with tempfile.TemporaryDirectory(prefix="lockgate-nobody-") as home:
        os.chown(home, 65534, 65534)
        with dev_mesh(Path(home) / "D", become=as_nobody(home)) as mesh:
            yield mesh


# -- What nodes may ask for


@dataclass(frozen=True)
class Node:
    """A node that speaks to the CA for itself, past its daemon."""

    credential: Credential
    bundle: TrustBundle
    ca: str

    @classmethod
    def of(cls, mesh: Mesh, name: str) -> "Node":
        folder = mesh.member(name)
        config = load_node_config((folder / "etc" / "node.toml").read_bytes(), name)
        identity = folder / "lib" / "identity"
        return cls(Credential.load(identity), load_bundle(identity), str(config.ca))

    def asks(self, agent: str, session: str, renews: str = "") -> str:
        """For a certificate of a session: why it gets none, or nothing."""
        body = {"csr": svid.request(keys.generate()), "agent": agent, "session": session, "renews": renews}

        async def ask() -> None:
            own = self.credential
            async with await connect_ca(self.ca, self.bundle, own.chain, own.key, SystemClock()) as client:
                await client.request("POST", "/v1/sessions", json=body)

        try:
            trio.run(ask)
        except RefusedError as error:
            return str(error)
        return ""


def test_a_node_gets_nothing_of_another_nodes_sessions(mesh: Mesh) -> None:
    """Not for an agent that may not run there, and where it may, not that session, nor its next certificate."""
    rogue, session = Node.of(mesh, "tools-1"), start(mesh, "roamer")
    assert "lets node tools-1 hold sessions of agent clerk" in rogue.asks("clerk", "a" * 26)
    assert "belongs to another session" in rogue.asks("roamer", session["session"])
    for serial in (session["serial"], "abc"):
        assert "or of another node's" in rogue.asks("roamer", session["session"], serial)
    assert mesh.cli("session", "end", session["session"]).code == 0


def test_a_session_that_ended_is_not_renewed(mesh: Mesh) -> None:
    """By its own node, past its daemon: the CA knows of the end."""
    node, session = Node.of(mesh, "agents-1"), start(mesh, "roamer")
    assert mesh.cli("session", "end", session["session"]).code == 0
    until(
        lambda: "revoked" in node.asks("roamer", session["session"], session["serial"]),
        "the CA to hear of it",
    )


def test_a_second_renewal_with_another_key_is_an_alarm(mesh: Mesh) -> None:
    """Somebody has a copy of the session: refused, and on record at the CA."""
    node, session = Node.of(mesh, "agents-1"), start(mesh, "roamer")
    assert node.asks("roamer", session["session"], session["serial"]) == ""
    assert "renewed already, with another key" in node.asks("roamer", session["session"], session["serial"])
    [finding] = until(lambda: mesh.records("ca", kind="finding", what="clone"), "the finding")
    assert (finding["peer"], session["serial"] in finding["why"]) == (str(node.credential.id), True)
    assert mesh.cli("session", "end", session["session"]).code == 0


def start(mesh: Mesh, agent: str) -> dict[str, Any]:
    """The record of a session's start."""
    done = mesh.cli("session", "start", "--agent", agent, "--json")
    assert done.code == 0, done
    name = done.json["session"]
    return until(
        lambda: mesh.records("agents-1", kind="session", session=name, what="started"), "its record"
    )[0]


def test_what_a_killed_daemon_leaves_reaches_nothing_and_is_told(mesh: Mesh) -> None:
    """Its processes live on: a crash of ours is not to end an agent's work. When they are gone, nothing is left."""
    with run(mesh, "clerk", LOOP) as one:
        mesh.kill("agents-1")
        mesh.start("agents-1")
        assert mesh.status("agents-1")["orphans"] == {one.session: 2}  # exec, and its command
        [finding] = until(lambda: mesh.records("agents-1", kind="finding", what="orphans"), "the finding")
        assert finding["session"] == one.session
        refused = {"kind": "denied", "agent": "clerk", "uid": 65534, "reason": "no_session"}
        # Until the daemon has looked up its agents' users, everybody is a wrong caller.
        until(lambda: one.asks() == "False" and mesh.records("agents-1", **refused), "its refusal")
        one.process.kill()
        os.kill(one.pid, signal.SIGKILL)
        until(lambda: mesh.status("agents-1")["orphans"] == {}, "nothing to be left")
