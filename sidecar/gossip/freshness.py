"""How much a node may rely on what it holds: freshness is completeness, and time has a floor.

A heartbeat proves nothing by arriving: a peer could pass on every heartbeat and withhold one revocation. It makes
this node fresh only once the node holds *all* that the heartbeat counts, and has the policy and the bundle it
names in force.

The floor is the newest heartbeat's time plus the boot clock since then. It cannot be set back with the wall
clock, so restrictions end by it alone; what permits is judged at the later of wall and floor.
"""

from dataclasses import dataclass

from pki.clock import MINUTE, Boot, Wall
from pki.statement import Heartbeat, Statement
from sidecar.snapshot import Moment

SKEW = MINUTE
"""How far the wall clock and the mesh's time may be apart (us)."""


@dataclass(frozen=True, slots=True)
class InForce:
    """What this node has in force, to hold against a heartbeat."""

    epoch: int
    policy_sequence: int
    policy_digest: str
    bundle_sequence: int
    bundle_digest: str


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat and when it came. ``received`` is None for one from before this boot."""

    statement: Statement
    body: Heartbeat
    received: Boot | None

    @property
    def issued(self) -> int:
        return self.statement.payload.issued

    def elapsed(self, boot: Boot) -> int:
        """Boot time since it came, at least: us. CLOCK_BOOTTIME starts at 0 with the boot."""
        return boot - (self.received or 0)


class Freshness:
    """The newest heartbeat, and the newest one at which this node was complete."""

    def __init__(self) -> None:
        self.newest: Beat | None = None
        self.confirmed: Beat | None = None

    def observe(self, beat: Beat, wall: Wall) -> bool:
        """Take in a heartbeat whose signature holds; False when it changes nothing.

        A stolen statement key could push the floor far ahead and end every lock: refused beyond SKEW.
        """
        if beat.issued > wall + SKEW:
            return False
        if self.newest is not None and _order(beat) <= _order(self.newest):
            return False
        self.newest = beat
        return True

    def confirm(self, in_force: InForce, numbered_digest: str) -> bool:
        """Hold the newest heartbeat against what is in force here; whether this node is complete."""
        beat = self.newest
        if beat is None:
            return False
        body = beat.body
        promised = InForce(
            beat.statement.payload.epoch,
            body.policy_sequence,
            body.policy_digest,
            body.bundle_sequence,
            body.bundle_digest,
        )
        if promised != in_force or body.digest != numbered_digest:
            return False
        self.confirmed = beat
        return True

    def floor(self, boot: Boot) -> Wall:
        """The time that has certainly come; 0 before the first heartbeat."""
        if self.newest is None:
            return Wall(0)
        return Wall(self.newest.issued + self.newest.elapsed(boot))

    def moment(self, wall: Wall, boot: Boot) -> Moment:
        """The time facts of a decision made now."""
        floor = self.floor(boot)
        beat = self.confirmed
        # A wall clock and a mesh that disagree by more than SKEW: one of them is wrong, nobody here knows which.
        if beat is None or abs(wall - floor) > SKEW:
            return Moment(wall, floor, None)
        age = max(wall - beat.issued, beat.elapsed(boot))
        return Moment(wall, floor, Wall(max(wall, floor) - age))


def _order(beat: Beat) -> tuple[int, int]:
    return beat.statement.payload.epoch, beat.issued
