"""GET /v1/bypass of admin.sock: what `lockgate check` needs to look for ways around the mesh, and to close them."""

import os
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import RefusedError
from sidecar.bypass import ways
from sidecar.control.unix import answer
from sidecar.node import Node
from sidecar.policy.model import Policy
from sidecar.policy.target import UnixTarget
from sidecar.snapshot import nodes_of


def bypass_route(node: Node) -> Route:
    """Of the policy in force: ways to dial, the agents here with their users and bindings, and the daemon's user."""

    async def show(_: Request) -> Response:
        policy = node.member.snapshot.policy
        if policy is None:
            raise RefusedError("no policy is in force here: there are no tools to reach")
        return answer(
            {
                "node": node.name,
                "uid": os.geteuid(),
                "sequence": node.member.loaded.sequence,
                "agents": _agents(node, policy),
                "targets": _targets(node, policy),
                "ways": [
                    {"service": way.service, "place": way.place, "node": way.node}
                    for way in ways(policy, node.member.snapshot.roster, node.name)
                ],
            }
        )

    return Route("/v1/bypass", show)


def _agents(node: Node, policy: Policy) -> list[dict[str, Any]]:
    bindings = policy.bindings_on(node.name)
    return [
        {
            "agent": agent.name,
            "uid": node.uid_of(agent.name),
            "ports": [one.port for one in bindings if one.agent == agent.name and one.port],
            "sockets": [one.path for one in bindings if one.agent == agent.name and one.path],
        }
        for agent in policy.agents.values()
        if node.name in agent.nodes
    ]


def _targets(node: Node, policy: Policy) -> list[str]:
    """Over TCP, of the services beside this node."""
    roster = node.member.snapshot.roster
    beside = (one.target for one in policy.services.values() if node.name in nodes_of(one, roster))
    return sorted({str(one.address) for one in beside if not isinstance(one, UnixTarget)})
