"""How much a node may rely on what it holds: freshness is completeness, and time has a floor.

Rules:

1. A heartbeat proves nothing by arriving: a peer could pass on every heartbeat and withhold one revocation. It makes
   this node fresh only once the node holds *all* that the heartbeat counts, and has the policy and the bundle it
   names in force.
2. The floor is the newest heartbeat's time plus the boot clock since then. It never goes back, so restrictions end
   by it alone; what permits is judged at the later of wall and floor.
3. A heartbeat that arrives when the floor has passed it was held up on its way for at least the difference. It
   counts as received that much earlier: held up, it makes nothing fresher and sets no floor back.
4. After a reboot nobody knows how long the machine was off. A kept heartbeat is then at least as old as the boot,
   and the wall clock tells more or nothing.
"""

from dataclasses import dataclass, replace

from pki.clock import Boot, Wall
from pki.statement import Heartbeat, Statement
from sidecar.defaults import SKEW
from sidecar.snapshot import Moment


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

    @property
    def promised(self) -> InForce:
        """What it says a complete node has in force."""
        return InForce(
            self.statement.payload.epoch,
            self.body.policy_sequence,
            self.body.policy_digest,
            self.body.bundle_sequence,
            self.body.bundle_digest,
        )

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
        self.newest = self._held_up(beat)
        return True

    def is_old(self, statement: Statement) -> bool:
        """Whether a heartbeat can change nothing. Every link brings each one: one signature check is enough."""
        if self.newest is None or not isinstance(statement.body, Heartbeat):
            return False
        newest, payload = self.newest.statement.payload, statement.payload
        return (payload.epoch, payload.issued) <= (newest.epoch, newest.issued)

    def restore(self, newest: Beat, confirmed: Beat | None) -> None:
        """Take up where a process before this one was."""
        self.newest, self.confirmed = newest, confirmed

    def confirm(self, in_force: InForce, numbered_digest: str) -> bool:
        """Hold the newest heartbeat against what is in force here; whether this node is complete."""
        beat = self.newest
        if beat is None or beat.promised != in_force or beat.body.digest != numbered_digest:
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

    def _held_up(self, beat: Beat) -> Beat:
        if beat.received is None:
            return beat
        late = self.floor(beat.received) - beat.issued
        return replace(beat, received=Boot(beat.received - late)) if late > 0 else beat


def _order(beat: Beat) -> tuple[int, int]:
    return beat.statement.payload.epoch, beat.issued
