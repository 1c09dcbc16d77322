"""The live table: every stream from admission to its end, and when each must be judged again. Pure.

A stream is entered BEFORE it is decided on. A revocation that arrives between the two therefore finds it, and
whichever comes last, the decision or the revocation, ends it.

Streams are indexed by what was asked (:class:`Request`): thousands of streams of one session to one service are
decided once. Time facts change no snapshot, so the table also knows the next instant at which time alone could end
a stream; the shell looks again then, and each stream checks the same instant before it passes a byte, so that
after a suspended machine wakes up nothing passes unjudged.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pki.clock import SECOND, Boot, Wall
from sidecar.defaults import HALF_CLOSE_IDLE
from sidecar.policy.decide import Request, next_boundary, redecide
from sidecar.proxy.quotas import UNLIMITED, Allowance
from sidecar.reasons import Reason
from sidecar.snapshot import Moment, Snapshot

FOREVER = Boot(2**62)

RECENT = 5 * SECOND
"""How long a stream that the peer cut is remembered, to be counted in our own receipt (us)."""

MAX_RECENT = 4_096


@dataclass(frozen=True, slots=True)
class Limits:
    """Microseconds of boot time; 0 is none."""

    idle: int = 0
    half_close_idle: int = HALF_CLOSE_IDLE
    lifetime: int = 0


@dataclass(eq=False, slots=True)
class Live:
    """One stream. ``cancel`` ends it; the reason is set first, so whoever wakes up knows why."""

    id: str
    request: Request
    limits: Limits
    started: Boot
    cancel: Callable[[], None]
    active: Boot
    judge_by: Boot
    """No byte passes from this instant (boot time) on, until the stream was judged again."""
    half_closed: bool = False
    bytes_in: int = 0
    bytes_out: int = 0
    reason: Reason | None = None
    rule: str = ""
    peer: str = ""
    is_open: bool = False
    allowance: Allowance = UNLIMITED
    also: tuple[Request, ...] = ()
    """What the request under way is about besides ``request``: each may end it."""
    reread: Callable[[Snapshot], tuple[Request, ...]] | None = None
    """While a request is under way: what it is by another policy, whose conditions it was not yet held against."""

    def cut(self, reason: Reason, rule: str = "") -> bool:
        """End the stream; False when it is ending already."""
        if self.reason is not None:
            return False
        self.reason, self.rule = reason, rule
        self.cancel()
        return True


class LiveTable:
    """All live streams of this node, in both roles."""

    def __init__(self) -> None:
        self._streams: dict[str, Live] = {}
        self._by_request: dict[Request, dict[str, Live]] = {}
        self._recent: deque[tuple[Boot, Request]] = deque(maxlen=MAX_RECENT)
        self._under_way: dict[str, Live] = {}
        """Those with a request under way."""

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Live]:
        return iter(list(self._streams.values()))

    def find(self, stream: str) -> Live | None:
        return self._streams.get(stream)

    def by_tool_node(self) -> Counter[str]:
        """How many streams lead, or are on their way, to each tool's node."""
        load: Counter[str] = Counter()
        for request, streams in self._by_request.items():  # Few, however many streams there are.
            load[request.tool_node] += len(streams)
        return load

    def admit(self, live: Live) -> bool:
        """Enter a stream; False when its id is live already (a peer that repeats itself)."""
        if live.id in self._streams:
            return False
        self._streams[live.id] = live
        self._by_request.setdefault(live.request, {})[live.id] = live
        return True

    def rebind(self, live: Live, request: Request, also: tuple[Request, ...] = ()) -> None:
        """The same stream, now that more is known of who is under it."""
        self._unindex(live)
        live.request, live.also = request, also
        self._by_request.setdefault(request, {})[live.id] = live

    def begin(
        self, live: Live, requests: Sequence[Request], snapshot: Snapshot, moment: Moment, now: Boot
    ) -> None:
        """``requests`` were just allowed, and are what the stream does until :meth:`finish`."""
        self.rebind(live, requests[0], tuple(requests[1:]))
        self._under_way[live.id] = live
        self._postpone({live.id: live}, self._boundary(live, snapshot, moment), moment, now)

    def finish(self, live: Live) -> None:
        """Its request is over: the stream is itself again."""
        self._under_way.pop(live.id, None)
        live.reread = None
        self.rebind(live, replace(live.request, operation=None))

    def close(self, live: Live, now: Boot, *, by_peer: bool = False) -> None:
        """Take a stream out. One that the peer cut may be counted for our own receipt a moment later."""
        if self._streams.get(live.id) is not live:
            return
        del self._streams[live.id]
        self._under_way.pop(live.id, None)
        self._unindex(live)
        if by_peer:
            self._recent.append((now, live.request))

    def redecide(self, snapshot: Snapshot, moment: Moment, now: Boot) -> tuple[list[Live], dict[str, int]]:
        """Judge every stream again: those cut now, and how many each rule ended.

        A deadline in wall time becomes one in boot time, which no clock step can move.
        """
        ended: list[Live] = []
        counts: dict[str, int] = {}
        for live in self._under_way.values():
            if live.reread is not None:
                request, *also = live.reread(snapshot)
                self.rebind(live, request, tuple(also))
        for request, streams in list(self._by_request.items()):
            decision = redecide(request, snapshot, moment)
            if decision.reason is None:
                self._postpone(streams, next_boundary(request, snapshot, moment), moment, now)
                continue
            for live in list(streams.values()):
                if live.cut(decision.reason, decision.rule):
                    ended.append(live)
                    counts[decision.rule] = counts.get(decision.rule, 0) + 1
        for live in [one for one in self._under_way.values() if one.also and one.reason is None]:
            if not self.judge(live, snapshot, moment, now):
                ended.append(live)
                counts[live.rule] = counts.get(live.rule, 0) + 1
        self._count_recent(snapshot, moment, now, counts)
        return ended, counts

    def judge(self, live: Live, snapshot: Snapshot, moment: Moment, now: Boot) -> bool:
        """Judge this one stream again; False when it is ending."""
        for request in (live.request, *live.also):
            decision = redecide(request, snapshot, moment)
            if decision.reason is not None:
                live.cut(decision.reason, decision.rule)
        if live.reason is not None:
            return False
        self._postpone({live.id: live}, self._boundary(live, snapshot, moment), moment, now)
        return True

    def overdue(self, now: Boot) -> list[Live]:
        """Cut what ran into a limit of its own: lifetime, idle, or idle after a half-close."""
        ended = []
        for live in list(self._streams.values()):
            reason = _limit_reached(live, now)
            if reason is not None and live.cut(reason):
                ended.append(live)
        return ended

    def next_deadline(self) -> Boot | None:
        """The earliest instant at which a stream must be judged again; one that is ending needs no judgement."""
        live = (one.judge_by for one in self._streams.values() if one.reason is None)
        return min(live, default=None)

    def _boundary(self, live: Live, snapshot: Snapshot, moment: Moment) -> Wall | None:
        ends = [next_boundary(one, snapshot, moment) for one in (live.request, *live.also)]
        return min((end for end in ends if end is not None), default=None)

    def _postpone(self, streams: dict[str, Live], boundary: Wall | None, moment: Moment, now: Boot) -> None:
        judge_by = FOREVER if boundary is None else Boot(now + max(0, boundary - moment.now))
        for live in streams.values():
            live.judge_by = judge_by

    def _count_recent(self, snapshot: Snapshot, moment: Moment, now: Boot, counts: dict[str, int]) -> None:
        """A peer that heard of a revocation first has cut our stream before we could: it was ours too."""
        waiting = [(at, request) for at, request in self._recent if now - at < RECENT]
        self._recent.clear()
        for at, request in waiting:
            decision = redecide(request, snapshot, moment)
            if decision.reason in (Reason.LOCKED, Reason.REVOKED):
                counts[decision.rule] = counts.get(decision.rule, 0) + 1
            else:
                self._recent.append((at, request))

    def _unindex(self, live: Live) -> None:
        streams = self._by_request[live.request]
        del streams[live.id]
        if not streams:
            del self._by_request[live.request]


def _limit_reached(live: Live, now: Boot) -> Reason | None:
    limits = live.limits
    if limits.lifetime and now - live.started >= limits.lifetime:
        return Reason.LIFETIME
    if live.half_closed and limits.half_close_idle and now - live.active >= limits.half_close_idle:
        return Reason.IDLE
    if live.is_open and limits.idle and now - live.active >= limits.idle:
        return Reason.IDLE
    return None
