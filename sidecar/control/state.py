"""What nodes and the CA tell alike: the common part of ``status``, the policy in force, how a reload ended."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import LocalError, RefusedError
from sidecar.control.unix import answer
from sidecar.gossip.editions import canary_of
from sidecar.gossip.member import Member
from sidecar.objects import Objects
from sidecar.peering import Peering

Reload = Callable[[], Awaitable[list[str]]]
"""Takes up a daemon's configuration; says which keys wait for a restart. Raises what reading it raises."""


def status_of(member: Member, peering: Peering) -> dict[str, Any]:
    """What every ``lockgate status --json`` has. Times are wall time in microseconds."""
    moment, snapshot, loaded = member.moment(), member.snapshot, member.loaded
    return {
        "pid": os.getpid(),
        "unready": member.unready,
        "peers": peering.links.peers,
        "wall": moment.wall,
        "floor": moment.floor,
        "policy": {"sequence": loaded.sequence, "digest": loaded.digest, "fault": loaded.fault},
        "canary": _canary(member),
        "nodes": sorted(snapshot.roster.nodes),
        "labels": {
            name: sorted(node.labels) for name, node in sorted(snapshot.roster.nodes.items()) if node.labels
        },
        "operators": {name: sorted(one.roles) for name, one in sorted(snapshot.roster.operators.items())},
        "refused": dict(peering.refusals.counts),
        "statements": len(member.store),
        "declined": member.declined,
        "locks": [
            {
                "id": lock.id,
                "target": str(lock.target),
                "until": lock.until,
                "by": lock.by,
                "message": lock.message,
            }
            for lock in snapshot.restrictions.locks
            if lock.until > member.floor
        ],
        "revocations": [
            {
                "id": one.id,
                "target": str(one.target),
                "by": one.by,
                **({} if one.before is None else {"before": one.before}),
            }
            for one in snapshot.restrictions.revocations
        ],
    }


def _canary(member: Member) -> dict[str, Any] | None:
    """The canary that runs on some nodes, here or elsewhere."""
    canary = canary_of(member.store)
    if canary is None:
        return None
    return {"sequence": canary.sequence, "digest": canary.digest, "nodes": list(canary.nodes)}


def policy_route(member: Member, objects: Objects) -> Route:
    """GET /v1/policy: the policy in force here, with its text."""

    async def show(_: Request) -> Response:
        loaded = member.loaded
        if loaded.policy is None:
            raise RefusedError(
                "no policy is in force here: everything is refused; run: lockgate policy apply"
            )
        text = await trio.to_thread.run_sync(objects.read, loaded.digest)
        if text is None:
            raise LocalError(f"policy {loaded.digest}: in force, and its text is gone from the disk")
        return answer({"sequence": loaded.sequence, "digest": loaded.digest, "text": text.decode()})

    return Route("/v1/policy", show)


def reload_route(reload: Reload) -> Route:
    """POST /v1/reload: what SIGHUP does, with an answer."""

    async def take_up(_: Request) -> Response:
        return answer({"needs_restart": await reload()})

    return Route("/v1/reload", take_up, methods=["POST"])
