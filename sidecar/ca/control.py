"""The CA's admin socket: status, join tokens, statements. 0660, root and group lockgate.

The group may read, and hand in what an operator signed. Who makes a token makes admins, and an order has the CA
sign: both take root.
"""

from typing import Annotated, Any, Literal

import msgspec
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.authority.enrol import Enrolment, token_id
from pki.authority.entries import Invitation
from pki.authority.rollover import TRANSITIONS, broken
from pki.clock import DAY, SECOND, Wall
from pki.codec import convert
from pki.errors import RefusedError
from pki.fields import MAX_ITEMS, MAX_MESSAGE_CHARS, Id, Sequence
from pki.spiffe import IdKind
from pki.statement import CUTOFF_KINDS, Cutoff, Lock, Revocation, Target
from sidecar.ca.office import Office
from sidecar.ca.places import api_addresses
from sidecar.ca.rollover import RolloverDesk
from sidecar.config import CaConfig
from sidecar.control import escalations, state, statements
from sidecar.control.unix import ERROR_HANDLERS, answer, body_of, caller_of, is_root
from sidecar.defaults import TOKEN_MAX_LIFETIME

MAX_LIFE = 30 * DAY


class CreateToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``ttl`` in microseconds."""

    kind: Literal["node", "operator"]
    name: Annotated[str, msgspec.Meta(max_length=63)]
    roles: Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]
    ttl: Annotated[int, msgspec.Meta(ge=SECOND, le=TOKEN_MAX_LIFETIME)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stop by the CA itself. ``life`` in microseconds; ``before`` is a cutoff's (wall, us)."""

    kind: Literal["lock", "revocation", "cutoff"]
    target: Target
    message: Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE_CHARS)]
    life: Annotated[int, msgspec.Meta(ge=SECOND, le=MAX_LIFE)]
    before: Sequence = 0


class Unrevoke(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The id of the revocation to lift."""

    id: Id
    mistake: bool


class Rotated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of a rollover that was taken on disk."""

    what: Literal["prepare", "activate", "retire", "rollback", "taint"]


class Unlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The id of the lock to lift."""

    id: Id


def ca_app(
    config: CaConfig, office: Office, enrolment: Enrolment, reload: state.Reload, rollover: RolloverDesk
) -> Starlette:
    """The API of the CA's admin.sock. ``reload`` reads ca.toml again."""

    async def status(_: Request) -> Response:
        return answer(status_of(config, office))

    async def token(request: Request) -> Response:
        _require_root(request, "token create")
        wanted = convert(await body_of(request), CreateToken, what="token create")
        now = office.clock.wall()
        expires = Wall(now + wanted.ttl)
        invitation = Invitation(IdKind(wanted.kind), wanted.name, tuple(wanted.roles), expires)
        addresses = tuple(map(str, api_addresses(config)))
        made = await trio.to_thread.run_sync(enrolment.create, invitation, addresses, now)
        body = {"token": made.encode(), "id": token_id(made.secret), "expires": expires}
        return answer({**body, "kind": wanted.kind, "name": wanted.name}, 201)

    async def order(request: Request) -> Response:
        _require_root(request, "--as-ca")
        wanted = convert(await body_of(request), Order, what="order")
        made = await office.order(_ordered(wanted), wanted.life)
        return answer({"id": made.id, "kind": made.kind}, 201)

    async def unlock(request: Request) -> Response:
        _require_root(request, "--as-ca")
        wanted = convert(await body_of(request), Unlock, what="unlock")
        made = await office.unlock_by_order(wanted.id)
        return answer({"id": made.id, "lifted": [wanted.id]}, 201)

    async def rotation(request: Request) -> Response:
        if request.method == "GET":
            return answer(await standing_of(rollover))
        _require_root(request, "ca rotate")
        taken = convert(await body_of(request), Rotated, what="rotate")
        statement = await rollover.take_up(taken.what)
        return answer({"id": statement.id, **await standing_of(rollover)}, 201)

    async def unrevoke(request: Request) -> Response:
        _require_root(request, "--as-ca")
        wanted = convert(await body_of(request), Unrevoke, what="unrevoke")
        made = await office.unrevoke_by_order(wanted.id, mistake=wanted.mistake)
        return answer({"id": made.id, "lifted": [wanted.id]}, 201)

    return Starlette(
        routes=[
            Route("/v1/rollover", rotation, methods=["GET", "POST"]),
            Route("/v1/status", status),
            Route("/v1/tokens", token, methods=["POST"]),
            Route("/v1/orders", order, methods=["POST"]),
            Route("/v1/unlocks", unlock, methods=["POST"]),
            Route("/v1/unrevokes", unrevoke, methods=["POST"]),
            state.reload_route(reload),
            state.policy_route(office.member, office.objects),
            *escalations.routes(office.member),
            *statements.routes(office.member, config.trust_domain),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


def _ordered(wanted: Order) -> Lock | Revocation | Cutoff:
    match wanted.kind:
        case "lock":
            return Lock(target=wanted.target, message=wanted.message)
        case "revocation":
            return Revocation(target=wanted.target, message=wanted.message)
        case "cutoff":
            if wanted.target.kind not in CUTOFF_KINDS:
                raise RefusedError(f"cutoff: not of {wanted.target}; of {', '.join(sorted(CUTOFF_KINDS))}")
            return Cutoff(target=wanted.target, before=wanted.before, message=wanted.message)


def _require_root(request: Request, what: str) -> None:
    if not is_root(caller_of(request)):
        raise RefusedError(f"{what}: only root on the CA's host, or the user that runs the CA")


async def standing_of(rollover: RolloverDesk) -> dict[str, Any]:
    """How far a rollover has come, and for each step that is possible now whom it would cut off."""
    situation = await rollover.situation()
    steps = {
        step.value: [{"who": one.who, "why": one.why, "until": one.until} for one in broken(situation, step)]
        for phase, step in TRANSITIONS
        if phase is situation.phase
    }
    return {
        "phase": situation.phase.value,
        "bundle": {"epoch": situation.epoch, "sequence": situation.sequence},
        "nodes": {name: ack.sequence if ack else None for name, ack in sorted(situation.nodes.items())},
        "steps": steps,
    }


def status_of(config: CaConfig, office: Office) -> dict[str, Any]:
    """What ``lockgate status --json`` prints of a CA."""
    fault = office.clock.fault()
    return {
        **state.status_of(office.member, office.peering),
        "role": "ca",
        "name": config.name,
        "id": f"spiffe://{config.trust_domain}/ca/{config.name}",
        "dev": config.dev,
        "clock": fault,
        "ready": not office.member.unready and not fault,
    }
