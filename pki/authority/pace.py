"""How long a newcomer who is turned away should wait: what stands in line, by the pace at which it has moved. Pure."""

from collections import deque

from pki.clock import SECOND

REMEMBERED = 64
"""Enrolments that the pace is measured over."""

FIRST_GUESS = 5
LONGEST = 60


class Pace:
    """``at`` is boot or monotonic time in microseconds."""

    def __init__(self) -> None:
        self._done: deque[int] = deque(maxlen=REMEMBERED)

    def done(self, at: int) -> None:
        """One more was dealt with."""
        self._done.append(at)

    def seconds(self, waiting: int) -> int:
        """Until ``waiting`` more have been dealt with: 1 to LONGEST; FIRST_GUESS before there is a pace."""
        if len(self._done) < 2:
            return FIRST_GUESS
        took = max(1, self._done[-1] - self._done[0])
        each = took / (len(self._done) - 1)
        return min(LONGEST, int(waiting * each / SECOND) + 1)
