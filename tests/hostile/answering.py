"""A tool's node that is the rogue: what it answers to the OPENs of an honest node.

It serves a service of the policy as its listed node, so it may see the agent's bytes, once it said ACCEPTED. It must
not get them before, make up bytes for the agent, hold the agent's node, or use an answer twice.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio

from pki import codec
from pki.bundle import key_of
from pki.fields import Wire
from pki.framing import MAX_FRAME_BODY
from pki.spki import spki
from pki.tls.context import make_context
from pki.tls.frames import FrameStream
from pki.tls.stream import TlsStream
from sidecar import wire
from sidecar.overlay import spki_pair
from sidecar.proxy import proof
from sidecar.wire import FrameType
from tests.hostile.greeting import hello
from tests.hostile.rogue import ANYTHING, PATIENCE, ROGUE, TROUBLE, Rogue, hangs_up

SECRET = b"what the agent would tell its tool"

Answer = Callable[[FrameStream, wire.Open], Awaitable[None]]


@dataclass(frozen=True)
class Reply:
    """How an OPEN is answered, the reason on record at the node that asked, and what its agent may see."""

    name: str
    answer: Answer
    reason: str
    heard: bytes = b""
    is_accepted: bool = False
    """Whether ACCEPTED is part of it: only then may the agent's bytes come."""


@dataclass
class Trap:
    """The rogue's server: every stream that is asked for gets a reply of its own."""

    rogue: Rogue
    replies: list[Reply]
    given: dict[str, Reply] = field(default_factory=dict)
    """By stream."""
    told: dict[str, bytes] = field(default_factory=dict)
    """What came on each stream."""

    async def serve(self, transport: trio.SocketStream) -> None:
        own = self.rogue.members[ROGUE]
        anchors = self.rogue.authority.bundle.roots
        context = make_context(anchors=anchors, chain=own.chain, key=own.key, server_side=True)
        tls = TlsStream(transport, context, server_side=True)
        with suppress(*TROUBLE):
            await tls.do_handshake()
            await self._answer_all(FrameStream(tls, ANYTHING))
        await trio.aclose_forcefully(tls)

    async def _answer_all(self, frames: FrameStream) -> None:
        greeting = await frames.receive()
        assert greeting is not None
        role = wire.decode_as(wire.Hello, greeting.body, FrameType.HELLO).role
        await frames.send(FrameType.HELLO, hello(role=role, opens=False))
        stream = ""
        while (frame := await frames.receive()) is not None:
            if frame.type == FrameType.OPEN:
                opening = wire.decode_as(wire.Open, frame.body, FrameType.OPEN)
                stream = opening.stream
                if stream not in self.given:  # One that was hung up on is asked for again.
                    self.given[stream] = self.replies.pop()
                await self.given[stream].answer(frames, opening)
            elif frame.type == FrameType.DATA:
                self.told[stream] = self.told.get(stream, b"") + frame.body


@asynccontextmanager
async def trap(rogue: Rogue, port: int) -> AsyncIterator[Trap]:
    """The rogue's server at the address that the roster names."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    made = Trap(rogue, replies(rogue))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, made.serve, listeners)
        yield made
        nursery.cancel_scope.cancel()


async def ask_all(port: int, count: int) -> list[bytes]:
    """So many connections to the agent's local entrance at once: all that each hears."""
    heard: list[bytes] = []

    async def one() -> None:
        heard.append(await ask(port))

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return heard


async def ask(port: int) -> bytes:
    """An agent's connection to its local entrance: all that it hears."""
    heard = bytearray()
    with trio.fail_after(PATIENCE), suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(SECRET)
            while data := await stream.receive_some(65_536):
                heard += data
    return bytes(heard)


async def accepts(frames: FrameStream, opening: wire.Open) -> None:
    """As it should be; then says goodbye."""
    await _send(frames, wire.Accepted(ordinal=opening.ordinal))
    await frames.send_many([(FrameType.DATA, b"hello"), (FrameType.END, b"")])


def says(*frames: tuple[int, bytes]) -> Answer:
    """These frames and nothing more."""

    async def answer(stream: FrameStream, opening: wire.Open) -> None:
        await stream.send_many(frames)

    return answer


def accepts_and(*more: tuple[int, bytes]) -> Answer:
    """ACCEPTED, and then these frames."""

    async def answer(stream: FrameStream, opening: wire.Open) -> None:
        await stream.send_many([wire.encode(wire.Accepted(ordinal=opening.ordinal)), *more])

    return answer


def refuses(**changes: object) -> Answer:
    async def answer(stream: FrameStream, opening: wire.Open) -> None:
        fields = {"ordinal": opening.ordinal, "reason": "no_grant", "rule": "", "hint": "", **changes}
        await stream.send(FrameType.REFUSED, codec.encode(fields))

    return answer


async def hangs_up_at_once(stream: FrameStream, opening: wire.Open) -> None:
    await trio.aclose_forcefully(stream.stream)


async def claims_much(stream: FrameStream, opening: wire.Open) -> None:
    """ACCEPTED, and a frame beyond the limit, whose body never comes."""
    await _send(stream, wire.Accepted(ordinal=opening.ordinal))
    await stream.stream.send_all(bytes([FrameType.DATA]) + (MAX_FRAME_BODY + 1).to_bytes(3))
    await hangs_up(stream.stream)


async def accepts_ahead(stream: FrameStream, opening: wire.Open) -> None:
    """A whole stream, and the answer to an OPEN that was not asked yet."""
    await _send(stream, wire.Accepted(ordinal=opening.ordinal))
    await stream.send_many([(FrameType.END, b""), wire.encode(wire.Accepted(ordinal=opening.ordinal + 1))])


async def _send(stream: FrameStream, message: Wire) -> None:
    await stream.send(*wire.encode(message))


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def renews(rogue: Rogue, times: int) -> Answer:
    """ACCEPTED, and proofs of its own certificate: each costs the other side two chains and a signature."""

    async def answer(stream: FrameStream, opening: wire.Open) -> None:
        tls = stream.stream
        assert isinstance(tls, TlsStream)
        own = rogue.members[ROGUE]
        ends = spki_pair(spki(key_of(tls.peer_chain()[0])), spki(own.key.public_key()))
        prove = proof.prove(own.key, own.chain, tls.exporter(proof.EXPORTER_LABEL, ends), "node")
        await _send(stream, wire.Accepted(ordinal=opening.ordinal))
        await stream.send_many(
            [wire.encode(prove)] * times + [(FrameType.DATA, b"done"), (FrameType.END, b"")]
        )

    return answer


_ACCEPTED = (FrameType.ACCEPTED, codec.encode({"ordinal": 2**50}))
_BAD_PROVE = (FrameType.PROVE, codec.encode({"body": b"", "signature": b""}))


def replies(rogue: Rogue) -> list[Reply]:
    return [
        *REPLIES,
        Reply("proves-itself", renews(rogue, 100), "", b"done", is_accepted=True),
        Reply("proves-itself-too-often", renews(rogue, 101), "bad_request", is_accepted=True),
    ]


REPLIES = [
    Reply("accepts", accepts, "", b"hello", is_accepted=True),
    Reply("hangs-up", hangs_up_at_once, "peer_unreachable"),
    Reply("data-before-accepted", says((FrameType.DATA, b"forged")), "peer_unreachable"),
    Reply("end-before-accepted", says((FrameType.END, b"")), "peer_unreachable"),
    Reply("another-ordinal", says(_ACCEPTED), "peer_unreachable"),
    Reply("accepted-no-messagepack", says((FrameType.ACCEPTED, b"\xc1")), "peer_unreachable"),
    Reply("unknown-type", says((99, b"x")), "peer_unreachable"),
    Reply("opens-itself", says((FrameType.OPEN, b"x")), "peer_unreachable"),
    Reply("statements", says((FrameType.STATEMENTS, b"x")), "peer_unreachable"),
    Reply("second-hello", says((FrameType.HELLO, hello())), "peer_unreachable"),
    Reply("refused-unknown-reason", refuses(reason="out_of_tea"), "bad_request"),
    Reply("refused-no-word", refuses(reason="no\ngrant"), "peer_unreachable"),
    Reply("refused-another-ordinal", refuses(ordinal=77), "peer_unreachable"),
    Reply("refused-long-hint", refuses(hint="x" * 501), "peer_unreachable"),
    Reply("refused-hint-for-a-terminal", refuses(hint="\x1b]0;owned\x07\r\nx"), "no_grant"),
    Reply("reset-unknown-reason", says((FrameType.RESET, codec.encode({"reason": "x"}))), "bad_request"),
    Reply("accepted-twice", accepts_and(_ACCEPTED), "bad_request", is_accepted=True),
    Reply("refused-after-accepted", accepts_and((FrameType.REFUSED, b"x")), "bad_request", is_accepted=True),
    Reply("bad-prove-after-accepted", accepts_and(_BAD_PROVE), "bad_request", is_accepted=True),
    Reply(
        "data-after-end", accepts_and((FrameType.END, b""), (FrameType.DATA, b"late")), "", is_accepted=True
    ),
    Reply("claims-too-much", claims_much, "bad_request", is_accepted=True),
    Reply("accepts-the-next-one-too", accepts_ahead, "", is_accepted=True),
]
