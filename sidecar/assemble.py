"""From the statements held to the snapshot that decisions read. Pure."""

from collections.abc import Iterable

from pki.clock import Wall
from pki.statement import Cutoff, Lock, Member, Node, Revocation
from sidecar.gossip.store import Entry
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


def restrictions(entries: Iterable[Entry], cutoffs: Iterable[tuple[Entry, Wall]] = ()) -> Restrictions:
    """The restrictions in force as values that a decision looks up."""
    locks: list[LockInForce] = []
    revocations: list[RevocationInForce] = []
    for entry in entries:
        name, body = entry.statement.id, entry.statement.body
        if isinstance(body, Lock):
            locks.append(LockInForce(name, _at(body), Wall(entry.ends), entry.author, body.message))
        elif isinstance(body, Revocation):  # pragma: no branch - the store yields these two
            revocations.append(RevocationInForce(name, _at(body), entry.author))
    for entry, before in cutoffs:
        cut = entry.statement.body
        if isinstance(cut, Revocation | Cutoff):  # pragma: no branch - the store yields these two
            revocations.append(RevocationInForce(entry.statement.id, _at(cut), entry.author, before))
    return Restrictions(locks, revocations)


def _at(body: Lock | Revocation | Cutoff) -> Target:
    return Target(body.target.kind, body.target.value)
