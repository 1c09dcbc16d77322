"""Quotas: how much an agent, and each of its sessions, may use on this node. Pure.

Who uses is an *owner*: an agent, or a session of it. Each kind of use has a limit of its own: streams at one time,
requests and bytes in a window of time. A window is counted in slices, and the oldest slice counts whole until all of
it is past: never more than the limit in any window, at times a slice's worth less.

A stream takes an :class:`Allowance` when it is opened and gives it back at its end; what it uses is counted for all
its owners. A stream keeps the limits that held when it was opened. Owners without use are forgotten.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from pki.clock import SECOND, Boot
from sidecar.policy.model import Quota, Window

SLICES = 20


@dataclass(frozen=True, slots=True)
class Excess:
    """What is used up, for a hint, and when it may be otherwise (us from now)."""

    what: str
    retry_after: int

    @property
    def hint(self) -> str:
        return f"the quota of {self.what} is used up"


@dataclass(slots=True)
class Meter:
    """Use of one thing in one window."""

    window: Window
    _slices: deque[list[int]] = field(default_factory=deque)
    """[number of the slice, use], oldest first."""
    _sum: int = 0

    def wait(self, amount: int, now: Boot) -> int:
        """How long (us) until ``amount`` more may be used; 0: now. More than the limit may be used never: a window."""
        self._forget(now)
        over = self._sum + amount - self.window.count
        if over <= 0:
            return 0
        for number, used in self._slices:
            over -= used
            if over <= 0:
                return max(1, (number + SLICES + 1) * self._length - now)
        return self.window.per

    def use(self, amount: int, now: Boot) -> None:
        number = now // self._length
        if self._slices and self._slices[-1][0] == number:
            self._slices[-1][1] += amount
        else:
            self._slices.append([number, amount])
        self._sum += amount

    def is_unused(self, now: Boot) -> bool:
        self._forget(now)
        return not self._slices

    @property
    def _length(self) -> int:
        return max(1, -(-self.window.per // SLICES))

    def _forget(self, now: Boot) -> None:
        # A slice is past when its last instant is a whole window ago.
        oldest = now // self._length - SLICES
        while self._slices and self._slices[0][0] < oldest:
            self._sum -= self._slices.popleft()[1]


@dataclass(slots=True)
class _Owner:
    """What one owner uses."""

    name: str
    streams: int = 0
    requests: Meter | None = None
    bytes: Meter | None = None

    def follow(self, quota: Quota) -> None:
        """Take up the limits that hold now; use in another window is not comparable."""
        if self.requests is None or self.requests.window != quota.requests:
            self.requests = Meter(quota.requests) if quota.requests else None
        if self.bytes is None or self.bytes.window != quota.bytes:
            self.bytes = Meter(quota.bytes) if quota.bytes else None

    def is_unused(self, now: Boot) -> bool:
        meters = (self.requests, self.bytes)
        return not self.streams and all(meter is None or meter.is_unused(now) for meter in meters)


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one stream may still use, of all its owners."""

    owners: tuple[_Owner, ...]

    def request(self, now: Boot) -> Excess | None:
        """Count a request, unless it would be too many."""
        meters = [(owner, owner.requests) for owner in self.owners if owner.requests]
        for owner, meter in meters:
            if wait := meter.wait(1, now):
                return Excess(f"requests of {owner.name}", wait)
        excess = self.spent(now)
        if excess is None:
            for _, meter in meters:
                meter.use(1, now)
        return excess

    def spend(self, count: int, now: Boot) -> Excess | None:
        """Count bytes that passed; what it says ends the stream."""
        for owner in self.owners:
            if owner.bytes:
                owner.bytes.use(count, now)
        return self.spent(now, room=0)

    def spent(self, now: Boot, room: int = 1) -> Excess | None:
        """Whether so many bytes more would be too many."""
        for owner in self.owners:
            if owner.bytes and (wait := owner.bytes.wait(room, now)):
                return Excess(f"bytes of {owner.name}", wait)
        return None


UNLIMITED = Allowance(())


class Quotas:
    """All owners of this node."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, ...], _Owner] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def open(
        self, agent: tuple[str, Quota | None], session: tuple[str, Quota | None], now: Boot
    ) -> Allowance | Excess:
        """Count a stream of this agent and session, each with its quota, unless it would be too many."""
        wanted = []
        if agent[1] is not None:
            wanted.append((self._owner((agent[0],), f"agent {agent[0]}", agent[1]), agent[1]))
        if session[1] is not None:
            name = f"this session of agent {agent[0]}"
            wanted.append((self._owner((agent[0], session[0]), name, session[1]), session[1]))
        for owner, quota in wanted:
            if quota.streams is not None and owner.streams >= quota.streams:
                return Excess(f"streams of {owner.name}", SECOND)
        allowance = Allowance(tuple(owner for owner, _ in wanted)) if wanted else UNLIMITED
        excess = allowance.spent(now)
        if excess is not None:
            return excess
        for owner in allowance.owners:
            owner.streams += 1
        return allowance

    def close(self, allowance: Allowance) -> None:
        """A stream ended."""
        for owner in allowance.owners:
            owner.streams -= 1

    def forget_unused(self, now: Boot) -> None:
        """Once in a while."""
        unused = [key for key, owner in self._owners.items() if owner.is_unused(now)]
        _drop(self._owners, unused)

    def _owner(self, key: tuple[str, ...], name: str, quota: Quota) -> _Owner:
        owner = self._owners.setdefault(key, _Owner(name))
        owner.follow(quota)
        return owner


def _drop(owners: dict[tuple[str, ...], _Owner], keys: Iterable[tuple[str, ...]]) -> None:
    for key in keys:
        del owners[key]
