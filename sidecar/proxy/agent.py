"""The agent's side of a stream: a local connection on a binding, attributed, then opened on the tool's node."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from pki.errors import LocalError, LockgateError, RemoteError
from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from sidecar import wire
from sidecar.address import Address
from sidecar.audit import record
from sidecar.audit.record import Caller, Role, Ruling, Subject
from sidecar.net import tune
from sidecar.policy.decide import Decision, Request
from sidecar.policy.model import Binding, Service
from sidecar.proxy import proof
from sidecar.proxy.attribute import Refused, SocketOwner, attribute
from sidecar.proxy.carry import Carrier, Ended, end_reason
from sidecar.proxy.ends import close_hard, dial_target
from sidecar.proxy.framed import FramedStream
from sidecar.proxy.pool import Pool, Pooled
from sidecar.proxy.sockdiag import Connection as KernelConnection
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.session.sessions import Session, Sessions
from sidecar.wire import FrameType

OPEN_SECONDS = 15.0
"""From OPEN to its answer: the tool's node may have to dial its target and sync its log first."""


class Kernel(Protocol):
    """Who is at the other end of an accepted connection (:class:`sidecar.proxy.sockdiag.SockDiag`)."""

    def caller_of(self, accepted: KernelConnection) -> SocketOwner | None: ...


class Node(Protocol):
    """What this side needs to know of the node it runs on."""

    @property
    def name(self) -> str: ...

    @property
    def trust_domain(self) -> str: ...

    def lineage(self) -> str: ...

    def uid_of(self, agent: str) -> int | None:
        """The uid that the agent runs as here; None when there is no such user."""

    def addresses_of(self, node: str) -> Iterable[Address]: ...


@dataclass(eq=False)
class LocalArrival:
    """A stream to a tool beside this very node: the same steps without TLS; attribution stands for the proof."""

    near: trio.SocketStream
    request: Request
    subject: Subject
    caller: Caller | None
    service: Service
    near_fault: Reason | None = None
    far_fault: Reason = Reason.TARGET_UNREACHABLE

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        return await dial_target(self.service)

    async def opened(self) -> None:
        """The caller is connected to us already."""

    async def refuse(self, decision: Decision) -> None:
        """A raw client has no place for words: it sees RST."""

    async def finish(self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None) -> None:
        close = close_hard if reason else trio.abc.AsyncResource.aclose
        for end in (far, self.near):
            if end is not None:
                await close(end)


@dataclass(eq=False)
class RemoteArrival:
    """A stream to a tool beside another node."""

    near: trio.SocketStream
    request: Request
    subject: Subject
    caller: Caller | None
    session: Session
    side: "AgentSide"
    nodes: tuple[str, ...]
    near_fault: Reason | None = None
    far_fault: Reason = Reason.PEER_UNREACHABLE
    pooled: Pooled | None = None

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        problem = Ended(Reason.PEER_UNREACHABLE, hint=f"no node of service {self.request.service} answers")
        for node in self.nodes:
            try:
                return await self._open_on(node, live)
            except LockgateError as error:
                problem = Ended(Reason.PEER_UNREACHABLE, hint=f"node {node}: {error}")
            except Ended as ended:
                # Fail over before ACCEPTED only, and only where another node may know better.
                if ended.reason not in (Reason.TARGET_UNREACHABLE, Reason.DRAINING, Reason.LIMIT):
                    raise
                problem = ended
        raise problem

    async def opened(self) -> None:
        """The caller is connected to us already."""

    async def refuse(self, decision: Decision) -> None:
        """A raw client has no place for words: it sees RST."""

    async def finish(self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None) -> None:
        framed = far if isinstance(far, FramedStream) else None
        if framed is not None and self.pooled is not None:
            if framed.whole:
                await self.side.pool.release(self.pooled)
            else:
                await framed.reset(reason or "")
        elif self.pooled is not None:
            await self.pooled.connection.aclose()
        clean = reason is None and framed is not None and framed.whole
        await (self.near.aclose() if clean else close_hard(self.near))

    async def _open_on(self, node: str, live: Live) -> FramedStream:
        peer = SpiffeId.for_node(self.side.node.trust_domain, node)
        addresses = tuple(self.side.node.addresses_of(node))
        pooled = await self.side.pool.take(peer, addresses)
        try:
            with trio.fail_after(OPEN_SECONDS):
                await self._open(pooled, live)
        except (trio.BrokenResourceError, trio.TooSlowError):
            await pooled.connection.aclose()
            raise RemoteError("it left before it answered") from None
        except Ended:
            await self.side.pool.release(pooled)
            raise
        except BaseException:
            await trio.aclose_forcefully(pooled.connection.tls)
            raise
        self.pooled = pooled
        return FramedStream(pooled.connection)

    async def _open(self, pooled: Pooled, live: Live) -> None:
        """PROVE (once per connection and session) and OPEN, in one write; returns once it is ACCEPTED."""
        connection = pooled.connection
        live.peer = connection.peer.name
        self.side.carrier.table.rebind(live, self._with_peer(pooled))
        frames = []
        name = self.session.id.session
        if name not in pooled.proven:
            exporter = connection.exporter(proof.EXPORTER_LABEL)
            frames.append(wire.encode(proof.prove(self.session.key, self.session.identity.chain, exporter)))
            pooled.proven.add(name)
        opening = wire.Open(
            ordinal=pooled.ordinal,
            stream=self.subject.stream,
            session=name,
            service=self.request.service,
            traceparent=self.subject.trace,
        )
        pooled.ordinal += 1
        await connection.frames.send_many([*frames, wire.encode(opening)])
        frame = await connection.frames.receive()
        if frame is None:
            raise trio.BrokenResourceError("the peer left")
        self._read_answer(frame.type, frame.body)

    def _read_answer(self, frame_type: int, body: bytes) -> None:
        if frame_type == FrameType.ACCEPTED:
            wire.decode_as(wire.Accepted, body, FrameType.ACCEPTED)
        elif frame_type == FrameType.REFUSED:
            refused = wire.decode_as(wire.Refused, body, FrameType.REFUSED)
            reason = end_reason(refused.reason) or Reason.BAD_REQUEST
            raise Ended(reason, refused.rule, refused.hint, by_peer=True)
        elif frame_type == FrameType.RESET:
            reset = wire.decode_as(wire.Reset, body, FrameType.RESET)
            raise Ended(end_reason(reset.reason) or Reason.BAD_REQUEST, by_peer=True)
        else:
            raise RemoteError(f"frame type {frame_type} does not answer an OPEN")

    def _with_peer(self, pooled: Pooled) -> Request:
        identity = pooled.connection.identity
        return replace(
            self.request,
            tool_node=identity.id.name,
            serials=(*self.request.serials, identity.lineage),
            not_after=min(self.request.not_after, identity.not_after),
        )


@dataclass(frozen=True, slots=True)
class AgentSide:
    """Takes local connections on bindings."""

    node: Node
    carrier: Carrier
    pool: Pool
    sessions: Sessions
    kernel: Kernel

    async def serve(self, client: trio.SocketStream, binding: Binding) -> None:
        """One local connection, from accept to end."""
        tune(client)
        stream = new_id(secrets.token_bytes(ID_BYTES))
        found = self._attribute(client, binding)
        if isinstance(found, Refused):
            await self._refuse(client, binding, stream, found)
            return
        session, caller = found
        await self.carrier.carry(self._arrival(client, binding, stream, session, caller))

    def _attribute(
        self, client: trio.SocketStream, binding: Binding
    ) -> tuple[Session, Caller] | Refused:
        uid = self.node.uid_of(binding.agent)
        try:
            owner = self.kernel.caller_of(client.socket)
        except LocalError:
            owner = None
        if uid is None:
            return Refused(Reason.WRONG_CALLER, owner.uid if owner else None)
        claimed = self.sessions.claimed_cgroups()
        found = attribute(owner, self.sessions.of_agent(binding.agent), uid, claimed)
        if isinstance(found, Refused):
            return found
        session = self.sessions.find(found.session)
        if session is None:
            return Refused(Reason.NO_SESSION, found.uid)
        return session, Caller(found.method, found.uid, found.cgroup_id)

    async def _refuse(
        self, client: trio.SocketStream, binding: Binding, stream: str, refused: Refused
    ) -> None:
        policy = self.carrier.situation.sight().snapshot.policy
        service = policy.services.get(binding.service) if policy else None
        subject = Subject(
            stream=stream,
            role=Role.AGENT,
            agent=binding.agent,
            service=binding.service,
            segment=service.segment.name if service else "",
        )
        ruling = Ruling(verdict="deny", reason=refused.reason, hint=_caller_hint(refused, binding))
        caller = Caller("kernel", refused.uid)
        self.carrier.audit.append(record.denied(self.carrier.clock.wall(), subject, ruling, caller))
        await close_hard(client)

    def _arrival(
        self, client: trio.SocketStream, binding: Binding, stream: str, session: Session, caller: Caller
    ) -> LocalArrival | RemoteArrival:
        policy = self.carrier.situation.sight().snapshot.policy
        service = policy.services.get(binding.service) if policy else None
        nodes = self._nodes_for(service)
        local = service is not None and self.node.name in service.nodes
        tool_node = self.node.name if local else nodes[0] if nodes else ""
        request = Request(
            session=session.id,
            service=binding.service,
            tool_node=tool_node,
            serials=(session.identity.lineage, self.node.lineage()),
            not_after=session.identity.not_after,
        )
        subject = Subject(
            stream=stream,
            role=Role.BOTH if local else Role.AGENT,
            session=session.id.session,
            agent=session.id.name,
            service=binding.service,
            segment=service.segment.name if service else "",
            peer="" if local else tool_node,
            trace=_traceparent(),
        )
        if local and service is not None:
            return LocalArrival(client, request, subject, caller, service)
        return RemoteArrival(client, request, subject, caller, session, self, nodes)

    def _nodes_for(self, service: Service | None) -> tuple[str, ...]:
        """The service's nodes, the one with fewest live streams first."""
        if service is None:
            return ()
        load = dict.fromkeys(service.nodes, 0)
        for live in self.carrier.table:
            if live.peer in load:
                load[live.peer] += 1
        return tuple(sorted(load, key=lambda node: (load[node], node)))


def _caller_hint(refused: Refused, binding: Binding) -> str:
    if refused.reason is Reason.WRONG_CALLER:
        return f"the caller does not run as agent {binding.agent}"
    if refused.reason is Reason.NO_SESSION:
        return f"no session of agent {binding.agent}; run: lockgate session start --agent {binding.agent}"
    return "several sessions have no cgroup and share this uid; run each by: lockgate session exec"


def _traceparent() -> str:
    """A new trace (W3C Trace Context, version 00, sampled)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
