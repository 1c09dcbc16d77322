"""From the statements held to the snapshot that decisions read. Pure."""

from collections.abc import Iterable

from pki.clock import Wall
from pki.statement import Lock, Member, Node, Operator
from sidecar.gossip.store import Entry
from sidecar.snapshot import LockInForce, NodeMember, OperatorMember, Restrictions, RevocationInForce, Roster, Target


def roster(members: Iterable[Member]) -> Roster:
    """The roster that the newest member statements make."""
    nodes: dict[str, NodeMember] = {}
    operators: dict[str, OperatorMember] = {}
    for member in members:
        match member.member:
            case Node() as node:
                nodes[node.name] = NodeMember(
                    node.name,
                    tuple(node.addresses),
                    node.version,
                    tuple(node.features),
                    tuple(node.labels),
                )
            case Operator() as operator:
                roles = frozenset(operator.roles)
                operators[operator.name] = OperatorMember(operator.name, operator.key, roles)
    return Roster(nodes, operators)


def restrictions(entries: Iterable[Entry]) -> Restrictions:
    """The restrictions in force as values that a decision looks up."""
    locks: list[LockInForce] = []
    revocations: list[RevocationInForce] = []
    for entry in entries:
        statement, body = entry.statement, entry.statement.body
        if isinstance(body, Lock):
            target = Target(body.target.kind, body.target.value)
            locks.append(LockInForce(statement.id, target, Wall(entry.ends), entry.author, body.message))
        else:
            target = Target(body.target.kind, body.target.value)  # type: ignore[union-attr]  # in_force yields these two
            revocations.append(RevocationInForce(statement.id, target, entry.author))
    return Restrictions(locks, revocations)
