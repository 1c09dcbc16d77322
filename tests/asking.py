"""Requests, answers and leases as sessions, operators and the CA of a small mesh would sign them."""

from typing import Any

from pki.asking import Answer, EscalationRequest, Lease
from pki.clock import MINUTE
from pki.statement import Statement
from tests.authority import NOW
from tests.statements import Mint, Signatory

TTL = 15 * MINUTE
WAIT = 10 * MINUTE
POLICY = "ab" * 32


def session(mint: Mint, name: str = "a" * 26, node: str = "agents-1") -> Signatory:
    """A session of the researcher."""
    return mint.member(mint.ca.agent(session=name, node=node))


def asks(who: Signatory, issued: int = NOW, **other: Any) -> Statement:
    """A request of ``who`` for tickets, which differs from a plain one in these fields."""
    said: dict[str, Any] = {
        "session": str(who.id),
        "uid": 1001,
        "rule": "ticket-writes",
        "services": ["tickets"],
        "operations": None,
        "arguments": "",
        "tool_node": "",
        "uses": 0,
        "ttl": TTL,
        "reason": "ticket 7",
        "policy": POLICY,
        "decide_by": issued + WAIT,
        "nonce": bytes(16),
        **other,
    }
    body = EscalationRequest(**said)
    return who.says("request", body, issued, ttl=body.decide_by + body.ttl - issued)


def approves(who: Signatory, request: Statement, issued: int = NOW + 1) -> Statement:
    return who.says("approval", Answer(request=request.digest.hex()), issued)


def refuses(who: Signatory, request: Statement, issued: int = NOW + 1) -> Statement:
    return who.says("refusal", Answer(request=request.digest.hex(), message="not today"), issued)


def leases(
    mint: Mint, request: Statement, *approvers: str, issued: int = NOW + 1, until: int = NOW + TTL
) -> Statement:
    """The CA's lease on a request."""
    body = Lease(request=request.raw, until=until, approvers=list(approvers))
    return mint.says("lease", body, issued)
