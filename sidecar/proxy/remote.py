"""A stream on its way to another node: which of the service's nodes, on which connection, PROVE, OPEN and the answer.

TLS 1.3 clients "succeed" before the server has judged them, and a tool's node decides for itself: nothing counts as
open, and no byte of the agent leaves, before ACCEPTED. Until then another node of the service may be asked instead.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from pki.clock import Wall
from pki.errors import LockgateError, RemoteError
from pki.framing import Frame
from pki.spiffe import SpiffeId
from pki.spki import spki
from sidecar import wire
from sidecar.address import Address
from sidecar.audit.record import Caller, Subject
from sidecar.defaults import CONNECTION_PROOFS
from sidecar.identity import Credential
from sidecar.overlay import Standing
from sidecar.policy.decide import Decision, Request
from sidecar.proxy import proof
from sidecar.proxy.arrival import EndedError, end_reason
from sidecar.proxy.carry import Carrier
from sidecar.proxy.conversation import refuse
from sidecar.proxy.ends import close_hard
from sidecar.proxy.framed import FramedStream
from sidecar.proxy.pool import Pool, Pooled
from sidecar.proxy.splice import Gate, splice
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.session.sessions import Session, Sessions
from sidecar.wire import FrameType

OPEN_SECONDS = 15.0
"""From OPEN to its answer: the tool's node may have to dial its target and sync its log first."""


class Directory(Protocol):
    """Where the other nodes are."""

    @property
    def trust_domain(self) -> str: ...

    def addresses_of(self, node: str) -> Iterable[Address]: ...

    def standing(self) -> Standing: ...


class Side(Protocol):
    """What all streams that leave this node share."""

    @property
    def node(self) -> Directory: ...

    @property
    def carrier(self) -> Carrier: ...

    @property
    def pool(self) -> Pool: ...

    @property
    def sessions(self) -> Sessions: ...

    def not_after(self, session: Session) -> Wall: ...

    def issued(self, session: Session) -> Wall: ...

    def serials(self, session: Session) -> tuple[str, ...]: ...


@dataclass(eq=False)
class RemoteArrival:
    """A stream to a tool beside another node."""

    near: trio.abc.HalfCloseableStream
    request: Request
    subject: Subject
    caller: Caller | None
    session: Session
    side: Side
    nodes: tuple[str, ...]
    near_fault: Reason | None = None
    far_fault: Reason = Reason.PEER_UNREACHABLE
    pooled: Pooled | None = None
    live: Live | None = None
    far: FramedStream | None = None

    def current(self) -> Request:
        side = self.side
        here = replace(
            self.request,
            serials=side.serials(self.session),
            not_after=side.not_after(self.session),
            issued=side.issued(self.session),
        )
        return here if self.pooled is None else self._with_peer(self.pooled, here)

    async def show(self, renewed: Credential | Session) -> None:
        """By a PROVE in the middle of the stream. A peer that is gone needs no proof."""
        if self.far is None or self.pooled is None:
            return
        connection = self.pooled.connection
        exporter = connection.exporter(proof.EXPORTER_LABEL)
        if isinstance(renewed, Credential):
            prove = proof.prove(renewed.key, renewed.chain, exporter, "node")
        elif renewed.id == self.session.id:
            self.session = renewed.narrowed(self.session.child)
            self.pooled.proven[self.session.name] = renewed.identity.serial
            prove = _prove(self.session, exporter)
        else:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.far.prove(prove)

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        self.live = live
        problem = EndedError(
            Reason.PEER_UNREACHABLE, hint=f"no node of service {self.request.service} answers"
        )
        for node in self.nodes:
            try:
                self.pooled = await self._open_on(node, live)
            except LockgateError as error:
                problem = EndedError(Reason.PEER_UNREACHABLE, hint=f"node {node}: {error}")
            except EndedError as ended:
                # Fail over before ACCEPTED only, and only where another node may know better.
                if ended.reason not in (Reason.TARGET_UNREACHABLE, Reason.DRAINING, Reason.LIMIT):
                    raise
                problem = ended
            else:
                self.far = FramedStream(self.pooled.connection)
                self.pooled.connection.on_prove = self._peer_renewed
                self.side.carrier.table.rebind(live, self.current())
                await self._catch_up(self.pooled)
                return self.far
        raise problem

    async def opened(self) -> None:
        """The caller is connected to us already."""

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:  # noqa: ARG002 - the seam's
        """Bytes: only the tool's node reads requests."""
        await splice(self.near, far, gate)

    async def refuse(self, decision: Decision) -> None:
        await refuse(self.side.carrier, self.request.service, self.near, decision)

    async def finish(
        self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None, *, clean: bool
    ) -> None:
        if isinstance(far, FramedStream) and self.pooled is not None and self.live is not None:
            self.pooled.connection.on_prove = None
            if far.whole:
                self.pooled.carried += self.live.bytes_in + self.live.bytes_out
                await self.side.pool.release(self.pooled)
            else:
                await far.reset(reason or "")
        await (self.near.aclose() if clean else close_hard(self.near))

    async def _catch_up(self, pooled: Pooled) -> None:
        """Prove what was renewed while the stream was being opened, and could not be proven yet."""
        newest = self.side.sessions.find(self.session.name)
        if newest is not None and newest.identity.serial != self.session.identity.serial:
            await self.show(newest)
        credential = self.side.node.standing().credential
        if spki(credential.key.public_key()) != pooled.connection.own_spki:
            await self.show(credential)

    async def _open_on(self, node: str, live: Live) -> Pooled:
        peer = SpiffeId.for_node(self.side.node.trust_domain, node)
        addresses = tuple(self.side.node.addresses_of(node))
        pooled = await self.side.pool.take(peer, addresses)
        try:
            await self._ask(pooled, live)
        except _LeftError:
            if not pooled.has_waited:
                raise
            # A peer that was restarted, or was tired of waiting: a new connection tells.
            pooled = await self.side.pool.dial(peer, addresses)
            await self._ask(pooled, live)
        return pooled

    async def _ask(self, pooled: Pooled, live: Live) -> None:
        """Open the stream on ``pooled``, which is closed when that fails in any other way than REFUSED."""
        refusal = None
        try:
            with trio.fail_after(OPEN_SECONDS):
                refusal = await self._open(pooled, live)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await pooled.connection.aclose()
            raise _LeftError("it left before it answered") from None
        except trio.TooSlowError:
            await pooled.connection.aclose()
            raise RemoteError(f"no answer within {OPEN_SECONDS:.0f} s") from None
        except BaseException:
            await trio.aclose_forcefully(pooled.connection.tls)
            raise
        if refusal is not None:
            await self.side.pool.release(pooled)
            raise refusal

    async def _open(self, pooled: Pooled, live: Live) -> EndedError | None:
        """PROVE (once per connection and session) and OPEN, in one write; its REFUSED, None once it is ACCEPTED."""
        connection = pooled.connection
        live.peer = connection.peer.name
        carrier = self.side.carrier
        carrier.table.rebind(live, self._with_peer(pooled, self.request))
        carrier.judge(live)  # Now that the peer is known: it is not even asked when it is locked or revoked.
        if self.session.child is not None and wire.Feature.CHILDREN not in connection.features:
            return EndedError(Reason.BAD_PROOF, hint=f"node {live.peer}: its version knows no child sessions")
        frames = []
        name = self.session.name
        if pooled.proven.get(name) != self.session.identity.serial:
            exporter = connection.exporter(proof.EXPORTER_LABEL)
            frames.append(wire.encode(_prove(self.session, exporter)))
            pooled.proven[name] = self.session.identity.serial
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
        return _read_answer(frame, opening.ordinal)

    def _peer_renewed(self, body: bytes) -> None:
        """The tool's node proves its next certificate in the middle of a stream."""
        if self.pooled is None:
            return
        self.pooled.peer_proofs += 1
        if self.pooled.peer_proofs > CONNECTION_PROOFS:
            raise RemoteError(f"more than {CONNECTION_PROOFS} PROVEs on one connection")
        connection, standing = self.pooled.connection, self.side.node.standing()
        prove = wire.decode_as(wire.Prove, body, FrameType.PROVE)
        exporter = connection.exporter(proof.EXPORTER_LABEL)
        identity = proof.check(prove, exporter, connection.identity, standing.bundle, standing.now).identity
        if identity.id != connection.peer:
            raise RemoteError("PROVE: sessions are proven by the node that opens streams")
        connection.identity = identity
        self.side.carrier.refresh()

    def _with_peer(self, pooled: Pooled, request: Request) -> Request:
        identity = pooled.connection.identity
        return replace(
            request,
            tool_node=identity.id.name,
            serials=(*request.serials, *identity.serials),
            not_after=min(request.not_after, identity.not_after),
        )


def _prove(session: Session, exporter: bytes) -> wire.Prove:
    steps = session.child.steps if session.child else ()
    return proof.prove(session.key, session.identity.chain, exporter, steps=steps)


class _LeftError(RemoteError):
    """The peer closed the connection instead of answering."""


def _read_answer(frame: Frame, ordinal: int) -> EndedError | None:
    """What a peer answered an OPEN: None for yes, or its refusal; raises EndedError for a RESET, or RemoteError."""
    match frame.type:
        case FrameType.ACCEPTED:
            _require_ordinal(wire.decode_as(wire.Accepted, frame.body, FrameType.ACCEPTED).ordinal, ordinal)
            return None
        case FrameType.REFUSED:
            refused = wire.decode_as(wire.Refused, frame.body, FrameType.REFUSED)
            _require_ordinal(refused.ordinal, ordinal)
            reason = end_reason(refused.reason) or Reason.BAD_REQUEST
            return EndedError(reason, refused.rule, refused.hint, by_peer=True)
        case FrameType.RESET:
            reset = wire.decode_as(wire.Reset, frame.body, FrameType.RESET)
            raise EndedError(end_reason(reset.reason) or Reason.PEER_UNREACHABLE, by_peer=True)
        case _:
            raise RemoteError(f"frame type {frame.type} does not answer an OPEN")


def _require_ordinal(answered: int, asked: int) -> None:
    # An answer sent ahead of its question must not open the next stream.
    if answered != asked:
        raise RemoteError(f"an answer to OPEN {answered}, {asked} was asked")
