"""Bytes between two streams, each direction with its own end. The gate is asked before every chunk."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from pki.errors import RemoteError

_TROUBLE = (trio.BrokenResourceError, trio.ClosedResourceError, RemoteError)

READ_BYTES = 128 * 1024
"""Larger reads make glibc map fresh pages each time (a third of the throughput)."""


class Broken(Exception):
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
    broken: list[Broken] = []

    async def carry(outwards: bool) -> None:
        try:
            await _pump(near, far, gate, outwards)
        except Broken as error:
            broken.append(error)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, True)
        await carry(False)
    if broken:
        raise broken[0]


async def _pump(
    near: trio.abc.HalfCloseableStream, far: trio.abc.HalfCloseableStream, gate: Gate, outwards: bool
) -> None:
    source, sink = (near, far) if outwards else (far, near)
    while True:
        try:
            data = await source.receive_some(READ_BYTES)
        except _TROUBLE as error:
            raise Broken(near=outwards, cause=error) from None
        if data and not gate.passing(len(data), outwards):
            await trio.sleep_forever()  # The stream is being cut: its scope is cancelled.
        try:
            if not data:
                gate.half_closed()
                await sink.send_eof()
                return
            await sink.send_all(data)
        except _TROUBLE as error:
            raise Broken(near=not outwards, cause=error) from None
