"""Whose session is at the other end of a local connection. Pure; :mod:`sidecar.proxy.sockdiag` asks the kernel.

Any local process can connect to a loopback port, so the port is no identity. The rules, in order:

1. The caller's socket is connected and has an inode: ESTABLISHED, or half-closed by a caller that sent all it
   had before we came to look (FIN_WAIT1, FIN_WAIT2). A dead caller's row shows uid 0 and inode 0, and any other
   state may be a listener's or a half-open stranger's.
2. Its uid is the uid of the binding's agent.
3. Its cgroup is a session's: that session, and no other.
4. Else, if exactly one session of the agent and uid has no cgroup: that one. Several are ambiguous.

A session with a cgroup is never found by uid, or any process of that uid could walk into it from outside.
Nor does a caller inside another session's cgroup fall through to rule 4 (``claimed``): what is left of an
ended or revoked session would live on as its sibling.

Limits (docs/threat-model.md): uid and cgroup are those of the process that *created* the socket, and processes
of one uid without cgroups are not kept apart.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from enum import StrEnum

from sidecar.reasons import Reason

ESTABLISHED = 1
CLOSE_WAIT = 8
"""States of a TCP socket, as the kernel numbers them (include/net/tcp_states.h)."""

FIN_WAIT1, FIN_WAIT2 = 4, 5
CONNECTED = frozenset({ESTABLISHED, FIN_WAIT1, FIN_WAIT2})


@dataclass(frozen=True, slots=True)
class SocketOwner:
    """What the kernel says of a caller's socket. ``inode`` 0: no process holds it, and ``uid`` means nothing."""

    state: int
    uid: int
    inode: int
    cgroup_id: int | None
    """Inode number of the cgroup v2 directory it was created in; None: a kernel without them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A live session of the binding's agent on this node."""

    session: str
    uid: int
    cgroup_id: int | None
    """The session's own cgroup; None: it has none and is found by uid."""


class Method(StrEnum):
    """How a caller was known."""

    CGROUP = "cgroup"
    UID = "uid"
    MTLS = "mtls"
    """By a client certificate of the binding: the kernel was not asked."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The caller is this session. ``cgroup_id`` is the one its socket was created in, whatever the method."""

    session: str
    method: Method
    uid: int
    cgroup_id: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The caller is no session, or not one alone. ``uid`` is None when no process held the socket, or none was asked."""

    reason: Reason
    uid: int | None
    hint: str = ""


def attribute(
    owner: SocketOwner | None,
    candidates: Iterable[Candidate],
    agent_uid: int,
    claimed: Container[int] = frozenset(),
) -> Attribution | Refused:
    """The session among the agent's ``candidates`` that ``owner`` belongs to, or why there is none.

    ``claimed``: ids of every session cgroup that still exists on this node, of other agents' sessions and of
    ended ones too; those of the candidates may be among them.
    """
    if owner is None or owner.inode == 0:
        return Refused(Reason.WRONG_CALLER, None)
    if owner.state not in CONNECTED or owner.uid != agent_uid:
        return Refused(Reason.WRONG_CALLER, owner.uid)
    sessions = tuple(candidates)
    in_cgroup = [one for one in sessions if one.cgroup_id is not None and one.cgroup_id == owner.cgroup_id]
    if any(one.uid != owner.uid for one in in_cgroup):  # started under a uid that is no longer the agent's
        return Refused(Reason.WRONG_CALLER, owner.uid)
    if in_cgroup:
        return _only(in_cgroup, Method.CGROUP, owner)
    if owner.cgroup_id is not None and owner.cgroup_id in claimed:
        return Refused(Reason.NO_SESSION, owner.uid)
    by_uid = [one for one in sessions if one.cgroup_id is None and one.uid == owner.uid]
    return _only(by_uid, Method.UID, owner)


def _only(found: list[Candidate], method: Method, owner: SocketOwner) -> Attribution | Refused:
    if not found:
        return Refused(Reason.NO_SESSION, owner.uid)
    if len(found) > 1:
        return Refused(Reason.AMBIGUOUS_SESSION, owner.uid)
    return Attribution(found[0].session, method, owner.uid, owner.cgroup_id)
