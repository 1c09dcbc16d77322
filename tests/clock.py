"""A clock that stands still until it is told otherwise."""

from dataclasses import dataclass

from pki.clock import Boot, Wall
from tests.authority import NOW


@dataclass
class ManualClock:
    """Wall and boot time in microseconds. Move both with :meth:`pass_time`; a jump is one of them alone."""

    wall_time: int = NOW
    boot_time: int = 1_000_000

    def wall(self) -> Wall:
        return Wall(self.wall_time)

    def boot(self) -> Boot:
        return Boot(self.boot_time)

    def pass_time(self, duration: int) -> None:
        self.wall_time += duration
        self.boot_time += duration
