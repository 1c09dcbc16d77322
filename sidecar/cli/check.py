"""`lockgate check`: is this node in order, can anybody here go around the mesh, and how to hinder it."""

import json
import os
import pwd
from typing import Any

import click

from pki.errors import LocalError
from sidecar import confinement
from sidecar.address import Address
from sidecar.become import run_as
from sidecar.bypass import State, Way, cure, judge
from sidecar.cli.settings import Settings, settings_options
from sidecar.confinement import AgentHere, NodeHere
from sidecar.control.client import call
from sidecar.exits import Exit
from sidecar.knock import knock

NOBODY_UID = 65_534


@click.command()
@click.option(
    "--bypass", is_flag=True, help="Dial every tool as each agent's user here, and as nobody. Root only."
)
@click.option(
    "--print-confinement",
    "means",
    type=click.Choice(["nftables", "systemd"]),
    help="Print what keeps agents from going around the mesh.",
)
@settings_options
def check(settings: Settings, *, bypass: bool, means: str | None) -> int:
    """Check this node: its files, its certificate, its CA, its daemon. Exit code 1: something is wrong."""
    if bypass and means:
        raise click.UsageError("--bypass and --print-confinement are two things: give one")
    if bypass:
        return _bypass(settings)
    if means:
        return _print_confinement(settings, means)
    from sidecar.cli.selfcheck import self_check

    return self_check(settings)


def _print_confinement(settings: Settings, means: str) -> int:
    node = _node_here(call(settings.paths.admin_sock, "GET", "/v1/bypass"))
    text = {"nftables": confinement.nftables, "systemd": confinement.systemd}[means](node)
    settings.emit({"means": means, "text": text}, text.rstrip("\n"))
    return Exit.YES


def _node_here(facts: dict[str, Any]) -> NodeHere:
    return NodeHere(
        name=facts["node"],
        uid=facts["uid"],
        sequence=facts["sequence"],
        agents=tuple(
            AgentHere(one["agent"], one["uid"], tuple(one["ports"]), tuple(one["sockets"]))
            for one in facts["agents"]
        ),
        targets=tuple(map(Address.parse, facts["targets"])),
    )


def _bypass(settings: Settings) -> int:
    """Exit code 1: somebody gets through; 3: nobody does, but of some ways that cannot be told."""
    if os.geteuid() != 0:
        raise LocalError("--bypass dials as each agent's user, which takes root; run it by sudo")
    facts = call(settings.paths.admin_sock, "GET", "/v1/bypass")
    ways = [Way(**one) for one in facts["ways"]]
    places = [way.place for way in ways]
    reached = {user: _reached(uid, places) for user, uid in _users(facts["agents"]).items()}
    findings = judge(ways, reached, _reached(facts["uid"], places), facts["node"])
    states = {one.state for one in findings}
    unknown = [one["agent"] for one in facts["agents"] if one["uid"] is None]
    body = {
        "node": facts["node"],
        "users": list(reached),
        "unknown_users": unknown,
        "ways": [
            {
                "service": one.way.service,
                "place": one.way.place,
                "node": one.way.node,
                "state": one.state.value,
                "users": list(one.users),
                "cure": cure(one.way, facts["node"]) if one.state is State.OPEN else "",
            }
            for one in findings
        ],
    }
    settings.emit(body, "\n".join(_told(body, unknown)))
    if State.OPEN in states:
        return Exit.NO
    return Exit.UNCONFIRMED if State.UNPROVEN in states or unknown else Exit.YES


def _told(body: dict[str, Any], unknown: list[str]) -> list[str]:
    lines = [f"as {', '.join(body['users'])} on node {body['node']}:"]
    for one in body["ways"]:
        where = f"{one['service']} at {one['place']}"
        if one["state"] == "open":
            lines += [f"  OPEN      {where} to {', '.join(one['users'])}", f"            {one['cure']}"]
        elif one["state"] == "closed":
            lines.append(f"  closed    {where}")
        else:
            lines.append(
                f"  UNPROVEN  {where}: it does not answer the sidecar either; check again when it runs"
            )
    return lines + [f"  UNPROVEN  agent {agent}: its user is unknown on this machine" for agent in unknown]


def _users(agents: list[dict[str, Any]]) -> dict[str, int]:
    """Whose rights to try, by the name to print."""
    users = {f"{one['agent']} (uid {one['uid']})": one["uid"] for one in agents if one["uid"] is not None}
    try:
        nobody = pwd.getpwnam("nobody").pw_uid
    except KeyError:
        nobody = NOBODY_UID
    return {**users, "nobody": nobody}


def _reached(uid: int, places: list[str]) -> frozenset[str]:
    """The places that give a connection to this user, dialled in a child that has become it."""

    def dial() -> bytes:
        return json.dumps(sorted(knock(places))).encode()

    return frozenset(json.loads(run_as(uid, dial)))
