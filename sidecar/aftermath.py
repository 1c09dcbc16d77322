"""What follows a cut once its streams are dead: the receipt, and the end of connections to who is no member any more.

A cut acts at once, but a stream that hangs on a slow disk or a peer that does not read may take seconds to be gone.
Nobody waits for that who holds the member's lock: the next kill switch would stand in line behind it. So the cut is
counted at once, and a task of its own waits.
"""

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import trio

from pki.statement import Statement
from sidecar.proxy.streams import Live

CUT_SECONDS = 5.0
"""How long a receipt waits for the streams that its statement cut."""


@dataclass(frozen=True, slots=True)
class Receipted:
    """Statements that are in force, and how many streams each of them cut."""

    statements: list[Statement]
    cut: dict[str, int]


class Aftermath:
    """``until_gone`` waits for streams, ``acknowledge`` gives receipts, ``part`` drops who was cut off."""

    def __init__(
        self,
        until_gone: Callable[[Iterable[Live]], Awaitable[None]],
        acknowledge: Callable[[Receipted], None],
        part: Callable[[], Awaitable[None]],
    ) -> None:
        self._until_gone = until_gone
        self._acknowledge = acknowledge
        self._part = part
        self._dying: set[Live] = set()
        self._unreceipted: list[Live] = []
        # Unbounded, but it is read at once: what waits is a task, and lives for CUT_SECONDS at most.
        self._send, self._receive = trio.open_memory_channel[tuple[list[Live], Receipted | None]](math.inf)

    async def cut(self, ended: list[Live]) -> None:
        """These were cut. Where no stream is dying, strangers' connections end at once."""
        self._dying.update(ended)
        self._unreceipted += ended
        if ended:
            self._send.send_nowait((ended, None))
        elif not self._dying:
            await self._part()

    def due(self, receipted: Receipted) -> None:
        """Give a receipt when what was cut since the last one is dead, now if that is so."""
        waiting, self._unreceipted = [one for one in self._unreceipted if one in self._dying], []
        if waiting:
            self._send.send_nowait((waiting, receipted))
        else:
            self._acknowledge(receipted)

    async def run(self) -> None:
        """Wait for what is cut, until cancelled."""
        async with trio.open_nursery() as nursery:
            async for dying, receipted in self._receive:
                nursery.start_soon(self._follow, dying, receipted)

    async def _follow(self, dying: list[Live], receipted: Receipted | None) -> None:
        with trio.move_on_after(CUT_SECONDS):
            await self._until_gone(dying)
        self._dying.difference_update(dying)
        if receipted is not None:
            self._acknowledge(receipted)
        if (
            not self._dying
        ):  # Last: a stream that was cut says why to its peer, on the very connection that ends here.
            await self._part()
