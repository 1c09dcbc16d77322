"""Thousands of callers that connect, say who they are, and vanish: none is taken for another.

The path of a stream is the real one from the listener to the target, with the kernel's answers, and records in memory.
The clients share a few source ports, so that each is used again by somebody else at once, and the kernel is asked a
moment late. How many bytes a client sends says who it is; the records say whom it was taken for. Without the last
look in SockDiag.caller_of this fails. `make test-long` plays five times as many: LOCKGATE_STORM.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from pki.clock import HOUR
from pki.spiffe import SpiffeId
from sidecar.audit.record import Kind
from sidecar.bindings import Bindings
from sidecar.dev.layout import free_ports
from sidecar.policy.load import load_policy
from sidecar.proxy.attribute import SocketOwner
from sidecar.proxy.callers import Callers
from sidecar.proxy.sockdiag import Connection, SockDiag
from sidecar.session.cgroup import SessionCgroup, SessionCgroups
from tests.datapath import ENDS
from tests.mesh import is_root
from tests.nodes import InnerMesh, another, inner_mesh

CONNECTIONS = int(os.environ.get("LOCKGATE_STORM", "2000"))
RESEARCHER, WRITER, STRANGER = 64_001, 64_002, 64_003
SHARED_PORTS = 2
WINDOW_SECONDS = 0.001

pytestmark = pytest.mark.skipif(not is_root(), reason="only root can act as other users")

POLICY = """
[services.notes]
segment = "retrieval"
nodes = ["agents-1"]
target = "127.0.0.1:{target}"
open-target = true

[[grants]]
id = "everybody"
agents = ["researcher", "writer"]
services = ["notes"]
"""
AGENT = """
[agents.{name}]
nodes = ["agents-1"]
uid = {uid}

[[bindings]]
agent = "{name}"
service = "notes"
listen = {port}

[[bindings]]
agent = "{name}"
service = "notes"
listen = "unix:{path}"
"""

CLIENT = """
import errno, json, os, socket, struct, sys, time
facts = json.loads(sys.argv[1])
if facts["procs"]:
    open(facts["procs"], "w").write("0")
os.setgroups([])
os.setresgid(facts["uid"], facts["uid"], facts["uid"])
os.setresuid(facts["uid"], facts["uid"], facts["uid"])
BUSY = errno.EADDRINUSE, errno.EADDRNOTAVAIL
connected = stayed = echoed = turn = 0
while connected < facts["count"]:
    turn += 1
    stays = turn % 8 == 0
    owner, entrance = facts["entrances"][turn // 3 % len(facts["entrances"])]
    s = socket.socket(socket.AF_UNIX if isinstance(entrance, str) else socket.AF_INET)
    try:
        if s.family == socket.AF_INET and not stays:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", facts["first"] + turn % facts["ports"]))
        s.connect(entrance if s.family == socket.AF_UNIX else ("127.0.0.1", entrance))
    except OSError as error:
        s.close()
        if error.errno not in BUSY:
            raise
        continue
    connected += 1
    try:
        s.sendall(bytes(facts["size"]))
        if not stays:
            time.sleep(turn % 4 * 0.001)
        if stays:
            s.shutdown(socket.SHUT_WR)
            stayed += owner == facts["agent"]
            echoed += len(b"".join(iter(lambda: s.recv(4096), b""))) == facts["size"]
    except OSError:
        pass
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    time.sleep(0.002)
print(json.dumps({"connected": connected, "stayed": stayed, "echoed": echoed}))
"""
"""Most connect from a shared port, send, and reset; one in eight stays for the answer."""


@dataclass(frozen=True)
class Caller:
    """A client. ``agent``: whose entrances are its own; ``session``: what it is there, empty for nobody."""

    size: int
    uid: int
    agent: str = ""
    session: str = ""
    cgroup: SessionCgroup | None = None


@dataclass
class Named:
    """An accepted connection with the names that it had a moment ago."""

    accepted: Connection
    here: Any
    there: Any

    def getsockname(self) -> Any:
        return self.here

    def getpeername(self) -> Any:
        return self.there

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        return self.accepted.getsockopt(level, optname, buflen)


@dataclass
class Dawdling:
    """The kernel, asked a moment late: the window of every race is a thousand times as wide as it is."""

    callers: Callers

    def caller_of(self, accepted: Connection) -> SocketOwner | None:
        try:
            named = Named(accepted, accepted.getsockname(), accepted.getpeername())
        except OSError:
            return None
        until = time.perf_counter() + WINDOW_SECONDS
        while time.perf_counter() < until:
            os.sched_yield()
        return self.callers.caller_of(named)


@pytest.fixture
def cgroups() -> Iterator[list[SessionCgroup]]:
    """Three of sessions, on a machine that has them."""
    made = [SessionCgroups.of_machine().create(another(number)) for number in (11, 12, 13)]
    found = [one for one in made if one is not None]
    if len(found) < len(made):
        pytest.skip("no cgroup v2 that may be written")
    yield found
    for one in found:
        assert one.remove(), one


@dataclass
class Scenery:
    """agents-1 with real entrances. ``entrances``: whose, and where."""

    mesh: InnerMesh
    entrances: list[tuple[str, int | str]]

    def cast(self, cgroups: list[SessionCgroup]) -> list[Caller]:
        """Three sessions, a stranger, and a process in what is left of a fourth."""
        first, second, ended = cgroups
        one, two = (self.add_session(n, "researcher", RESEARCHER, cgroups[n]) for n in (0, 1))
        three = self.add_session(2, "writer", WRITER, None)
        return [
            Caller(101, RESEARCHER, "researcher", one, first),
            Caller(202, RESEARCHER, "researcher", two, second),
            Caller(303, WRITER, "writer", three),
            Caller(404, STRANGER),
            Caller(505, WRITER, cgroup=ended),
        ]

    def add_session(self, number: int, agent: str, uid: int, cgroup: SessionCgroup | None) -> str:
        mesh = self.mesh
        base = mesh.start_session(another(number), known=False)
        name = SpiffeId.for_agent(base.id.trust_domain, agent, "agents-1", another(number))
        identity = mesh.judged(mesh.ca.issue(name, base.key, lifetime=HOUR))
        mesh.agents.sessions.add(replace(base, identity=identity, uid=uid, cgroup=cgroup))
        return another(number)

    async def play(self, caller: Caller, count: int, first: int) -> dict[str, int]:
        """What a client says of itself in the end."""
        facts = {
            "agent": caller.agent,
            "uid": caller.uid,
            "size": caller.size,
            "procs": str(caller.cgroup.path / "cgroup.procs") if caller.cgroup else "",
            "count": count,
            "entrances": self.entrances,
            "first": first,
            "ports": SHARED_PORTS,
        }
        command = [sys.executable, "-I", "-S", "-c", CLIENT, json.dumps(facts)]
        done = await trio.run_process(command, capture_stdout=True)
        said: dict[str, int] = json.loads(done.stdout)
        return said

    async def settled(self, connected: int) -> None:
        """Until every connection has its record, and every stream has ended."""
        log, table = self.mesh.agents.log, self.mesh.agents.carrier.table
        with trio.fail_after(60):
            while len(log.of(Kind.ADMITTED, Kind.DENIED, Kind.SHED)) < connected or len(table):
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def scenery(folder: Path) -> AsyncIterator[Scenery]:
    """Two agents of two users, each with a port and a Unix socket."""
    async with inner_mesh() as mesh, trio.open_nursery() as nursery:
        node = mesh.agents
        node.sessions.remove(mesh.session.id.session)
        node.uids = {"researcher": RESEARCHER, "writer": WRITER}
        node.carrier.max_streams = CONNECTIONS
        ports = free_ports(2)
        text, entrances = POLICY.format(target=mesh.target_port), list[tuple[str, int | str]]()
        for (name, uid), port in zip(node.uids.items(), ports, strict=True):
            path = str(folder / f"{name}.sock")
            text += AGENT.format(name=name, uid=uid, port=port, path=path)
            entrances += [(name, port), (name, path)]
        node.scene.policy = load_policy(text.encode(), "policy.toml")
        diag = SockDiag()
        kernel = Dawdling(Callers(diag, SessionCgroups.of_machine().mount))
        side = replace(node.agent, kernel=kernel)
        bindings = Bindings("agents-1", side.serve)
        await nursery.start(bindings.run)
        await bindings.follow(node.scene.policy)
        assert [one.problem for one in bindings.entrances] == [""] * 4
        yield Scenery(mesh, entrances)
        await bindings.follow(None)
        nursery.cancel_scope.cancel()
        diag.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that anybody may pass through."""
    with tempfile.TemporaryDirectory(prefix="lg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_of_thousands_that_come_and_vanish_none_is_taken_for_another(
    cgroups: list[SessionCgroup], folder: Path
) -> None:
    """Two sessions of one uid in cgroups, one of another uid, a stranger, and what is left of an ended session."""
    async with scenery(folder) as scene:
        callers = scene.cast(cgroups)
        scene.mesh.agents.sessions.claimed = frozenset(one.id for one in cgroups)
        said = await together(scene, callers)
        await scene.settled(sum(one["connected"] for one in said))
        for caller, one in zip(callers, said, strict=True):
            assert one["echoed"] == one["stayed"], (caller, one)
            assert bool(one["echoed"]) == bool(caller.session), (caller, one)
        compare(scene, callers)


async def together(scene: Scenery, callers: list[Caller]) -> list[dict[str, int]]:
    said: list[dict[str, int]] = [{}] * len(callers)
    [first, *_] = free_ports(1)

    async def play(number: int) -> None:
        said[number] = await scene.play(callers[number], CONNECTIONS // len(callers), first)

    async with trio.open_nursery() as nursery:
        for number in range(len(callers)):
            nursery.start_soon(play, number)
    return said


def compare(scene: Scenery, callers: list[Caller]) -> None:
    """With the records: whoever's bytes passed in a stream is whose session it was admitted as."""
    log = scene.mesh.agents.log
    admitted = {one.fields["stream"]: one.fields for one in log.of(Kind.ADMITTED)}
    sessions = {caller.size: caller.session for caller in callers}
    ends: list[Any] = [end.fields for end in log.of(*ENDS) if end.fields["bytes_in"]]
    told = [(end["bytes_in"], admitted[end["stream"]]["session"]) for end in ends]
    assert [(size, session) for size, session in told if sessions[size] != session] == []
    assert {session for _, session in told} == {caller.session for caller in callers if caller.session}
    assert log.of(Kind.SHED) == []
