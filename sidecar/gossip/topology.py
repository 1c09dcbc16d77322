"""To whom a node keeps control links. Pure.

Up to FULL_MESH nodes everybody is linked to everybody. Above that a node dials those that it shares bindings with (they
must hear of a stop first, from each other) and RANDOM more, picked by hash: all pick by themselves, a roster that
changes moves few links, and a graph in which each has picked 8 is connected for all practical purposes. Who is picked
by others is linked to them too, and the CA is linked to all.
"""

from functools import lru_cache
from hashlib import sha256
from heapq import nsmallest

from sidecar.policy.model import Policy
from sidecar.snapshot import Snapshot, nodes_of

FULL_MESH = 64
RANDOM = 8


def neighbours(own: str, snapshot: Snapshot) -> frozenset[str]:
    """The nodes of the roster that ``own`` keeps dialling."""
    roster = snapshot.roster.nodes
    if len(roster) <= FULL_MESH:
        return frozenset(roster) - {own}
    dialled = tuple(sorted(name for name, node in roster.items() if node.addresses and name != own))
    shared = _shared(own, snapshot, snapshot.policy) if snapshot.policy else frozenset()
    return (shared & frozenset(roster) | picked(own, dialled)) - {own}


@lru_cache(maxsize=4)
def picked(own: str, names: tuple[str, ...]) -> frozenset[str]:
    """RANDOM of ``names``, or all, by rendezvous hashing: 10 ms for 10,000 names, once for each roster."""
    return frozenset(nsmallest(RANDOM, names, key=lambda name: sha256(f"{own} {name}".encode()).digest()))


def _shared(own: str, snapshot: Snapshot, policy: Policy) -> frozenset[str]:
    """The other ends of the bindings that begin or end here."""
    found: set[str] = set()
    for binding in policy.bindings:
        agents = policy.agents[binding.agent].nodes
        tools = nodes_of(policy.services[binding.service], snapshot.roster)
        if own in agents:
            found |= tools
        if own in tools:
            found |= agents
    return frozenset(found)
