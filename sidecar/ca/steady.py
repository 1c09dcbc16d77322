"""Whether the CA may sign by its wall clock.

All that the CA signs has a time in it, and its own heartbeat is what the time of the mesh rests on. Nobody tells the
CA that it is wrong, so it holds the wall clock against the floor: its newest heartbeat plus the boot clock since, which
no step can move.

1. Within SKEW of each other, all is well.
2. Apart, one of them is wrong, and nobody here knows which: the CA signs nothing. Nodes go stale and refuse by
   themselves; nothing ends early and nothing expired lives again. A clock that is put right is believed at once.
3. A clock that stays ahead for SETTLE was put right itself: the machine was paused, or time came late. Then it counts.
   One that was ahead for a moment never becomes the floor, below which no heartbeat could follow for as long.
4. A clock behind the floor is never believed: what has expired since would be good again.
5. After a reboot nobody knows how long the machine was off: ahead is as it should be.
"""

from collections.abc import Callable

from pki.clock import MINUTE, SECOND, Boot, Clock, Wall
from pki.errors import LocalError
from sidecar.defaults import SKEW
from sidecar.gossip.freshness import Freshness

SETTLE = 2 * MINUTE
"""How long a clock must stay ahead to be believed: boot time, us."""


class Steadiness:
    """The judgement. Pure; asked before anything is signed, and once a second."""

    def __init__(self) -> None:
        self._ahead_since: Boot | None = None

    def fault(self, wall: Wall, floor: Wall, boot: Boot) -> str:
        """Why the wall clock cannot be signed by now; empty: it can."""
        ahead = wall - floor
        if ahead <= SKEW:
            self._ahead_since = None
            seconds = -ahead // SECOND
            return (
                ""
                if ahead >= -SKEW
                else f"the clock is {seconds} s behind the newest heartbeat: set it right"
            )
        if self._ahead_since is None:
            self._ahead_since = boot
        if boot - self._ahead_since >= SETTLE:
            return ""
        return f"the clock jumped {ahead // SECOND} s ahead: set it right, or wait {SETTLE // SECOND} s"


class SigningClock:
    """The CA's clock: a Clock whose wall time nobody gets while it is in doubt."""

    def __init__(self, clock: Clock, freshness: Callable[[], Freshness]) -> None:
        self._clock = clock
        self._freshness = freshness
        self._steadiness = Steadiness()

    def fault(self) -> str:
        """See :meth:`Steadiness.fault`."""
        freshness, boot = self._freshness(), self._clock.boot()
        if freshness.newest is None:
            return ""
        wall, floor = self._clock.wall(), freshness.floor(boot)
        if freshness.newest.received is None:  # From before this boot.
            floor = max(floor, wall)
        return self._steadiness.fault(wall, floor, boot)

    def wall(self) -> Wall:
        """The time to sign by; raises LocalError while it is in doubt."""
        fault = self.fault()
        if fault:
            raise LocalError(f"{fault}; until then the CA signs nothing")
        return self._clock.wall()

    def for_stops(self) -> Wall:
        """The same for what restricts, which waits for no clock: in doubt, the floor."""
        return self._freshness().floor(self._clock.boot()) if self.fault() else self._clock.wall()

    def boot(self) -> Boot:
        return self._clock.boot()
