"""How many sessions a user may start: so many at a time, and so many in a while. Pure.

Each session is a certificate that the CA issues and its register keeps for good, and any local user may ask for one.
A bucket of tokens for each uid: full at first, a token a start, refilled evenly. Buckets that are full again are
forgotten, so that they are no more than users who started something lately.
"""

from collections import Counter
from dataclasses import dataclass

from pki.clock import MINUTE, SECOND, Boot

MAX_LIVE = 256
BURST = 120
REFILL = MINUTE // 60
"""Time for one more start, in microseconds."""


@dataclass(slots=True)
class Bucket:
    """``full_at``: when it will be full, if nothing is taken until then."""

    full_at: Boot

    def wait(self, now: Boot) -> int:
        """Microseconds until a token is in it."""
        return max(0, self.full_at - now - (BURST - 1) * REFILL)

    def take(self, now: Boot) -> None:
        self.full_at = Boot(max(self.full_at, now) + REFILL)


class Starts:
    """Of one node."""

    def __init__(self) -> None:
        self._buckets: dict[int, Bucket] = {}
        self._pending: Counter[int] = Counter()

    def begin(self, uid: int, live: int, now: Boot) -> str:
        """Why ``uid``, with so many ``live`` sessions, may start none now; empty: it may, and :meth:`finish` is owed."""
        if live + self._pending[uid] >= MAX_LIVE:
            return f"uid {uid}: has {MAX_LIVE} sessions on this node already; end some"
        self._buckets = {one: kept for one, kept in self._buckets.items() if kept.full_at > now}
        bucket = self._buckets.setdefault(uid, Bucket(now))
        if wait := bucket.wait(now):
            seconds = -(-wait // SECOND)
            return f"uid {uid}: started {BURST} sessions in a short time; try again in {seconds} s"
        bucket.take(now)
        self._pending[uid] += 1
        return ""

    def finish(self, uid: int) -> None:
        """A start that had begun is over, however it ended."""
        self._pending[uid] -= 1
        self._pending += Counter()  # Drops what is zero.
