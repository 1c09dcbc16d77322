"""A request as the rest of this package reads it."""

from dataclasses import dataclass

from pki.asking import EscalationRequest
from pki.certificate import read, user_of
from pki.clock import Wall
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Statement


@dataclass(frozen=True, slots=True)
class Ask:
    """What a session asks for; fields as in :class:`pki.asking.EscalationRequest`.

    ``digest`` is what answers name, in hex. ``user``: whom the session runs for, by the CA's word; empty: nobody.
    """

    id: str
    digest: str
    session: SpiffeId
    uid: int
    user: str
    rule: str
    services: frozenset[str]
    operations: tuple[str, ...] | None
    arguments: str
    tool_node: str
    uses: int
    ttl: int
    reason: str
    policy: str
    issued: Wall
    decide_by: Wall


def ask_of(statement: Statement) -> Ask:
    """What ``statement`` asks for; raises RemoteError when it is no request. Its signer is judged elsewhere."""
    body = statement.body
    if not isinstance(body, EscalationRequest):
        raise RemoteError(f"statement {statement.kind}: no escalation request")
    session = SpiffeId.parse(body.session)
    if session.kind is not IdKind.AGENT:
        raise RemoteError("statement request: not of an agent's session")
    return Ask(
        id=statement.id,
        digest=statement.digest.hex(),
        session=session,
        uid=body.uid,
        user=user_of(read(statement.envelope.chain[0])),
        rule=body.rule,
        services=frozenset(body.services),
        operations=None if body.operations is None else tuple(body.operations),
        arguments=body.arguments,
        tool_node=body.tool_node,
        uses=body.uses,
        ttl=body.ttl,
        reason=body.reason,
        policy=body.policy,
        issued=Wall(statement.payload.issued),
        decide_by=Wall(body.decide_by),
    )
