"""Escalations as an operator sees them on the admin socket of a node or of the CA.

    GET  /v1/requests             all that are held
    GET  /v1/requests/{id}        one, with what is at stake

The answer to one is a statement like any other (POST /v1/statements).
"""

from collections.abc import Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import RefusedError
from sidecar.control.unix import answer
from sidecar.escalation.machine import IN_FORCE, Escalation
from sidecar.gossip.member import Member
from sidecar.snapshot import Snapshot


def routes(member: Member) -> list[Route]:
    """What an operator sees, on the admin socket of a node or of the CA."""

    async def list_all(_: Request) -> Response:
        return answer({"requests": [summary(one) for one in oldest_first(member.escalations().values())]})

    async def show(request: Request) -> Response:
        name = request.path_params["id"]
        found = member.escalations().get(name)
        if found is None:
            raise RefusedError(f"request {name}: not held here; `lockgate request ls` lists them")
        said = {**summary(found), "digest": found.ask.digest, "blast": _blast(found, member.snapshot)}
        return answer(said)

    return [
        Route("/v1/requests", list_all, methods=["GET"]),
        Route("/v1/requests/{id}", show, methods=["GET"]),
    ]


def summary(found: Escalation) -> dict[str, Any]:
    """How one stands; times in microseconds of wall time."""
    ask = found.ask
    return {
        "id": ask.id,
        "state": found.state.value,
        "why": found.why,
        "rule": ask.rule,
        "session": ask.session.session,
        "agent": ask.session.name,
        "node": ask.session.node,
        "on_behalf_of": ask.user,
        "services": sorted(ask.services),
        "operations": None if ask.operations is None else list(ask.operations),
        "arguments": ask.arguments,
        "ttl": ask.ttl,
        "reason": ask.reason,
        "issued": ask.issued,
        "decide_by": ask.decide_by,
        "until": found.until if found.state in IN_FORCE else None,
        "approvals": sorted(found.approvals),
        "needed": found.needed,
    }


def oldest_first(found: Iterable[Escalation]) -> list[Escalation]:
    """In the order in which they were asked for."""
    return sorted(found, key=lambda one: (one.ask.issued, one.ask.id))


def _blast(found: Escalation, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What is at stake in the services that are asked for, as the policy labels them."""
    known = snapshot.policy.services if snapshot.policy else {}
    services = [known[name] for name in sorted(found.ask.services) if name in known]
    return [
        {
            "service": one.name,
            "risk": one.risk.value if one.risk else None,
            "labels": sorted(one.blast_radius.union(*(part.blast_radius for part in one.operations))),
        }
        for one in services
    ]
