"""What a statement that is in force now is on record as. Pure; nodes and the CA keep the same story."""

from pki.asking import Answer, EscalationRequest, Lease
from pki.clock import Wall
from pki.ids import digest_id
from pki.judge import Word
from pki.spiffe import SpiffeId
from pki.statement import Canary, Cutoff, Edition, Lift, Lock, Policy, Revocation, Statement, parse
from sidecar.audit import record
from sidecar.audit.record import Facts, Record, Value


def records_of(statement: Statement, word: Word, at: Wall) -> list[Record]:
    """One record, one for each lock that is lifted, or none: not every statement is an event."""
    body, by = statement.body, word.author
    facts: Facts = {"by": by}
    match body:
        case Lock():
            return [record.lock(at, "applied", statement.id, str(body.target), facts)]
        case Revocation():
            return [record.revocation(at, "applied", statement.id, str(body.target), facts)]
        case Policy():
            return [record.policy(at, "received", body.sequence, body.digest, {**facts, **_by_whom(body)})]
        case Canary():
            named: Facts = {**facts, **_by_whom(body), "nodes": list[Value](body.nodes)}
            return [record.policy(at, "received", body.sequence, body.digest, named)]
        case Cutoff():
            reach = {**facts, "before": body.before}
            return [record.revocation(at, "applied", statement.id, str(body.target), reach)]
        case Lift() if statement.kind == "unlock":
            return [record.lock(at, "lifted", name, "", facts) for name in body.ids]
        case Lift():
            left = {**facts, **({"before": body.before} if body.before else {})}
            return [record.revocation(at, "lifted", name, "", left) for name in body.ids]
        case _:
            return _of_escalation(statement, facts, at)


def _of_escalation(statement: Statement, facts: Facts, at: Wall) -> list[Record]:
    body = statement.body
    match body:
        case EscalationRequest():
            asked: Facts = {
                "rule": body.rule,
                "session": SpiffeId.parse(body.session).session,
                "agent": SpiffeId.parse(body.session).name,
                "services": list[Value](body.services),
                "ttl": body.ttl,
                "reason_given": body.reason,
            }
            return [record.escalation(at, "requested", statement.id, asked)]
        case Answer():
            said = "approved" if statement.kind == "approval" else "refused"
            name = digest_id(bytes.fromhex(body.request))
            return [record.escalation(at, said, name, {**facts, "message": body.message})]
        case Lease():
            granted: Facts = {"until": body.until, "approvers": list[Value](body.approvers)}
            return [record.escalation(at, "granted", parse(body.request).id, granted)]
        case _:
            return []


def _by_whom(edition: Edition) -> dict[str, str]:
    """The operators behind a policy, which the CA signs."""
    approved = {"approver": edition.approver} if edition.approver else {}
    return {"author": edition.author, **approved}


def conflict_of(statement: Statement, others: list[str], at: Wall) -> list[Record]:
    """The alarm of two bodies at one sequence: somebody else has the key that signs for the mesh, or a copy of its counter."""
    if not others:
        return []
    told: Facts = {"statement": statement.id, "of": statement.kind, "others": list[Value](others)}
    return [record.finding(at, "conflict", told)]
