"""A CA key's successor, phase by phase, with no moment at which a member cannot be verified. Pure.

    idle ──prepare──> prepared ──activate──> activated ──retire──> idle
      ^                   │ ^                    │
      └─────rollback──────┘ └──────rollback──────┘

Rules:

1. Nobody is asked to trust what was signed by a key before everybody has said that they know the key: the trust bundle
   of ``prepared`` lists the old key and the new one, and ``activate`` waits for every node's acknowledgement of it.
2. Nothing is forgotten before everybody has stopped using it: ``retire`` waits until no certificate of the old key is
   in use, and every node has said that it holds the bundle in which the new key stands first.
3. Who stands in the way is named with the reason; an admin may leave them behind by name, and nobody else.
4. The bundle of each phase is signed by a root that the phase before trusts, so whoever slept through one takes the
   next; whoever slept through all of them is given them in their order.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pki.clock import Wall
from pki.errors import LocalError


class Part(StrEnum):
    """What gets a successor. A root takes all that hangs on it along."""

    ROOT = "root"
    ISSUER = "issuer"
    STATEMENT = "statement"


class Phase(StrEnum):
    IDLE = "idle"
    PREPARED = "prepared"
    ACTIVATED = "activated"


class Step(StrEnum):
    PREPARE = "prepare"
    ACTIVATE = "activate"
    RETIRE = "retire"
    ROLLBACK = "rollback"


TRANSITIONS: dict[tuple[Phase, Step], Phase] = {
    (Phase.IDLE, Step.PREPARE): Phase.PREPARED,
    (Phase.PREPARED, Step.ACTIVATE): Phase.ACTIVATED,
    (Phase.ACTIVATED, Step.RETIRE): Phase.IDLE,
    (Phase.PREPARED, Step.ROLLBACK): Phase.IDLE,
    (Phase.ACTIVATED, Step.ROLLBACK): Phase.PREPARED,
}

USUAL: dict[Phase, Step] = {
    Phase.IDLE: Step.PREPARE,
    Phase.PREPARED: Step.ACTIVATE,
    Phase.ACTIVATED: Step.RETIRE,
}
"""The step that leads on."""


def after(phase: Phase, step: Step) -> Phase:
    """The phase that ``step`` leads to; raises LocalError where it leads nowhere."""
    found = TRANSITIONS.get((phase, step))
    if found is None:
        possible = ", ".join(each for held, each in TRANSITIONS if held is phase)
        raise LocalError(f"rollover: no {step} while {phase}; possible now: {possible}")
    return found


@dataclass(frozen=True, slots=True)
class Ack:
    """A node's word: the newest trust bundle that it holds, and the issuer (hex) of its own certificate."""

    sequence: int
    issuer: str


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds something that a key gave, until when: ``operator:alice``, ``session:ID``, ``lease:ID``."""

    who: str
    key: str
    not_after: Wall


@dataclass(frozen=True, slots=True)
class Situation:
    """What the next step is judged by. ``nodes`` is the roster less the revoked; None: said nothing yet.

    ``old`` and ``new`` are the key identifiers (hex) of what the rollover replaces and brings; empty while idle.
    """

    phase: Phase
    epoch: int
    sequence: int
    nodes: Mapping[str, Ack | None]
    holders: tuple[Holder, ...] = ()
    old: frozenset[str] = frozenset()
    new: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Broken:
    """Who would be left behind by a step, and why."""

    who: str
    why: str
    until: Wall | None = None


def broken(situation: Situation, step: Step) -> tuple[Broken, ...]:
    """Everybody whom ``step`` would cut off now; raises LocalError for a step that leads nowhere."""
    after(situation.phase, step)
    return tuple(_broken(situation, step))


def _broken(situation: Situation, step: Step) -> Iterator[Broken]:
    if step is Step.PREPARE or (situation.phase, step) == (Phase.ACTIVATED, Step.ROLLBACK):
        return  # Every key that members rely on stays in the bundle.
    leaving = _leaving(situation, step)
    for name, ack in sorted(situation.nodes.items()):
        if ack is None or ack.sequence < situation.sequence:
            held = "none that it has told of" if ack is None else str(ack.sequence)
            yield Broken(f"node:{name}", f"has not the trust bundle {situation.sequence}; it has {held}")
        elif ack.issuer in leaving:
            yield Broken(
                f"node:{name}", "its certificate is of the key that would go; it has not renewed yet"
            )
    for holder in situation.holders:
        if holder.key in leaving:
            yield Broken(holder.who, "holds something of the key that would go", holder.not_after)


def _leaving(situation: Situation, step: Step) -> frozenset[str]:
    if step is Step.RETIRE:
        return situation.old - situation.new
    if step is Step.ROLLBACK and situation.phase is Phase.PREPARED:
        return situation.new - situation.old
    return frozenset()
