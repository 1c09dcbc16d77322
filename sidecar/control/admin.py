"""The admin socket of a node: reads, and what an operator signed. 0660, root and group lockgate."""

from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import RefusedError
from sidecar.control import escalations, state, statements
from sidecar.control.bypass import bypass_route
from sidecar.control.pins import pin_routes
from sidecar.control.unix import ERROR_HANDLERS, answer
from sidecar.node import Node
from sidecar.policy.model import Segment
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason


def admin_app(node: Node, reload: state.Reload) -> Starlette:
    """The API of admin.sock. ``reload`` reads node.toml again."""

    async def status(_: Request) -> Response:
        return answer(status_of(node))

    async def streams(_: Request) -> Response:
        return answer({"streams": [_stream(live) for live in node.carrier.table]})

    async def cut(request: Request) -> Response:
        live = node.carrier.table.find(request.path_params["id"])
        if live is None:
            raise RefusedError(f"stream {request.path_params['id']}: not live here")
        live.cut(Reason.LOCKED, "stream cut by admin")
        return answer({"stream": live.id})

    return Starlette(
        routes=[
            Route("/v1/status", status),
            Route("/v1/streams", streams),
            Route("/v1/streams/{id}/cut", cut, methods=["POST"]),
            state.reload_route(reload),
            state.policy_route(node.member, node.seams.objects),
            bypass_route(node),
            *pin_routes(node),
            *statements.routes(
                node.member, node.trust_domain, lambda: [live.request for live in node.carrier.table]
            ),
            *escalations.routes(node.member),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


def status_of(node: Node) -> dict[str, Any]:
    """What ``lockgate status --json`` prints of a node. Times are wall time in microseconds."""
    member, audit = node.member, node.seams.audit
    moment = member.moment()
    return {
        **state.status_of(member, node.peering),
        "role": "node",
        "name": node.name,
        "id": str(node.credential.id),
        "dev": node.config.dev,
        "ready": not member.unready and member.snapshot.policy is not None and moment.as_of is not None,
        "draining": node.draining,
        "not_after": node.own_not_after,
        "fresh_as_of": moment.as_of,
        "segments": _segments(node),
        "bindings": [
            {
                "agent": entrance.binding.agent,
                "service": entrance.binding.service,
                "port": entrance.binding.port,
                "address": entrance.binding.address,
                "problem": entrance.problem,
            }
            for entrance in node.bindings.entrances
        ],
        "sessions": len(node.sessions),
        "missing_users": node.users.missing(),
        "orphans": node.sessions.orphans,
        "streams": len(node.carrier.table),
        **({"spans": {"sent": spans.sent, "dropped": spans.dropped}} if (spans := node.telemetry) else {}),
        "decisions": {
            "kept": len(cache := node.carrier.cache),
            "hits": cache.hits,
            "misses": cache.misses,
            "prewarmed_hits": cache.prewarmed_hits,
        },
        "pool": {"dialled": node.pool.dialled, "reused": node.pool.reused},
        "audit": {
            "available": audit.available,
            "lost": audit.lost,
            "trouble": audit.trouble,
            "broken": audit.broken,
        },
    }


def _segments(node: Node) -> dict[str, dict[str, Any]]:
    policy, moment = node.member.snapshot.policy, node.member.moment()
    return {
        name: {
            "fresh": moment.is_fresh(segment.stale_after),
            "until": moment.fresh_until(segment.stale_after),
            "mode": segment.mode.value,
            "would_deny": node.observed.of(name),
            "slo": _objective(node, segment),
        }
        for name, segment in (policy.segments if policy else {}).items()
    }


def _objective(node: Node, segment: Segment) -> dict[str, Any] | None:
    if segment.slo is None:
        return None
    found = node.carrier.objectives.report(segment.name, segment.slo, node.seams.clock.boot())
    return {"p99": segment.slo.p99, "objective": segment.slo.objective, **asdict(found)}


def _stream(live: Live) -> dict[str, Any]:
    left = live.request.narrowing
    return {
        "stream": live.id,
        "session": left.children[-1] if left else live.request.session.session,
        "agent": live.request.session.name,
        "service": live.request.service,
        "peer": live.peer,
        "open": live.is_open,
        "bytes_in": live.bytes_in,
        "bytes_out": live.bytes_out,
    }
