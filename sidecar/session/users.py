"""Which user of this machine an agent of the policy runs as.

A policy is checked where the users are not: only here is known what number a name stands for.
"""

import os
import pwd

from sidecar.policy.model import Agent, Policy


def uid_of(agent: str, policy: Policy | None) -> int | None:
    """The uid of an agent of the policy here; None when it has none."""
    entry = policy.agents.get(agent) if policy else None
    return None if entry is None else _uid_here(entry)


def uid_fault(agent: str, uid: int, policy: Policy, node: str) -> str:
    """Why no session of ``agent`` may start under this uid on this node; empty: it may."""
    if uid in (0, os.geteuid()):
        return "which is root's or the daemon's own"
    others = (one for one in policy.agents.values() if one.name != agent and node in one.nodes)
    shared = next((one.name for one in others if _uid_here(one) == uid), None)
    return f"which is agent {shared}'s too: they could not be told apart" if shared else ""


def _uid_here(agent: Agent) -> int | None:
    """The number of the agent's user on this machine; None when there is no such user."""
    if isinstance(agent.uid, int):
        return agent.uid
    try:
        return pwd.getpwnam(agent.uid).pw_uid
    except KeyError:
        return None
