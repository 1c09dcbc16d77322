"""What a lock or revocation would stop, without it being said. Pure.

Live streams are judged by the very step that would cut them, in a snapshot in which the stop is in force already; what
could be opened later is read off the policy.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pki.clock import Wall
from sidecar.policy.decide import Request, redecide
from sidecar.policy.effective import permissions
from sidecar.policy.model import Policy
from sidecar.snapshot import (
    LockInForce,
    Moment,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
    nodes_of,
)

ID = "dry-run"
"""Stands for the id of the statement that is not there; no real one has this shape."""


@dataclass(frozen=True, slots=True)
class Impact:
    """``streams``: how many of the live ones here would be cut, by service. ``paths``: agent, service and segment."""

    streams: dict[str, int]
    sessions: int
    paths: tuple[tuple[str, str, str], ...]


def impact(
    target: Target, snapshot: Snapshot, moment: Moment, live: Iterable[Request], *, for_good: bool
) -> Impact:
    """What a stop of ``target`` would do. ``live``: the streams of this node; ``for_good``: a revocation."""
    restrictions = snapshot.restrictions
    if for_good:
        stop = RevocationInForce(ID, target, "")
        restrictions = Restrictions(restrictions.locks, (*restrictions.revocations, stop))
    else:
        lock = LockInForce(ID, target, Wall(2**62), "", "")
        restrictions = Restrictions((*restrictions.locks, lock), restrictions.revocations)
    stopped = replace(snapshot, restrictions=restrictions)
    cut = [one for one in live if redecide(one, stopped, moment).rule == ID]
    policy = snapshot.policy
    return Impact(
        streams=dict(Counter(one.service for one in cut)),
        sessions=len({one.session for one in cut}),
        paths=_paths(target, policy, snapshot.roster, moment.now) if policy else (),
    )


def _paths(target: Target, policy: Policy, roster: Roster, now: Wall) -> tuple[tuple[str, str, str], ...]:
    """Of a session or a serial the policy knows nothing, and an operator opens no streams."""
    granted = {(one.agent, one.service, one.segment) for one in permissions(policy, now, policy.agents)}
    return tuple(sorted(path for path in granted if _is_on(target, path, policy, roster)))


def _is_on(target: Target, path: tuple[str, str, str], policy: Policy, roster: Roster) -> bool:
    agent, service, segment = path
    match target.kind:
        case "all":
            return True
        case "node":
            beside = nodes_of(policy.services[service], roster)
            # With another node left on either side the path stays open.
            return policy.agents[agent].nodes == {target.value} or beside == {target.value}
        case kind:
            return {"agent": agent, "service": service, "segment": segment}.get(kind) == target.value
