"""The node's own statements on their way to the member: receipts, and ends of sessions.

They are handed over by a task of their own, since what makes them is often the member's own merge. Nothing is dropped:
receipts that wait are one for each statement, streams counted together, and a session ends once.
"""

from collections.abc import Callable

import structlog
import trio

from pki.statement import Statement
from sidecar.gossip.member import Member

Seal = Callable[[list[Statement], dict[str, int]], list[bytes]]
"""Signs receipts for statements, with the number of streams that each has cut."""

log = structlog.get_logger(__name__)


class Outbox:
    """``refused`` is called when a statement of ours could not be said to others."""

    def __init__(self, member: Member, seal: Seal, refused: Callable[[], None]) -> None:
        self._member = member
        self._seal = seal
        self._refused = refused
        self._due: dict[str, Statement] = {}
        self._cut: dict[str, int] = {}
        self._raws: list[bytes] = []
        self._news = trio.Event()

    def put(self, raws: list[bytes]) -> None:
        """Publish these soon."""
        if raws:
            self._raws += raws
            self._news.set()

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """Publish a receipt for these soon; one that waits already counts what was cut since."""
        for one in statements:
            self._due[one.id] = one
            self._cut[one.id] = self._cut.get(one.id, 0) + cut.get(one.id, 0)
        self._news.set()

    async def run(self) -> None:
        """Hand over what waits, until cancelled."""
        while True:
            await self._news.wait()
            await self.deliver()

    async def deliver(self) -> int:
        """Hand over what waits now; how many statements that were."""
        self._news = trio.Event()
        raws, self._raws = self._raws, []
        due, self._due = self._due, {}
        cut, self._cut = self._cut, {}
        raws += self._seal(list(due.values()), cut)
        if raws:
            for refusal in await self._member.take(raws, None):
                log.error("own statement refused", why=refusal)
                self._refused()
        return len(raws)
