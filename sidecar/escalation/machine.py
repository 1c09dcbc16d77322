"""One escalation from its request to its end: a table of states, and ``handle(event, now) -> effects``.

Rules:

1. Time passes first: an event at or after ``decide_by`` finds what was not granted expired, one at or after ``until``
   finds a lease ended. So an approval that comes late is late, whatever else arrives with it.
2. Approvals count by operator: twice the same one is once.
3. A refusal is final, and ends a lease too.
4. Whoever agreed and is revoked has agreed to nothing: what rests on too few others then has ended.
5. ``derives``: the last approval that is needed grants it. Else only the CA's word does (:class:`Leased`).
6. An event that the table does not have for a state is a bug: it raises and changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pki.clock import Wall
from sidecar.escalation.ask import Ask


class State(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    """By some, and by fewer than it takes."""
    GRANTED = "granted"
    USED_UP = "used-up"
    """What runs on the last use goes on until the lease ends."""
    REFUSED = "refused"
    EXPIRED = "expired"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Approved:
    """An operator who may, agreed."""

    by: str


@dataclass(frozen=True, slots=True)
class Voided:
    """An operator who agreed was revoked."""

    by: str


@dataclass(frozen=True, slots=True)
class Refused:
    by: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Leased:
    """The CA granted it."""

    until: Wall
    approvers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Used:
    """So often in all, at its one tool node."""

    times: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Something else made an end of it: the policy, or the session's own end."""

    why: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """Nothing but time."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Let the session use it until then."""

    until: Wall


@dataclass(frozen=True, slots=True)
class End:
    """It is over, and what ran on it is cut."""

    why: str


Event: TypeAlias = Approved | Voided | Refused | Leased | Used | Stopped | Ticked
Effect: TypeAlias = Grant | End

FINAL = frozenset({State.REFUSED, State.EXPIRED, State.ENDED})
OPEN = frozenset({State.REQUESTED, State.APPROVED})
IN_FORCE = frozenset({State.GRANTED, State.USED_UP})


def _row(**to: str) -> Mapping[str, frozenset[State]]:
    return {event: frozenset(map(State, states.split())) for event, states in to.items()}


def _over(state: str) -> Mapping[str, frozenset[State]]:
    return _row(Approved=state, Voided=state, Refused=state, Leased=state, Stopped=state, Ticked=state)


TRANSITIONS: Mapping[State, Mapping[str, frozenset[State]]] = {
    State.REQUESTED: _row(
        Approved="approved granted",
        Voided="requested",
        Refused="refused",
        Leased="granted",
        Stopped="ended",
        Ticked="requested expired",
    ),
    State.APPROVED: _row(
        Approved="approved granted",
        Voided="requested approved",
        Refused="refused",
        Leased="granted",
        Stopped="ended",
        Ticked="approved expired",
    ),
    State.GRANTED: _row(
        Approved="granted",
        Voided="granted ended",
        Refused="refused",
        Leased="granted",
        Used="granted used-up",
        Stopped="ended",
        Ticked="granted ended",
    ),
    State.USED_UP: _row(
        Approved="used-up",
        Voided="used-up ended",
        Refused="refused",
        Leased="used-up",
        Used="used-up",
        Stopped="ended",
        Ticked="used-up ended",
    ),
    State.REFUSED: _over("refused"),
    State.EXPIRED: _over("expired"),
    State.ENDED: _over("ended"),
}


class IllegalEventError(Exception):
    """An event that cannot happen in this state: a bug of who calls."""


@dataclass(slots=True)
class Escalation:
    """One request. ``needed`` approvals; ``derives``: rule 5. Changed by :meth:`handle` only."""

    ask: Ask
    needed: int
    derives: bool
    state: State = State.REQUESTED
    approvals: dict[str, Wall] = field(default_factory=dict)
    """Who agreed, and when."""
    until: Wall | None = None
    """When its lease ends, once it has one."""
    cut_short: bool = False
    """Its lease ended before that."""
    why: str = ""
    used: int = 0

    def handle(self, event: Event, now: Wall) -> list[Effect]:
        """What follows from ``event`` at ``now``; raises IllegalEventError, and then nothing has changed."""
        name = type(event).__name__
        if self._passed(now) not in FINAL and name not in TRANSITIONS[self.state]:
            raise IllegalEventError(f"escalation {self.ask.id}: {name} while {self.state}")
        effects = self._apply(Ticked(), now)
        if not isinstance(event, Ticked) and name in TRANSITIONS[self.state]:
            effects += self._apply(event, now)
        return effects

    @property
    def next_deadline(self) -> Wall | None:
        """When time alone changes something; None: never again."""
        if self.state in OPEN:
            return self.ask.decide_by
        return self.until if self.state in IN_FORCE else None

    def _apply(self, event: Event, now: Wall) -> list[Effect]:
        before = self.state
        after = self._next(event, now)
        assert after in TRANSITIONS[before][type(event).__name__]  # noqa: S101 - the table is the law
        self.state = after
        if after is State.GRANTED and before in OPEN and self.until is not None:
            return [Grant(self.until)]
        return [End(self.why)] if after in FINAL and before not in FINAL else []

    def _next(self, event: Event, now: Wall) -> State:
        if self.state in FINAL:
            return self.state
        match event:
            case Ticked():
                return self._passed(now)
            case Approved():
                return self._approved(event, now)
            case Leased():
                self.until = event.until
                self.approvals = {name: self.approvals.get(name, now) for name in event.approvers}
                return self.state if self.state in IN_FORCE else State.GRANTED
            case Voided():
                return self._voided(event)
            case Used():
                self.used = event.times
                return State.USED_UP if 0 < self.ask.uses <= event.times else self.state
            case Refused():
                said = f": {event.message}" if event.message else ""
                return self._over(State.REFUSED, f"refused by {event.by}{said}")
            case Stopped():  # pragma: no branch - the last there is
                return self._over(State.ENDED, event.why)

    def _approved(self, event: Approved, now: Wall) -> State:
        if self.state in IN_FORCE:
            return self.state
        self.approvals.setdefault(event.by, now)
        if not self.derives or len(self.approvals) < self.needed:
            return State.APPROVED
        self.until = Wall(now + self.ask.ttl)
        return State.GRANTED

    def _voided(self, event: Voided) -> State:
        if self.approvals.pop(event.by, None) is None:
            return self.state
        if self.state in OPEN:
            return State.APPROVED if self.approvals else State.REQUESTED
        if len(self.approvals) >= self.needed:
            return self.state
        return self._over(State.ENDED, f"operator {event.by}, who approved it, is revoked")

    def _passed(self, now: Wall) -> State:
        """The state that time alone leaves at ``now``."""
        if self.state in OPEN and now >= self.ask.decide_by:
            self.why = "nobody decided in time"
            return State.EXPIRED
        if self.state in IN_FORCE and self.until is not None and now >= self.until:
            self.why = "its time is over"
            return State.ENDED
        return self.state

    def _over(self, state: State, why: str) -> State:
        self.why = why
        self.cut_short = self.until is not None
        return state
