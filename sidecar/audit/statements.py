"""What a statement that is in force now is on record as. Pure; nodes and the CA keep the same story."""

from pki.clock import Wall
from pki.judge import Word
from pki.statement import Lift, Lock, Policy, Revocation, Statement
from sidecar.audit import record
from sidecar.audit.record import Facts, Record


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
            return [record.policy(at, "received", body.sequence, body.digest, facts)]
        case Lift() if statement.kind == "unlock":
            return [record.lock(at, "lifted", name, "", facts) for name in body.ids]
        case _:
            return []
