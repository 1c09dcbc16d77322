"""GET /v1/bypass of admin.sock: what `lockgate check` needs to look for ways around the mesh, and to close them."""

import os
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import RefusedError
from sidecar.address import Address
from sidecar.bypass import ways
from sidecar.control.unix import answer
from sidecar.node import Node
from sidecar.peering import dialable
from sidecar.policy.model import Policy
from sidecar.policy.target import UnixTarget


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
                    for way in ways(policy, _reached_at(node), node.name)
                ],
            }
        )

    return Route("/v1/bypass", show)


def _reached_at(node: Node) -> Mapping[str, list[Address]]:
    members = node.member.snapshot.roster.nodes
    return {name: list(dialable(member.addresses)) for name, member in members.items()}


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
    beside = (one.target for one in policy.services.values() if node.name in one.nodes)
    return sorted({str(one.address) for one in beside if not isinstance(one, UnixTarget)})
