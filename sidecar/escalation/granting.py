"""What the CA owes a request that enough operators agreed to: a lease, or a refusal that says why not. Pure.

Nodes derive a lease by themselves where nothing is counted; the CA gives its own all the same, so that one statement
tells all of it. What only it can count is counted here: how many leases of one rule a day has seen.
"""

from dataclasses import dataclass
from typing import TypeAlias

from pki.clock import Wall
from sidecar.escalation.book import File
from sidecar.escalation.conditions import untimely
from sidecar.escalation.machine import IN_FORCE, OPEN, Escalation
from sidecar.policy.model import Escalation as Rule


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease until then, on the word of these operators."""

    until: Wall
    approvers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Withheld:
    """A refusal by the CA itself."""

    why: str


Owed: TypeAlias = Granted | Withheld


def owed(file: File, found: Escalation, rule: Rule | None, given_today: int, now: Wall) -> Owed | None:
    """What the CA has to say on a request now; None: nothing yet, or nothing any more."""
    if rule is None or file.lease is not None or len(found.approvals) < rule.approvals:
        return None
    approvers = tuple(sorted(found.approvals))
    if found.state in IN_FORCE and found.until is not None:
        return Granted(found.until, approvers)
    if found.state not in OPEN:
        return None
    ask = file.ask
    if ask.uses:
        return Withheld("a number of uses is not counted by this version; ask without one")
    if why := untimely(rule, now):
        return Withheld(why)
    most = rule.when.max_per_day
    if most is not None and given_today >= most:
        return Withheld(f"escalation {rule.id} was granted {most} times today, which is all it may be")
    return Granted(Wall(now + ask.ttl), approvers)
