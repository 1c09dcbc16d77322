"""The agent socket of a node, open to every local user: a caller sees and ends its own sessions only."""

from typing import Annotated, Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import RefusedError
from sidecar.control import client_certificates
from sidecar.control.unix import ERROR_HANDLERS, answer, body_of, caller_of, is_root
from sidecar.node import Node
from sidecar.peercred import PeerCred
from sidecar.session.sessions import Session

SESSIONS_PER_UID = 256
"""Live at a time: each is a certificate, renewed for as long as it lives, and any user may ask for one."""


class StartSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``own_cgroup``: the caller's process (and what it starts) is to be known by a cgroup of the session's own."""

    agent: Annotated[str, msgspec.Meta(max_length=63)]
    own_cgroup: bool = False


def agent_app(node: Node) -> Starlette:
    """The API of agent.sock."""

    async def start(request: Request) -> Response:
        wanted = convert(await body_of(request), StartSession, what="session start")
        caller = caller_of(request)
        uid = _entitled_uid(node, wanted.agent, caller)
        if sum(one.uid == uid for one in node.life.live()) >= SESSIONS_PER_UID:
            raise RefusedError(f"uid {uid}: has {SESSIONS_PER_UID} sessions on this node already; end some")
        session = await node.life.start(wanted.agent, uid)
        if wanted.own_cgroup:
            session = node.sessions.confine(session, caller.pid)
        return answer(_started(node, session), 201)

    def own(request: Request) -> Session:
        session = node.sessions.find(request.path_params["id"])
        if session is None or not _is_own(session, caller_of(request)):
            raise RefusedError(f"session {request.path_params['id']}: you have no such session on this node")
        return session

    async def show(request: Request) -> Response:
        mine = [session for session in node.sessions if _is_own(session, caller_of(request))]
        return answer({"sessions": [_session(session) for session in mine]})

    async def end(request: Request) -> Response:
        session = own(request)
        node.life.end(session)
        return answer(_session(session))

    return Starlette(
        routes=[
            Route("/v1/sessions", start, methods=["POST"]),
            Route("/v1/sessions", show, methods=["GET"]),
            Route("/v1/sessions/{id}", end, methods=["DELETE"]),
            *client_certificates.routes(node, own),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


def _entitled_uid(node: Node, agent: str, caller: PeerCred) -> int:
    """The uid that the session will be of; raises RefusedError unless the caller is that agent's user, or root."""
    uid = node.uid_of(agent)
    if uid is None:
        raise RefusedError(f"agent {agent}: not in the policy, or its user is unknown on node {node.name}")
    if caller.uid not in (0, uid):
        raise RefusedError(f"agent {agent}: runs as uid {uid}, and you are uid {caller.uid}")
    if fault := node.uid_fault(agent, uid):
        raise RefusedError(f"agent {agent}: runs as uid {uid}, {fault}; give it a user of its own")
    return uid


def _is_own(session: Session, caller: PeerCred) -> bool:
    return caller.uid == session.uid or is_root(caller)


def _session(session: Session) -> dict[str, Any]:
    return {
        "session": session.id.session,
        "agent": session.id.name,
        "id": str(session.id),
        "uid": session.uid,
        "started": session.started,
        "not_after": session.identity.not_after,
        "attribution": "cgroup" if session.cgroup else "uid",
    }


def _started(node: Node, session: Session) -> dict[str, Any]:
    policy = node.member.snapshot.policy
    bindings = policy.bindings_on(node.name) if policy else ()
    mine = {b.service: b.address for b in bindings if b.agent == session.id.name}
    return {**_session(session), "services": mine, "traceparent": session.trace}
