from collections.abc import AsyncIterator, Callable

import pytest
import trio

from pki.clock import HOUR, Wall
from pki.errors import LocalError
from sidecar.audit.record import Kind, Record
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.attribute import ESTABLISHED, SocketOwner
from sidecar.reasons import Reason
from tests.authority import tiny_ca
from tests.datapath import UID, policy
from tests.nodes import STARTED, InnerMesh, another, inner_mesh

STRANGER = 4711


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


# -- Who calls


def child_of(mesh: InnerMesh, *services: str) -> str:
    """Local callers are a child with these services left from now on; its id."""
    left = Narrowing(frozenset(services), None, Wall(mesh.clock.wall() + HOUR))
    return mesh.start_child(left).name


@pytest.mark.parametrize(("service", "role"), [("wiki", "agent"), ("notes", "both")])
async def test_a_child_is_refused_by_its_own_node(mesh: InnerMesh, service: str, role: str) -> None:
    """Early and cheaply: no other node hears of it; beside its own tool that node is the enforcement point."""
    child = child_of(mesh, "tickets")
    denied = await refused(mesh, service)
    assert (denied.fields["session"], denied.fields["parents"]) == (child, [mesh.session.name])
    assert (denied.fields["reason"], denied.fields["role"]) == (Reason.NARROWED, role)
    assert mesh.tools.connections == []


async def test_a_child_reaches_a_tool_beside_its_own_node(mesh: InnerMesh) -> None:
    """Without a proof: its cgroup says who it is, and the node knows its steps."""
    child = child_of(mesh, "notes")
    assert await mesh.ask(service="notes") == b"hello"
    [admitted] = mesh.agents.log.of(Kind.ADMITTED)
    assert (admitted.fields["session"], admitted.fields["role"]) == (child, "both")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda mesh: as_owner(mesh, SocketOwner(ESTABLISHED, STRANGER, 7, None)), Reason.WRONG_CALLER),
        (lambda mesh: as_owner(mesh, SocketOwner(ESTABLISHED, 0, 0, None)), Reason.WRONG_CALLER),
        (lambda mesh: as_owner(mesh, None), Reason.WRONG_CALLER),
        (lambda mesh: setattr(mesh.agents.kernel, "error", LocalError("netlink")), Reason.WRONG_CALLER),
        (lambda mesh: setattr(mesh.agents, "uid", None), Reason.WRONG_CALLER),
        (lambda mesh: mesh.agents.sessions.remove(mesh.session.id.session), Reason.NO_SESSION),
        (lambda mesh: mesh.start_session(another(2)), Reason.AMBIGUOUS_SESSION),
        (lambda mesh: in_cgroup(mesh, 99), Reason.NO_SESSION),
    ],
    ids=[
        "another user",
        "a dead caller",
        "nobody",
        "no answer",
        "agent without user",
        "no session",
        "two sessions",
        "what is left of an ended session",
    ],
)
async def test_a_caller_that_is_no_session_is_refused(
    prepare: Callable[[InnerMesh], None], reason: Reason, mesh: InnerMesh
) -> None:
    """It sees a reset, the log says why, and nothing reaches another node."""
    prepare(mesh)
    denied = await refused(mesh)
    assert denied.fields["reason"] == reason
    assert denied.fields["agent"] == "researcher"
    assert denied.fields["hint"]
    assert mesh.tools.connections == []


async def test_the_record_of_a_wrong_caller_names_its_uid(mesh: InnerMesh) -> None:
    """Of a stranger the uid is all that is known."""
    as_owner(mesh, SocketOwner(ESTABLISHED, STRANGER, 7, None))
    denied = await refused(mesh)
    assert denied.fields["uid"] == STRANGER


async def test_an_admission_says_how_its_caller_was_known(mesh: InnerMesh) -> None:
    """Method and uid stand in the record of the agent's node."""
    await mesh.ask()
    [admitted] = mesh.agents.log.of(Kind.ADMITTED)
    assert admitted.fields["attribution"] == {"method": "uid", "over": "ipv4", "uid": UID}


async def test_a_service_that_left_the_policy_is_refused(mesh: InnerMesh) -> None:
    """A binding may outlive its service by a moment."""
    mesh.agents.scene.policy = None
    denied = await refused(mesh)
    assert denied.fields["reason"] == Reason.NO_GRANT


async def test_a_service_without_a_grant_is_refused_early(mesh: InnerMesh) -> None:
    """The agent's node decides first, and the tool's node hears nothing."""
    denied = await refused(mesh, "vault")
    assert denied.fields["reason"] == Reason.NO_GRANT
    assert mesh.tools.connections == []


# -- A tool beside this very node


async def test_a_stream_to_a_tool_beside_this_node_is_told_once(mesh: InnerMesh) -> None:
    """The same steps without another node: one admission, one opening, one end, in the role of both."""
    assert await mesh.ask(service="notes") == b"hello"
    await settled(mesh)
    assert mesh.agents.log.kinds == [Kind.ADMITTED, Kind.OPENED, Kind.CLOSED]
    assert {one.fields["role"] for one in mesh.agents.log.records} == {"both"}
    assert mesh.agents.log.end.fields["bytes_in"] == len(b"hello")
    assert "peer" not in mesh.agents.log.end.fields
    assert mesh.agents.pool.dialled == 0


async def test_a_lock_resets_both_ends_of_a_local_stream(mesh: InnerMesh) -> None:
    """Neither caller nor tool takes a cut for a clean end."""
    client = await mesh.call("notes")
    await client.send_all(b"ping")
    assert await client.receive_some() == b"ping"
    [live] = mesh.agents.carrier.table
    live.cut(Reason.LOCKED)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await settled(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.LOCKED


async def test_a_local_stream_needs_a_session_that_is_valid_now(mesh: InnerMesh) -> None:
    """No TLS judges the chain here, so the daemon does."""
    mesh.clock.ahead += 2 * HOUR
    denied = await refused(mesh, "notes")
    assert denied.fields["reason"] == Reason.EXPIRED
    assert mesh.at_target == []


async def test_a_local_stream_needs_chains_of_the_bundle_in_force(mesh: InnerMesh) -> None:
    """Once the bundle names other issuers, old sessions and nodes reach not even their own node's tools."""
    mesh.ca = tiny_ca(at=STARTED)
    denied = await refused(mesh, "notes")
    assert denied.fields["reason"] == Reason.BAD_PROOF
    assert mesh.at_target == []


async def test_a_local_target_that_does_not_answer_is_named(mesh: InnerMesh) -> None:
    """The tool's trouble is not the agent's: the record says which target."""
    mesh.agents.scene.policy = policy(port=1)
    client = await mesh.call("notes")
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await settled(mesh)
    assert mesh.agents.log.end.fields["reason"] == Reason.TARGET_UNREACHABLE


# -- Scripts


def as_owner(mesh: InnerMesh, owner: SocketOwner | None) -> None:
    mesh.agents.kernel.owner = owner


def in_cgroup(mesh: InnerMesh, cgroup: int) -> None:
    """The caller is in a session's cgroup that no live session has."""
    mesh.agents.sessions.claimed = frozenset({cgroup})
    as_owner(mesh, SocketOwner(ESTABLISHED, UID, 7, cgroup))


async def refused(mesh: InnerMesh, service: str = "wiki") -> Record:
    """A caller that is reset; the one record of it."""
    client = await mesh.call(service)
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    [record] = mesh.agents.log.records
    assert record.kind is Kind.DENIED
    return record


async def settled(mesh: InnerMesh) -> None:
    while len(mesh.agents.carrier.table):
        await mesh.agents.carrier.turnover.park()
