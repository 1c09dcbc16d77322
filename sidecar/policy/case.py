"""A request, and all that a snapshot says of it, looked up. What follows from it is for :mod:`sidecar.policy.decide`."""

from collections.abc import Iterator
from dataclasses import dataclass

from pki.clock import Wall
from pki.spiffe import IdKind, SpiffeId
from sidecar.defaults import STALE_CUT_FACTOR
from sidecar.policy.match import HTTP, MCP, TCP, Rule, is_conversation, is_plain
from sidecar.policy.model import Agent, Mode, OnStale, OperationClass, Policy, Segment, Service
from sidecar.policy.narrowing import Narrowing
from sidecar.policy.operation import TOOLS_CALL, Operation
from sidecar.snapshot import Facts, LeaseInForce, LockInForce, Moment, Snapshot

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""HTTP methods that change nothing (RFC 9110, section 9.2.1); TRACE shows what it was sent, and counts as none."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which session wants which service, and what was verified of both ends.

    ``tool_node`` is the node beside the target. ``serials`` are the lineage serials, lower-case hex, and
    ``not_after`` the earliest notAfter of all certificates of session and nodes under the stream. ``narrowing``: what
    is left of the session for the child of it that asks. ``operation`` None: the stream itself is asked for. ``issued``:
    when the session's certificate was issued; None where there is none yet.
    """

    session: SpiffeId
    service: str
    tool_node: str
    serials: tuple[str, ...]
    not_after: Wall
    narrowing: Narrowing | None = None
    operation: Operation | None = None
    issued: Wall | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """What is judged: a service, one segment of it, and there a request or (``operation`` None) the stream."""

    service: Service
    segment: Segment
    operation: Operation | None
    operation_class: OperationClass


@dataclass(slots=True)
class Case:
    """A request in one place. Never changed; not frozen only because that would double its cost."""

    request: Request
    snapshot: Snapshot
    moment: Moment
    live: bool
    facts: Facts
    lock: LockInForce | None
    agent: Agent | None
    place: Place | None
    deny: Rule | None
    grant: Rule | None
    lease: LeaseInForce | None

    @property
    def is_observed(self) -> bool:
        """Whether its segment only watches. Of an agent that the policy does not know, nobody can say it is in place."""
        return self.agent is not None and self.place is not None and self.place.segment.mode is Mode.OBSERVE

    @property
    def stale_after(self) -> int | None:
        """The age (us) at which staleness ends this; None: at none."""
        if self.place is None:
            return None
        segment = self.place.segment
        if not self.live:
            return segment.stale_after
        return STALE_CUT_FACTOR * segment.stale_after if segment.on_stale is OnStale.CUT else None

    def ends(self) -> Iterator[Wall]:
        """Every instant at which a step's answer may change, on the scale of ``moment.now``."""
        yield self.request.not_after
        if self.grant and self.grant.expires is not None:
            yield self.grant.expires
        if self.lease:
            yield self.lease.until
        if self.request.narrowing:
            yield self.request.narrowing.not_after
        limit = self.stale_after
        fresh_until = self.moment.fresh_until(limit) if limit is not None else None
        if fresh_until is not None:
            yield fresh_until

    def floor_ends(self) -> Iterator[Wall]:
        """Every instant of the floor at which a step's answer may change."""
        if self.lock:
            yield self.lock.until
        if self.deny and self.deny.expires is not None:
            yield self.deny.expires


@dataclass(slots=True)
class Question:
    """A request at a moment: of a new stream or request, or (``live``) of a stream that is open."""

    request: Request
    snapshot: Snapshot
    moment: Moment
    live: bool

    def cases(self) -> list[Case]:
        """One for each segment that the request may be in, the service's own first: several only for a stream."""
        policy = self.snapshot.policy
        service = policy.services.get(self.request.service) if policy else None
        if policy is None or service is None:
            return [self._unplaced(policy)]
        return [self._case(policy, place) for place in _places(service, self.request.operation)]

    def _unplaced(self, policy: Policy | None) -> Case:
        agent = policy.agents.get(self._agent) if policy else None
        facts = self._facts("")
        lock = self.snapshot.restrictions.lock_on(facts)
        return Case(
            self.request, self.snapshot, self.moment, self.live, facts, lock, agent, None, None, None, None
        )

    def _case(self, policy: Policy, place: Place) -> Case:
        agent, service, segment = self._agent, place.service, place.segment.name
        facts = self._facts(segment)
        protocol, operation = service.protocol, place.operation
        return Case(
            request=self.request,
            snapshot=self.snapshot,
            moment=self.moment,
            live=self.live,
            facts=facts,
            lock=self.snapshot.restrictions.lock_on(facts),
            agent=policy.agents.get(agent),
            place=place,
            deny=policy.denies.longest(agent, service.name, segment, protocol, operation),
            grant=policy.grants.longest(agent, service.name, segment, protocol, operation),
            lease=self._lease(policy, place),
        )

    @property
    def _agent(self) -> str:
        """Empty for a node or operator: one that is called like an agent is none."""
        session = self.request.session
        return session.name if session.kind is IdKind.AGENT else ""

    def _facts(self, segment: str) -> Facts:
        request = self.request
        session = request.session
        return Facts(
            id=str(session),
            agent=self._agent,
            session=session.session,
            children=request.narrowing.children if request.narrowing else (),
            nodes=(session.node, request.tool_node),
            service=request.service,
            segment=segment,
            serials=request.serials,
            issued=request.issued,
        )

    def _lease(self, policy: Policy, place: Place) -> LeaseInForce | None:
        """The session's lease on this that lasts longest, ended or not."""
        held = self.snapshot.leases.of(self.request.session.session)
        fitting = [
            lease for lease in held if self._is_about(lease, place) and self._fits(lease, policy, place)
        ]
        return max(fitting, key=lambda lease: (not lease.cut_short, lease.until), default=None)

    def _is_about(self, lease: LeaseInForce, place: Place) -> bool:
        """Whether it was given for this. The stream of an MCP service may carry any arguments."""
        operation = place.operation
        said = operation.arguments if operation else lease.arguments if place.service.protocol == MCP else ""
        here = not lease.uses or lease.tool_node == self.request.tool_node
        return (
            here
            and place.service.name in lease.services
            and (not lease.arguments or said == lease.arguments)
            and leaves(lease.operations, place)
        )

    def _fits(self, lease: LeaseInForce, policy: Policy, place: Place) -> bool:
        """Against the policy in force: a lease gives no more than the escalation that it came from would now.

        One that was cut short gives nothing, and is only named.
        """
        escalation = policy.escalations.get(lease.rule)
        if escalation is None or lease.cut_short:
            return lease.cut_short
        return escalation.permits(self._agent, place.service.name, place.segment.name)


def leaves(operations: tuple[str, ...] | None, place: Place) -> bool:
    """Whether ``operations`` (:mod:`sidecar.policy.narrowing`; None: all) leave what is asked for in ``place``.

    A stream is left if requests can be told apart in it: they are judged then. A name that can be read in two ways
    is left by no list.
    """
    if operations is None:
        return True
    protocol, operation = place.service.protocol, place.operation
    if operation is None or protocol == TCP:
        return protocol != TCP
    if protocol == MCP and operation.name and not is_plain(operation):
        return False
    return Narrowing(frozenset(), operations, Wall(0)).leaves(operation)


def _places(service: Service, operation: Operation | None) -> tuple[Place, ...]:
    if operation is not None and not is_conversation(service.protocol, operation):
        special = service.special(operation)
        segment = special.segment if special else service.segment
        said = special.operation_class if special else None
        return (Place(service, segment, operation, said or _class_of(service, segment, operation)),)
    segments = service.segments if service.operations else (service.segment,)
    read = operation is not None
    return tuple(
        Place(service, segment, None, OperationClass.READ if read else segment.operation_class)
        for segment in segments
    )


def _class_of(service: Service, segment: Segment, operation: Operation) -> OperationClass:
    """By the method, as far as methods say it: what a tool does is for its segment to say."""
    if service.protocol == HTTP:
        return OperationClass.READ if operation.method in READING else OperationClass.MUTATE
    if service.protocol == MCP and operation.method != TOOLS_CALL:
        return OperationClass.READ
    return segment.operation_class
