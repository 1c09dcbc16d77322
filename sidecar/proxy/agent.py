"""The agent's side of a stream: a local connection on a binding, attributed, then opened on the tool's node."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from pki.clock import Wall
from pki.errors import LocalError, LockgateError
from pki.ids import ID_BYTES, new_id
from pki.verify import Rejected, Rule, verify
from sidecar.address import Address
from sidecar.audit import record
from sidecar.audit.record import Caller, Role, Ruling, Subject
from sidecar.identity import Credential
from sidecar.net import tune
from sidecar.overlay import Standing
from sidecar.policy.decide import MAX_HINT_CHARS, Decision, Request, decide
from sidecar.policy.model import Binding, Callers, Service
from sidecar.proxy.attribute import Method, Refused, SocketOwner, attribute
from sidecar.proxy.callers import Over
from sidecar.proxy.carry import Carrier
from sidecar.proxy.conversation import converse, refuse
from sidecar.proxy.ends import close_hard, dial_target
from sidecar.proxy.local_certificate import Pin
from sidecar.proxy.local_tls import LocalTls
from sidecar.proxy.pool import Pool
from sidecar.proxy.remote import RemoteArrival
from sidecar.proxy.sockdiag import Connection as KernelConnection
from sidecar.proxy.splice import Gate
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.session.sessions import Session, Sessions
from sidecar.snapshot import nodes_of, stands_beside
from sidecar.traceparent import SPAN_ENTROPY, child


class Kernel(Protocol):
    """Who is at the other end of an accepted connection (:class:`sidecar.proxy.sockdiag.SockDiag`)."""

    def caller_of(self, accepted: KernelConnection) -> SocketOwner | None: ...


class Node(Protocol):
    """What this side needs to know of the node it runs on."""

    @property
    def name(self) -> str: ...

    @property
    def trust_domain(self) -> str: ...

    @property
    def own_not_after(self) -> Wall:
        """When this node's certificate expires."""

    def lineage(self) -> str: ...

    def standing(self) -> Standing: ...

    def uid_of(self, agent: str) -> int | None:
        """The uid that the agent runs as here; None when there is no such user."""

    def addresses_of(self, node: str) -> Iterable[Address]: ...


@dataclass(eq=False)
class LocalArrival:
    """A stream to a tool beside this very node: the same steps without TLS; attribution stands for the proof."""

    near: trio.abc.HalfCloseableStream
    request: Request
    subject: Subject
    caller: Caller | None
    service: Service
    session: Session
    side: "AgentSide"
    near_fault: Reason | None = None
    far_fault: Reason = Reason.TARGET_UNREACHABLE

    def current(self) -> Request:
        side = self.side
        return replace(
            self.request,
            serials=side.serials(self.session),
            not_after=side.not_after(self.session),
            issued=side.issued(self.session),
        )

    async def show(self, renewed: Credential | Session) -> None:
        """No other node relies on it."""

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:  # noqa: ARG002 - the seam's
        return await dial_target(self.service)

    async def opened(self) -> None:
        """The caller is connected to us already."""

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:
        await converse(self.side.carrier, self, far, gate, live)

    async def refuse(self, decision: Decision) -> None:
        await refuse(self.side.carrier, self.request.service, self.near, decision)

    async def finish(
        self,
        far: trio.abc.HalfCloseableStream | None,
        reason: Reason | None,  # noqa: ARG002 - the seam's
        *,
        clean: bool,
    ) -> None:
        for end in (far, self.near):
            if end is not None:
                await (end.aclose() if clean else close_hard(end))


@dataclass(frozen=True, slots=True)
class AgentSide:
    """Takes local connections on bindings."""

    node: Node
    carrier: Carrier
    pool: Pool
    sessions: Sessions
    kernel: Kernel
    local_tls: LocalTls

    async def serve(self, client: trio.SocketStream, binding: Binding) -> None:
        """One local connection, from accept to end."""
        tune(client)
        near, found = await self._identify(client, binding)
        if isinstance(found, Refused):
            caller = Caller(binding.callers, found.uid, over=Over.of(client.socket))
            await self._refuse(near, self._subject(binding, None), caller, _denial(found, binding))
            return
        session, caller = found
        self.sessions.used(session.id.session, self.carrier.clock.boot())
        arrival = self._arrival(near, binding, session, caller)
        unfit = self._judge_chains(session) if isinstance(arrival, LocalArrival) else None
        if unfit is None:
            await self.carrier.carry(arrival)
        else:
            await self._refuse(near, arrival.subject, caller, unfit)

    def not_after(self, session: Session) -> Wall:
        """The earliest end of the certificates under a stream of ``session`` on this side, as of now."""
        newest = self.sessions.find(session.id.session) or session
        return min(newest.identity.not_after, self.node.own_not_after)

    def expected(self, session: Session, service: str = "") -> Request:
        """What ``session`` asks for when it opens a stream to ``service`` beside this node."""
        return Request(
            session=session.id,
            service=service,
            tool_node=self.node.name,
            serials=self.serials(session),
            not_after=self.not_after(session),
            narrowing=session.narrowing,
            issued=self.issued(session),
        )

    def issued(self, session: Session) -> Wall:
        """When the newest certificate of ``session`` was issued."""
        return (self.sessions.find(session.id.session) or session).identity.issued

    def serials(self, session: Session) -> tuple[str, ...]:
        """Of the certificates under a stream of ``session`` on this side, as of now."""
        newest = self.sessions.find(session.id.session) or session
        return (*newest.identity.serials, self.node.lineage())

    async def _identify(
        self, client: trio.SocketStream, binding: Binding
    ) -> tuple[trio.abc.HalfCloseableStream, tuple[Session, Caller] | Refused]:
        """Who calls, as the binding wants it known, and the stream to talk to him on."""
        if binding.callers is Callers.KERNEL:
            return client, self._attribute(client, binding)
        # Before the handshake, which takes a live process: one that is gone by then has shown nothing.
        try:
            inside = self._inside(client)
        except LocalError as error:
            return client, Refused(
                Reason.WRONG_CALLER, None, f"where the caller runs cannot be told ({error})"
            )
        try:
            proven = await self.local_tls.accept(client, binding)
        except LockgateError as error:
            return client, Refused(Reason.BAD_PROOF, None, str(error))
        found = self._pinned(proven.pin, binding, Over.of(client.socket))
        # Sessions of one user can read each other's files, and a child its parent's.
        if inside is not None and proven.pin.session != inside and not isinstance(found, Refused):
            hint = "the client certificate is another session's than the one that the caller runs in"
            found = Refused(Reason.WRONG_CALLER, None, hint)
        return proven.stream, found

    def _inside(self, client: trio.SocketStream) -> str | None:
        """The session or child in whose cgroup the caller is, empty for one that ended; None: in none.

        Raises LocalError where that cannot be told. Taken for none, a child that passes its socket on and dies, or has the
        kernel's answer fail, would be let in by its parent's certificate. Over TCP a caller that this kernel's table does
        not list is of elsewhere, in none; one that has left it since has no connection to use.
        """
        owner = self.kernel.caller_of(client.socket)
        if owner is None and Over.of(client.socket) is not Over.UNIX:
            return None
        if owner is None or owner.inode == 0:
            raise LocalError("it is gone")
        if owner.cgroup_id is None or owner.cgroup_id not in self.sessions.claimed:
            return None
        names = (one.name for one in self.sessions.everyone() if one.candidate.cgroup_id == owner.cgroup_id)
        return next(names, "")

    def _pinned(self, pin: Pin, binding: Binding, over: Over) -> tuple[Session, Caller] | Refused:
        """The session that a client certificate is for, if it is for this binding."""
        if (pin.agent, pin.service) != (binding.agent, binding.service):
            hint = f"the client certificate is for agent {pin.agent} to service {pin.service}"
            return Refused(Reason.WRONG_CALLER, None, hint)
        session = self.sessions.find(pin.session)
        if session is None or session.id.name != pin.agent:
            return Refused(Reason.NO_SESSION, None, "the session of the client certificate has ended")
        return session, Caller(Method.MTLS, None, over=over)

    def _attribute(self, client: trio.SocketStream, binding: Binding) -> tuple[Session, Caller] | Refused:
        uid = self.node.uid_of(binding.agent)
        try:
            owner = self.kernel.caller_of(client.socket)
        except LocalError:
            owner = None
        if uid is None:
            return Refused(Reason.WRONG_CALLER, owner.uid if owner else None)
        found = attribute(owner, self.sessions.of_agent(binding.agent), uid, self.sessions.claimed)
        if isinstance(found, Refused):
            return found
        session = self.sessions.find(found.session)
        if session is None:
            return Refused(Reason.NO_SESSION, found.uid)
        return session, Caller(found.method, found.uid, found.cgroup_id, Over.of(client.socket))

    def _judge_chains(self, session: Session) -> Ruling | None:
        """No TLS and no PROVE tell on this node, so the chains under the stream are judged here, as a peer would."""
        standing = self.node.standing()
        for whose, chain in (("session", session.identity.chain), ("node", standing.credential.chain)):
            found = verify(chain, standing.bundle, standing.now)
            if isinstance(found, Rejected):
                late = found.rules == {Rule.EXPIRED}
                reason = Reason.EXPIRED if late else Reason.BAD_PROOF
                return Ruling(verdict="deny", reason=reason, hint=f"{whose}: {found}"[:MAX_HINT_CHARS])
        return None

    async def _refuse(
        self, near: trio.abc.HalfCloseableStream, subject: Subject, caller: Caller, ruling: Ruling
    ) -> None:
        """Before there is a request that could be decided."""
        self.carrier.audit.append(record.denied(self.carrier.clock.wall(), subject, ruling, caller))
        await close_hard(near)

    def _arrival(
        self, near: trio.abc.HalfCloseableStream, binding: Binding, session: Session, caller: Caller
    ) -> LocalArrival | RemoteArrival:
        service = self._service(binding)
        request = self.expected(session, binding.service)
        subject = self._subject(binding, session)
        roster = self.carrier.situation.sight().snapshot.roster
        if service is not None and stands_beside(service, self.node.name, roster):
            here = replace(subject, role=Role.BOTH)
            return LocalArrival(near, request, here, caller, service, session, self)
        nodes = self._nodes_for(service, request)
        first = nodes[0] if nodes else ""
        there = replace(request, tool_node=first or self.node.name)
        return RemoteArrival(near, there, replace(subject, peer=first), caller, session, self, nodes)

    def _subject(self, binding: Binding, session: Session | None) -> Subject:
        service = self._service(binding)
        return Subject(
            stream=new_id(secrets.token_bytes(ID_BYTES)),
            role=Role.AGENT,
            session=session.name if session else "",
            parents=session.parents if session else (),
            agent=binding.agent,
            on_behalf_of=session.on_behalf_of if session else "",
            service=binding.service,
            segment=service.segment.name if service else "",
            trace=child(session.trace, secrets.token_bytes(SPAN_ENTROPY)) if session else "",
        )

    def _service(self, binding: Binding) -> Service | None:
        policy = self.carrier.situation.sight().snapshot.policy
        return policy.services.get(binding.service) if policy else None

    def _nodes_for(self, service: Service | None, request: Request) -> tuple[str, ...]:
        """The service's nodes: those that may be asked now, and of these the one with fewest live streams first."""
        sight = self.carrier.situation.sight()
        nodes = nodes_of(service, sight.snapshot.roster) if service else frozenset()
        if len(nodes) < 2:
            return tuple(nodes)
        load = self.carrier.table.by_tool_node()
        refused = {
            node: not decide(replace(request, tool_node=node), sight.snapshot, sight.moment).allowed
            for node in nodes
        }
        ranked = sorted(nodes, key=lambda node: (refused[node], load[node], node))
        # All refused: the first says why.
        return tuple(node for node in ranked if not refused[node]) or tuple(ranked[:1])


def _denial(refused: Refused, binding: Binding) -> Ruling:
    return Ruling(verdict="deny", reason=refused.reason, hint=_caller_hint(refused, binding))


def _caller_hint(refused: Refused, binding: Binding) -> str:
    if refused.hint:
        return refused.hint[:MAX_HINT_CHARS]
    if refused.reason is Reason.WRONG_CALLER:
        return f"the caller does not run as agent {binding.agent}"
    if refused.reason is Reason.NO_SESSION:
        return f"no session of agent {binding.agent}; run: lockgate session start --agent {binding.agent}"
    return "several sessions have no cgroup and share this uid; run each by: lockgate session exec"
