"""Attacks that take their time: peers that begin and do not go on, and servers that are not who was dialled."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from pki.framing import encode
from pki.tls.context import make_context
from pki.tls.stream import TlsStream
from sidecar.identity import Credential
from sidecar.wire import FrameType
from tests.hostile.greeting import hello
from tests.hostile.rogue import GONE, PATIENCE, ROGUE, Rogue, hangs_up

Attack = Callable[[Rogue], Awaitable[str]]
Server = Callable[[Rogue, trio.SocketStream], Awaitable[None]]


async def says_nothing(rogue: Rogue) -> str:
    """A connection, and silence."""
    async with rogue.tcp() as stream:
        return await hangs_up(stream)


async def half_a_hello(rogue: Rogue) -> str:
    """A record whose rest never comes."""
    async with rogue.tcp() as stream:
        await stream.send_all(bytes.fromhex("1603010200010001fc0303"))
        return await hangs_up(stream)


async def drips(rogue: Rogue) -> str:
    """A record byte by byte: each one in time, the whole never."""
    async with rogue.tcp() as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in bytes.fromhex("16030102000100") + bytes(200):
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.2)

        nursery.start_soon(drip)
        word = await hangs_up(stream)
        nursery.cancel_scope.cancel()
        return word


async def tls_and_silence(rogue: Rogue) -> str:
    """A member that proves who it is and never says HELLO."""
    async with rogue.frames() as frames:
        return await hangs_up(frames.stream)


async def drips_its_hello(rogue: Rogue) -> str:
    """A member whose HELLO comes byte by byte."""
    async with rogue.frames() as frames, trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in encode(FrameType.HELLO, hello()):
                await frames.stream.send_all(bytes([byte]))
                await trio.sleep(0.2)

        nursery.start_soon(drip)
        word = await hangs_up(frames.stream)
        nursery.cancel_scope.cancel()
        return word


SLOW: tuple[Attack, ...] = (says_nothing, half_a_hello, drips, tls_and_silence, drips_its_hello)


async def all_at_once(rogue: Rogue) -> dict[str, str]:
    """Every slow attack at the same time: what each saw."""
    words: dict[str, str] = {}

    async def one(attack: Attack) -> None:
        words[attack.__name__] = await attack(rogue)

    async with trio.open_nursery() as nursery:
        for attack in SLOW:
            nursery.start_soon(one, attack)
    return words


@asynccontextmanager
async def half_open(rogue: Rogue, count: int) -> AsyncIterator[None]:
    """So many connections that say nothing."""
    streams = [await trio.open_tcp_stream(rogue.victim.host, rogue.victim.port) for _ in range(count)]
    try:
        yield
    finally:
        for stream in streams:
            await trio.aclose_forcefully(stream)


# -- what a dialled peer may answer


async def closes(rogue: Rogue, stream: trio.SocketStream) -> None:
    """Hangs up at once."""


async def garbage(rogue: Rogue, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await hangs_up(stream)


async def another_node(rogue: Rogue, stream: trio.SocketStream) -> None:
    """A member, and not the one that was dialled."""
    await _serves(rogue, stream, rogue.members["agents-1"], hello(role="control", opens=False))


async def wrong_role(rogue: Rogue, stream: trio.SocketStream) -> None:
    """The right node, and an answer to another question."""
    await _serves(rogue, stream, rogue.members[ROGUE], hello(role="stream", opens=False))


async def bad_statements(rogue: Rogue, stream: trio.SocketStream) -> None:
    """The right node and a right HELLO; then no protocol."""
    await _serves(
        rogue,
        stream,
        rogue.members[ROGUE],
        hello(role="control", opens=False),
        encode(FrameType.STATEMENTS, b"\xc1"),
    )


SERVERS: tuple[Server, ...] = (closes, garbage, another_node, wrong_role, bad_statements)


async def serve_them(rogue: Rogue, port: int) -> list[str]:
    """Answer the victim's dials, each by the next of SERVERS: those that it came back for."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    served = []
    async with listeners[0]:
        for serve in SERVERS:
            with trio.fail_after(PATIENCE):
                stream = await listeners[0].accept()
            async with stream:
                await serve(rogue, stream)
            served.append(serve.__name__)
    return served


async def _serves(
    rogue: Rogue, stream: trio.SocketStream, credential: Credential, greeting: bytes, more: bytes = b""
) -> None:
    context = make_context(
        anchors=rogue.authority.bundle.roots, chain=credential.chain, key=credential.key, server_side=True
    )
    tls = TlsStream(stream, context, server_side=True)
    await tls.do_handshake()
    try:
        await tls.send_all(encode(FrameType.HELLO, greeting) + more)
    except trio.BrokenResourceError:
        return
    assert await hangs_up(tls) == GONE
