"""A session asks for more on agent.sock (docs/local-api.md).

    POST /v1/requests             ask for more, for a while: an id is answered at once
    GET  /v1/requests             those of the caller's session
    GET  /v1/requests/{id}        one of them: poll this

Nothing that waits for a human holds a connection. A child session asks for nothing: it has less than its session.
"""

import secrets
from collections.abc import Iterable
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.asking import (
    MAX_OPERATIONS,
    MAX_SERVICES,
    NONCE_BYTES,
    PENDING,
    Digest,
    EscalationRequest,
    Name,
    OperationText,
)
from pki.clock import SECOND, Wall
from pki.codec import convert
from pki.errors import RefusedError
from pki.fields import Text
from pki.statement import Statement, Terms, sign
from sidecar.control.escalations import oldest_first, summary
from sidecar.control.local_api import asker_of
from sidecar.control.unix import answer, body_of
from sidecar.escalation.ask import ask_of
from sidecar.escalation.conditions import fault_of
from sidecar.escalation.machine import OPEN, Escalation
from sidecar.gossip.member import Member
from sidecar.node import Node
from sidecar.policy.model import Escalation as Rule
from sidecar.policy.narrowing import is_operation
from sidecar.session.sessions import Session

MAX_OPEN = 8
"""Of one session: what its operators are asked must stay a list that somebody reads."""


class CreateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for.

    ``to``: the segment. ``ttl`` in seconds. ``operations`` None: all. ``arguments``: SHA-256 (hex) of the canonical JSON
    of the one set of MCP arguments that it is for; empty: any.
    """

    to: Name
    services: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=MAX_SERVICES)]
    ttl: Annotated[int, msgspec.Meta(ge=1, le=86_400)]
    reason: Text = ""
    operations: (
        Annotated[list[OperationText], msgspec.Meta(min_length=1, max_length=MAX_OPERATIONS)] | None
    ) = None
    arguments: Digest = ""
    session: Annotated[str, msgspec.Meta(max_length=26)] = ""


def asking_routes(node: Node) -> list[Route]:
    """What a session may ask for on agent.sock, and see of it."""

    def own(request: Request, named: str = "") -> Session:
        asker = asker_of(node, request)
        session = asker.named(named) if named and not asker.is_inside else asker.own()
        if session.child is not None:
            # It was given less than its session has; it must not be what asks for more.
            raise RefusedError("request: a child session asks for nothing; let its session ask")
        return session

    async def create(request: Request) -> Response:
        wanted = convert(await body_of(request), CreateRequest, what="request")
        session = own(request, wanted.session)
        statement = _signed(node, session, wanted)
        if refusals := await node.member.take([statement.raw], None):
            raise RefusedError(refusals[0].partition(": ")[2])
        return answer(summary(node.member.escalations()[statement.id]), 201)

    async def list_own(request: Request) -> Response:
        mine = _of(node.member, own(request, request.query_params.get("session", "")))
        return answer({"requests": [summary(one) for one in mine]})

    async def show_own(request: Request) -> Response:
        name = request.path_params["id"]
        mine = _of(node.member, own(request, request.query_params.get("session", "")))
        found = next((one for one in mine if one.ask.id == name), None)
        if found is None:
            raise RefusedError(f"request {name}: your session has made no such request")
        return answer(summary(found))

    return [
        Route("/v1/requests", create, methods=["POST"]),
        Route("/v1/requests", list_own, methods=["GET"]),
        Route("/v1/requests/{id}", show_own, methods=["GET"]),
    ]


def _signed(node: Node, session: Session, wanted: CreateRequest) -> Statement:
    """The request as a statement of the session; raises RefusedError with why the policy does not offer it."""
    policy = node.member.snapshot.policy
    if policy is None:
        raise RefusedError("request: no policy is in force here yet")
    rules = _rules(policy.escalations.values(), session, wanted)
    for operation in wanted.operations or ():
        if not is_operation(operation):
            raise RefusedError(f"request: operation {operation!a} is no 'METHOD NAME'")
    if sum(one.state in OPEN for one in _of(node.member, session)) >= MAX_OPEN:
        raise RefusedError(f"request: {MAX_OPEN} of this session wait already; poll those")
    found = [_by(rule, node.member, session, wanted) for rule in rules]
    fitting = (statement for statement, fault in found if not fault)
    statement = next(fitting, None)
    if statement is None:
        raise RefusedError(f"request: {found[0][1]}")
    return statement


def _by(rule: Rule, member: Member, session: Session, wanted: CreateRequest) -> tuple[Statement, str]:
    """The request under one rule, and why that does not offer it."""
    now, policy = member.moment().now, member.snapshot.policy
    body = EscalationRequest(
        session=str(session.id),
        uid=session.uid,
        rule=rule.id,
        services=sorted(set(wanted.services)),
        operations=wanted.operations,
        arguments=wanted.arguments,
        tool_node="",
        uses=0,
        ttl=wanted.ttl * SECOND,
        reason=wanted.reason,
        policy=policy.digest if policy else "",
        decide_by=Wall(now + PENDING),
        nonce=secrets.token_bytes(NONCE_BYTES),
    )
    terms = Terms(member.bundle.epoch, now, Wall(body.decide_by + body.ttl))
    statement = sign("request", body, terms, session.key, session.identity.chain)
    return statement, fault_of(ask_of(statement), rule)


def _rules(rules: Iterable[Rule], session: Session, wanted: CreateRequest) -> list[Rule]:
    """Those that offer it, in the order of the policy; raises RefusedError for none."""
    offering = [
        one for one in rules if all(one.permits(session.id.name, name, wanted.to) for name in wanted.services)
    ]
    if not offering:
        names = ", ".join(wanted.services)
        raise RefusedError(f"request: no escalation offers {names} in {wanted.to} to agent {session.id.name}")
    return offering


def _of(member: Member, session: Session) -> list[Escalation]:
    found = member.escalations().values()
    return oldest_first(one for one in found if one.ask.session.session == session.id.session)
