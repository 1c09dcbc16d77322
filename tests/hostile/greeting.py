"""Attacks around HELLO, by a member whose certificate is good."""

from collections.abc import Awaitable, Callable

from pki import codec, framing
from pki.tls.frames import FrameStream
from sidecar.wire import FrameType
from tests.hostile.rogue import GONE, HANDSHAKE, NOTHING, PROTOCOL, Case, Rogue, answer, seen

Attack = Callable[[Rogue], Awaitable[str]]


def hello(**changes: object) -> bytes:
    """A good HELLO, but for ``changes``; a value of ``...`` leaves the field out."""
    fields = {"version": 1, "features": ["tcp"], "role": "stream", "opens": True, **changes}
    return codec.encode({name: value for name, value in fields.items() if value is not ...})


def greets(
    body: bytes, *, kind: int = FrameType.HELLO, claims: int | None = None, ends: bool = False
) -> Attack:
    """One frame instead of a HELLO. ``claims``: the length its header gives; ``ends``: then close."""
    data = framing.encode(kind, body) if claims is None else bytes([kind]) + claims.to_bytes(3) + body

    async def attack(rogue: Rogue) -> str:
        async with rogue.frames() as frames:
            await frames.stream.send_all(data)
            if ends:
                await frames.stream.send_eof()  # type: ignore[attr-defined]  # a TlsStream
            return await seen(frames)

    return attack


async def _then(rogue: Rogue, greeting: bytes, *more: tuple[int, bytes]) -> str:
    """A good HELLO and further frames in one write: what comes after the victim's own HELLO."""
    async with rogue.frames() as frames:
        await frames.send_many([(FrameType.HELLO, greeting), *more])
        frame = await answer(frames)
        assert frame is not None
        assert frame.type == FrameType.HELLO
        return await seen(frames)


async def leaves_at_once(rogue: Rogue) -> str:
    """TLS, and a clean end without a word."""
    async with rogue.frames() as frames:
        await frames.stream.aclose()
    return GONE


async def repeats_itself(rogue: Rogue) -> str:
    return await _then(rogue, hello(), (FrameType.HELLO, hello()))


async def statements_on_a_stream(rogue: Rogue) -> str:
    return await _then(rogue, hello(), (FrameType.STATEMENTS, codec.encode({"envelopes": []})))


async def stream_on_a_control_link(rogue: Rogue) -> str:
    async with rogue.connection("control", "rogue-1") as connection:
        await connection.frames.send(FrameType.OPEN, rogue.opening())
        return await _after_gossip(connection.frames)


async def hello_on_a_control_link(rogue: Rogue) -> str:
    async with rogue.connection("control", "rogue-1") as connection:
        await connection.frames.send(FrameType.HELLO, hello(role="control"))
        return await _after_gossip(connection.frames)


async def donates(rogue: Rogue) -> str:
    """A connection on which the victim is to open streams."""
    return await _then(rogue, hello(opens=False))


async def from_the_future(rogue: Rogue) -> str:
    """A newer version names features and keys that this one does not know: ignored, so that versions can meet."""
    async with rogue.frames() as frames:
        body = hello(features=["tcp", "time-travel"], quantum=True)
        await frames.send(FrameType.HELLO, body)
        return await seen(frames)


async def _after_gossip(frames: FrameStream) -> str:
    while (word := await seen(frames)) in ("STATEMENTS", "SUMMARY"):
        pass
    return word


CASES = [
    Case("leaves-before-hello", leaves_at_once, HANDSHAKE),
    Case("hello-cut-off", greets(hello()[:10], claims=len(hello()), ends=True), HANDSHAKE),
    Case("hello-header-cut-off", greets(b"", claims=3, ends=True), HANDSHAKE),
    Case("hello-oversized", greets(b"", claims=4_097), HANDSHAKE),
    Case("hello-of-16-MiB", greets(b"", claims=0xFFFFFF), HANDSHAKE),
    Case("hello-no-messagepack", greets(b"\xc1" * 40), HANDSHAKE),
    Case("hello-trailing-bytes", greets(hello() + b"\x00"), HANDSHAKE),
    Case("hello-duplicate-key", greets(b"\x82\xa7version\x01\xa7version\x02"), HANDSHAKE),
    Case("hello-deeply-nested", greets(b"\x91" * 4_000 + b"\x00"), HANDSHAKE),
    Case("hello-extension-type", greets(b"\xd4\x01\x00"), HANDSHAKE),
    Case("hello-empty", greets(b""), HANDSHAKE),
    Case("hello-unknown-role", greets(hello(role="root")), HANDSHAKE),
    Case("hello-no-role", greets(hello(role=...)), HANDSHAKE),
    Case("hello-version-as-text", greets(hello(version="1")), HANDSHAKE),
    Case("hello-65-features", greets(hello(features=["x"] * 65)), HANDSHAKE),
    Case("hello-version-2", greets(hello(version=2)), HANDSHAKE, seen="HELLO"),
    Case("frame-type-0", greets(b"", kind=0), HANDSHAKE),
    Case("frame-type-255", greets(b"x" * 100, kind=255), HANDSHAKE),
    Case("data-instead-of-hello", greets(b"x" * 100, kind=FrameType.DATA), HANDSHAKE),
    Case("open-instead-of-hello", greets(b"x" * 100, kind=FrameType.OPEN), HANDSHAKE),
    Case("second-hello", repeats_itself, PROTOCOL),
    Case("statements-on-a-stream", statements_on_a_stream, PROTOCOL),
    Case("open-on-a-control-link", stream_on_a_control_link, PROTOCOL),
    Case("hello-on-a-control-link", hello_on_a_control_link, PROTOCOL),
    Case("donated-connection", donates, PROTOCOL),
    Case("hello-from-a-newer-version", from_the_future, NOTHING, seen="HELLO"),
]
