"""Child sessions on a real mesh: a Python agent of an ordinary user narrows itself through the local API.

As root: only root may be another user and make cgroups.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tomli

from sidecar.dev.layout import free_ports
from sidecar.session.cgroup import SessionCgroups
from tests import agent_process
from tests.mesh import LOCKGATE, Mesh, dev_mesh, is_root, until

pytestmark = [
    pytest.mark.skipif(not is_root(), reason="takes another user and cgroups, so root"),
    pytest.mark.skipif(SessionCgroups.of_machine().mount is None, reason="no cgroup v2"),
]

ROOT = Path(__file__).parents[1]
NODES = ("agents-1", "tools-1")

POLICY = """
[services.second]
segment = "retrieval"
nodes = ["tools-1"]
target = "{target}"
protocol = "tcp"

[services.pages]
segment = "retrieval"
nodes = ["tools-1"]
target = "{wiki}"
protocol = "http"

[agents.helper]
nodes = ["agents-1"]
uid = "nobody"

[[bindings]]
agent = "helper"
service = "echo"
listen = {echo}

[[bindings]]
agent = "helper"
service = "second"
listen = {second}

[[bindings]]
agent = "helper"
service = "pages"
listen = {pages}

[[grants]]
id = "helper-to-all"
agents = ["helper"]
services = ["echo", "second", "pages"]
"""
"""Two services of one tool that echoes, and one whose requests can be told apart."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """A dev mesh where another user may come, with an agent that is that user."""
    with TemporaryDirectory() as folder, dev_mesh(Path(folder) / "D") as mesh:
        for path in (Path(folder), mesh.root, mesh.member("agents-1")):
            path.chmod(0o755)
        echo, second, pages = free_ports(3)
        text = (mesh.root / "policy.toml").read_text()
        services = tomli.loads(text)["services"]
        target, wiki = services["echo"]["target"], services["wiki"]["target"]
        policy = mesh.root / "children-policy.toml"
        added = POLICY.format(echo=echo, second=second, pages=pages, target=target, wiki=wiki)
        policy.write_text(text + added)
        applied = mesh.cli("policy", "apply", str(policy), "--yes", "--wait", "20s", operator="alice")
        assert applied.code == 0, applied.err
        yield mesh


@dataclass
class Agent:
    """A running agent, or a child of one: what it is told goes to the one above first."""

    mesh: Mesh
    process: "subprocess.Popen[str]"
    above: tuple[str, ...] = ()

    def does(self, *words: object) -> Any:
        for name in reversed(self.above):
            words = ("tell", name, *words)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def asks(self, method: str, path: str, body: object = None) -> Any:
        return self.does("ask", method, path, body)

    @property
    def me(self) -> dict[str, Any]:
        found = self.asks("GET", "/v1/session")
        assert isinstance(found, dict), found
        return found

    @property
    def name(self) -> str:
        return str(self.me["session"])

    def reaches(self, service: str, address: str, stream: str = "") -> str:
        """What the tool says on a new stream, by the address that the parent knows."""
        return str(self.does("connect", stream or service, address))

    def child(self, name: str, **left: object) -> "Agent":
        said = self.does("less", name, left)
        assert isinstance(said, dict), said
        return Agent(self.mesh, self.process, (*self.above, name))


@pytest.fixture
def agent(mesh: Mesh) -> Iterator[Agent]:
    """A session of the helper, which is a Python agent."""
    with session(mesh) as started:
        yield started


@contextmanager
def session(mesh: Mesh) -> Iterator[Agent]:
    program = mesh.root / "agent.py"
    program.write_text(Path(agent_process.__file__).read_text())
    program.chmod(0o644)
    command = [*LOCKGATE, "--dir", str(mesh.member("agents-1")), "session", "exec", "--agent", "helper", "--"]
    process = subprocess.Popen(
        [*command, "/usr/bin/env", "python3", "-I", str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Agent(mesh, process)
        finally:
            process.kill()


def recorded(mesh: Mesh, member: str, **wanted: object) -> dict[str, Any]:
    """The newest record with these fields, once there is one."""
    return until(lambda: mesh.records(member, **wanted), f"{wanted} at {member}")[-1]


BROKEN = ("ConnectionResetError", "BrokenPipeError", "")
"""A raw TCP client that is refused or cut."""


def test_a_child_reaches_what_it_was_left_and_nothing_else(mesh: Mesh, agent: Agent) -> None:
    """Its parent goes on as before; both nodes name the child and the session above it."""
    where = agent.me["services"]
    child = agent.child("less", services=["echo"], life=600)
    me = child.me
    assert (me["parents"], list(me["services"])) == ([agent.name], ["echo"])
    assert child.reaches("echo", where["echo"]) == "pong"
    assert child.reaches("second", where["second"]) in BROKEN
    assert agent.reaches("second", where["second"]) == "pong"
    for node in NODES:
        one = recorded(mesh, node, kind="admitted", session=me["session"])
        assert (one["parents"], one["service"]) == ([agent.name], "echo")
        assert one["facts"]["narrowing"]["services"] == ["echo"]
    refused = recorded(mesh, "agents-1", kind="denied", session=me["session"])
    assert (refused["service"], refused["reason"]) == ("second", "narrowed")


def test_a_child_is_left_some_operations_of_an_http_service(mesh: Mesh, agent: Agent) -> None:
    """Each request is judged: what is left passes, and what is not is a 403 that says why."""
    host, _, port = agent.me["services"]["pages"].rpartition(":")
    child = agent.child("less", services=["pages"], operations=["GET /api/**"])
    status, body = child.does("http_ask", host, int(port), "GET", "/api/pages")
    assert status == 200, body
    status, body = child.does("http_ask", host, int(port), "POST", "/api/pages/mine")
    assert (status, json.loads(body)["reason"]) == (403, "narrowed")
    refused = recorded(mesh, "tools-1", kind="denied", session=child.name)
    assert (refused["reason"], refused["parents"]) == ("narrowed", [agent.name])
    status, _ = agent.does("http_ask", host, int(port), "POST", "/api/pages/mine")
    assert status < 300


def test_a_refused_child_learns_why(agent: Agent) -> None:
    """From the local API: the reset had no words."""
    where = agent.me["services"]
    child = agent.child("less", services=["echo"])
    assert child.reaches("second", where["second"]) in BROKEN
    [one] = child.asks("GET", "/v1/refusals")["refusals"]
    assert (one["service"], one["reason"], one["session"]) == ("second", "narrowed", child.name)
    assert "second" in one["hint"]
    assert "the parent session may" in one["remedy"]
    assert agent.asks("GET", "/v1/refusals")["refusals"] == [one], "and so does its parent"


def test_a_child_starts_while_the_ca_is_away(mesh: Mesh, agent: Agent) -> None:
    """Nobody but its own node is asked."""
    where = agent.me["services"]
    with mesh.paused("ca"):
        child = agent.child("less", services=["echo"])
        assert child.reaches("echo", where["echo"]) == "pong"


def test_a_child_cannot_escalate(mesh: Mesh, agent: Agent) -> None:
    """Not by a session of its own, not by its parent's name, not by a wider child."""
    child = agent.child("less", services=["echo"])
    assert "none of these starts another" in child.asks("POST", "/v1/sessions", {"agent": "helper"})
    assert "service second is none" in child.asks("POST", "/v1/children", {"services": ["second"]})
    own = agent.name
    assert "no such session" in child.asks("DELETE", f"/v1/sessions/{own}")
    grandchild = child.child("least", session=own)
    assert grandchild.me["parents"] == [own, child.name]
    assert list(grandchild.me["services"]) == ["echo"]
    assert mesh.records("agents-1", kind="session", what="started", session=grandchild.name)


def test_the_end_of_a_session_ends_its_children(mesh: Mesh, agent: Agent) -> None:
    """Their live streams are cut on both nodes, and no new one opens."""
    where = agent.me["services"]
    child = agent.child("less")
    name = child.name
    assert child.reaches("echo", where["echo"]) == "pong"
    assert mesh.cli("session", "end", agent.name).code == 0
    for node in NODES:
        assert recorded(mesh, node, kind="cut", session=name)["reason"] == "revoked"
    assert child.does("use", "echo") in BROKEN
    assert child.reaches("echo", where["echo"], "again") in BROKEN
    assert (
        recorded(mesh, "agents-1", kind="session", what="ended", session=name)["why"] == "its session ended"
    )
    reasons = [one["reason"] for one in child.asks("GET", "/v1/refusals")["refusals"]]
    assert "revoked" in reasons, "what is left of a child may still ask why"
    assert "none of these starts another" in child.asks("POST", "/v1/sessions", {"agent": "helper"})


@pytest.mark.parametrize("how", ["end", "revoke"])
def test_a_child_is_ended_alone(mesh: Mesh, agent: Agent, how: str) -> None:
    """By its user here, or by an operator everywhere; its parent and its sibling go on."""
    where = agent.me["services"]
    child, sibling = agent.child("one"), agent.child("other")
    name = child.name
    for one in (agent, child, sibling):
        assert one.reaches("echo", where["echo"]) == "pong"
    done = (
        mesh.cli("session", "end", name)
        if how == "end"
        else mesh.cli("revoke", f"session:{name}", operator="bob")
    )
    assert done.code == 0, done.err
    for node in NODES:
        assert recorded(mesh, node, kind="cut", session=name)["reason"] == "revoked"
    assert child.does("use", "echo") in BROKEN
    assert child.reaches("echo", where["echo"], "again") in BROKEN
    assert [one.does("use", "echo") for one in (agent, sibling)] == ["pong", "pong"]


def test_a_child_ends_with_its_last_process(mesh: Mesh, agent: Agent) -> None:
    """Nobody has to say so, and its parent does not."""
    child = agent.child("less")
    name = child.name
    assert agent.does("leave", "less") == 0
    ended = recorded(mesh, "agents-1", kind="session", what="ended", session=name)
    assert ended["why"] == "its last process is gone"
    assert agent.me["session"]


def test_a_child_ends_with_its_time(mesh: Mesh, agent: Agent) -> None:
    """Its live streams too, on both nodes."""
    where = agent.me["services"]
    child = agent.child("less", life=2)
    name = child.name
    assert child.reaches("echo", where["echo"]) == "pong"
    for node in NODES:
        assert recorded(mesh, node, kind="cut", session=name)["reason"] in ("narrowed", "revoked")
    assert recorded(mesh, "agents-1", kind="session", what="ended", session=name)["why"] == "its time is over"


def test_the_examples_of_the_document_run_as_they_stand(mesh: Mesh) -> None:
    """In a session, one after the other; the helper that they start is `true`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/local-api.md").read_text(), re.DOTALL)
    program = "\n".join(blocks).replace('["./summarise", "notes"]', '["true"], check=True')
    assert len(blocks) == 3
    done = mesh.cli("session", "exec", "--agent", "researcher", "--", "python3", "-I", "-c", program)
    assert done.code == 0, done.err
    name, agent, *_ = done.out.split()
    assert (len(name), agent) == (26, "researcher")
    [child] = mesh.records("agents-1", kind="session", what="started", parents=[name])
    assert (child["services"], child["operations"]) == (["wiki"], ["GET /api/**"])


def test_the_command_line_does_the_same(mesh: Mesh) -> None:
    """`session child` runs a command with less and passes its exit code on; `session why` says what was refused."""
    script = """
    set -u
    "$@" session child --service echo --life 5m -- sh -c 'echo $LOCKGATE_SESSION; env | grep -c LOCKGATE_.*_ADDR; exit 7'
    echo $?
    "$@" session child --service vault -- true
    echo $?
    "$@" session why
    """
    own = [*LOCKGATE, "--dir", str(mesh.member("agents-1"))]
    done = mesh.cli("session", "exec", "--agent", "researcher", "--", "sh", "-c", script, "sh", *own)
    name, addresses, passed_on, second, why = done.out.splitlines()
    assert (len(name), addresses, passed_on) == (26, "1", "7")
    assert (second, why) == ("0", "nothing was refused")
