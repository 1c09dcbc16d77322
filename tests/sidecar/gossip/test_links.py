from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing

from pki.errors import UnreachableError
from pki.fields import Wire
from pki.framing import HEADER_BYTES
from pki.spiffe import SpiffeId
from pki.tls.frames import FrameStream
from sidecar import wire
from sidecar.address import Address
from sidecar.gossip import links as links_module
from sidecar.gossip.links import LAST_RETRY_SECONDS, SEND_SECONDS, Contact, Links
from sidecar.overlay import Connection, Overlay, Role
from sidecar.wire import CONTROL_LIMITS, FrameType, Reset, Summary, Want

HELLO = Summary(digest="0" * 64)


@dataclass(eq=False)
class FakeConnection:
    """A verified peer at the other end of a pair of memory streams."""

    peer: SpiffeId
    dialled: bool
    transport: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    frames: FrameStream = field(init=False)

    def __post_init__(self) -> None:
        self.frames = FrameStream(self.transport, CONTROL_LIMITS)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.transport)


@dataclass(eq=False)
class FakeOverlay:
    """Dials into the network of this test."""

    node: "Node"

    async def dial(self, address: Address, expected: SpiffeId, role: Role) -> Connection:
        await trio.lowlevel.checkpoint()
        near = self.node.net.connect(self.node, address)
        assert (near.peer, role) == (expected, "control")
        return cast(Connection, near)

    def admits(self, connection: Connection) -> bool:
        return str(connection.peer) not in self.node.refused


@dataclass(eq=False)
class Node:
    """One member's links, and what they told it."""

    name: str
    net: "Net"
    messages: list[tuple[str, Wire]] = field(default_factory=list)
    changes: list[tuple[str, bool]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    reading: trio.Event | None = None

    def __post_init__(self) -> None:
        self.id = SpiffeId.for_node("mesh.test", self.name)
        overlay = cast(Overlay, FakeOverlay(self))
        self.links = Links(self.id, overlay, self._heard, self._changed, self._fault)

    @property
    def contact(self) -> Contact:
        return Contact(self.id, (Address(self.name, 7443),))

    @property
    def kept(self) -> list[object]:
        return list(self.links.connections)

    async def serve(self, connection: FakeConnection) -> None:
        await self.links.run(cast(Connection, connection))

    async def _heard(self, peer: str, message: Wire) -> None:
        if self.reading is not None:
            await self.reading.wait()
        self.messages.append((peer, message))
        if isinstance(message, Want):
            raise KeyError("a bug")

    async def _changed(self, peer: str, up: bool) -> None:
        self.changes.append((peer, up))

    def _fault(self, peer: str, why: str) -> None:
        self.faults.append((peer, why))


@dataclass(eq=False)
class Net:
    """Nodes by name, and every connection that was made."""

    nursery: trio.Nursery
    nodes: dict[str, Node] = field(default_factory=dict)
    made: list[tuple[FakeConnection, FakeConnection]] = field(default_factory=list)
    dials: int = 0

    def node(self, name: str) -> Node:
        self.nodes[name] = Node(name, self)
        return self.nodes[name]

    def connect(self, near: Node, address: Address) -> FakeConnection:
        self.dials += 1
        far = self.nodes.get(address.host)
        if far is None:
            raise UnreachableError(f"{address}: nobody listens")
        ours, theirs = self.pair(near, far)
        self.nursery.start_soon(far.serve, theirs)
        return ours

    def pair(self, near: Node, far: Node) -> tuple[FakeConnection, FakeConnection]:
        ends = trio.testing.memory_stream_pair()
        pair = FakeConnection(far.id, True, ends[0]), FakeConnection(near.id, False, ends[1])
        self.made.append(pair)
        return pair

    def link(self, near: Node, far: Node) -> tuple[FakeConnection, FakeConnection]:
        """As if ``near`` had dialled ``far`` once; both serve it."""
        ours, theirs = self.pair(near, far)
        self.nursery.start_soon(near.serve, ours)
        self.nursery.start_soon(far.serve, theirs)
        return ours, theirs


@asynccontextmanager
async def network() -> AsyncIterator[Net]:
    async with trio.open_nursery() as nursery:
        yield Net(nursery)
        nursery.cancel_scope.cancel()


async def idle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_messages_pass_between_two_linked_members() -> None:
    """In order, and each side knows that the link is up."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(a, b)
        await idle()
        for _ in range(2):
            a.links.send(str(b.id), HELLO)
        await idle()
        assert b.messages == [(str(a.id), HELLO)] * 2
        assert a.changes == [(str(b.id), True)]
        assert a.links.peers == [str(b.id)]
        assert len(a.links.connections) == 1


async def test_a_message_to_nobody_is_nothing() -> None:
    """Its link has just ended."""
    async with network() as net:
        net.node("a").links.send("spiffe://mesh.test/node/gone", HELLO)


async def test_a_link_that_ends_is_gone_on_both_sides() -> None:
    """And both are told."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        ours, _ = net.link(a, b)
        await idle()
        await ours.aclose()
        await idle()
        assert a.links.peers == b.links.peers == []
        assert a.changes == [(str(b.id), True), (str(b.id), False)]
        assert b.changes == [(str(a.id), True), (str(a.id), False)]
        assert a.faults == b.faults == []


@pytest.mark.parametrize("order", ["lower first", "higher first"])
async def test_of_two_links_both_sides_keep_the_one_the_lower_name_dialled(order: str) -> None:
    """Whichever was up first: else each side could drop the other's, for ever."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        first, second = (a, b) if order == "lower first" else (b, a)
        pairs = {first.name: net.link(first, second)}
        await idle()
        pairs[second.name] = net.link(second, first)
        await idle()
        assert a.kept == [pairs["a"][0]]
        assert b.kept == [pairs["a"][1]]
        a.links.send(str(b.id), HELLO)
        b.links.send(str(a.id), HELLO)
        await idle()
        assert a.messages == [(str(b.id), HELLO)]
        assert b.messages == [(str(a.id), HELLO)]
        assert (str(b.id), False) not in a.changes


async def test_a_second_link_of_the_same_dialler_replaces_the_first() -> None:
    """It came back before we noticed that it was gone; the new link starts with a new exchange."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(b, a)
        await idle()
        again = net.link(b, a)
        await idle()
        assert a.kept == [again[1]]
        assert a.changes == [(str(b.id), True), (str(b.id), True)]


async def test_a_reader_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is bounded; what it missed, repair brings when it is back."""
    monkeypatch.setattr(links_module, "QUEUE_MESSAGES", 3)
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        ours, _ = net.link(a, b)
        await idle()
        ours.transport.send_stream.send_all_hook = trio.sleep_forever
        for _ in range(6):
            a.links.send(str(b.id), HELLO)
            await idle()
        assert a.links.peers == []
        assert a.faults == [(str(b.id), "it does not read what it asked for")]


async def test_many_messages_at_once_drop_a_link_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those after the one too many go nowhere."""
    monkeypatch.setattr(links_module, "QUEUE_MESSAGES", 3)
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(a, b)
        await idle()
        for _ in range(9):
            a.links.send(str(b.id), HELLO)
        await idle()
        assert len(a.faults) == 1


async def test_what_waits_for_a_peer_has_a_limit_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a policy are copies: who asks for thousands and does not read must not fill the memory."""
    monkeypatch.setattr(links_module, "QUEUE_BYTES", 250)
    part = wire.Object(digest="0" * 64, offset=0, total=100, data=bytes(100))
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(a, b)
        await idle()
        for _ in range(5):  # Sent, it weighs no more.
            a.links.send(str(b.id), part)
            await idle()
        assert a.faults == []
        for _ in range(3):
            a.links.send(str(b.id), part)
        assert a.faults == [(str(b.id), "it does not read what it asked for")]


async def test_a_send_that_hangs_ends_the_link(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that takes one frame an hour holds no queue of ours."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        ours, _ = net.link(a, b)
        await idle()
        ours.transport.send_stream.send_all_hook = trio.sleep_forever
        a.links.send(str(b.id), HELLO)
        await trio.sleep(SEND_SECONDS + 0.1)
        assert a.links.peers == []
        assert a.faults == [(str(b.id), "TooSlowError")]


@pytest.mark.parametrize(
    "raw",
    [
        bytes(HEADER_BYTES),
        bytes([FrameType.SUMMARY, 0, 0, 1, 0xC1]),
        bytes([FrameType.DATA, 0, 0, 1, 1]),
        b"\x11",
    ],
    ids=["unknown-type", "garbage", "stream-frame", "half-frame"],
)
async def test_a_peer_that_breaks_the_protocol_loses_its_link_and_is_named(raw: bytes) -> None:
    """And nobody else's."""
    async with network() as net:
        a, b, c = net.node("a"), net.node("b"), net.node("c")
        ours, _ = net.link(a, b)
        net.link(c, b)
        await idle()
        await ours.transport.send_all(raw)
        ours.transport.send_stream.close()
        await idle()
        assert b.links.peers == [str(c.id)]
        assert [peer for peer, _ in b.faults] == [str(a.id)]


async def test_a_bug_in_handling_one_link_ends_that_link_only() -> None:
    """They share a nursery, and its siblings are innocent."""
    async with network() as net:
        a, b, c = net.node("a"), net.node("b"), net.node("c")
        net.link(a, b)
        net.link(c, b)
        await idle()
        a.links.send(str(b.id), Want(ids=b""))
        await idle()
        assert b.links.peers == [str(c.id)]
        assert b.faults == []


async def test_a_member_that_was_dropped_loses_its_link() -> None:
    """It was revoked; whoever has no link is nobody."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(a, b)
        await idle()
        b.links.drop([str(a.id), "spiffe://mesh.test/node/unknown"])
        await idle()
        assert a.links.peers == b.links.peers == []


async def test_a_revocation_between_handshake_and_link_is_not_lost() -> None:
    """The link is entered first and its peer judged once more: nothing was there to be dropped before."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        b.refused.add(str(a.id))
        net.link(a, b)
        await idle()
        assert b.links.peers == []
        assert (str(a.id), True) not in b.changes
        assert b.faults == [(str(a.id), f"{a.id} is no member any more")]


async def test_contacts_are_dialled_and_the_rest_are_not(autojump_clock: trio.testing.MockClock) -> None:
    """Neither ourselves nor who has no address."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        a.links.contact(
            [a.contact, b.contact, Contact(SpiffeId.for_node("mesh.test", "far"), ())], net.nursery
        )
        for _ in range(3):
            await trio.sleep(1)
            a.links.contact([a.contact, b.contact], net.nursery)
        assert a.links.peers == [str(b.id)]
        assert b.links.peers == [str(a.id)]
        assert net.dials == 1


async def test_two_that_dial_each_other_end_with_one_link(autojump_clock: trio.testing.MockClock) -> None:
    """The same one on both sides, and they stop dialling."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        a.links.contact([b.contact], net.nursery)
        b.links.contact([a.contact], net.nursery)
        await trio.sleep(5)
        dials = net.dials
        await trio.sleep(60)
        assert net.dials == dials
        assert (*a.kept, *b.kept) in net.made or (*b.kept, *a.kept) in net.made
        assert a.links.peers == [str(b.id)]
        assert b.links.peers == [str(a.id)]


async def test_a_peer_that_comes_back_is_linked_within_a_second(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However long it was away."""
    async with network() as net:
        a = net.node("a")
        b = Node("b", net)
        a.links.contact([b.contact], net.nursery)
        await trio.sleep(100)
        assert a.links.peers == []
        net.nodes["b"] = b
        await trio.sleep(LAST_RETRY_SECONDS)
        assert a.links.peers == [str(b.id)]
        await net.made[-1][1].aclose()
        await trio.sleep(LAST_RETRY_SECONDS)
        assert a.links.peers == [str(b.id)]


async def test_the_next_address_is_tried_when_one_fails(autojump_clock: trio.testing.MockClock) -> None:
    """In the order that the roster gives."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        addresses = (Address("nowhere", 1), Address("b", 7443))
        a.links.contact([Contact(b.id, addresses)], net.nursery)
        await trio.sleep(0.1)
        assert a.links.peers == [str(b.id)]


async def test_a_peer_that_left_the_roster_is_dialled_no_more(autojump_clock: trio.testing.MockClock) -> None:
    """Its link ends with that; back in the roster it is dialled again, even in the same moment."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        a.links.contact([b.contact], net.nursery)
        await trio.sleep(3)
        a.links.contact([], net.nursery)
        a.links.contact([b.contact], net.nursery)
        await trio.sleep(3)
        assert a.links.peers == [str(b.id)]
        a.links.contact([], net.nursery)
        await trio.sleep(3)
        assert a.links.peers == []
        dials = net.dials
        await trio.sleep(60)
        assert net.dials == dials


async def test_a_peer_that_comes_and_goes_does_not_fill_the_log(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """One end of its link in ten seconds is logged, whatever it does."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        a.links.contact([b.contact], net.nursery)
        for _ in range(40):
            await trio.sleep(1)
            await net.made[-1][0].aclose()
        assert net.dials > 20
        assert "".join(capsys.readouterr()).count("link ended") == 4  # Wherever another test sent the log.


async def test_a_clean_end_is_no_fault(autojump_clock: trio.testing.MockClock) -> None:
    """A peer that restarts ends its links."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        ours, _ = net.link(a, b)
        await idle()
        ours.transport.send_stream.close()
        await idle()
        assert b.links.peers == []
        assert b.faults == []


async def test_what_cannot_be_sent_ends_the_link_without_blame() -> None:
    """A message beyond our own limits is our bug; the peer did nothing."""
    async with network() as net:
        a, b = net.node("a"), net.node("b")
        net.link(a, b)
        await idle()
        a.links.send(str(b.id), Reset(reason="x" * 100))
        await idle()
        assert a.links.peers == []
        assert a.faults == []
