"""The agent socket of a node, open to every local user: a caller sees and ends its own sessions only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Annotated

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.codec import convert
from pki.errors import RefusedError
from sidecar.control import SCHEMA_VERSION, client_certificates
from sidecar.control.asking import asking_routes
from sidecar.control.local_api import asker_of, described, local_routes, summary
from sidecar.control.starting import counted, entitled_uid
from sidecar.control.unix import (
    ERROR_HANDLERS,
    answer,
    body_of,
    caller_of,
    connection_of,
    step_aside,
)
from sidecar.node import Node
from sidecar.peercred import PeerCred
from sidecar.pidfd import peer_pidfd
from sidecar.session.hold import HeldResponse, Hold
from sidecar.session.life import Wish
from sidecar.session.sessions import Session

MAX_ID_TOKEN_CHARS = 16_384


class StartSession(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked for.

    ``own_cgroup``: the caller's process (and what it starts) is to be known by a cgroup of the session's own.
    ``made``: root has made that cgroup already, and this is its name and is to be the session's id.
    ``hold``: the session lives no longer than this connection (:mod:`sidecar.session.hold`).
    ``id_token``: of the user on whose behalf it runs, for the CA to check.
    ``export``: its certificate, key and trust bundle are told on that connection, so it takes ``hold``.
    """

    agent: Annotated[str, msgspec.Meta(max_length=63)]
    own_cgroup: bool = False
    made: Annotated[str, msgspec.Meta(max_length=26)] = ""
    hold: bool = False
    export: bool = False
    id_token: Annotated[str, msgspec.Meta(max_length=MAX_ID_TOKEN_CHARS)] = ""


def agent_app(node: Node) -> Starlette:
    """The API of agent.sock."""

    async def start(request: Request) -> Response:
        wanted = convert(await body_of(request), StartSession, what="session start")
        await node.users.learn()
        uid = entitled_uid(node, wanted.agent, caller_of(request))
        confirm = partial(_require_free, node, request, wanted)
        confirm()
        if wanted.export and not wanted.hold:
            raise RefusedError(
                "session: exported credentials are told on the connection that holds it; add hold"
            )
        hold = Hold() if wanted.hold else None
        with counted(node, uid), _caller_process(request, wanted) as pidfd:
            session = await node.life.start(
                wanted.agent, uid, Wish(pidfd, hold, wanted.export, wanted.id_token, wanted.made, confirm)
            )
        started = described(node, session)
        if hold is None:
            return answer(started, 201)
        step_aside(request)
        exported = node.life.exported(session) if wanted.export else {}
        first = {"schema_version": SCHEMA_VERSION, **started, **exported}
        return HeldResponse(first, hold, partial(node.life.let_go, session))

    def own(request: Request) -> Session:
        session = node.sessions.find(request.path_params["id"])
        if session is None or not asker_of(node, request).may_touch(session):
            raise RefusedError(f"session {request.path_params['id']}: you have no such session on this node")
        return session

    async def show(request: Request) -> Response:
        return answer(described(node, own(request)))

    async def list_own(request: Request) -> Response:
        mine = filter(asker_of(node, request).may_touch, node.sessions.everyone())
        return answer({"sessions": [summary(session) for session in mine]})

    async def end(request: Request) -> Response:
        session = own(request)
        last = request.query_params.get("when") != "alone" or _is_alone(node, session, caller_of(request))
        if last:
            _end(node, session)
        return answer({**summary(session), "ended": last})

    return Starlette(
        routes=[
            Route("/v1/sessions", start, methods=["POST"]),
            Route("/v1/sessions", list_own, methods=["GET"]),
            Route("/v1/sessions/{id}", show, methods=["GET"]),
            Route("/v1/sessions/{id}", end, methods=["DELETE"]),
            *client_certificates.routes(node, own),
            *local_routes(node),
            *asking_routes(node),
        ],
        exception_handlers=ERROR_HANDLERS,
    )


def _require_free(node: Node, request: Request, wanted: StartSession) -> None:
    """The caller is in no session, or is root, which is where it likes to be: in the cgroup that it made."""
    if not wanted.made:
        asker_of(node, request).require_free()
    elif caller_of(request).uid != 0:
        raise RefusedError("session: only root may say which cgroup is a session's")


@contextmanager
def _caller_process(request: Request, wanted: StartSession) -> Iterator[int | None]:
    """A pidfd of the caller, where it is to be known by a cgroup; raises RefusedError when it is gone already."""
    pidfd = peer_pidfd(connection_of(request), caller_of(request).pid) if wanted.own_cgroup else None
    if wanted.own_cgroup and pidfd is None:
        raise RefusedError("session: the process that asked is gone")
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _is_alone(node: Node, session: Session, caller: PeerCred) -> bool:
    """Whether nobody but the caller is left in the session and its children, as far as cgroups tell."""
    if session.cgroup is None:
        return True
    below = [child.cgroup for child in node.sessions.children if child.session == session.id.session]
    return set(session.cgroup.members()) <= {caller.pid} and not any(one.populated() for one in below)


def _end(node: Node, session: Session) -> None:
    if session.child is None:
        node.life.end(session)
    else:
        node.children.end(session.child)
