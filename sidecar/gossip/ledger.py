"""The journal as a member uses it: from a thread of its own, and on a disk that may fail."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog
import trio

from pki.errors import LocalError
from sidecar.gossip.freshness import Freshness
from sidecar.gossip.journal import Journal, KeptBeat
from sidecar.gossip.store import Entry

T = TypeVar("T")

log = structlog.get_logger(__name__)


class Ledger:
    """Writes answer whether they are durable; why not stands in ``unready`` until one succeeds."""

    def __init__(self, journal: Journal) -> None:
        self.unready = ""
        self._journal = journal
        self._thread = trio.CapacityLimiter(1)
        self._discarded: list[str] = []
        self._kept: tuple[KeptBeat, KeptBeat | None] | None = None

    async def entries(self) -> list[Entry]:
        """All that was durable; raises LocalError when it is damaged."""
        return await self._in_thread(self._journal.entries)

    async def recall(self, freshness: Freshness, boot_id: str) -> KeptBeat | None:
        """Give ``freshness`` back what :meth:`keep` wrote, and return the newest; raises LocalError."""
        newest, confirmed = await self._in_thread(self._journal.heartbeats)
        if newest is not None:
            complete = None if confirmed is None else confirmed.beat(boot_id)
            freshness.restore(newest.beat(boot_id), complete)
        return newest

    async def append(self, entries: Iterable[Entry]) -> bool:
        return await self._try(self._journal.append, list(entries))

    def discard(self, ids: Iterable[str]) -> None:
        """These left the store: the next :meth:`sweep` deletes them. Left on disk, they would only leave it again."""
        self._discarded += ids

    async def sweep(self) -> None:
        """Delete what was discarded."""
        if self._discarded and await self._try(self._journal.delete, self._discarded):
            self._discarded = []

    async def keep(self, freshness: Freshness, boot_id: str) -> None:
        """Make the newest heartbeats durable, so that floor and freshness survive a restart."""
        newest, confirmed = freshness.newest, freshness.confirmed
        if newest is None or newest.received is None:
            return
        complete = None if confirmed is None else KeptBeat.of(confirmed, boot_id)
        kept = KeptBeat.of(newest, boot_id), complete
        if kept != self._kept and await self._try(self._journal.keep_heartbeats, *kept):
            self._kept = kept

    async def _try(self, work: Callable[..., None], *args: object) -> bool:
        try:
            await self._in_thread(work, *args)
        except LocalError as error:
            if not self.unready:
                log.error("statements cannot be made durable", why=str(error))
            self.unready = str(error)
            return False
        self.unready = ""
        return True

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)
