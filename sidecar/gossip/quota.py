"""How many live statements one signer may have: a stolen key must not fill the disk of every member. Pure."""

from pki.asking import Answer
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Statement
from sidecar.defaults import OPERATOR_LIVE_STATEMENTS

MEMBER_LIVE_STATEMENTS = 4_096
"""Of any signer but the CA, the root and operators, of each kind."""
OPERATOR_LIVE_ANSWERS = 1_024
"""Approvals, and again refusals: apart from locks, so that who approves all day can still stop something."""
SESSION_LIVE_REQUESTS = 32
NODE_LIVE_REQUESTS = 2_048
"""Of all sessions of a node together: a rogue node may start sessions, and must not fill the others' disks."""


def quotas_of(author: str, statement: Statement) -> tuple[tuple[str, str], ...]:
    """Under what a statement is counted; none: it is the CA's or the root's."""
    if not author.startswith("spiffe://"):
        return ()
    who, kind = SpiffeId.parse(author), statement.kind
    if who.kind is IdKind.OPERATOR:
        return ((author, kind if isinstance(statement.body, Answer) else ""),)
    if who.kind is IdKind.AGENT:
        return (author, "session"), (who.node, "node")
    return ((author, kind),)


def allowance(quota: tuple[str, str]) -> int:
    """The most there may be under it."""
    return _ALLOWANCES.get(quota[1], MEMBER_LIVE_STATEMENTS)


_ALLOWANCES = {
    "": OPERATOR_LIVE_STATEMENTS,
    "approval": OPERATOR_LIVE_ANSWERS,
    "refusal": OPERATOR_LIVE_ANSWERS,
    "session": SESSION_LIVE_REQUESTS,
    "node": NODE_LIVE_REQUESTS,
}
