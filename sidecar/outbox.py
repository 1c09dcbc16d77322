"""The node's own statements on their way to the member: receipts, and ends of sessions.

They are handed over by a task of their own, since what makes them is often the member's own merge.
"""

from collections.abc import Callable

import structlog
import trio

from sidecar.gossip.member import Member

MAX_WAITING = 1_024

log = structlog.get_logger(__name__)


class Outbox:
    """``refused`` is called when a statement of ours could not be said to others."""

    def __init__(self, member: Member, refused: Callable[[], None]) -> None:
        self._member = member
        self._refused = refused
        self._send, self._receive = trio.open_memory_channel[list[bytes]](MAX_WAITING)

    def put(self, raws: list[bytes]) -> None:
        """Publish these soon."""
        if raws:
            try:
                self._send.send_nowait(raws)
            except trio.WouldBlock:
                log.error("own statements dropped: too many are waiting")
                self._refused()

    async def run(self) -> None:
        """Hand over what waits, until cancelled."""
        async for raws in self._receive:
            await self._hand_over(raws)

    async def deliver(self) -> int:
        """Hand over what waits now; how many statements that were."""
        count = 0
        while self._receive.statistics().current_buffer_used:
            raws = self._receive.receive_nowait()
            count += len(raws)
            await self._hand_over(raws)
        return count

    async def _hand_over(self, raws: list[bytes]) -> None:
        for refusal in await self._member.take(raws, None):
            log.error("own statement refused", why=refusal)
            self._refused()
