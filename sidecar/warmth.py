"""Pre-warmed paths: what the sessions here will likely ask for is made ready before they ask.

Once a second, each node that a binding here may lead to is given idle connections (:meth:`sidecar.proxy.pool.Pool.warm`).
When a session has started, and when what is in force has changed, that happens at once, and the decisions are made that
its bindings let one expect. Both are told in `status`: how many connections and decisions were there when asked for.
"""

from collections.abc import Iterable
from typing import Protocol

import trio

from pki.spiffe import SpiffeId
from sidecar.address import Address
from sidecar.policy.cache import DecisionCache, likely
from sidecar.policy.decide import Request
from sidecar.proxy.carry import Sight
from sidecar.proxy.pool import Pool
from sidecar.session.sessions import Session
from sidecar.snapshot import nodes_of

SECONDS = 1.0


class Node(Protocol):
    """What is to be kept warm."""

    @property
    def name(self) -> str: ...

    @property
    def trust_domain(self) -> str: ...

    def sight(self) -> Sight: ...

    def addresses_of(self, node: str) -> Iterable[Address]: ...

    def expected_of(self, session: Session) -> Request:
        """A request of ``session``, for whatever service."""

    def sessions_here(self) -> Iterable[Session]: ...


class Warmth:
    """Of one node."""

    def __init__(self, node: Node, pool: Pool, cache: DecisionCache) -> None:
        self._node = node
        self._pool = pool
        self._cache = cache
        self._news = trio.Event()

    def wake(self) -> None:
        """A session has started, or something else is in force now."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:  # One node that does not answer keeps no other waiting.
            while True:
                if self._news.is_set():
                    self._news = trio.Event()
                    await self._decide_ahead()
                for node in sorted(self._in_reach()):
                    peer = SpiffeId.for_node(self._node.trust_domain, node)
                    nursery.start_soon(self._pool.warm, peer, tuple(self._node.addresses_of(node)))
                with trio.move_on_after(SECONDS):
                    await self._news.wait()

    async def _decide_ahead(self) -> None:
        """One session at a time, so that streams are carried in between."""
        for session in list(self._node.sessions_here()):
            sight = self._node.sight()
            asked = likely([self._node.expected_of(session)], sight.snapshot)
            self._cache.prewarm(asked, sight.snapshot, sight.moment)
            await trio.lowlevel.checkpoint()

    def _in_reach(self) -> set[str]:
        snapshot = self._node.sight().snapshot
        policy = snapshot.policy
        here = policy.bindings_on(self._node.name) if policy else ()
        services = {policy.services[one.service] for one in here} if policy else set()
        return {node for service in services for node in nodes_of(service, snapshot.roster)} - {
            self._node.name
        }
