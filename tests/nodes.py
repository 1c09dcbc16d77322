"""Nodes in one process: real overlays, proofs, pools and sides, joined by socket pairs; callers and targets on loopback."""

import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from pki import svid
from pki.clock import HOUR, MINUTE, Wall
from pki.errors import LockgateError, UnreachableError
from pki.ids import new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar.address import Address
from sidecar.identity import Credential
from sidecar.overlay import Connection, Overlay, Role, Standing
from sidecar.peering import is_member_identity
from sidecar.policy.model import Binding
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.agent import AgentSide
from sidecar.proxy.attribute import ESTABLISHED, SocketOwner
from sidecar.proxy.local_tls import LocalTls
from sidecar.proxy.pool import Pool
from sidecar.proxy.tool import ToolSide
from sidecar.session import narrowing
from sidecar.session.cgroup import SessionCgroup
from sidecar.session.sessions import Child, Session, Sessions
from tests.authority import SESSION, TinyCa, new_key, new_serial, tiny_ca
from tests.datapath import NODES, UID, LogBook, LoopClock, Scene, carrier, policy

STARTED = Wall(time.time_ns() // 1_000)
"""OpenSSL goes by the machine's clock, so these certificates must be valid by it too."""

CHILD_CGROUP = 77

TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"


@dataclass
class ScriptedKernel:
    """Who holds the other end of every accepted connection."""

    owner: SocketOwner | None = field(default_factory=lambda: SocketOwner(ESTABLISHED, UID, 7, None))
    error: LockgateError | None = None

    def caller_of(self, accepted: object) -> SocketOwner | None:  # noqa: ARG002 - the seam's
        if self.error is not None:
            raise self.error
        return self.owner


@dataclass(eq=False)
class InnerNode:
    """A node without daemon, gossip or disk."""

    name: str
    mesh: "InnerMesh"
    scene: Scene
    log: LogBook = field(default_factory=LogBook)
    kernel: ScriptedKernel = field(default_factory=ScriptedKernel)
    sessions: Sessions = field(default_factory=Sessions)
    down: bool = False
    hangs_up: bool = False
    """It takes connections, and leaves when it is asked for the first thing."""
    uid: int | None = UID
    uids: dict[str, int] = field(default_factory=dict)
    """Of agents that have another."""
    faults: list[Exception] = field(default_factory=list)
    """Why each connection that it took ended, where it was for a fault."""
    refusals: list[str] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.credential, self.identity = self.mesh.credential(self.name)
        self.overlay = Overlay(self.standing, self.mesh.dial)
        self.pool = Pool(self.overlay, self.mesh.clock, lambda: self.credential.chain)
        self.carrier = carrier(self.scene, self.log)
        self.agent = AgentSide(self, self.carrier, self.pool, self.sessions, self.kernel, LocalTls(self))
        self.tool = ToolSide(self, self.carrier, self._note)

    @property
    def id(self) -> SpiffeId:
        return self.credential.id

    @property
    def trust_domain(self) -> str:
        return self.id.trust_domain

    @property
    def own_not_after(self) -> Wall:
        return self.identity.not_after

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", 1 + NODES.index(self.name))

    def lineage(self) -> str:
        return self.identity.lineage

    def standing(self) -> Standing:
        snapshot = self.scene.snapshot()
        return Standing(
            credential=self.credential,
            bundle=self.mesh.ca.bundle,
            now=self.mesh.clock.wall(),
            is_member=lambda identity: is_member_identity(identity, snapshot),
        )

    def uid_of(self, agent: str) -> int | None:
        return self.uids.get(agent, self.uid)

    def addresses_of(self, node: str) -> Iterable[Address]:
        return [self.mesh.nodes[node].address] if node in self.mesh.nodes else []

    async def take(self, transport: trio.abc.Stream) -> None:
        """Serve a connection as a daemon would, errors noted."""
        try:
            connection = await self.overlay.accept(transport)
            self.connections.append(connection)
            if self.hangs_up:
                await connection.frames.receive()
                await connection.aclose()
            else:
                await self.tool.serve(connection)
        except (LockgateError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.faults.append(error)

    def _note(self, cause: str, why: str) -> None:
        self.refusals.append(f"{cause}: {why}")


@asynccontextmanager
async def inner_mesh() -> AsyncIterator["InnerMesh"]:
    """A mesh that serves until the end of the block."""
    async with trio.open_nursery() as nursery:
        mesh = InnerMesh(nursery)
        await mesh.start()
        try:
            yield mesh
        finally:
            mesh.close()
        nursery.cancel_scope.cancel()


class InnerMesh:
    """agents-1, tools-1 and tools-2, one session, and one loopback target beside all of them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.clock = LoopClock(STARTED)
        self.ca: TinyCa = tiny_ca(at=Wall(STARTED - MINUTE))
        self.nodes: dict[str, InnerNode] = {}
        self.target_port = 0
        self.at_target: list[trio.SocketStream] = []
        """Streams that reached the target."""
        self._nursery = nursery
        self._open: list[trio.SocketStream] = []

    def close(self) -> None:
        """What tests left open."""
        for stream in self._open:
            stream.socket.close()

    async def start(self) -> None:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.target_port = listener.socket.getsockname()[1]
        self._nursery.start_soon(trio.serve_listeners, self._echo, [listener])
        for name in NODES:
            scene = Scene(clock=self.clock, policy=policy(self.target_port))
            self.nodes[name] = InnerNode(name, self, scene)
        self.session = self.start_session()

    @property
    def agents(self) -> InnerNode:
        return self.nodes["agents-1"]

    @property
    def tools(self) -> InnerNode:
        return self.nodes["tools-1"]

    def credential(self, node: str, lifetime: int = 24 * HOUR) -> tuple[Credential, Identity]:
        key = new_key()
        name = self.ca.node(node)
        chain = self.ca.issue(name, key, lifetime=lifetime)
        return Credential(name, chain, key), self.judged(chain)

    def start_session(
        self, session: str = SESSION, node: str = "agents-1", lifetime: int = HOUR, *, known: bool = True
    ) -> Session:
        """A session of the agent, and unless told otherwise its node knows it."""
        key = new_key()
        chain = self.ca.issue(self.ca.agent("researcher", node, session), key, lifetime=lifetime)
        made = Session(identity=self.judged(chain), key=key, uid=UID, started=self.clock.wall(), trace=TRACE)
        if known:
            self.nodes[node].sessions.add(made)
        return made

    def start_child(self, left: Narrowing) -> Session:
        """A child of the session with the rights in ``left``. Local callers are that child from now on."""
        step = narrowing.make(self.session.name, left, bytes(16))
        found = narrowing.read([step], self.session.name)
        cgroup = SessionCgroup(found.children[-1], Path("/nowhere"), CHILD_CGROUP)
        child = Child(self.session.name, (step,), found, self.clock.wall(), TRACE, cgroup)
        self.agents.sessions.add_child(child)
        self.agents.sessions.claimed |= {CHILD_CGROUP}
        self.agents.kernel.owner = SocketOwner(ESTABLISHED, UID, 7, CHILD_CGROUP)
        return self.session.narrowed(child)

    def renewed(self, old: Identity, lifetime: int) -> tuple[Identity, Key]:
        """The next certificate of a node or session."""
        key = new_key()
        plan = svid.LeafPlan(
            id=old.id,
            key=key.public_key(),
            serial=new_serial(),
            at=self.ca.at,
            lifetime=lifetime,
            lineage=old.lineage,
        )
        return self.judged((svid.leaf(plan, self.ca.issuer), self.ca.issuer.certificate)), key

    async def renew_session(self, lifetime: int) -> Session:
        """What agents-1 does with the next certificate of its session."""
        identity, key = self.renewed(self.session.identity, lifetime)
        self.session = replace(self.session, identity=identity, key=key)
        self.agents.sessions.add(self.session)
        await self._show(self.agents, self.session)
        return self.session

    async def renew_node(self, node: InnerNode, lifetime: int) -> None:
        node.identity, key = self.renewed(node.identity, lifetime)
        node.credential = Credential(node.id, node.identity.chain, key)
        await self._show(node, node.credential)

    async def _show(self, node: InnerNode, renewed: Session | Credential) -> None:
        for _, arrival in list(node.carrier.arrivals.values()):
            await arrival.show(renewed)
        node.carrier.refresh()

    def judged(self, chain: tuple[bytes, ...]) -> Identity:
        found = verify(chain, self.ca.bundle, self.ca.at)
        assert isinstance(found, Identity)
        return found

    async def dial(self, address: Address) -> trio.abc.Stream:
        """The seam of every overlay here."""
        node = next(one for one in self.nodes.values() if one.address == address)
        if node.down:
            raise UnreachableError(f"{address}: refused")
        near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in _socket_pair())
        self._open += (near, far)
        self._nursery.start_soon(node.take, far)
        return near

    async def connection(self, role: Role = "stream") -> Connection:
        """From agents-1 to tools-1, outside of any pool: for tests that speak frames themselves."""
        return await self.agents.overlay.dial(self.tools.address, self.tools.id, role)

    async def call(
        self, service: str = "wiki", node: str = "agents-1", binding: Binding | None = None
    ) -> trio.SocketStream:
        """A local caller's connection to the binding of ``service``, already handed to the agent's side."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            client = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
            accepted = await listener.accept()
        self._open += (client, accepted)
        binding = binding or Binding(agent="researcher", service=service, port=15001, line=0)
        self._nursery.start_soon(self.nodes[node].agent.serve, accepted, binding)
        return client

    async def ask(self, text: bytes = b"hello", service: str = "wiki", node: str = "agents-1") -> bytes:
        """What the target answers to ``text``, over a stream of its own; raises BrokenResourceError where it is cut."""
        client = await self.call(service, node)
        async with client:
            await client.send_all(text)
            await client.send_eof()
            return b"".join([bytes(data) async for data in client])

    async def _echo(self, stream: trio.SocketStream) -> None:
        self.at_target.append(stream)
        try:
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


def another(number: int) -> str:
    """Ids of more sessions."""
    return new_id(bytes([number]) * 16)


def _socket_pair() -> tuple[socket.socket, socket.socket]:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    return near, far
