"""The CA's admin socket: status, join tokens, statements. Who may reach it is root on the CA's host."""

from typing import Annotated, Any, Literal

import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.authority.enrol import Enrolment
from pki.authority.register import Invitation
from pki.clock import DAY, SECOND, Clock, Wall
from pki.codec import convert
from pki.spiffe import IdKind
from pki.statement import MAX_ITEMS
from sidecar.config import CaConfig
from sidecar.control import statements
from sidecar.control.unix import ERROR_HANDLERS, answer
from sidecar.gossip.member import Member
from sidecar.peering import Peering

MAX_TOKEN_LIFE = 7 * DAY


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ttl`` in microseconds."""

    kind: Literal["node", "operator"]
    name: Annotated[str, msgspec.Meta(max_length=63)]
    roles: Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]
    ttl: Annotated[int, msgspec.Meta(ge=SECOND, le=MAX_TOKEN_LIFE)]


def ca_app(config: CaConfig, member: Member, peering: Peering, enrolment: Enrolment, clock: Clock) -> Starlette:
    """The API of the CA's admin.sock."""

    async def status(request: Request) -> Response:
        return answer(status_of(config, member, peering))

    async def token(request: Request) -> Response:
        wanted = convert(await request.json(), CreateToken, what="token create")
        now = clock.wall()
        expires = Wall(now + wanted.ttl)
        invitation = Invitation(IdKind(wanted.kind), wanted.name, tuple(wanted.roles), expires)
        addresses = tuple(str(one) for one in config.advertise or config.listen)
        made = await trio.to_thread.run_sync(enrolment.create, invitation, addresses, now)
        return answer({"token": made.encode(), "kind": wanted.kind, "name": wanted.name, "expires": expires}, 201)

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/tokens", token, methods=["POST"]),
            *statements.routes(member, config.trust_domain),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


def status_of(config: CaConfig, member: Member, peering: Peering) -> dict[str, Any]:
    """What ``lockgate status --json`` prints for a CA."""
    moment = member.moment()
    nodes, operators = member.snapshot.roster.nodes, member.snapshot.roster.operators
    return {
        "role": "ca",
        "name": config.name,
        "id": f"spiffe://{config.trust_domain}/ca/{config.name}",
        "dev": config.dev,
        "ready": not member.unready,
        "unready": member.unready,
        "peers": peering.links.peers,
        "wall": moment.wall,
        "floor": moment.floor,
        "policy": {
            "sequence": member.loaded.sequence,
            "digest": member.loaded.digest,
            "fault": member.loaded.fault,
        },
        "nodes": sorted(nodes),
        "operators": {name: sorted(one.roles) for name, one in operators.items()},
        "refused": dict(peering.refusals.counts),
        "statements": len(member.store),
        "declined": member.declined,
        **statements.restrictions_of(member.snapshot, member.floor),
    }
