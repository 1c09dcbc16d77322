"""The pins of this node's MCP tools over admin.sock: what was seen, and an admin's word that a change is right."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import LocalError, RefusedError
from sidecar.audit import record
from sidecar.control.unix import answer, body_of, caller_of
from sidecar.mcp.pins import Pin, raised
from sidecar.node import Node


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``seen``: the first digits at least of the digest that the admin has looked at."""

    service: str
    tool: str
    seen: str


def pin_routes(node: Node) -> list[Route]:
    """GET /v1/pins and POST /v1/pins/approve."""

    async def show(_: Request) -> Response:
        return answer({"pins": [_shown(node, *key, pin) for key, pin in node.carrier.servers.pins]})

    async def approve(request: Request) -> Response:
        wanted = convert(await body_of(request), Approval, what="approval of a tool")
        try:
            pin = await node.carrier.servers.approve(wanted.service, wanted.tool, wanted.seen)
        except LocalError as error:
            raise RefusedError(str(error)) from None
        loaded, now = node.member.loaded, node.seams.clock.wall()
        what: dict[str, record.Value] = {
            "service": wanted.service,
            "tool": wanted.tool,
            "definition": pin.approved,
            "uid": caller_of(request).uid,
        }
        node.seams.audit.append(record.policy(now, "pin approved", loaded.sequence, loaded.digest, what))
        return answer(_shown(node, wanted.service, wanted.tool, pin))

    return [Route("/v1/pins", show), Route("/v1/pins/approve", approve, methods=["POST"])]


def _shown(node: Node, service: str, tool: str, pin: Pin) -> dict[str, Any]:
    policy = node.member.snapshot.policy
    pins = policy.pins if policy else {}
    known = policy.services.get(service) if policy else None
    return {
        "service": service,
        "tool": tool,
        "seen": pin.seen,
        "counts": pins.get((service, tool), pin.approved),
        "by": "policy" if (service, tool) in pins else "node",
        "fault": node.carrier.servers.pins.fault(service, tool, pins),
        "risk": raised(known.risk if known else None, pin.risk),
    }
