"""Time as values. Wall time and boot time are different types, so they cannot be mixed up."""

import time
from typing import NewType, Protocol

Wall = NewType("Wall", int)
"""Integer microseconds since the Unix epoch. May jump."""

Boot = NewType("Boot", int)
"""Integer microseconds of CLOCK_BOOTTIME: never jumps, goes on during suspend, starts anew at boot."""

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class Clock(Protocol):
    """The seam for time."""

    def wall(self) -> Wall: ...
    def boot(self) -> Boot: ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> Wall:
        return Wall(time.time_ns() // 1_000)

    def boot(self) -> Boot:
        return Boot(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000)
