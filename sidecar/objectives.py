"""Service level objectives of segments: how many streams and requests kept to their time, over rolling windows. Pure.

What is measured is our own part: of a stream from its arrival to the tool's connection, of a request from its arrival
to its forwarding, each with its decision and its durable record. A refusal that is no word of the policy (no room, no
log) did not keep to it.

The *error budget* is what may miss the objective in a day. The *burn rate* is how fast it is used up: at 1 it lasts for
exactly that day. Both an hour and five minutes over FAST is a fast burn: it began a while ago and still goes on (Google SRE
Workbook, "Alerting on SLOs", multiwindow).
"""

from collections import deque
from dataclasses import dataclass, field

from pki.clock import MINUTE, Boot
from sidecar.policy.model import Objective

FAST = 14.4
"""A burn rate that uses up two days' budget of a month in an hour."""
FIVE_MINUTES, HOUR, DAY = 5, 60, 24 * 60
"""Windows, in buckets of a minute."""


@dataclass(slots=True)
class Bucket:
    minute: int
    total: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """How one segment does. ``budget`` is the part of a day's that is left, below 0 when it is overdrawn."""

    total: int
    missed: int
    budget: float
    burn: float
    """Over the last hour."""
    fast: bool


@dataclass(slots=True)
class Objectives:
    """By segment, the minutes of a day."""

    _kept: dict[str, deque[Bucket]] = field(default_factory=dict)

    def note(self, segment: str, objective: Objective, latency: int | None, now: Boot) -> None:
        """One stream or request; ``latency`` in microseconds, None for one that we could not serve."""
        buckets = self._kept.setdefault(segment, deque(maxlen=DAY))
        minute = now // MINUTE
        if not buckets or buckets[-1].minute != minute:
            buckets.append(Bucket(minute))
        buckets[-1].total += 1
        buckets[-1].missed += latency is None or latency > objective.p99

    def report(self, segment: str, objective: Objective, now: Boot) -> Report:
        """What holds at ``now``."""
        total, missed = self._sums(segment, now, DAY)
        budget = 1 - missed / (total * _may_miss(objective)) if total else 1.0
        burns = [self._burn(segment, objective, now, window) for window in (HOUR, FIVE_MINUTES)]
        return Report(total, missed, budget, burns[0], min(burns) >= FAST)

    def _burn(self, segment: str, objective: Objective, now: Boot, window: int) -> float:
        total, missed = self._sums(segment, now, window)
        return missed / total / _may_miss(objective) if total else 0.0

    def _sums(self, segment: str, now: Boot, window: int) -> tuple[int, int]:
        first = now // MINUTE - window + 1
        recent = [one for one in self._kept.get(segment, ()) if one.minute >= first]
        return sum(one.total for one in recent), sum(one.missed for one in recent)


def _may_miss(objective: Objective) -> float:
    """The part of all that may miss it: more than 0, as no objective is 100 %."""
    return 1 - objective.objective / 100
