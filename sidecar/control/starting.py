"""Who may start a session on this node, and how many: the same rules on every socket that gives one."""

from collections.abc import Iterator
from contextlib import contextmanager

from pki.errors import RefusedError
from sidecar.node import Node
from sidecar.peercred import PeerCred


def entitled_uid(node: Node, agent: str, caller: PeerCred) -> int:
    """The uid that the session will be of; raises RefusedError unless the caller is that agent's user, or root."""
    uid = node.uid_of(agent)
    if uid is None:
        raise RefusedError(f"agent {agent}: not in the policy, or its user is unknown on node {node.name}")
    if caller.uid not in (0, uid):
        raise RefusedError(f"agent {agent}: runs as uid {uid}, and you are uid {caller.uid}")
    if fault := node.uid_fault(agent, uid):
        raise RefusedError(f"agent {agent}: runs as uid {uid}, {fault}; give it a user of its own")
    return uid


@contextmanager
def counted(node: Node, uid: int) -> Iterator[None]:
    """One start of a session; raises RefusedError when this user has had enough."""
    live = sum(one.uid == uid for one in node.life.live())
    if refused := node.starts.begin(uid, live, node.seams.clock.boot()):
        raise RefusedError(refused)
    try:
        yield
    finally:
        node.starts.finish(uid)
