"""What an agent's process may ask about itself on agent.sock (docs/local-api.md).

    POST /v1/children             become a child: this process and all it starts have fewer rights from now on
    GET  /v1/session              who am I?
    GET  /v1/bindings             what may I reach, and where?
    GET  /v1/refusals             why was I refused?
    GET  /v1/refusals/{id}        why was that session of mine refused?

Who asks is found as on a binding: by the cgroup of the very process at the other end, else by its uid. A process in
the cgroup of a session or child is that and nothing wider, whatever it asks for: else a child could ask for what its
parent has. Only a process outside of all may name one of its user's sessions.
"""

import os
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.clock import SECOND, Wall
from pki.codec import convert
from pki.errors import LocalError, RefusedError
from sidecar.control.unix import answer, body_of, caller_of, connection_of, is_root
from sidecar.defaults import CHILD_LIFE, CHILD_MAX_LIFE
from sidecar.node import Node
from sidecar.peercred import PeerCred
from sidecar.pidfd import peer_pidfd
from sidecar.policy.model import Binding
from sidecar.policy.narrowing import Narrowing, covers, is_operation
from sidecar.proxy.attribute import Refused, SocketOwner, attribute
from sidecar.proxy.sockdiag import Connection
from sidecar.reasons import Reason
from sidecar.session.refusals import Refusal, Viewer, remedy
from sidecar.session.sessions import Session
from sidecar.wire import (
    MAX_NARROWING_OPERATIONS,
    MAX_NARROWING_SERVICES,
    MAX_OPERATION_CHARS,
    ServiceName,
)

OperationText = Annotated[str, msgspec.Meta(max_length=MAX_OPERATION_CHARS)]


class StartChild(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the child is to have left. None: what its parent has; ``life`` in seconds, cut to what its parent has."""

    services: Annotated[list[ServiceName], msgspec.Meta(max_length=MAX_NARROWING_SERVICES)] | None = None
    operations: Annotated[list[OperationText], msgspec.Meta(max_length=MAX_NARROWING_OPERATIONS)] | None = (
        None
    )
    life: Annotated[int, msgspec.Meta(ge=1, le=CHILD_MAX_LIFE // SECOND)] = CHILD_LIFE // SECOND
    session: Annotated[str, msgspec.Meta(max_length=26)] = ""


def local_routes(node: Node) -> list[Route]:
    """The calls above."""

    async def start_child(request: Request) -> Response:
        wanted = convert(await body_of(request), StartChild, what="child")
        asker = asker_of(node, request)
        parent = asker.own() if asker.is_inside or not wanted.session else asker.named(wanted.session)
        left = _left(node, parent, wanted)
        pidfd = peer_pidfd(connection_of(request), caller_of(request).pid)
        if pidfd is None:
            raise RefusedError("child: the process that asked is gone")
        try:
            child = node.children.start(parent, left, pidfd)
        finally:
            os.close(pidfd)
        return answer(described(node, child), 201)

    async def show_session(request: Request) -> Response:
        return answer(described(node, asker_of(node, request).own()))

    async def show_bindings(request: Request) -> Response:
        session = asker_of(node, request).own()
        return answer({"bindings": [_binding(node, one) for one in _bindings(node, session)]})

    async def show_refusals(request: Request) -> Response:
        viewer, named = asker_of(node, request).viewer(), request.path_params.get("id", "")
        return answer({"refusals": [_refusal(one) for one in node.refusals.seen_by(viewer, named)]})

    return [
        Route("/v1/children", start_child, methods=["POST"]),
        Route("/v1/session", show_session, methods=["GET"]),
        Route("/v1/bindings", show_bindings, methods=["GET"]),
        Route("/v1/refusals", show_refusals, methods=["GET"]),
        Route("/v1/refusals/{id}", show_refusals, methods=["GET"]),
    ]


def summary(session: Session) -> dict[str, Any]:
    """A session or child, for those who may see it."""
    left = session.narrowing
    return {
        "session": session.name,
        "parents": list(session.parents),
        "agent": session.id.name,
        "id": str(session.id),
        "uid": session.uid,
        "started": session.started,
        "not_after": left.not_after if left else session.identity.not_after,
        "attribution": "cgroup" if session.cgroup else "uid",
        "exported": session.exported,
        "on_behalf_of": session.on_behalf_of,
        "operations": list(left.operations) if left and left.operations is not None else None,
    }


def described(node: Node, session: Session) -> dict[str, Any]:
    """The same with what its processes need: where each service is that it may ask for, and its trace."""
    services = {one.service: one.address for one in _bindings(node, session)}
    return {**summary(session), "services": services, "traceparent": session.trace}


@dataclass(frozen=True, slots=True)
class Asker:
    """The process at the other end, as it is now. ``reason``: why it is no session."""

    node: Node
    owner: SocketOwner
    is_root: bool
    is_inside: bool
    """In the cgroup of a session or child, live or ended."""
    session: Session | None
    reason: Reason | None

    def own(self) -> Session:
        """Its session or child; raises RefusedError."""
        if self.session is not None:
            return self.session
        if self.reason is Reason.AMBIGUOUS_SESSION:
            raise RefusedError(
                "your process: several sessions of your user have no cgroup; run each by lockgate session exec"
            )
        raise RefusedError(
            "your process: in no live session; run: lockgate session exec --agent NAME -- COMMAND"
        )

    def named(self, name: str) -> Session:
        """One of its user's sessions; raises RefusedError."""
        session = self.node.sessions.find(name)
        if session is None or not self.may_touch(session):
            raise RefusedError(f"session {name}: you have no such session on this node")
        return session

    def require_free(self) -> None:
        """That it may start a session of its own; raises RefusedError.

        By starting anew a child would have all its parent has, a revoked session would be back, and any session would be
        rid of its user, its longest life and its lineage.
        """
        if self.is_inside:
            raise RefusedError(
                "session: you run in a session, a child, or what is left of one, and none of these starts another;"
                " for fewer rights run: lockgate session child"
            )

    def may_touch(self, session: Session) -> bool:
        """Whether it may act on a session: of its user; from inside one, on itself and those below alone.

        Else an agent that was talked into it would end its sibling, or a child its parent.
        """
        if not (self.is_root or session.uid == self.owner.uid):
            return False
        if not self.is_inside:
            return True
        return self.session is not None and self.session.name in (session.name, *session.parents)

    def viewer(self) -> Viewer:
        if self.is_inside:
            own = (self.session.name,) if self.session else ()
            return Viewer(self.owner.uid, self.owner.cgroup_id, own)
        everyone = self.node.sessions.everyone()
        mine = [one.name for one in everyone if one.uid == self.owner.uid]
        return Viewer(self.owner.uid, None, mine, self.is_root)


def asker_of(node: Node, request: Request) -> Asker:
    """Who asks; raises RefusedError when it is gone."""
    return asker_at(node, connection_of(request), caller_of(request))


def asker_at(node: Node, connection: Connection, caller: PeerCred) -> Asker:
    """Who is at the other end; raises RefusedError when it is gone."""
    try:
        owner = node.seams.kernel.caller_of(connection)
    except LocalError as error:
        raise RefusedError(f"your process: the kernel does not say who you are ({error})") from None
    if owner is None:
        raise RefusedError("your process: it is gone, and what it left cannot ask for it")
    claimed = node.sessions.claimed
    found = attribute(owner, [one.candidate for one in node.sessions.everyone()], owner.uid, claimed)
    session, reason = None, None
    if isinstance(found, Refused):
        reason = found.reason
    else:
        session = node.sessions.find(found.session)
    is_inside = owner.cgroup_id is not None and owner.cgroup_id in claimed
    return Asker(node, owner, is_root(caller), is_inside, session, reason)


def _left(node: Node, parent: Session, wanted: StartChild) -> Narrowing:
    """The rights that are asked for, those of the parent where nothing is said; raises RefusedError for more."""
    has = parent.narrowing
    services = frozenset(one.service for one in _bindings(node, parent))
    wants = services if wanted.services is None else frozenset(wanted.services)
    if more := wants - services:
        raise RefusedError(f"child: service {min(more)} is none that its parent reaches here")
    if not wants:
        raise RefusedError("child: no service is left, name at least one")
    theirs = has.operations if has else None
    operations = theirs if wanted.operations is None else tuple(wanted.operations)
    if wrong := [one for one in operations or () if not is_operation(one)]:
        raise RefusedError(f"child: {wrong[0]!a} is not METHOD NAME, with * or ** at the end of the name")
    if not covers(theirs, operations):
        raise RefusedError("child: its operations are more than its parent's")
    until = Wall(node.member.moment().now + wanted.life * SECOND)
    return Narrowing(wants, operations, min(until, has.not_after) if has else until)


def _bindings(node: Node, session: Session) -> list[Binding]:
    """Those of its agent here that are not narrowed away."""
    left = session.narrowing
    policy = node.member.snapshot.policy
    return [
        one
        for one in (policy.bindings_on(node.name) if policy else ())
        if one.agent == session.id.name and (left is None or one.service in left.services)
    ]


def _binding(node: Node, binding: Binding) -> dict[str, Any]:
    policy = node.member.snapshot.policy
    service = policy.services[binding.service] if policy else None
    return {
        "service": binding.service,
        "address": binding.address,
        "protocol": service.protocol if service else "",
        "segment": service.segment.name if service else "",
        "class": service.segment.operation_class if service else "",
    }


def _refusal(one: Refusal) -> dict[str, Any]:
    return {
        "at": one.at,
        "session": one.session,
        "stream": one.stream,
        "service": one.service,
        "reason": one.reason,
        "rule": one.rule,
        "hint": one.hint,
        "remedy": remedy(one),
    }
