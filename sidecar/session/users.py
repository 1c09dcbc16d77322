"""Which user of this machine an agent of the policy runs as.

A policy is checked where the users are not: only here is known what number a name stands for. A name is looked up
in a thread (NSS may ask a server that does not answer) and again every while; a stream is never kept waiting for that.
"""

import os
import pwd
from collections.abc import Callable, Iterable

import trio

from sidecar.policy.model import Agent, Policy

TTL_SECONDS = 10.0
LOOK_SECONDS = 1.0


class Users:
    """Of the agents that a node may run. ``policy`` gives the one in force."""

    def __init__(self, node: str, policy: Callable[[], Policy | None]) -> None:
        self._node = node
        self._policy = policy
        self._known: dict[str, int | None] = {}
        self._thread = trio.CapacityLimiter(1)

    async def run(self) -> None:
        """Keep what is known fresh, until cancelled."""
        while True:
            with trio.move_on_after(TTL_SECONDS):
                while True:
                    await trio.sleep(LOOK_SECONDS)
                    await self.learn()
            self._known = await self._looked_up(self._names())

    async def learn(self) -> None:
        """Look up the names that were never looked up."""
        names = self._names() - self._known.keys()
        if names:
            self._known |= await self._looked_up(names)

    def uid_of(self, agent: str) -> int | None:
        """The uid of an agent of the policy here; None when it has none, or none is known yet."""
        policy = self._policy()
        entry = policy.agents.get(agent) if policy else None
        return None if entry is None else self._uid(entry)

    def fault(self, agent: str, uid: int) -> str:
        """Why no session of ``agent`` may start under this uid here; empty: it may."""
        if uid in (0, os.geteuid()):
            return "which is root's or the daemon's own"
        others = (one for one in self._agents() if one.name != agent)
        shared = next((one.name for one in others if self._uid(one) == uid), None)
        return f"which is agent {shared}'s too: they could not be told apart" if shared else ""

    def missing(self) -> list[str]:
        """Agents whose user this machine does not have."""
        return sorted(
            one.name
            for one in self._agents()
            if isinstance(one.uid, str) and self._known.get(one.uid, 0) is None
        )

    def _agents(self) -> Iterable[Agent]:
        policy = self._policy()
        return (one for one in policy.agents.values() if self._node in one.nodes) if policy else ()

    def _names(self) -> set[str]:
        return {one.uid for one in self._agents() if isinstance(one.uid, str)}

    def _uid(self, agent: Agent) -> int | None:
        return agent.uid if isinstance(agent.uid, int) else self._known.get(agent.uid)

    async def _looked_up(self, names: set[str]) -> dict[str, int | None]:
        return await trio.to_thread.run_sync(_look_up, names, limiter=self._thread, abandon_on_cancel=True)


def _look_up(names: set[str]) -> dict[str, int | None]:
    """The number of each user of this machine; None where there is no such user."""
    found: dict[str, int | None] = {}
    for name in names:
        try:
            found[name] = pwd.getpwnam(name).pw_uid
        except KeyError:
            found[name] = None
    return found
