"""The state of every escalation, from the statements that are held and what is in force. Pure.

A state is a fold of :mod:`sidecar.escalation.machine` over all that is known, in the order of time, and is never kept:
members who hold the same statements under the same policy know the same, in whatever order they came, and after a
restart. What the fold rests on beside them is decided here:

- an approval counts when it was made, if it was also seen by then: an operator who dates one back is late all the same;
- it counts under the policy that the request was made under. Once it is granted by the CA, what is in force counts:
  a lease gives no more than its rule would give now;
- an operator who is revoked, by name or by certificate, has agreed to nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pki.asking import Answer, Lease
from pki.certificate import lineage_of, read
from pki.clock import Wall
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Statement, parse
from sidecar.defaults import SKEW
from sidecar.escalation import machine
from sidecar.escalation.ask import Ask, ask_of
from sidecar.escalation.conditions import fault_of, is_derived, may_answer, untimely
from sidecar.escalation.machine import IN_FORCE, OPEN, Escalation, Event
from sidecar.policy.model import Escalation as Rule
from sidecar.policy.model import Policy
from sidecar.snapshot import Facts, LeaseInForce, Leases, PendingRequest, Restrictions, Roster

KINDS = ("request", "approval", "refusal", "lease")

NO_USES: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Held:
    """A statement as a member holds it: by whom (a SPIFFE ID, or ca), and when it was first seen."""

    statement: Statement
    author: str
    accepted: Wall


@dataclass(frozen=True, slots=True)
class Ground:
    """What escalations are judged against."""

    policy: Policy | None
    roster: Roster
    restrictions: Restrictions


@dataclass(frozen=True, slots=True)
class _Answered:
    """One approval or refusal. ``serials``: of the certificate that it was signed with, and of its lineage."""

    by: str
    at: Wall
    seen: Wall
    message: str
    serials: tuple[str, ...]


@dataclass(slots=True)
class File:
    """All that is held on one request."""

    ask: Ask
    request: Statement
    approvals: list[_Answered] = field(default_factory=list)
    refusals: list[_Answered] = field(default_factory=list)
    lease: Statement | None = None


def files(held: Iterable[Held]) -> dict[str, File]:
    """What is held, by request id. Answers to what nobody has asked here are left out until it comes."""
    statements = list(held)
    by_digest = {ask.digest: File(ask, request) for ask, request in _asked(statements)}
    for one in statements:
        body = one.statement.body
        if isinstance(body, Answer) and (file := by_digest.get(body.request)):
            answers = file.approvals if one.statement.kind == "approval" else file.refusals
            answers.append(_answered(one, body))
        elif isinstance(body, Lease) and (file := by_digest.get(_inner_digest(body))):
            file.lease = min((one.statement, file.lease), key=_number) if file.lease else one.statement
    return {file.ask.id: file for file in by_digest.values()}


def stand(file: File, ground: Ground, now: Wall, used: int = 0) -> Escalation:
    """Where an escalation stands at ``now``; ``used`` is how often it was used here."""
    ask = file.ask
    rule = ground.policy.escalations.get(ask.rule) if ground.policy else None
    approvals = sorted(_counted(file, rule, ground), key=lambda one: (one.at, one.by))
    found = Escalation(ask, rule.approvals if rule else 0, _derives(rule, ask, approvals))
    for at, event in sorted(_events(file, approvals), key=lambda pair: pair[0]):
        found.handle(event, min(at, now))
    for event in _of_now(file, found, rule, ground):
        found.handle(event, now)
    if used and found.state in IN_FORCE:
        found.handle(machine.Used(used), now)
    found.handle(machine.Ticked(), now)
    return found


def in_snapshot(standing: Iterable[Escalation]) -> Leases:
    """What decisions read of them. A lease that was cut short is still there, so that a refusal can say so."""
    leases, pending = [], []
    for one in standing:
        ask = one.ask
        if one.until is not None:
            leases.append(
                LeaseInForce(
                    id=ask.id,
                    session=ask.session.session,
                    rule=ask.rule,
                    services=ask.services,
                    operations=ask.operations,
                    until=one.until,
                    arguments=ask.arguments,
                    uses=ask.uses,
                    tool_node=ask.tool_node,
                    cut_short=one.cut_short,
                )
            )
        elif one.state in OPEN:
            pending.append(PendingRequest(ask.id, ask.session.session, ask.rule, ask.services, ask.decide_by))
    return Leases(leases, pending)


def _asked(held: Iterable[Held]) -> Iterator[tuple[Ask, Statement]]:
    """What was asked for: in a request of its own, or in the lease that the CA gave on it."""
    for one in held:
        body = one.statement.body
        try:
            if one.statement.kind == "request":
                yield ask_of(one.statement), one.statement
            elif isinstance(body, Lease):
                inner = parse(body.request)
                yield ask_of(inner), inner
        except RemoteError:  # The CA vouches for what it leases; what is no request is none of ours.
            continue


def _inner_digest(body: Lease) -> str:
    try:
        return parse(body.request).digest.hex()
    except RemoteError:
        return ""


def _number(statement: Statement) -> int:
    return statement.payload.number


def _answered(one: Held, body: Answer) -> _Answered:
    author = SpiffeId.parse(one.author) if one.author.startswith("spiffe://") else None
    serials: tuple[str, ...] = ()
    if author is not None and author.kind is IdKind.OPERATOR:
        leaf = read(one.statement.envelope.chain[0])
        serials = f"{lineage_of(leaf):x}", f"{leaf.serial:x}"
    by = author.name if author is not None else one.author
    return _Answered(by, Wall(one.statement.payload.issued), one.accepted, body.message, serials)


def _counted(file: File, rule: Rule | None, ground: Ground) -> Iterator[_Answered]:
    """The approvals of those who may approve, made and seen in time."""
    for one in file.approvals:
        operator = ground.roster.operators.get(one.by)
        if rule is None or operator is None or may_answer(file.ask, rule, operator):
            continue
        if one.at + SKEW >= file.ask.issued and one.seen < file.ask.decide_by + SKEW:
            yield one


def _derives(rule: Rule | None, ask: Ask, approvals: list[_Answered]) -> bool:
    """Whether the approvals make a lease without the CA: at the time of the last that it takes, the hours hold."""
    if rule is None or not is_derived(rule, ask):
        return False
    first = sorted({one.by: one.at for one in reversed(approvals)}.values())
    return len(first) >= rule.approvals and not untimely(rule, first[rule.approvals - 1])


def _events(file: File, approvals: list[_Answered]) -> Iterator[tuple[Wall, Event]]:
    for one in approvals:
        yield one.at, machine.Approved(one.by)
    for one in file.refusals:
        yield one.at, machine.Refused(one.by, one.message)
    if file.lease is not None and isinstance(file.lease.body, Lease):
        body = file.lease.body
        yield Wall(file.lease.payload.issued), machine.Leased(Wall(body.until), tuple(body.approvers))


def _of_now(file: File, found: Escalation, rule: Rule | None, ground: Ground) -> Iterator[Event]:
    """What policy, roster and restrictions say of it as they are."""
    for name in list(found.approvals):
        if _is_revoked(name, file, ground.restrictions):
            yield machine.Voided(name)
    if why := _stopped(file, found, rule, ground):
        yield machine.Stopped(why)


def _is_revoked(name: str, file: File, restrictions: Restrictions) -> bool:
    serials = tuple(serial for one in file.approvals if one.by == name for serial in one.serials)
    return restrictions.revocation_of(Facts(operator=name, serials=serials)) is not None


def _stopped(file: File, found: Escalation, rule: Rule | None, ground: Ground) -> str:
    """Why it is over whatever was answered; empty: it is not."""
    ask = file.ask
    session = ask.session
    facts = Facts(id=str(session), agent=session.name, session=session.session, nodes=(session.node,))
    if ground.restrictions.revocation_of(facts) is not None:
        return "the session has ended"
    if fault := fault_of(ask, rule):
        return fault
    if file.lease is None and (ground.policy is None or ask.policy != ground.policy.digest):
        return "the policy changed; ask again"
    if rule is not None and file.lease is not None and len(found.approvals) < rule.approvals:
        return f"escalation {rule.id} takes {rule.approvals} approvals now"
    return ""
