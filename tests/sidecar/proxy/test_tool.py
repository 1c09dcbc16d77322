from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.fields import Wire
from pki.framing import Frame
from pki.ids import new_id
from sidecar import wire
from sidecar.audit.record import Kind
from sidecar.defaults import CONNECTION_PROOFS
from sidecar.overlay import Connection
from sidecar.proxy import proof
from sidecar.proxy.pool import MAX_IDLE
from sidecar.proxy.tool import IDLE_SECONDS
from sidecar.reasons import Reason
from sidecar.session.sessions import Session
from sidecar.wire import FrameType
from tests.datapath import LOCK, apply
from tests.nodes import InnerMesh, another, inner_mesh


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


# -- What a well-behaved opener gets


async def test_a_proven_session_may_open(mesh: InnerMesh) -> None:
    """PROVE, OPEN, ACCEPTED; then the bytes are the tool's."""
    peer = await opener(mesh)
    await peer.frames.send(*prove(peer, mesh.session))
    await peer.frames.send(*opening(0, mesh.session))
    assert await answer(peer) == wire.Accepted(ordinal=0)
    await peer.frames.send(FrameType.DATA, b"ping")
    assert await peer.frames.receive() == Frame(FrameType.DATA, b"ping")


async def test_a_refusal_names_its_reason_and_the_connection_goes_on(mesh: InnerMesh) -> None:
    """REFUSED carries reason, rule and hint; the next OPEN on the connection is judged anew."""
    mesh.tools.scene.lock()
    peer = await opener(mesh)
    await peer.frames.send(*prove(peer, mesh.session))
    await peer.frames.send(*opening(0, mesh.session))
    refused = await answer(peer)
    assert isinstance(refused, wire.Refused)
    assert (refused.ordinal, refused.reason, refused.rule) == (0, Reason.LOCKED, LOCK)
    assert refused.hint
    mesh.tools.scene.restrictions = mesh.agents.scene.restrictions
    await peer.frames.send(*opening(1, mesh.session))
    assert await answer(peer) == wire.Accepted(ordinal=1)


async def test_a_live_stream_that_is_cut_hears_why(mesh: InnerMesh) -> None:
    """RESET with the reason, and then the connection is closed."""
    peer = await open_stream(mesh)
    mesh.tools.scene.lock()
    apply(mesh.tools.carrier, mesh.tools.scene)
    assert await answer(peer) == wire.Reset(reason="locked")
    assert await hung_up(peer)


async def test_an_opener_that_ends_in_the_middle_is_recorded(
    mesh: InnerMesh, autojump_clock: MockClock
) -> None:
    """A peer that vanishes leaves one cut record, peer_unreachable, and the target is reset."""
    peer = await open_stream(mesh)
    await peer.aclose()
    await mesh.tools.carrier.until_gone(mesh.tools.carrier.table)
    assert mesh.tools.log.end.fields["reason"] == Reason.PEER_UNREACHABLE


async def test_an_opener_that_says_its_caller_left_closes_the_stream(mesh: InnerMesh) -> None:
    """RESET without a reason: nobody cut it."""
    peer = await open_stream(mesh)
    await peer.frames.send(*wire.encode(wire.Reset(reason="")))
    assert await hung_up(peer)
    assert mesh.tools.log.end.kind is Kind.CLOSED


async def test_a_reset_of_a_stream_that_was_whole_here_is_nobodys_fault(mesh: InnerMesh) -> None:
    """Cut there in the moment in which it ended here: the connection ends, and nothing is counted against the peer."""
    peer = await open_stream(mesh)
    await peer.frames.send(FrameType.END)
    assert await peer.frames.receive() == Frame(FrameType.END, b"")
    await peer.frames.send(*wire.encode(wire.Reset(reason="locked")))
    assert await hung_up(peer)
    assert mesh.tools.log.end.kind is Kind.CLOSED
    assert mesh.tools.faults == []


async def test_an_idle_connection_may_end_in_any_way(mesh: InnerMesh) -> None:
    """A peer that retires a connection, or dies, breaks no stream and no rule."""
    peer = await opener(mesh)
    await peer.aclose()
    await trio.testing.wait_all_tasks_blocked(0.001)
    assert mesh.tools.faults == []


# -- What others get


async def test_an_open_without_a_proof_ends_the_connection(mesh: InnerMesh) -> None:
    """Nobody speaks for a session without its key: on record as bad_proof, counted, nothing dialled."""
    peer = await opener(mesh)
    await peer.frames.send(*opening(0, mesh.session))
    assert await hung_up(peer)
    assert [one.fields["reason"] for one in mesh.tools.log.records] == [Reason.BAD_PROOF]
    assert mesh.tools.refusals
    assert mesh.at_target == []


async def test_a_proof_of_another_connection_is_refused(mesh: InnerMesh) -> None:
    """A captured proof is worthless on any other connection."""
    first, second = await opener(mesh), await opener(mesh)
    await second.frames.send(*prove(first, mesh.session))
    assert await hung_up(second)
    assert mesh.tools.log.records[0].fields["reason"] == Reason.BAD_PROOF


async def test_a_node_cannot_prove_a_session_of_another_node(mesh: InnerMesh) -> None:
    """Not even with its key in hand."""
    elsewhere = mesh.start_session(another(3), node="tools-2", known=False)
    peer = await opener(mesh)
    await peer.frames.send(*prove(peer, elsewhere))
    assert await hung_up(peer)
    assert mesh.tools.log.records[0].fields["reason"] == Reason.BAD_PROOF


async def test_a_proof_for_one_session_opens_for_no_other(mesh: InnerMesh) -> None:
    """Each session stands behind its own proof."""
    other = mesh.start_session(another(3), known=False)
    peer = await opener(mesh)
    await peer.frames.send(*prove(peer, mesh.session))
    await peer.frames.send(*opening(0, other))
    assert await hung_up(peer)


@pytest.mark.parametrize(
    "frame",
    [
        (FrameType.PROVE, b"\xc1"),
        (FrameType.OPEN, b"\x80"),
        (FrameType.DATA, b"ahead of time"),
        (FrameType.END, b""),
        (FrameType.ACCEPTED, b"\x81\xa7ordinal\x00"),
    ],
    ids=["bad proof", "bad open", "data", "end", "an answer"],
)
async def test_what_does_not_belong_between_streams_ends_the_connection(
    frame: tuple[int, bytes], mesh: InnerMesh
) -> None:
    """A peer that breaks the protocol is hung up on, at once."""
    peer = await opener(mesh)
    await peer.frames.send(*frame)
    assert await hung_up(peer)
    assert mesh.tools.faults
    assert len(mesh.tools.carrier.table) == 0


@pytest.mark.parametrize("ordinal", [1, 7])
async def test_ordinals_rise_by_one(ordinal: int, mesh: InnerMesh) -> None:
    """An OPEN out of turn is a replay or a bug."""
    peer = await opener(mesh)
    await peer.frames.send(*prove(peer, mesh.session))
    await peer.frames.send(*opening(ordinal, mesh.session))
    assert await hung_up(peer)


async def test_proofs_on_a_connection_are_counted(mesh: InnerMesh) -> None:
    """Each costs us a signature and two chains, so there is an end to them."""
    peer = await opener(mesh)
    frame = prove(peer, mesh.session)
    await peer.frames.send_many([frame] * CONNECTION_PROOFS)
    await peer.frames.send(*opening(0, mesh.session))
    assert await answer(peer) == wire.Accepted(ordinal=0)
    other = await opener(mesh)
    await other.frames.send_many([prove(other, mesh.session)] * (CONNECTION_PROOFS + 1))
    assert await hung_up(other)


async def test_a_connection_that_asks_for_nothing_is_swept_up(
    mesh: InnerMesh, autojump_clock: MockClock
) -> None:
    """Its opener would have retired it long ago."""
    peer = await opener(mesh)
    started = trio.current_time()
    assert await hung_up(peer)
    assert trio.current_time() - started >= IDLE_SECONDS


async def test_a_revoked_peer_loses_its_connections(mesh: InnerMesh) -> None:
    """Idle ones too: it has no business here any more."""
    peer = await opener(mesh)
    await mesh.tools.tool.drop_strangers()
    mesh.tools.scene.revoke("node", "agents-1")
    await mesh.tools.tool.drop_strangers()
    assert await hung_up(peer)


async def test_a_peer_that_was_revoked_during_its_handshake_is_not_served(
    mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between handshake and serving a revocation finds nothing to close, so membership is asked once more."""
    serve = mesh.tools.tool.serve

    async def late(connection: Connection) -> None:
        mesh.tools.scene.revoke("node", "agents-1")
        await serve(connection)

    monkeypatch.setattr(mesh.tools.tool, "serve", late)
    peer = await opener(mesh)
    assert await hung_up(peer)
    assert "revoked" in str(mesh.tools.faults[0])


async def test_a_peer_holds_no_more_connections_than_streams_could_need(mesh: InnerMesh) -> None:
    """A rogue node must not use up our descriptors."""
    mesh.tools.carrier.max_streams = 1 - MAX_IDLE
    first, second = await opener(mesh), await opener(mesh)
    assert await hung_up(second)
    await first.frames.send(*prove(first, mesh.session))
    await first.aclose()
    await trio.testing.wait_all_tasks_blocked(0.01)
    third = await opener(mesh)
    await third.frames.send(*prove(third, mesh.session))
    assert not mesh.tools.refusals


# -- Scripts


async def opener(mesh: InnerMesh) -> Connection:
    return await mesh.connection()


async def open_stream(mesh: InnerMesh) -> Connection:
    peer = await opener(mesh)
    await peer.frames.send_many([prove(peer, mesh.session), opening(0, mesh.session)])
    assert await answer(peer) == wire.Accepted(ordinal=0)
    return peer


def prove(peer: Connection, session: Session) -> tuple[int, bytes]:
    exporter = peer.exporter(proof.EXPORTER_LABEL)
    return wire.encode(proof.prove(session.key, session.identity.chain, exporter))


def opening(ordinal: int, session: Session) -> tuple[int, bytes]:
    stream = new_id(ordinal.to_bytes(16))
    return wire.encode(wire.Open(ordinal=ordinal, stream=stream, session=session.id.session, service="wiki"))


async def answer(peer: Connection) -> Wire:
    frame = await peer.frames.receive()
    assert frame is not None
    return wire.decode(frame.type, frame.body)


async def hung_up(peer: Connection) -> bool:
    """True once the tool's node has ended the connection, and come to rest."""
    with suppress(trio.BrokenResourceError):
        while await peer.frames.receive() is not None:
            pass
    await trio.testing.wait_all_tasks_blocked(0.001)
    return True
