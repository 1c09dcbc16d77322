"""The tool's side of a stream connection: proofs and opens from a peer node, and the dial of the fixed target."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol

import trio

from pki.clock import Wall
from pki.errors import RemoteError
from pki.framing import Frame
from pki.spki import spki
from sidecar import wire
from sidecar.audit import record
from sidecar.audit.record import Caller, Role, Ruling, Subject
from sidecar.defaults import CONNECTION_PROOFS
from sidecar.identity import Credential
from sidecar.overlay import Connection, Standing
from sidecar.policy.decide import Decision, Request
from sidecar.proxy import proof
from sidecar.proxy.carry import Carrier
from sidecar.proxy.conversation import converse
from sidecar.proxy.ends import close_hard, dial_target
from sidecar.proxy.framed import FramedStream
from sidecar.proxy.pool import MAX_IDLE
from sidecar.proxy.proof import Proven
from sidecar.proxy.splice import Gate
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.session.sessions import Session
from sidecar.wire import FrameType

IDLE_SECONDS = 3_900.0
"""A pooled connection lives an hour at most; its opener retires it, this only sweeps up after one that does not."""

MAX_WORDS = 500
"""Characters of a rule or hint that fit a REFUSED."""

ANSWER_SECONDS = 1.0
"""How long a refusal waits for a peer that does not read."""


@dataclass(eq=False)
class OpenArrival:
    """A stream that another node asks for."""

    connection: Connection
    ordinal: int
    proven: Proven
    """The session's or child's, newest proof."""
    request: Request
    subject: Subject
    carrier: Carrier
    node: "Node"
    caller: Caller | None = None
    near_fault: Reason | None = Reason.PEER_UNREACHABLE
    far_fault: Reason = Reason.TARGET_UNREACHABLE
    accepted: bool = False
    """Nothing but the answer may come before it: a proof that is due waits for :meth:`opened`."""
    refused: bool = False
    near: FramedStream = field(init=False)

    def __post_init__(self) -> None:
        self.near = FramedStream(self.connection)

    def current(self) -> Request:
        ends = (self.proven.identity.not_after, self.connection.identity.not_after, self.node.own_not_after)
        serials = (*self.proven.identity.serials, *self.connection.identity.serials, self.node.lineage())
        return replace(self.request, serials=serials, not_after=min(ends), issued=self.proven.identity.issued)

    async def show(self, renewed: Credential | Session) -> None:
        """To the node that opened the stream. Sessions are proven by that node, not to it."""
        if isinstance(renewed, Credential) and self.accepted:
            exporter = self.connection.exporter(proof.EXPORTER_LABEL)
            with _PEER_IS_GONE:
                await self.near.prove(proof.prove(renewed.key, renewed.chain, exporter, "node"))

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:  # noqa: ARG002 - the seam's
        policy = self.carrier.situation.sight().snapshot.policy
        return await dial_target(policy.services.get(self.request.service) if policy else None)

    async def opened(self) -> None:
        await self.connection.frames.send(*wire.encode(wire.Accepted(ordinal=self.ordinal)))
        self.accepted = True
        credential = self.node.standing().credential
        if spki(credential.key.public_key()) != self.connection.own_spki:
            await self.show(
                credential
            )  # Renewed since the handshake: the opener knows the old certificate only.

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:
        await converse(self.carrier, self, far, gate, live)

    async def refuse(self, decision: Decision) -> None:
        """REFUSED, after which the connection may carry the next stream. Unsaid, it is closed by :meth:`finish`."""
        answer = wire.Refused(
            ordinal=self.ordinal,
            reason=decision.reason or Reason.NO_GRANT,
            rule=decision.rule[:MAX_WORDS],
            hint=decision.hint[:MAX_WORDS],
        )
        with trio.move_on_after(ANSWER_SECONDS), _PEER_IS_GONE:
            await self.connection.frames.send(*wire.encode(answer))
            self.refused = True

    async def finish(
        self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None, *, clean: bool
    ) -> None:
        if far is not None:
            await (far.aclose() if clean else close_hard(far))
        if not self.refused and not self.near.whole:
            await self.near.reset(reason or "")


_PEER_IS_GONE = suppress(trio.BrokenResourceError, trio.ClosedResourceError)


class Node(Protocol):
    """What this side needs to know of the node it runs on."""

    @property
    def name(self) -> str: ...

    def standing(self) -> Standing: ...

    @property
    def own_not_after(self) -> Wall:
        """When this node's certificate expires."""

    def lineage(self) -> str:
        """The lineage serial of this node's certificate."""


@dataclass(eq=False, slots=True)
class _Proofs:
    """What a connection's peer has proven on it."""

    connection: Connection
    sessions: dict[str, Proven] = field(default_factory=dict)
    """Sessions and children, by the id that an OPEN names."""
    count: int = 0


class ToolSide:
    """Serves the stream connections on which peers open streams."""

    def __init__(self, node: Node, carrier: Carrier, on_refusal: Callable[[str, str], object]) -> None:
        self._node = node
        self._carrier = carrier
        self._on_refusal = on_refusal
        self._connections: set[Connection] = set()
        self._by_peer: Counter[str] = Counter()

    async def serve(self, connection: Connection) -> None:
        """Serve one connection to its end: any number of streams, one after the other.

        Raises RemoteError when the peer breaks the protocol, or what Trio raises when the connection breaks.
        """
        peer = connection.peer.name
        self._connections.add(connection)
        self._by_peer[peer] += 1
        try:
            self._require_room(connection)
            await self._serve_all(connection)
        finally:
            self._connections.discard(connection)
            self._by_peer -= Counter({peer: 1})
            with trio.CancelScope(shield=True):
                await connection.aclose()

    async def drop_strangers(self) -> None:
        """Close the connections of peers that are no members any more; their streams were cut before."""
        is_member = self._node.standing().is_member
        for connection in [one for one in self._connections if not is_member(one.identity)]:
            await connection.aclose()

    def _require_room(self, connection: Connection) -> None:
        # Asked again now that a revocation would find it: one that came since the handshake did not.
        if not self._node.standing().is_member(connection.identity):
            raise RemoteError("not in the roster any more, or revoked")
        # A peer needs one connection for each of its streams. More would only hold our descriptors.
        if self._by_peer[connection.peer.name] > self._carrier.max_streams + MAX_IDLE:
            raise RemoteError("more connections than streams could need")

    async def _serve_all(self, connection: Connection) -> None:
        proofs = _Proofs(connection)
        ordinal = 0
        connection.frames.limits = wire.IDLE_LIMITS
        while (frame := await _next_frame(connection)) is not None:
            if frame.type == FrameType.PROVE:
                self._take_proof(proofs, frame.body)
            elif frame.type == FrameType.OPEN:
                opening = wire.decode_as(wire.Open, frame.body, FrameType.OPEN)
                if opening.ordinal != ordinal:
                    raise RemoteError(f"OPEN {opening.ordinal}, {ordinal} is next")
                if self._carrier.table.find(opening.stream) is not None:
                    # Two streams under one id would have one record of their end between them.
                    raise RemoteError(f"OPEN of stream {opening.stream}, which is live")
                ordinal += 1
                connection.frames.limits = wire.STREAM_LIMITS
                if not await self._serve_open(proofs, opening):
                    return
                connection.frames.limits = wire.IDLE_LIMITS
            elif frame.type == FrameType.RESET and ordinal:
                return  # Of a stream that was cut there when it was whole here already.
            else:
                raise RemoteError(f"frame type {frame.type} does not belong between streams")

    def _take_proof(self, proofs: _Proofs, body: bytes) -> None:
        """A session, or the peer's own next certificate."""
        proofs.count += 1
        if proofs.count > CONNECTION_PROOFS:  # Each costs a signature and two chains.
            raise RemoteError(f"more than {CONNECTION_PROOFS} PROVEs on one connection")
        proven = self._check_proof(proofs.connection, body)
        if proven.identity.id == proofs.connection.peer:
            proofs.connection.identity = proven.identity
        else:
            proofs.sessions[proven.name] = proven

    def _check_proof(self, connection: Connection, body: bytes) -> Proven:
        standing = self._node.standing()
        try:
            prove = wire.decode_as(wire.Prove, body, FrameType.PROVE)
            exporter = connection.exporter(proof.EXPORTER_LABEL)
            return proof.check(prove, exporter, connection.identity, standing.bundle, standing.now)
        except RemoteError as error:
            self._record_bad_proof(connection, str(error), standing.now)
            raise

    def _record_bad_proof(self, connection: Connection, why: str, at: Wall) -> None:
        subject = Subject(stream="", role=Role.TOOL, peer=connection.peer.name)
        ruling = Ruling(verdict="deny", reason=Reason.BAD_PROOF, hint=why[:500])
        self._carrier.audit.append(record.denied(at, subject, ruling))
        self._on_refusal(Reason.BAD_PROOF, why)

    async def _serve_open(self, proofs: _Proofs, opening: wire.Open) -> bool:
        """One stream; whether the connection may carry the next."""
        connection, proven = proofs.connection, proofs.sessions.get(opening.session)
        if proven is None:
            self._record_bad_proof(
                connection, f"OPEN for session {opening.session} without a PROVE", self._node.standing().now
            )
            raise RemoteError("OPEN without a PROVE")
        arrival = OpenArrival(
            connection=connection,
            ordinal=opening.ordinal,
            proven=proven,
            request=self._request(connection, opening, proven),
            subject=self._subject(connection, opening, proven),
            carrier=self._carrier,
            node=self._node,
        )

        def proved_again(body: bytes) -> None:
            self._take_proof(proofs, body)
            arrival.proven = proofs.sessions[opening.session]
            self._carrier.refresh()

        connection.on_prove = proved_again
        try:
            await self._carrier.carry(arrival)
        finally:
            connection.on_prove = None
        return arrival.refused or arrival.near.whole

    def _request(self, connection: Connection, opening: wire.Open, proven: Proven) -> Request:
        identity = proven.identity
        return Request(
            session=identity.id,
            service=opening.service,
            tool_node=self._node.name,
            serials=(*identity.serials, *connection.identity.serials, self._node.lineage()),
            not_after=min(identity.not_after, connection.identity.not_after, self._node.own_not_after),
            narrowing=proven.narrowing,
            issued=identity.issued,
        )

    def _subject(self, connection: Connection, opening: wire.Open, proven: Proven) -> Subject:
        policy = self._carrier.situation.sight().snapshot.policy
        service = policy.services.get(opening.service) if policy else None
        return Subject(
            stream=opening.stream,
            role=Role.TOOL,
            session=proven.name,
            parents=proven.parents,
            agent=proven.identity.id.name,
            on_behalf_of=proven.identity.on_behalf_of,
            service=opening.service,
            segment=service.segment.name if service else "",
            peer=connection.peer.name,
            trace=opening.traceparent,
        )


async def _next_frame(connection: Connection) -> Frame | None:
    """The next frame between streams; None when the peer left, or asked for nothing for too long.

    How it left does not matter here: no stream is cut short by it.
    """
    with trio.move_on_after(IDLE_SECONDS), _PEER_IS_GONE:
        return await connection.frames.receive()
    return None
