"""What a decision reads: the snapshot (what is in force) and the moment (what time it is). Values only.

A heartbeat changes the moment and never the snapshot, so it changes no digest and re-decides no stream.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Self

from pki.clock import Wall
from sidecar.policy.model import Policy, Service


@dataclass(frozen=True, slots=True)
class Moment:
    """The time facts of one decision. ``as_of``: this node held everything said up to then; None: never known."""

    wall: Wall
    floor: Wall
    as_of: Wall | None

    @property
    def now(self) -> Wall:
        """What judges everything that permits: setting the wall clock back revives nothing."""
        return max(self.wall, self.floor)

    def fresh_until(self, stale_after: int) -> Wall | None:
        """When a segment with this staleness (us) begins to refuse; None: it does already."""
        return None if self.as_of is None else Wall(self.as_of + stale_after)

    def is_fresh(self, stale_after: int) -> bool:
        limit = self.fresh_until(stale_after)
        return limit is not None and self.now < limit


@dataclass(frozen=True, slots=True)
class Target:
    """What a lock or revocation stops.

    ``kind`` is all, segment, service, agent, session, node, operator, serial (of a lineage, lower-case hex), or id
    (a session's whole SPIFFE ID). ``value`` is empty for all.
    """

    kind: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.value}" if self.value else self.kind


@dataclass(frozen=True, slots=True)
class LockInForce:
    """A lock holds while the floor is before ``until``. ``by`` and ``message`` are for whom it stops."""

    id: str
    target: Target
    until: Wall
    by: str
    message: str


@dataclass(frozen=True, slots=True)
class RevocationInForce:
    """``before`` None: all certificates of the target; else a cutoff: those issued before then."""

    id: str
    target: Target
    by: str
    before: Wall | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a restriction can hit: the names, ids and lineage serials under one stream. Empty means none."""

    id: str = ""
    agent: str = ""
    session: str = ""
    children: tuple[str, ...] = ()
    """Ids of the children of the session on the way to the one that asks."""
    nodes: tuple[str, ...] = ()
    service: str = ""
    segment: str = ""
    operator: str = ""
    serials: tuple[str, ...] = ()
    issued: Wall | None = None
    """When the certificate of ``id``, ``operator`` or the first node was issued; None: it does not matter yet."""

    def dated(self) -> Iterator[Target]:
        """The targets that mean the certificate which was issued at ``issued``."""
        node = self.nodes[0] if self.nodes else ""
        named = {"agent": self.agent, "session": self.session, "id": self.id, "node": node}
        for kind, value in (named | {"operator": self.operator}).items():
            if value:
                yield Target(kind, value)

    def targets(self) -> Iterator[Target]:
        """Every target that hits these facts."""
        yield Target("all")
        named = {
            "segment": (self.segment,),
            "service": (self.service,),
            "agent": (self.agent,),
            "session": (self.session, *self.children),
            "id": (self.id,),
            "node": self.nodes,
            "operator": (self.operator,),
            "serial": self.serials,
        }
        for kind, values in named.items():
            for value in values:
                if value:
                    yield Target(kind, value)


class Restrictions:
    """The locks and revocations in force. Immutable; a look-up costs the same whatever their number."""

    __slots__ = ("_cutoffs", "_longest", "_revoked", "locks", "revocations")

    def __init__(
        self, locks: Iterable[LockInForce] = (), revocations: Iterable[RevocationInForce] = ()
    ) -> None:
        self.locks = tuple(sorted(locks, key=lambda lock: lock.id))
        self.revocations = tuple(sorted(revocations, key=lambda revocation: revocation.id))
        self._longest: dict[Target, LockInForce] = {}
        for lock in sorted(self.locks, key=_longest_first):
            self._longest.setdefault(lock.target, lock)
        self._revoked: dict[Target, RevocationInForce] = {}
        self._cutoffs: dict[Target, RevocationInForce] = {}
        for revocation in self.revocations:
            if revocation.before is None:
                self._revoked.setdefault(revocation.target, revocation)
        for cutoff in sorted(self.revocations, key=_latest_first):
            if cutoff.before is not None:
                self._cutoffs.setdefault(cutoff.target, cutoff)

    def lock_on(self, facts: Facts) -> LockInForce | None:
        """The lock on ``facts`` that lasts longest; whether it still holds is for the floor to say."""
        if not self.locks:
            return None
        hits = [lock for target in facts.targets() if (lock := self._longest.get(target))]
        return min(hits, key=_longest_first, default=None)

    def revocation_of(self, facts: Facts) -> RevocationInForce | None:
        if not self.revocations:
            return None
        hits = [found for target in facts.targets() if (found := self._revoked.get(target))]
        if self._cutoffs and facts.issued is not None:
            hits += self._cut_off(facts, facts.issued)
        return min(hits, key=lambda revocation: revocation.id, default=None)

    def _cut_off(self, facts: Facts, issued: Wall) -> Iterator[RevocationInForce]:
        for target in facts.dated():
            found = self._cutoffs.get(target)
            if found is not None and found.before is not None and issued < found.before:
                yield found

    def is_locked(self, kind: str, value: str, floor: Wall) -> bool:
        """Whether exactly this target is locked at ``floor``."""
        lock = self._longest.get(Target(kind, value))
        return lock is not None and floor < lock.until

    def revokes(self, kind: str, value: str) -> bool:
        """Whether exactly this target is revoked."""
        return Target(kind, value) in self._revoked


def _latest_first(revocation: RevocationInForce) -> tuple[int, str]:
    return -(revocation.before or 0), revocation.id


def _longest_first(lock: LockInForce) -> tuple[int, str]:
    return -lock.until, lock.id


@dataclass(frozen=True, slots=True)
class LeaseInForce:
    """What an escalation became: until then ``session`` may use ``services``, if the policy still lets ``rule``.

    ``id`` is the request's, ``rule`` the escalation's. ``operations`` as in :mod:`sidecar.policy.narrowing`; None: all.
    ``arguments``: SHA-256 of the one set of MCP arguments, or empty. ``uses`` 0: any number; else so many, at
    ``tool_node`` alone, which counts them (:mod:`sidecar.proxy.uses`). ``cut_short``: it has ended, whatever ``until`` says.
    """

    id: str
    session: str
    rule: str
    services: frozenset[str]
    operations: tuple[str, ...] | None
    until: Wall
    arguments: str = ""
    uses: int = 0
    tool_node: str = ""
    cut_short: bool = False


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """An escalation that ``session`` has asked for and nobody has decided on: refusals name it, until then."""

    id: str
    session: str
    rule: str
    services: frozenset[str]
    until: Wall


class Leases:
    """The leases in force, and what may become one. Immutable; a look-up costs the same whatever their number."""

    __slots__ = ("_by_session", "_pending", "all", "pending")

    def __init__(self, leases: Iterable[LeaseInForce] = (), pending: Iterable[PendingRequest] = ()) -> None:
        self.all = tuple(sorted(leases, key=lambda lease: lease.id))
        self.pending = tuple(sorted(pending, key=lambda request: request.id))
        self._pending: dict[str, tuple[PendingRequest, ...]] = {}
        for request in self.pending:
            self._pending[request.session] = (*self._pending.get(request.session, ()), request)
        self._by_session: dict[str, tuple[LeaseInForce, ...]] = {}
        for lease in self.all:
            self._by_session[lease.session] = (*self._by_session.get(lease.session, ()), lease)

    def of(self, session: str) -> tuple[LeaseInForce, ...]:
        """Those of one session, by its id; ended ones too."""
        return self._by_session.get(session, ())

    def asked_by(self, session: str) -> tuple[PendingRequest, ...]:
        """The requests of one session that wait, or have waited in vain."""
        return self._pending.get(session, ())


NO_LEASES = Leases()


@dataclass(frozen=True, slots=True)
class NodeMember:
    """A node of the roster. ``addresses`` are ``host:port``; none: it dials, and is not dialled."""

    name: str
    addresses: tuple[str, ...]
    version: str
    features: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OperatorMember:
    """An operator of the roster. ``key`` is the hex SHA-256 of the SPKI: the one key whose word counts."""

    name: str
    key: str
    roles: frozenset[str]
    uids: Mapping[str, int] = field(default_factory=dict)
    """By node, the operator's own uid there."""
    user: str = ""
    """The claim by which an identity provider knows the operator."""


@dataclass(frozen=True, slots=True)
class Roster:
    """The members of the mesh, by name."""

    nodes: Mapping[str, NodeMember]
    operators: Mapping[str, OperatorMember]


def stands_beside(service: Service, node: str, roster: Roster) -> bool:
    """Whether ``node`` is one of those that the service stands beside, by name or by labels. It may have left."""
    if not service.labels:
        return node in service.nodes
    member = roster.nodes.get(node)
    return member is not None and service.labels.issubset(member.labels)


def nodes_of(service: Service, roster: Roster) -> frozenset[str]:
    """The nodes that a service stands beside: those it names, or those of the roster that carry all its labels."""
    if not service.labels:
        return service.nodes
    return frozenset(name for name in roster.nodes if stands_beside(service, name, roster))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is in force. ``digest`` is :func:`digest_of` the rest."""

    policy: Policy | None
    bundle_digest: str
    roster: Roster
    restrictions: Restrictions
    digest: str
    leases: Leases = NO_LEASES

    @classmethod
    def of(
        cls,
        *,
        policy: Policy | None,
        bundle_digest: str,
        roster: Roster,
        restrictions: Restrictions,
        leases: Leases = NO_LEASES,
    ) -> Self:
        digest = digest_of(policy, bundle_digest, roster, restrictions, leases)
        return cls(policy, bundle_digest, roster, restrictions, digest, leases)

    def bodies(self) -> list[bytes]:
        """All that it takes to have this snapshot again, but the policy's text: the manifest, and its parts."""
        return _bodies(self.policy, self.bundle_digest, self.roster, self.restrictions, self.leases)


def digest_of(
    policy: Policy | None,
    bundle_digest: str,
    roster: Roster,
    restrictions: Restrictions,
    leases: Leases = NO_LEASES,
) -> str:
    """The hex SHA-256 that stands for exactly these, in whatever order they were collected."""
    return sha256(_bodies(policy, bundle_digest, roster, restrictions, leases)[0]).hexdigest()


def _bodies(
    policy: Policy | None, bundle_digest: str, roster: Roster, restrictions: Restrictions, leases: Leases
) -> list[bytes]:
    """The manifest, which names the other parts by their digests, and those; :mod:`sidecar.manifest` reads them."""
    parts = {
        "nodes": {
            name: [list(node.addresses), node.version, sorted(node.features), sorted(node.labels)]
            for name, node in roster.nodes.items()
        },
        "operators": {
            name: [operator.key, sorted(operator.roles), dict(operator.uids), operator.user]
            for name, operator in roster.operators.items()
        },
        "locks": [
            [lock.id, str(lock.target), lock.until, lock.by, lock.message] for lock in restrictions.locks
        ],
        "revocations": [
            [found.id, str(found.target), found.by, found.before] for found in restrictions.revocations
        ],
        "leases": [
            [
                *(lease.id, lease.session, lease.rule, sorted(lease.services), lease.operations, lease.until),
                *(lease.arguments, lease.uses, lease.tool_node, lease.cut_short),
            ]
            for lease in leases.all
        ],
        "pending": [
            [one.id, one.session, one.rule, sorted(one.services), one.until] for one in leases.pending
        ],
    }
    spelled = {name: _canonical(part) for name, part in parts.items()}
    digests = {name: sha256(part).hexdigest() for name, part in spelled.items()}
    manifest = {"policy": policy.digest if policy else None, "bundle": bundle_digest, **digests}
    return [_canonical(manifest), *spelled.values()]


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
