"""Bytes between two streams, each direction with its own end. The gate is asked before every chunk.

A side that was cut says why in its last frame, and a send to it may fail before that frame is read. So a failed send
leaves the other direction a moment to hear it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from pki.direct import direct
from pki.errors import RemoteError
from sidecar.proxy.framed import CHUNK_BYTES

READ_BYTES = CHUNK_BYTES
"""One frame. Reads over 128 KiB make glibc map fresh pages each time (a third of the throughput)."""

LAST_WORD_SECONDS = 0.25

_TROUBLE = (trio.BrokenResourceError, trio.ClosedResourceError, RemoteError)


class Broken(Exception):  # noqa: N818 - how a splice ends, not what is at fault
    """One side broke. ``near`` tells which, ``cause`` how."""

    def __init__(self, *, near: bool, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.near = near
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Gate:
    """What the splice tells, and asks, for every chunk. ``passing`` raises nothing: it cancels what must not go on."""

    passing: Callable[[int, bool], bool]
    """(bytes, from near to far?) -> whether they may pass."""
    half_closed: Callable[[], None]


async def splice(near: trio.abc.HalfCloseableStream, far: trio.abc.HalfCloseableStream, gate: Gate) -> None:
    """Carry bytes until both directions have ended; raises Broken when a side breaks."""
    near, far = direct(near), direct(far)
    directions = (_Direction(near, far, gate, outwards=True), _Direction(far, near, gate, outwards=False))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_carry, *directions, nursery.cancel_scope)
        await _carry(*directions[::-1], nursery.cancel_scope)
    # What was read tells more than what could not be sent.
    broken = sorted(filter(None, (one.broken for one in directions)), key=lambda error: error.sending)
    if broken:
        raise broken[0]


@dataclass(eq=False)
class _Direction:
    """Bytes one way, and how that ended."""

    source: trio.abc.HalfCloseableStream
    sink: trio.abc.HalfCloseableStream
    gate: Gate
    outwards: bool
    broken: "_Failure | None" = None

    def __post_init__(self) -> None:
        self.done = trio.Event()

    async def pump(self) -> None:
        while data := await self._receive():
            if not self.gate.passing(len(data), self.outwards):
                await trio.sleep_forever()  # The stream is being cut: its scope is cancelled.
            await self._send(data)
        self.gate.half_closed()
        await self._send(b"")

    async def _receive(self) -> bytes:
        try:
            return bytes(await self.source.receive_some(READ_BYTES))
        except _TROUBLE as error:
            raise _Failure(near=self.outwards, cause=error, sending=False) from None

    async def _send(self, data: bytes) -> None:
        """Send ``data``; nothing at all is the end."""
        try:
            await (self.sink.send_all(data) if data else self.sink.send_eof())
        except _TROUBLE as error:
            raise _Failure(near=not self.outwards, cause=error, sending=True) from None


class _Failure(Broken):
    def __init__(self, *, near: bool, cause: BaseException, sending: bool) -> None:
        super().__init__(near=near, cause=cause)
        self.sending = sending


async def _carry(one: _Direction, other: _Direction, scope: trio.CancelScope) -> None:
    try:
        await one.pump()
    except _Failure as error:
        one.broken = error
        if error.sending:
            with trio.move_on_after(LAST_WORD_SECONDS):
                await other.done.wait()
        scope.cancel()
    finally:
        one.done.set()
