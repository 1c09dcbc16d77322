from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
import trio
import trio.testing

from pki import codec
from pki.clock import DAY, HOUR, SystemClock, Wall
from pki.errors import LockgateError, RemoteError, UnreachableError
from pki.spiffe import SpiffeId
from pki.spki import spki
from pki.tls.context import make_context
from pki.tls.frames import FrameStream
from pki.tls.stream import TlsStream
from pki.verify import Identity
from sidecar.address import Address
from sidecar.identity import Credential
from sidecar.net import dial_tcp
from sidecar.overlay import HANDSHAKE_SECONDS, Connection, Overlay, Role, Standing, spki_pair
from sidecar.wire import CONTROL_LIMITS, HELLO_LIMITS, STREAM_LIMITS, FrameType, Hello
from tests.authority import TinyCa, new_key, tiny_ca

NOW = SystemClock().wall()
"""OpenSSL reads the machine's clock, so the certificates must be valid by it."""

CA = tiny_ca(at=NOW)
WHERE = Address("192.0.2.1", 7443)


def credential(name: SpiffeId, ca: TinyCa = CA, lifetime: int = HOUR) -> Credential:
    key = new_key()
    return Credential(name, ca.issue(name, key, lifetime=lifetime), key)


ALICE, BOB, STRANGER = (credential(CA.node(name)) for name in ("alice", "bob", "stranger"))
THE_CA = Credential(SpiffeId.for_ca(CA.trust_domain, "ca-1"), CA.ca_chain, CA.ca_key)


@dataclass
class Peer:
    """One end: who it is, whom it takes for members, and its overlay."""

    credential: Credential
    members: set[str] = field(default_factory=lambda: {"alice", "bob"})
    now: Wall = NOW
    ca: TinyCa = CA
    transport: trio.abc.Stream | None = None

    def __post_init__(self) -> None:
        self.overlay = Overlay(self.standing, self._dial)

    def standing(self) -> Standing:
        return Standing(self.credential, self.ca.bundle, self.now, self._is_member)

    def _is_member(self, identity: Identity) -> bool:
        return identity.id.name in self.members

    async def _dial(self, address: Address) -> trio.abc.Stream:
        assert address == WHERE
        assert self.transport is not None
        return self.transport


@dataclass
class Meeting:
    """What came of one dial, on each side."""

    dialled: Connection | LockgateError | None = None
    accepted: Connection | LockgateError | None = None

    def both(self) -> tuple[Connection, Connection]:
        assert isinstance(self.dialled, Connection), self.dialled
        assert isinstance(self.accepted, Connection), self.accepted
        return self.dialled, self.accepted

    def refusals(self) -> tuple[str, str]:
        """Why each side has no connection."""
        assert isinstance(self.dialled, LockgateError), self.dialled
        assert isinstance(self.accepted, LockgateError), self.accepted
        return str(self.dialled), str(self.accepted)


async def meet(
    near: Peer, far: Peer, role: Role = "control", *, opens: bool = True, expected: SpiffeId | None = None
) -> Meeting:
    """``near`` dials ``far``."""
    near.transport, arriving = trio.testing.memory_stream_pair()
    meeting = Meeting()

    async def dial() -> None:
        meeting.dialled = await outcome(
            lambda: near.overlay.dial(WHERE, expected or far.credential.id, role, opens=opens)
        )

    async def accept() -> None:
        meeting.accepted = await outcome(lambda: far.overlay.accept(arriving))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        nursery.start_soon(accept)
    return meeting


async def outcome(call: Callable[[], Awaitable[Connection]]) -> Connection | LockgateError:
    try:
        return await call()
    except LockgateError as error:
        return error


@pytest.mark.parametrize("role", ["control", "stream"])
@pytest.mark.parametrize("opens", [True, False])
async def test_two_members_meet(role: Role, opens: bool) -> None:
    """Each knows whom it has verified, who dialled, and which of the two opens streams, for the connection's life."""
    near, far = (await meet(Peer(ALICE), Peer(BOB), role, opens=opens)).both()
    assert (near.peer, far.peer) == (BOB.id, ALICE.id)
    assert (near.dialled, far.dialled) == (True, False)
    assert (near.opens, far.opens) == (opens, not opens)
    assert near.role == far.role == role
    limits = CONTROL_LIMITS if role == "control" else STREAM_LIMITS
    assert near.frames.limits == far.frames.limits == limits


async def test_what_comes_right_behind_a_hello_is_not_lost() -> None:
    """A peer need not wait for an answer to say more."""
    near, far = (await meet(Peer(ALICE), Peer(BOB))).both()
    await near.frames.send_many([(FrameType.SUMMARY, b"1"), (FrameType.WANT, b"2")])
    first, second = await far.frames.receive(), await far.frames.receive()
    assert first is not None
    assert second is not None
    assert (first.body, second.body) == (b"1", b"2")


async def test_the_ca_is_a_member_on_control_links() -> None:
    """It dials and is dialled, without an entry in the roster."""
    near, far = (await meet(Peer(THE_CA), Peer(BOB))).both()
    assert (near.peer, far.peer) == (BOB.id, THE_CA.id)
    near, far = (await meet(Peer(ALICE), Peer(THE_CA))).both()
    assert (near.peer, far.peer) == (THE_CA.id, ALICE.id)


async def test_the_ca_carries_no_streams() -> None:
    """Neither from it nor to it: it is a member and never a proxy."""
    dialled, _ = (await meet(Peer(ALICE), Peer(THE_CA), "stream")).refusals()
    assert dialled == f"{WHERE}: peer {THE_CA.id}: it has no business here"
    for who, why in (
        (THE_CA, f"peer {THE_CA.id}: it has no business here"),
        (ALICE, "no streams are carried here"),
    ):
        near, far = trio.testing.memory_stream_pair()
        rogue = Rogue(near, server_side=False, who=who)
        at = BOB if who is THE_CA else THE_CA
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rogue.say, FrameType.HELLO, hello(role="stream"))
            with pytest.raises(RemoteError, match=why):
                await Peer(at).overlay.accept(far)


async def test_a_certificate_of_another_mesh_is_refused() -> None:
    """By TLS itself, on the side that is shown it first."""
    foreign = tiny_ca(at=NOW)
    stranger = credential(foreign.node("alice"), foreign)
    meeting = await meet(Peer(stranger, ca=foreign), Peer(BOB))
    dialled, accepted = meeting.refusals()
    assert dialled.startswith(f"{WHERE}: TLS handshake: certificate verify failed")
    assert accepted.startswith("TLS handshake: ")


async def test_a_certificate_that_expired_by_our_time_is_refused() -> None:
    """OpenSSL asks the wall clock, which may have been set back; we ask the later of wall and floor."""
    day = credential(CA.node("alice"), lifetime=DAY)
    _, accepted = (
        await meet(Peer(day), Peer(credential(BOB.id, lifetime=3 * DAY), now=Wall(NOW + 2 * DAY)))
    ).refusals()
    assert accepted.startswith("peer certificate: certificate refused: expired")


@pytest.mark.parametrize("name", [CA.agent(), CA.operator()], ids=["agent", "operator"])
async def test_who_is_no_node_is_refused_before_hello(name: SpiffeId) -> None:
    """An agent's session, or an operator, has nothing to do on the overlay, although the CA vouches for it."""
    meeting = await meet(Peer(credential(name)), Peer(BOB))
    dialled, accepted = meeting.refusals()
    assert accepted == f"peer {name}: it has no business here"
    assert "left before its HELLO" in dialled or "TLS" in dialled


async def test_a_node_that_is_not_in_the_roster_is_refused_before_hello() -> None:
    """Or revoked: whoever asks is judged as of now."""
    dialled, accepted = (await meet(Peer(STRANGER, {"bob"}), Peer(BOB))).refusals()
    assert accepted == f"peer {STRANGER.id}: not in the roster, or revoked"
    assert "left before its HELLO" in dialled or "TLS" in dialled


async def test_a_node_that_is_not_in_the_roster_is_not_spoken_to() -> None:
    """On the dialling side too."""
    dialled, _ = (await meet(Peer(ALICE), Peer(STRANGER, {"alice"}))).refusals()
    assert dialled == f"{WHERE}: peer {STRANGER.id}: not in the roster, or revoked"


async def test_a_member_that_answers_for_another_is_refused() -> None:
    """An address is no identity."""
    dialled, _ = (await meet(Peer(ALICE), Peer(BOB), expected=CA.node("carol"))).refusals()
    assert dialled == f"{WHERE}: {BOB.id} answers, not {CA.node('carol')}"


async def test_a_revocation_during_the_handshake_is_not_lost() -> None:
    """Whoever keeps the connection asks once more; what is no member then is not kept."""
    bob = Peer(BOB)
    _, far = (await meet(Peer(ALICE), bob)).both()
    assert bob.overlay.admits(far) is True
    bob.members = {"bob"}
    assert bob.overlay.admits(far) is False


class Rogue:
    """A verified member that says whatever it likes after the handshake."""

    def __init__(self, transport: trio.abc.Stream, *, server_side: bool, who: Credential = ALICE) -> None:
        context = make_context(anchors=CA.bundle.roots, chain=who.chain, key=who.key, server_side=server_side)
        self.tls = TlsStream(transport, context, server_side=server_side)
        self.frames = FrameStream(self.tls, HELLO_LIMITS | CONTROL_LIMITS | STREAM_LIMITS)

    async def say(self, frame_type: int, body: bytes) -> None:
        await self.tls.do_handshake()
        await self.frames.send(frame_type, body)


def hello(**changes: object) -> bytes:
    said = {"version": 1, "features": [], "role": "control", "opens": True, **changes}
    return codec.encode(said)


BAD_HELLOS = {
    "another-version": (FrameType.HELLO, hello(version=2), "HELLO: version 2, this side speaks 1"),
    "no-role": (FrameType.HELLO, codec.encode({"version": 1, "features": [], "opens": True}), "HELLO: "),
    "a-role-of-its-own": (FrameType.HELLO, hello(role="root"), "HELLO: Invalid enum value 'root'"),
    "garbage": (FrameType.HELLO, b"\xc1garbage", "HELLO: not valid MessagePack"),
    "http": (FrameType.HELLO, b"GET / HTTP/1.1\r\n\r\n", "HELLO: not valid MessagePack"),
    "oversized": (FrameType.HELLO, bytes(5_000), "type 1 with 5000 bytes, over 4096"),
    "too-early": (FrameType.SUMMARY, b"", "type 17 is not known here"),
}


@pytest.mark.parametrize(("frame_type", "body", "why"), BAD_HELLOS.values(), ids=BAD_HELLOS)
async def test_a_hello_that_is_none_is_refused(frame_type: int, body: bytes, why: str) -> None:
    """From a member, on the side that accepts; and its connection is closed."""
    near, far = trio.testing.memory_stream_pair()
    rogue = Rogue(near, server_side=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rogue.say, frame_type, body)
        with pytest.raises(RemoteError) as refused:
            await Peer(BOB).overlay.accept(far)
    assert why in str(refused.value)
    with pytest.raises(trio.ClosedResourceError):
        await far.send_all(b"x")


async def test_two_versions_tell_each_other() -> None:
    """Each side says which it speaks, so that both logs name the other's."""
    near, far = trio.testing.memory_stream_pair()
    rogue = Rogue(near, server_side=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rogue.say, FrameType.HELLO, hello(version=2))
        with pytest.raises(RemoteError):
            await Peer(BOB).overlay.accept(far)
    answer = await rogue.frames.receive()
    assert answer is not None
    assert codec.decode(answer.body, Hello, limit=4_096, what="HELLO").version == 1


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (hello(role="stream", opens=False), "does not answer ours"),
        (hello(opens=True), "does not answer ours"),
        (hello(version=3, opens=False), "version 3"),
    ],
    ids=["another-role", "both-open", "another-version"],
)
async def test_an_answer_that_does_not_fit_is_refused(answer: bytes, why: str) -> None:
    """Both sides must mean the same connection."""
    near, far = trio.testing.memory_stream_pair()
    alice = Peer(ALICE, transport=near)
    rogue = Rogue(far, server_side=True, who=BOB)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rogue.say, FrameType.HELLO, answer)
        with pytest.raises(RemoteError, match=why):
            await alice.overlay.dial(WHERE, BOB.id, "control")


async def test_unknown_features_of_a_newer_peer_are_ignored() -> None:
    """And keys of its HELLO that this version does not know."""
    near, far = trio.testing.memory_stream_pair()
    rogue = Rogue(near, server_side=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rogue.say, FrameType.HELLO, hello(features=["teleport"], colour="red"))
        connection = await Peer(BOB).overlay.accept(far)
    assert connection.peer == ALICE.id


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\x16\x03\x01\x00\x00"])
async def test_what_is_not_tls_is_the_peers_fault(words: bytes) -> None:
    """And its connection is closed."""
    near, far = trio.testing.memory_stream_pair()
    await near.send_all(words)
    near.send_stream.close()
    with pytest.raises(LockgateError):
        await Peer(BOB).overlay.accept(far)
    with pytest.raises(trio.ClosedResourceError):
        await far.receive_some(1)


async def test_a_peer_that_says_nothing_is_dropped_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """Half-open handshakes must not pile up, whichever side is silent."""
    started = trio.current_time()
    _, far = trio.testing.memory_stream_pair()
    with pytest.raises(RemoteError, match="no handshake within 5 s"):
        await Peer(BOB).overlay.accept(far)
    near, _ = trio.testing.memory_stream_pair()
    with pytest.raises(UnreachableError, match="no answer within 5 s"):
        await Peer(ALICE, transport=near).overlay.dial(WHERE, BOB.id, "control")
    assert trio.current_time() - started == 2 * HANDSHAKE_SECONDS
    for transport in (near, far):
        with pytest.raises(trio.ClosedResourceError):
            await transport.send_all(b"x")


async def test_a_peer_that_leaves_is_unreachable() -> None:
    """It did nothing wrong."""
    near, far = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(near)
    with pytest.raises(UnreachableError, match="left before its HELLO"):
        await Peer(BOB).overlay.accept(far)
    near, far = trio.testing.memory_stream_pair()
    await trio.aclose_forcefully(far)
    with pytest.raises(UnreachableError, match="left before its HELLO"):
        await Peer(ALICE, transport=near).overlay.dial(WHERE, BOB.id, "control")


async def test_a_member_that_ends_instead_of_a_hello_broke_off() -> None:
    """A clean TLS end is no HELLO."""
    near, far = trio.testing.memory_stream_pair()
    rogue = Rogue(near, server_side=False)

    async def leave() -> None:
        await rogue.tls.do_handshake()
        await rogue.tls.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        with pytest.raises(RemoteError, match="left before its HELLO"):
            await Peer(BOB).overlay.accept(far)


async def test_an_address_nobody_listens_on_is_unreachable() -> None:
    """With the kernel's word for it, and the address."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    overlay = Overlay(Peer(ALICE).standing, dial_tcp)
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}: "):
        await overlay.dial(Address("127.0.0.1", port), BOB.id, "control")


async def test_a_dial_that_the_network_refuses_is_unreachable() -> None:
    """Whatever error the seam raises for it."""

    async def no_route(address: Address) -> trio.abc.Stream:
        raise OSError(113, f"no route to {address.host}")

    overlay = Overlay(Peer(ALICE).standing, no_route)
    with pytest.raises(UnreachableError, match=r"192\.0\.2\.1:7443: no route"):
        await overlay.dial(WHERE, BOB.id, "control")


async def test_a_cancelled_handshake_closes_its_connection() -> None:
    """And stays a cancellation."""
    near, far = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Peer(BOB).overlay.accept(far)
    assert scope.cancelled_caught
    with pytest.raises(trio.BrokenResourceError):
        await near.send_all(b"x")


async def test_both_ends_export_the_same_secret_and_no_other_connection_does() -> None:
    """Whichever side opens streams; a proof made on one connection is worthless on the next."""
    secrets = set()
    for opens in (True, False):
        near, far = (await meet(Peer(ALICE), Peer(BOB), opens=opens)).both()
        assert near.exporter(b"EXPORTER-test") == far.exporter(b"EXPORTER-test")
        assert len(near.exporter(b"EXPORTER-test")) == 32
        secrets |= {near.exporter(b"EXPORTER-test"), near.exporter(b"EXPORTER-other")}
    assert len(secrets) == 4


async def test_the_exporter_binds_both_keys_in_the_order_opener_acceptor() -> None:
    """As the wire format says, so that neither end can be exchanged."""
    near, _ = (await meet(Peer(ALICE), Peer(BOB))).both()
    keys = [spki(who.key.public_key()) for who in (ALICE, BOB)]
    assert near.exporter(b"EXPORTER-test") == near.tls.exporter(b"EXPORTER-test", spki_pair(*keys), 32)


async def test_a_new_certificate_is_used_for_the_next_connection() -> None:
    """The context is made anew when the certificate or the bundle changed, and kept until then."""
    alice, bob = Peer(ALICE), Peer(BOB)
    _, before = (await meet(alice, bob)).both()
    alice.credential = credential(ALICE.id)
    _, after = (await meet(alice, bob)).both()
    assert before.identity.serial != after.identity.serial
    context = alice.overlay._context(alice.standing(), False)
    assert alice.overlay._context(alice.standing(), False) is context
    bundle = replace(CA.bundle, digest="0" * 64)
    assert alice.overlay._context(replace(alice.standing(), bundle=bundle), False) is not context


async def test_an_idle_connection_is_quiet_until_its_peer_says_something() -> None:
    """Bytes that nobody asked for, or an end, are seen without waiting."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    address = Address("127.0.0.1", listener.socket.getsockname()[1])
    alice, bob = Overlay(Peer(ALICE).standing, dial_tcp), Peer(BOB).overlay
    accepted: list[Connection] = []

    async def accept() -> None:
        accepted.append(await bob.accept(await listener.accept()))

    for say in (Connection.aclose, lambda far: far.frames.send(FrameType.RESET, b"x")):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            near = await alice.dial(address, BOB.id, "stream")
        assert near.is_quiet()
        await say(far := accepted.pop())
        await trio.lowlevel.wait_readable(near.tls.transport.socket)  # type: ignore[attr-defined]  # a TCP socket
        assert not near.is_quiet()
        await near.aclose()
        await far.aclose()
        assert not near.is_quiet()
    await listener.aclose()


async def test_what_came_along_with_the_last_frame_is_not_quiet() -> None:
    """It left the socket with the frame that was read; as an answer to the next OPEN it would be a forged one."""
    near, far = (await meet(Peer(ALICE), Peer(BOB))).both()
    near.frames.limits = STREAM_LIMITS
    await far.frames.send_many([(FrameType.END, b""), (FrameType.DATA, b"late")])
    frame = await near.frames.receive()
    assert frame is not None
    assert frame.type == FrameType.END
    assert not near.is_quiet()


async def test_without_a_socket_nothing_can_be_seen() -> None:
    """Over memory a connection counts as quiet."""
    near, _ = (await meet(Peer(ALICE), Peer(BOB))).both()
    assert near.is_quiet()
