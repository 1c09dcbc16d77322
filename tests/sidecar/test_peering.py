from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from pki.errors import LockgateError, RemoteError
from pki.fields import Wire
from pki.spiffe import SpiffeId
from sidecar.address import Address
from sidecar.gossip.member import Member
from sidecar.net import dial_tcp
from sidecar.overlay import Connection, Overlay, Role
from sidecar.peering import Caps, Peering, contacts_of, dialable, is_member, is_member_identity
from sidecar.snapshot import NodeMember, Restrictions, RevocationInForce, Roster, Snapshot, Target
from tests.authority import TRUST_DOMAIN
from tests.nodes import InnerMesh, inner_mesh

TOOLS = SpiffeId.for_node(TRUST_DOMAIN, "tools-1")


def snapshot(*revoked: Target, addresses: tuple[str, ...] = ("127.0.0.1:7443",)) -> Snapshot:
    nodes = {name: NodeMember(name, addresses, "", (), ()) for name in ("agents-1", "tools-1")}
    return Snapshot.of(
        policy=None,
        bundle_digest="",
        roster=Roster(nodes, {}),
        restrictions=Restrictions((), [RevocationInForce("r", target, "alice") for target in revoked]),
    )


# -- Who is a member


@pytest.mark.parametrize(
    ("who", "member"),
    [
        (TOOLS, True),
        (SpiffeId.for_ca(TRUST_DOMAIN, "ca-1"), True),
        (SpiffeId.for_node(TRUST_DOMAIN, "stranger-1"), False),
        (SpiffeId.for_operator(TRUST_DOMAIN, "alice"), False),
    ],
    ids=["node", "CA", "stranger", "operator"],
)
def test_members_are_the_rosters_nodes_and_the_ca(who: SpiffeId, member: bool) -> None:
    """A certificate alone makes nobody a peer."""
    assert is_member(who, (), snapshot()) is member


@pytest.mark.parametrize("target", [Target("node", "tools-1"), Target("serial", "ab")], ids=str)
def test_a_revoked_node_is_no_member(target: Target) -> None:
    """By its name, or by the lineage of its certificate."""
    assert not is_member(TOOLS, ("ab",), snapshot(target))
    assert is_member(TOOLS, ("cd",), snapshot(Target("node", "tools-2"), Target("serial", "ef")))


async def test_a_certificate_is_judged_by_its_own_serial_and_its_lineage() -> None:
    """Either may have been revoked."""
    async with inner_mesh() as mesh:
        identity = mesh.tools.identity
    assert is_member_identity(identity, snapshot())
    for serial in (identity.serial, identity.lineage):
        assert not is_member_identity(identity, snapshot(Target("serial", serial)))


def test_contacts_are_the_other_members() -> None:
    """Neither ourselves nor who is revoked."""
    own = SpiffeId.for_node(TRUST_DOMAIN, "agents-1")
    assert [one.id for one in contacts_of(own, snapshot())] == [TOOLS]
    assert list(contacts_of(own, snapshot(Target("node", "tools-1")))) == []


def test_an_address_that_cannot_be_read_is_passed_over() -> None:
    """One bad entry of a roster must not stop every node."""
    own = SpiffeId.for_node(TRUST_DOMAIN, "agents-1")
    [contact] = contacts_of(own, snapshot(addresses=("nonsense", "127.0.0.1:7443")))
    assert contact.addresses == (Address("127.0.0.1", 7443),)
    assert list(dialable(["", ":1", "a:b"])) == []


# -- Taking connections


@dataclass
class QuietMember:
    """A member that has nothing to say."""

    up: list[str] = field(default_factory=list)
    ticks: int = 0

    async def message(self, peer: str, message: Wire) -> None:
        raise RemoteError(f"{peer} sent {message}")

    async def link_changed(self, peer: str, up: bool) -> None:
        if up:
            self.up.append(peer)
        else:
            self.up.remove(peer)

    async def tick(self, entropy: bytes) -> None:
        self.ticks += len(entropy) > 0

    async def keep_time(self, boot_id: str) -> None:
        """Nothing to keep."""


@dataclass
class Post:
    """tools-1 at its overlay port, with agents-1 to knock."""

    mesh: InnerMesh
    peering: Peering
    member: QuietMember
    address: Address
    knocked: list[Connection] = field(default_factory=list)

    async def knock(self, role: Role = "stream", node: str = "agents-1") -> Connection:
        dialler = self.mesh.nodes[node]
        overlay = Overlay(dialler.standing, dial_tcp)
        connection = await overlay.dial(self.address, self.mesh.tools.id, role)
        self.knocked.append(connection)
        return connection

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.peering.refusals.counts)


GENEROUS = Caps(8, 8)

OnStream = Callable[[Connection], Awaitable[None]]


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


@asynccontextmanager
async def post(mesh: InnerMesh, on_stream: OnStream | None, caps: Caps = GENEROUS) -> AsyncIterator[Post]:
    """Serves until the end of the block."""
    tools, member = mesh.tools, QuietMember()
    peering = Peering(tools.id, tools.overlay, cast("Member", member), caps, on_stream)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    gate = Post(mesh, peering, member, Address("127.0.0.1", listener.socket.getsockname()[1]))
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(peering.run, [listener], tuple, "boot")
        yield gate
        for connection in gate.knocked:
            await connection.aclose()
        nursery.cancel_scope.cancel()


async def test_a_stream_connection_is_served(mesh: InnerMesh) -> None:
    """Handed on with its verified peer."""
    served: list[SpiffeId] = []

    async def serve(connection: Connection) -> None:
        served.append(connection.peer)

    async with post(mesh, serve) as gate:
        connection = await gate.knock()
        await ended(connection)
        assert served == [mesh.agents.id]


async def test_a_member_without_streams_refuses_them(mesh: InnerMesh) -> None:
    """The CA is no proxy."""
    async with post(mesh, None) as gate:
        await ended(await gate.knock())
        assert gate.refused == {"protocol": 1}


@pytest.mark.parametrize(
    ("error", "refused", "logged"),
    [
        (RemoteError("nonsense"), {"protocol": 2}, "refused"),
        (trio.BrokenResourceError(), {}, ""),
        (ZeroDivisionError(), {}, "connection failed"),
    ],
    ids=["fault", "gone", "bug"],
)
async def test_one_connections_error_is_its_own(
    error: Exception, refused: dict[str, int], logged: str, mesh: InnerMesh
) -> None:
    """A peer's fault is counted, one that went away is not, a bug of ours is logged, and the next is served."""
    served = 0

    async def fail(connection: Connection) -> None:
        nonlocal served
        served += 1
        raise error

    async with post(mesh, fail) as gate:
        with capture_logs() as logs:
            await ended(await gate.knock())
            await ended(await gate.knock())
        assert served == 2
        assert gate.refused == refused
        assert {one["event"] for one in logs} == ({logged} if logged else set())


async def test_a_bug_in_a_handshake_is_its_own(mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even that ends the accepting."""

    async def stumble(transport: trio.abc.Stream) -> Connection:
        await trio.aclose_forcefully(transport)
        raise ZeroDivisionError

    async with post(mesh, ended) as gate:
        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr(mesh.tools.overlay, "accept", stumble)
            with pytest.raises(LockgateError):
                await gate.knock()
        assert logs[0]["event"] == "handshake failed"
        await gate.knock()


async def test_a_stranger_is_refused_and_counted(mesh: InnerMesh) -> None:
    """A certificate of ours, but not in the roster."""
    mesh.tools.scene.nodes = ("tools-1",)
    async with post(mesh, ended) as gate:
        with pytest.raises(LockgateError):
            await gate.knock()
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert gate.refused == {"handshake": 1}


async def test_handshakes_under_way_are_limited(mesh: InnerMesh) -> None:
    """Half-open hellos hold no more than their share, and keep nobody out: the oldest gives way."""
    async with post(mesh, ended, Caps(8, 2)) as gate:
        idle = [await dial_tcp(gate.address) for _ in range(2)]
        await trio.testing.wait_all_tasks_blocked(0.001)
        await gate.knock()
        assert gate.refused == {"limit": 1}
        for stream in idle:
            await stream.aclose()


async def test_links_to_strangers_end(mesh: InnerMesh) -> None:
    """A node that was revoked, by name or by lineage, loses its control link."""
    async with post(mesh, None) as gate:
        connection = await gate.knock("control")
        await trio.testing.wait_all_tasks_blocked(0.001)
        gate.peering.drop_strangers()
        assert gate.member.up == [str(mesh.agents.id)]
        mesh.tools.scene.revoke("serial", mesh.agents.identity.lineage)
        gate.peering.drop_strangers()
        await ended(connection)
        assert gate.member.up == []


async def ended(connection: Connection) -> None:
    """The other side has hung up."""
    try:
        while await connection.frames.receive() is not None:
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    await trio.testing.wait_all_tasks_blocked(0.001)
