"""Ways to a tool around the mesh: what there is to dial on a node, and what the answers mean. Pure.

A tool is private only if nobody reaches it but the sidecar beside it. What a user of this machine might dial:

1. The target of a service beside this node, as the policy has it.
2. The target of a service elsewhere: the same address from here. Where that is a loopback address, the tool is on
   another node, and may listen on more than loopback there: its port, at the hosts where that node is reached.

A way is *open* if an agent's user, or nobody, gets a connection. It is *closed* if they get none and the sidecar's own
user does. Where he gets none either, nothing is proven: the tool may be down. Only services beside this node can be
told so; of others a way that does not open is closed.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from pki.errors import LocalError
from sidecar.address import Address
from sidecar.policy.model import Policy
from sidecar.policy.target import UNIX, UnixTarget
from sidecar.snapshot import Roster, nodes_of


@dataclass(frozen=True, slots=True)
class Way:
    """One place to dial: ``host:port`` or ``unix:/path``. ``node``: whose tool answers there."""

    service: str
    place: str
    node: str


class State(StrEnum):
    """What became of a way."""

    OPEN = "open"
    CLOSED = "closed"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class Finding:
    """A way, what became of it, and who gets through."""

    way: Way
    state: State
    users: tuple[str, ...] = ()


def ways(policy: Policy, roster: Roster, here: str) -> list[Way]:
    """What can be dialled on the node ``here``."""
    found = []
    for service in policy.services.values():
        target = service.target
        for node in sorted(nodes_of(service, roster)):
            if isinstance(target, UnixTarget):
                places = [str(target)] if node == here else []
            elif node == here or not target.address.is_loopback:
                places = [str(target.address)]
            else:
                places = [str(Address(one.host, target.address.port)) for one in _reached_at(node, roster)]
            found += [Way(service.name, place, node) for place in places]
    return found


def _reached_at(node: str, roster: Roster) -> Iterator[Address]:
    """As its peers reach it. Whatever stands in a roster that cannot be dialled is left out."""
    for text in roster.nodes[node].addresses if node in roster.nodes else ():
        with suppress(LocalError):
            yield Address.parse(text)


def judge(
    found: Iterable[Way], reached: Mapping[str, frozenset[str]], sidecar: frozenset[str], here: str
) -> list[Finding]:
    """What became of each way. ``reached``: by user, the places that answered; ``sidecar``: those that answered him."""
    findings = []
    for way in found:
        through = tuple(user for user, places in reached.items() if way.place in places)
        if through:
            findings.append(Finding(way, State.OPEN, through))
        elif way.node == here and way.place not in sidecar:
            findings.append(Finding(way, State.UNPROVEN))
        else:
            findings.append(Finding(way, State.CLOSED))
    return findings


def cure(way: Way, here: str) -> str:
    """How to close an open way."""
    if way.place.startswith(UNIX):
        path = way.place.removeprefix(UNIX)
        return (
            f"leave the socket to the tool and the sidecar's group: chgrp lockgate {path}; chmod 0660 {path}"
        )
    if way.node != here:
        return f"on node {way.node}: bind the tool to 127.0.0.1, or load `lockgate check --print-confinement nftables`"
    if Address.parse(way.place).is_loopback:
        return "let only the sidecar dial it: load `lockgate check --print-confinement nftables`"
    return "load `lockgate check --print-confinement nftables` here; let its own firewall admit only this node's sidecar"
