"""What a statement that is in force now is on record as. Pure; nodes and the CA keep the same story."""

from pki.clock import Wall
from pki.judge import Word
from pki.statement import Canary, Cutoff, Edition, Lift, Lock, Policy, Revocation, Statement
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
            return []


def _by_whom(edition: Edition) -> dict[str, str]:
    """The operators behind a policy, which the CA signs."""
    approved = {"approver": edition.approver} if edition.approver else {}
    return {"author": edition.author, **approved}
