"""What keeps a good policy from being put in force just now: a live lock, a node that cannot do what it asks. Pure.

A lock names what it stops. A policy that drops or renames that name, or moves a service out from under a locked
segment, would lift the lock without anybody's unlock, so it waits until the lock has ended.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from sidecar.policy.check import Finding, Severity
from sidecar.policy.model import Policy
from sidecar.snapshot import LockInForce, Roster


@dataclass(frozen=True, slots=True)
class Terms:
    """How a policy is to be put in force.

    ``canary``: on these nodes only; none: on all. ``strand``: nodes that may lack what it requires, and refuse
    everything from then on.
    """

    canary: frozenset[str] = frozenset()
    strand: frozenset[str] = frozenset()


def obstacles(
    policy: Policy, before: Policy | None, roster: Roster, locks: Iterable[LockInForce], terms: Terms
) -> list[Finding]:
    """Every one, as errors of the whole file."""
    found = [
        *_strangers(roster, terms),
        *_unable(policy, roster, terms),
        *(_unlocked(policy, before, locks) if before else ()),
    ]
    return [Finding(Severity.ERROR, 0, what, hint) for what, hint in found]


def _strangers(roster: Roster, terms: Terms) -> Iterator[tuple[str, str]]:
    for option, named in (("--canary", terms.canary), ("--strand", terms.strand)):
        for node in sorted(named - roster.nodes.keys()):
            yield f"{option} {node}: there is no such node in the roster", "see lockgate status"


def _unable(policy: Policy, roster: Roster, terms: Terms) -> Iterator[tuple[str, str]]:
    """A node that does not know a feature refuses the policy, and is stale from then on."""
    concerned = terms.canary or frozenset(roster.nodes)
    for name in sorted((concerned & roster.nodes.keys()) - terms.strand):
        missing = sorted(policy.requires - set(roster.nodes[name].features))
        if missing:
            yield f"node {name} lacks {', '.join(missing)}", f"upgrade it, or give it up: --strand {name}"


def _unlocked(policy: Policy, before: Policy, locks: Iterable[LockInForce]) -> Iterator[tuple[str, str]]:
    for lock in locks:
        hint = f"unlock {lock.id} first, or wait for its end"
        kind, name = lock.target.kind, lock.target.value
        if name in _names(before, kind) and name not in _names(policy, kind):
            yield f"{lock.target} is locked by {lock.by}, and not in this policy", hint
        elif kind == "segment":
            for service in sorted(_within(before, name) & policy.services.keys() - _within(policy, name)):
                yield f"service {service} would leave {lock.target}, which is locked by {lock.by}", hint


def _names(policy: Policy, kind: str) -> Collection[str]:
    tables = {"segment": policy.segments, "service": policy.services, "agent": policy.agents}
    return tables.get(kind, {}).keys()


def _within(policy: Policy, segment: str) -> set[str]:
    """Services that have any part of them in it."""
    return {
        service.name
        for service in policy.services.values()
        if segment in {one.name for one in service.segments}
    }
