"""Attacks between two streams and inside one."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from pki import codec, framing
from sidecar.overlay import Connection
from sidecar.wire import FrameType
from tests.hostile.greeting import hello
from tests.hostile.proving import good
from tests.hostile.rogue import NOTHING, PROTOCOL, Case, Rogue, answer, seen

Attack = Callable[[Rogue], Awaitable[str]]


def idle(kind: int, body: bytes = b"", *, claims: int | None = None) -> Attack:
    """One frame on a connection that carries no stream."""

    async def attack(rogue: Rogue) -> str:
        async with rogue.connection() as connection:
            await connection.tls.send_all(_frame(kind, body, claims))
            return await seen(connection.frames)

    return attack


def inside(kind: int, body: bytes = b"", *, claims: int | None = None) -> Attack:
    """One frame inside an open stream."""

    async def attack(rogue: Rogue) -> str:
        async with opened(rogue) as connection:
            await connection.tls.send_all(_frame(kind, body, claims))
            return await seen(connection.frames)

    return attack


@asynccontextmanager
async def opened(rogue: Rogue) -> AsyncIterator[Connection]:
    """A connection with a stream to the echo tool on it."""
    async with rogue.connection() as connection:
        frames = [(FrameType.PROVE, good(rogue, connection)), (FrameType.OPEN, rogue.opening())]
        await connection.frames.send_many(frames)
        assert await seen(connection.frames) == "ACCEPTED"
        yield connection


def after_both_ends(kind: int, body: bytes = b"") -> Attack:
    """One more frame once both directions have ended: the connection is between two streams again."""

    async def attack(rogue: Rogue) -> str:
        async with opened(rogue) as connection:
            await connection.frames.send_many([(FrameType.END, b""), (kind, body)])
            assert await seen(connection.frames) == "END"
            return await seen(connection.frames)

    return attack


async def early_bytes(rogue: Rogue) -> str:
    """Bytes right behind the OPEN, before ACCEPTED: they wait for the decision, and go nowhere without it."""
    async with rogue.connection() as connection:
        await connection.frames.send_many(
            [
                (FrameType.PROVE, good(rogue, connection)),
                (FrameType.OPEN, rogue.opening()),
                (FrameType.DATA, b"early"),
            ]
        )
        assert await seen(connection.frames) == "ACCEPTED"
        frame = await answer(connection.frames)
        assert frame is not None
        return frame.body.decode()


async def leaves_inside_a_frame(rogue: Rogue) -> str:
    """A stream whose peer goes away in the middle of a frame."""
    async with opened(rogue) as connection:
        await connection.tls.send_all(_frame(FrameType.DATA, b"x" * 10, 1_000))
        await connection.tls.send_eof()
        return await seen(connection.frames)


def _frame(kind: int, body: bytes, claims: int | None) -> bytes:
    return framing.encode(kind, body) if claims is None else bytes([kind]) + claims.to_bytes(3) + body


_RESET = codec.encode({"reason": "because_i_can"})

CASES = [
    Case("data-on-an-idle-connection", idle(FrameType.DATA, b"x"), PROTOCOL),
    Case("end-on-an-idle-connection", idle(FrameType.END), PROTOCOL),
    Case("reset-on-an-idle-connection", idle(FrameType.RESET, _RESET), PROTOCOL),
    Case("accepted-from-an-opener", idle(FrameType.ACCEPTED, codec.encode({"ordinal": 0})), PROTOCOL),
    Case(
        "refused-from-an-opener",
        idle(FrameType.REFUSED, codec.encode({"ordinal": 0, "reason": "x"})),
        PROTOCOL,
    ),
    Case("unknown-type-on-an-idle-connection", idle(99, b"x"), PROTOCOL),
    Case("claims-16-MiB-on-an-idle-connection", idle(FrameType.DATA, claims=0xFFFFFF), PROTOCOL),
    Case("end-with-a-body", idle(FrameType.END, b"x"), PROTOCOL),
    Case("unknown-type-inside", inside(99, b"x"), "cut:bad_request", seen="bad_request"),
    Case("hello-inside", inside(FrameType.HELLO, hello()), "cut:bad_request", seen="bad_request"),
    Case("open-inside", inside(FrameType.OPEN, b"x"), "cut:bad_request", seen="bad_request"),
    Case("statements-inside", inside(FrameType.STATEMENTS, b"x"), "cut:bad_request", seen="bad_request"),
    Case("data-over-256-KiB", inside(FrameType.DATA, claims=262_145), "cut:bad_request", seen="bad_request"),
    Case("reset-unknown-reason", inside(FrameType.RESET, _RESET), "cut:bad_request", seen="bad_request"),
    Case(
        "reset-no-word",
        inside(FrameType.RESET, codec.encode({"reason": "x\ny"})),
        "cut:bad_request",
        seen="bad_request",
    ),
    Case("reset-no-messagepack", inside(FrameType.RESET, b"\xc1"), "cut:bad_request", seen="bad_request"),
    Case("leaves-inside-a-frame", leaves_inside_a_frame, "cut:bad_request", seen="bad_request"),
    Case("end-twice", after_both_ends(FrameType.END), PROTOCOL),
    Case("data-after-end", after_both_ends(FrameType.DATA, b"late"), PROTOCOL),
    Case("reset-after-end", after_both_ends(FrameType.RESET, _RESET), NOTHING),
    Case("data-before-accepted", early_bytes, NOTHING, seen="early"),
]
