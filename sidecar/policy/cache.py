"""Decisions that were made lately, given again while they would be the same. Pure.

Rules.

1. What the cache answers equals a fresh decision, whatever has happened: policy, lock, revocation, lease, roster,
   certificate, either clock, heartbeat.
2. It never answers past the segment's ``decision-ttl``; 0 is never.
3. It holds at most so many decisions; the oldest go first.
4. An answer names the decision that it repeats, so a record leads to what was looked at.

How. A key is the whole request: session, service, node, certificates, operation, narrowing. All entries are of one
snapshot; another digest empties the cache, so whatever is in force is part of the key. What is left is time: an entry
is good from the clocks it was made at up to the first instant at which an end of anything it rests on is reached, on
the clock that the end goes by (:class:`sidecar.policy.decide.Horizon`). A clock that goes back makes it void. What is
stale is not kept, because the next word from the CA ends it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pki.clock import Wall
from sidecar.policy.decide import Decision, Request, decide_until
from sidecar.snapshot import Moment, Snapshot, nodes_of

MAX_DECISIONS = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """A decision, and the id of the one that it repeats: its own, when it is fresh."""

    decision: Decision
    first: str


@dataclass(slots=True)
class _Entry:
    """A decision, and the clocks between which it holds, ends excluded. ``answer`` None: made ready, never asked."""

    decision: Decision
    answer: Answer | None
    since: Wall
    until: Wall
    floor_since: Wall
    floor_until: Wall | None
    as_of: Wall
    is_prewarmed: bool

    def holds(self, moment: Moment) -> bool:
        if not self.since <= moment.now < self.until or moment.floor < self.floor_since:
            return False
        if self.floor_until is not None and moment.floor >= self.floor_until:
            return False
        return moment.as_of is not None and moment.as_of >= self.as_of


class DecisionCache:
    """``hits``, ``misses`` and ``prewarmed_hits`` (part of the hits) count since the start."""

    __slots__ = ("_digest", "_entries", "_limit", "hits", "misses", "prewarmed_hits")

    def __init__(self, limit: int = MAX_DECISIONS) -> None:
        self.hits = self.misses = self.prewarmed_hits = 0
        self._limit = limit
        self._digest: str | None = None
        self._entries: OrderedDict[Request, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def decide(self, request: Request, snapshot: Snapshot, moment: Moment, new_id: str) -> Answer:
        """As :func:`sidecar.policy.decide.decide`; ``new_id`` is the decision's id, unless it repeats another."""
        entry = self._entries.get(request) if snapshot.digest == self._digest else None
        if entry is None or not entry.holds(moment):
            self.misses += 1
            answer = Answer(self._make(request, snapshot, moment), new_id)
            if made := self._entries.get(request):
                made.answer = answer
            return answer
        self.hits += 1
        self.prewarmed_hits += entry.is_prewarmed
        if entry.answer is None:
            entry.answer = Answer(entry.decision, new_id)
        return entry.answer

    def prewarm(self, requests: Iterable[Request], snapshot: Snapshot, moment: Moment) -> int:
        """Make decisions ready that will likely be asked for; how many. The first to ask gives it its id."""
        missing = [one for one in requests if snapshot.digest != self._digest or one not in self._entries]
        for request in missing[: self._limit]:
            self._make(request, snapshot, moment)
            if made := self._entries.get(request):
                made.is_prewarmed = True
        return len(missing[: self._limit])

    def _make(self, request: Request, snapshot: Snapshot, moment: Moment) -> Decision:
        """A fresh decision, kept if it may be."""
        if snapshot.digest != self._digest:
            self._entries.clear()
            self._digest = snapshot.digest
        self._entries.pop(request, None)
        decision, horizon = decide_until(request, snapshot, moment)
        segment = snapshot.policy.segments.get(decision.segment) if snapshot.policy else None
        ttl = segment.decision_ttl if segment else 0
        if not ttl or not horizon.is_fresh or moment.as_of is None:
            return decision
        if len(self._entries) >= self._limit:
            self._entries.popitem(last=False)
        until = Wall(moment.now + ttl)
        self._entries[request] = _Entry(
            decision=decision,
            answer=None,
            since=moment.now,
            until=until if horizon.now is None else min(until, horizon.now),
            floor_since=moment.floor,
            floor_until=horizon.floor,
            as_of=moment.as_of,
            is_prewarmed=False,
        )
        return decision


def likely(sessions: Iterable[Request], snapshot: Snapshot) -> Iterator[Request]:
    """What these sessions will ask for: every service that their agent has a binding to, on each of its nodes.

    Of each session one request is given, for whatever service: who asks and what was verified is taken from it.
    """
    policy = snapshot.policy
    if policy is None:
        return
    for one in sessions:
        for binding in policy.bindings_on(one.session.node):
            if binding.agent == one.session.name:
                for node in sorted(nodes_of(policy.services[binding.service], snapshot.roster)):
                    yield replace(one, service=binding.service, tool_node=node, operation=None)
