import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pki.clock import HOUR, Wall
from pki.fields import Wire
from sidecar import wire
from sidecar.audit.record import Kind
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy import proof
from sidecar.proxy.remote import OPEN_SECONDS
from sidecar.reasons import Reason
from tests.datapath import LOCK, apply
from tests.nodes import InnerMesh, InnerNode, another, inner_mesh


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


# -- A stream that goes well


async def test_bytes_reach_the_tool_on_the_other_node_and_come_back(mesh: InnerMesh) -> None:
    """Agent, its node, the tool's node, the tool, and back, with an end each way."""
    text = bytes(range(256)) * 4_000  # more than any frame or record holds
    assert await mesh.ask(text) == text


async def test_both_nodes_tell_the_same_stream(mesh: InnerMesh) -> None:
    """Stream id, trace, session and bytes agree, and each names the other as its peer."""
    await mesh.ask(b"hello")
    await settled(mesh)
    here, there = mesh.agents.log.end, mesh.tools.log.end
    for name in ("stream", "trace", "session", "service", "bytes_in", "bytes_out"):
        assert here.fields[name] == there.fields[name]
    assert (here.fields["peer"], there.fields["peer"]) == ("tools-1", "agents-1")
    for node in (mesh.agents, mesh.tools):
        assert node.log.kinds == [Kind.ADMITTED, Kind.OPENED, Kind.CLOSED]


async def test_streams_of_a_session_are_spans_of_its_trace(mesh: InnerMesh) -> None:
    """One trace for a session, another span for each stream."""
    await mesh.ask()
    await mesh.ask()
    first, second = (str(one.fields["trace"]).split("-") for one in mesh.agents.log.of(Kind.ADMITTED))
    assert first[1] == second[1] == mesh.session.trace.split("-")[1]
    assert first[2] != second[2]


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sessions whose proofs were checked, in order."""
    checked: list[str] = []
    check = proof.check

    def counting(*arguments: Any) -> proof.Proven:
        proven = check(*arguments)
        checked.append(proven.name)
        return proven

    monkeypatch.setattr(proof, "check", counting)
    return checked


async def test_the_next_stream_takes_the_same_connection(mesh: InnerMesh, proofs: list[str]) -> None:
    """The handshake and the proof are paid once."""
    for _ in range(3):
        await mesh.ask()
        await settled(mesh)
    assert (mesh.agents.pool.dialled, mesh.agents.pool.reused) == (1, 2)
    assert proofs == [mesh.session.id.session]


async def test_each_session_is_proven_once_on_a_connection(mesh: InnerMesh, proofs: list[str]) -> None:
    """Two sessions share a connection, each behind its own proof."""
    await mesh.ask()
    mesh.agents.sessions.remove(mesh.session.id.session)
    mesh.start_session(another(2))
    await mesh.ask()
    await mesh.ask()
    await settled(mesh)
    assert mesh.agents.pool.dialled == 1
    assert proofs == [mesh.session.id.session, another(2)]
    sessions = [one.fields["session"] for one in mesh.tools.log.of(Kind.CLOSED)]
    assert sessions == [mesh.session.id.session, another(2), another(2)]


async def test_no_byte_of_the_agent_leaves_before_the_stream_is_accepted(mesh: InnerMesh) -> None:
    """What the caller sent ahead waits here until the tool's node has decided."""
    mesh.tools.scene.lock()
    with pytest.raises(trio.BrokenResourceError):
        await mesh.ask(b"secret")
    assert mesh.at_target == []
    await settled(mesh)
    assert mesh.agents.log.end.fields["bytes_in"] == 0


# -- Refused, cut, broken


async def test_a_refusal_keeps_the_connection(mesh: InnerMesh) -> None:
    """The tool's node says no to one stream, and the connection carries the next."""
    mesh.tools.scene.lock()
    await cut_off(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.LOCKED
    assert mesh.agents.log.end.fields["rule"] == LOCK
    assert mesh.tools.log.kinds == [Kind.DENIED]
    mesh.tools.scene.restrictions = mesh.agents.scene.restrictions
    assert await mesh.ask(b"now") == b"now"
    assert (mesh.agents.pool.dialled, mesh.agents.pool.reused) == (1, 1)


@pytest.mark.parametrize("cutter", ["agents-1", "tools-1"])
async def test_a_cut_has_one_reason_on_both_nodes(cutter: str, mesh: InnerMesh) -> None:
    """Whichever node hears of the lock first, both record it as the reason, and the caller sees a reset."""
    client = await opened(mesh)
    node = mesh.nodes[cutter]
    node.scene.lock()
    assert apply(node.carrier, node.scene) == {LOCK: 1}
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await settled(mesh)
    assert [one.log.end.fields["reason"] for one in (mesh.agents, mesh.tools)] == [Reason.LOCKED] * 2


async def test_a_cut_ends_its_connection(mesh: InnerMesh) -> None:
    """Nobody knows what is still in flight on it: the next stream gets another."""
    client = await opened(mesh)
    mesh.tools.scene.lock()
    apply(mesh.tools.carrier, mesh.tools.scene)
    await client.aclose()
    await settled(mesh)
    mesh.tools.scene.restrictions = mesh.agents.scene.restrictions
    assert mesh.agents.pool.idle("tools-1") == 0
    assert await mesh.ask(b"again") == b"again"
    assert mesh.agents.pool.dialled == 2


async def test_a_target_that_resets_is_named_on_both_nodes(mesh: InnerMesh) -> None:
    """The tool broke, not the peer, and the caller sees a reset too."""
    client = await opened(mesh)
    [target] = mesh.at_target
    target.setsockopt(*NO_LINGER)
    await target.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await settled(mesh)
    for node in (mesh.agents, mesh.tools):
        assert node.log.end.fields["reason"] == Reason.TARGET_UNREACHABLE


async def test_a_caller_that_resets_closes_both_and_resets_the_target(mesh: InnerMesh) -> None:
    """Nobody cut it; but the tool must not take half a request for a whole one."""
    client = await opened(mesh)
    client.setsockopt(*NO_LINGER)
    await client.aclose()
    [target] = mesh.at_target
    await settled(mesh)
    for node in (mesh.agents, mesh.tools):
        assert node.log.end.kind is Kind.CLOSED
    # Its handler has met the reset, and closed.
    with pytest.raises(trio.ClosedResourceError):
        await target.send_all(b"anybody there?")


async def test_a_peer_that_vanishes_is_unreachable(mesh: InnerMesh, autojump_clock: MockClock) -> None:
    """No word within a second: peer_unreachable on the agent's node, and the caller was reset at once."""
    client = await opened(mesh)
    [connection] = mesh.tools.connections
    await trio.aclose_forcefully(connection.tls.transport)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await settled(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.PEER_UNREACHABLE


# -- Which node, which connection


@pytest.mark.parametrize(
    ("trouble", "tried"),
    [
        (lambda node: setattr(node, "down", True), False),
        (lambda node: setattr(node, "hangs_up", True), False),
        (lambda node: setattr(node.scene, "draining", True), True),
        (lambda node: setattr(node.carrier, "max_streams", 0), True),
    ],
    ids=["down", "hangs_up", "draining", "full"],
)
async def test_a_node_that_cannot_take_it_is_passed_over(
    trouble: Callable[[InnerNode], None], tried: bool, mesh: InnerMesh
) -> None:
    """Before ACCEPTED another node of the service may know better."""
    trouble(mesh.tools)
    assert await mesh.ask(service="tickets") == b"hello"
    await settled(mesh)
    assert mesh.agents.log.end.fields["peer"] == "tools-2"
    assert bool(mesh.tools.log.records) is tried


async def test_a_denial_is_not_asked_for_twice(mesh: InnerMesh) -> None:
    """What one node refuses by policy, no other is asked."""
    mesh.tools.scene.lock()
    await cut_off(mesh, "tickets")
    assert mesh.nodes["tools-2"].log.records == []


async def test_a_node_that_may_not_be_asked_is_passed_over(mesh: InnerMesh) -> None:
    """Of two nodes the one that is locked or revoked here is not even dialled."""
    mesh.agents.scene.lock("node", "tools-1")
    assert await mesh.ask(service="tickets") == b"hello"
    assert mesh.tools.connections == []


async def test_the_node_with_fewest_live_streams_is_asked_first(mesh: InnerMesh) -> None:
    """Streams spread over the nodes of a service."""
    await opened(mesh, "tickets")
    await opened(mesh, "tickets")
    assert [len(node.carrier.table) for node in mesh.nodes.values()] == [2, 1, 1]


async def test_when_all_nodes_are_refused_one_says_why(mesh: InnerMesh) -> None:
    """The agent's own node refuses early, and names the reason."""
    mesh.agents.scene.lock()
    await cut_off(mesh, "tickets")
    [denied] = mesh.agents.log.records
    assert denied.fields["reason"] == Reason.LOCKED


async def test_an_idle_connection_that_died_unseen_costs_no_stream(mesh: InnerMesh) -> None:
    """A restarted node left its idle connections dead: a new one is dialled, once."""
    mesh.tools.hangs_up = True
    await mesh.agents.pool.warm(mesh.tools.id, [mesh.tools.address])
    mesh.tools.hangs_up = False
    assert await mesh.ask() == b"hello"


async def test_a_fresh_connection_that_dies_is_not_dialled_again(
    mesh: InnerMesh, autojump_clock: MockClock
) -> None:
    """A peer that hangs up on a new connection means it."""
    mesh.tools.hangs_up = True
    await cut_off(mesh)
    assert mesh.agents.pool.dialled == 1


async def test_a_peer_that_does_not_answer_is_given_up(mesh: InnerMesh, autojump_clock: MockClock) -> None:
    """An OPEN waits for its answer a while, then its connection is closed."""
    mesh.tools.log.hold = trio.Event()
    mesh.nodes["tools-2"].down = True
    started = trio.current_time()
    await cut_off(mesh, "tickets")
    assert trio.current_time() - started >= OPEN_SECONDS
    assert mesh.agents.log.end.fields["reason"] == Reason.PEER_UNREACHABLE


@pytest.mark.parametrize(
    "answer",
    [
        wire.Accepted(ordinal=7),
        wire.Refused(ordinal=7, reason="locked"),
        wire.Open(ordinal=0, stream=another(1), session=another(1), service="wiki"),
    ],
    ids=["accepted ahead", "refused ahead", "a question"],
)
async def test_an_answer_to_another_question_opens_nothing(
    answer: Wire, mesh: InnerMesh, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that answers ahead, or with a question, is cut off."""
    await answering(mesh, answer, monkeypatch)
    await cut_off(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.PEER_UNREACHABLE
    assert mesh.agents.pool.idle("tools-1") == 0


async def test_a_reset_instead_of_an_answer_ends_the_connection(
    mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After RESET the peer has closed it: it does not go back to the pool."""
    await answering(mesh, wire.Reset(reason="draining"), monkeypatch)
    await cut_off(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.DRAINING
    assert mesh.agents.pool.idle("tools-1") == 0


async def test_a_stream_ends_with_the_shortest_lived_certificate_under_it(mesh: InnerMesh) -> None:
    """Session, agent's node or tool's node: whichever certificate ends first."""
    await opened(mesh)
    [live] = mesh.agents.carrier.table
    [other] = mesh.tools.carrier.table
    assert live.request.not_after == other.request.not_after == mesh.session.identity.not_after
    mesh.clock.ahead += 2 * HOUR
    mesh.agents.carrier.judge(live)
    await settled(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.EXPIRED


# -- Renewed certificates


async def deadlines(mesh: InnerMesh) -> set[int]:
    """Until when the one live stream may go on, on both nodes."""
    await wait_all_tasks_blocked(0.001)
    return {live.request.not_after for node in (mesh.agents, mesh.tools) for live in node.carrier.table}


async def test_a_renewed_session_moves_the_deadline_of_its_streams(
    mesh: InnerMesh, proofs: list[str]
) -> None:
    """A PROVE in the middle of the stream, on both nodes, without a byte of the stream touched."""
    client = await opened(mesh)
    before = mesh.session.identity.not_after
    assert await deadlines(mesh) == {before}
    renewed = await mesh.renew_session(2 * HOUR)
    assert await deadlines(mesh) == {renewed.identity.not_after}
    assert renewed.identity.not_after > before
    await client.send_all(b"still")
    assert await client.receive_some() == b"still"
    await client.send_eof()
    await settled(mesh)
    assert await mesh.ask() == b"hello"
    assert proofs == [mesh.session.id.session] * 2, "and the connection needs no third proof"


def only_wiki(mesh: InnerMesh) -> Narrowing:
    return Narrowing(frozenset({"wiki"}), None, Wall(mesh.clock.wall() + 4 * HOUR))


async def test_a_childs_stream_is_the_childs_on_both_nodes(mesh: InnerMesh, proofs: list[str]) -> None:
    """By its own id, with its session above it, whose certificate stands under it."""
    child = mesh.start_child(only_wiki(mesh))
    assert await mesh.ask() == b"hello"
    await settled(mesh)
    assert proofs == [child.name]
    for node in (mesh.agents, mesh.tools):
        assert [one.fields["session"] for one in node.log.records] == [child.name] * 3
        assert [one.fields["parents"] for one in node.log.records] == [[mesh.session.name]] * 3
        facts = node.log.of(Kind.ADMITTED)[0].fields["facts"]
        assert isinstance(facts, dict)
        assert (facts["id"], "narrowing" in facts) == (str(mesh.session.id), True)


async def test_a_child_and_its_session_are_proven_each_for_itself(mesh: InnerMesh, proofs: list[str]) -> None:
    """On one connection: the proof of one opens nothing for the other."""
    outside = mesh.agents.kernel.owner
    await mesh.ask()
    await settled(mesh)
    child = mesh.start_child(only_wiki(mesh))
    for owner in (mesh.agents.kernel.owner, outside):
        mesh.agents.kernel.owner = owner
        await mesh.ask()
        await settled(mesh)
    assert mesh.agents.pool.dialled == 1
    assert proofs == [mesh.session.name, child.name]


async def test_a_renewed_session_proves_the_streams_of_its_children_again(
    mesh: InnerMesh, proofs: list[str]
) -> None:
    """The same steps, signed by the new key: the child's id stays, and its streams with it."""
    child = mesh.start_child(only_wiki(mesh))
    await opened(mesh)
    renewed = await mesh.renew_session(2 * HOUR)
    assert await deadlines(mesh) == {renewed.identity.not_after}
    assert proofs == [child.name] * 2


async def test_a_child_is_not_proven_to_a_node_that_knows_none(
    mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version: it would break the connection, and note a bad proof of an honest peer."""
    monkeypatch.setattr(wire.Feature, "ALL", ("tcp",))
    mesh.start_child(only_wiki(mesh))
    with pytest.raises(trio.BrokenResourceError):
        await mesh.ask()
    await settled(mesh)
    cut = mesh.agents.log.end.fields
    assert (cut["reason"], cut["hint"]) == (
        Reason.BAD_PROOF,
        "node tools-1: its version knows no child sessions",
    )
    assert (mesh.tools.log.records, mesh.tools.faults, mesh.agents.pool.idle("tools-1")) == ([], [], 1)


async def test_a_revoked_session_takes_its_children_along(mesh: InnerMesh) -> None:
    """Their streams are cut by the same word, on either node."""
    mesh.start_child(only_wiki(mesh))
    await opened(mesh)
    mesh.tools.scene.revoke("id", str(mesh.session.id))
    assert sum(apply(mesh.tools.carrier, mesh.tools.scene).values()) == 1
    await settled(mesh)
    assert mesh.tools.log.end.fields["reason"] == Reason.REVOKED


@pytest.mark.parametrize("name", ["agents-1", "tools-1"])
async def test_a_renewed_certificate_is_revoked_by_its_own_serial(name: str, mesh: InnerMesh) -> None:
    """It is the serial that records tell; by the first of the line alone, the session would go on."""
    await opened(mesh)
    renewed = await mesh.renew_session(2 * HOUR)
    await deadlines(mesh)
    node = mesh.nodes[name]
    assert renewed.identity.serial != renewed.identity.lineage
    node.scene.revoke("serial", renewed.identity.serial)
    assert sum(apply(node.carrier, node.scene).values()) == 1
    await settled(mesh)
    assert node.log.end.fields["reason"] == Reason.REVOKED
    with pytest.raises(trio.BrokenResourceError):
        await mesh.ask()


@pytest.mark.parametrize("name", ["agents-1", "tools-1"])
async def test_a_renewed_node_moves_the_deadline_of_its_streams(name: str, mesh: InnerMesh) -> None:
    """Either end proves its next certificate to the other."""
    short = HOUR // 2
    mesh.nodes[name].credential, mesh.nodes[name].identity = mesh.credential(name, short)
    await opened(mesh)
    assert await deadlines(mesh) == {mesh.nodes[name].identity.not_after}
    await mesh.renew_node(mesh.nodes[name], 24 * HOUR)
    assert await deadlines(mesh) == {mesh.session.identity.not_after}


@pytest.mark.parametrize("who", ["session", "agents-1", "tools-1"])
async def test_what_is_renewed_while_a_stream_opens_is_proven_once_it_is_open(
    who: str, mesh: InnerMesh
) -> None:
    """Nothing may come between OPEN and ACCEPTED, and no stream may end for a proof that had to wait."""
    mesh.tools.log.hold = trio.Event()
    mesh.nodes["tools-2"].down = True
    if who != "session":
        mesh.nodes[who].credential, mesh.nodes[who].identity = mesh.credential(who, HOUR // 2)
    client = await mesh.call("tickets")
    await wait_all_tasks_blocked(0.001)
    assert len(mesh.tools.carrier.table) == 1, "the tool's node holds its answer back"
    if who == "session":
        await mesh.renew_session(2 * HOUR)
    else:
        await mesh.renew_node(mesh.nodes[who], 24 * HOUR)
    mesh.tools.log.hold.set()
    await client.send_all(b"ping")
    assert await client.receive_some() == b"ping"
    assert await deadlines(mesh) == {mesh.session.identity.not_after}


async def test_a_proof_of_somebody_else_ends_the_stream(mesh: InnerMesh) -> None:
    """The tool's node may prove itself and nobody else."""
    await opened(mesh)
    [connection] = mesh.tools.connections
    exporter = connection.exporter(proof.EXPORTER_LABEL)
    stolen = proof.prove(mesh.session.key, mesh.session.identity.chain, exporter)
    await connection.frames.send(*wire.encode(stolen))
    await settled(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.BAD_REQUEST


async def test_streams_leave_no_descriptor_behind(mesh: InnerMesh) -> None:
    """Whole, refused, cut or reset: afterwards only the pool holds connections."""
    await mesh.ask()
    await settled(mesh)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        await mesh.ask()
        await mesh.ask(service="notes")
        mesh.tools.scene.lock()
        await cut_off(mesh)
        mesh.tools.scene.restrictions = mesh.agents.scene.restrictions
        client = await opened(mesh)
        client.setsockopt(*NO_LINGER)
        await client.aclose()
        await settled(mesh)
    await mesh.ask()
    await settled(mesh)
    assert len(os.listdir("/proc/self/fd")) == before


# -- Scripts

NO_LINGER = (1, 13, b"\1\0\0\0\0\0\0\0")
"""SOL_SOCKET, SO_LINGER: close with RST."""


async def settled(mesh: InnerMesh, *names: str) -> None:
    """All streams have come to their end, on these nodes, or on all."""
    for name in names or mesh.nodes:
        carrier = mesh.nodes[name].carrier
        await carrier.until_gone(carrier.table)
    await wait_all_tasks_blocked(0.001)


async def opened(mesh: InnerMesh, service: str = "wiki") -> trio.SocketStream:
    """A caller's stream that has been to the target and back."""
    client = await mesh.call(service)
    await client.send_all(b"ping")
    assert await client.receive_some() == b"ping"
    return client


async def cut_off(mesh: InnerMesh, service: str = "wiki") -> None:
    """A caller that is refused sees a reset, not an end."""
    client = await mesh.call(service)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await client.aclose()
    await settled(mesh, "agents-1")


async def answering(mesh: InnerMesh, answer: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's node answers its first OPEN like this."""

    async def serve(connection: object) -> None:
        frames = mesh.tools.connections[-1].frames
        while (frame := await frames.receive()) is not None:
            if frame.type == wire.FrameType.OPEN:
                await frames.send(*wire.encode(answer))

    monkeypatch.setattr(mesh.tools.tool, "serve", serve)
