"""From the statements held to the snapshot that decisions read. Pure."""

from collections.abc import Iterable

from pki.clock import Wall
from pki.statement import Cutoff, Finding, Lock, Member, Node, Revocation
from sidecar.gossip.store import Entry, Store
from sidecar.snapshot import (
    LockInForce,
    NodeMember,
    OperatorMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Target,
)


def roster(members: Iterable[Member]) -> Roster:
    """The roster that the newest member statements make."""
    nodes: dict[str, NodeMember] = {}
    operators: dict[str, OperatorMember] = {}
    for one in members:
        member = one.member
        if isinstance(member, Node):
            nodes[member.name] = NodeMember(
                name=member.name,
                addresses=tuple(member.addresses),
                version=member.version,
                features=tuple(member.features),
                labels=tuple(member.labels),
            )
        else:
            operators[member.name] = OperatorMember(
                member.name, member.key, frozenset(member.roles), dict(member.uids), member.user
            )
    return Roster(nodes, operators)


def in_force(store: Store, floor: Wall, author: str) -> tuple[Restrictions, Wall | None]:
    """All that ``store`` restricts at ``floor``, and when the first of it ends.

    ``author`` is the member's own SPIFFE ID: on what a node found itself it acts at once, on another's word never.
    """
    held, cut = list(store.in_force(floor)), list(store.cutoffs(floor))
    found = list(store.findings(author, floor))
    ends = [entry.ends for entry in (*held, *found, *(entry for entry, _ in cut))]
    return restrictions([*held, *found], cut), Wall(min(ends)) if ends else None


def restrictions(entries: Iterable[Entry], cutoffs: Iterable[tuple[Entry, Wall]] = ()) -> Restrictions:
    """The restrictions in force as values that a decision looks up."""
    locks: list[LockInForce] = []
    revocations: list[RevocationInForce] = []
    for entry in entries:
        name, body = entry.statement.id, entry.statement.body
        if isinstance(body, Lock):
            locks.append(LockInForce(name, _at(body), Wall(entry.ends), entry.author, body.message))
        elif isinstance(body, Finding):
            said = f"rule {body.rule}: {body.count} {body.what}"
            locks.append(LockInForce(name, _at(body), Wall(entry.ends), entry.author, said))
        elif isinstance(body, Revocation):  # pragma: no branch - the store yields these three
            revocations.append(RevocationInForce(name, _at(body), entry.author))
    for entry, before in cutoffs:
        cut = entry.statement.body
        if isinstance(cut, Revocation | Cutoff):  # pragma: no branch - the store yields these two
            revocations.append(RevocationInForce(entry.statement.id, _at(cut), entry.author, before))
    return Restrictions(locks, revocations)


def _at(body: Lock | Revocation | Cutoff | Finding) -> Target:
    return Target(body.target.kind, body.target.value)
