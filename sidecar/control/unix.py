"""Serve an ASGI app on a Unix socket. Each request carries the caller's kernel credentials, and its connection."""

import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from pki.errors import ConfigError, LocalError, LockgateError, RemoteError, UnreachableError
from pki.http.server import serve_connection
from sidecar.control import SCHEMA_VERSION
from sidecar.log import Refusals
from sidecar.net import accept_forever
from sidecar.peercred import PeerCred, peer_cred
from sidecar.proxy.sockdiag import Connection

CALLER = "lockgate.caller"
CONNECTION = "lockgate.connection"
STEP_ASIDE = "lockgate.step-aside"

CALLS_PER_UID = 64
"""Connections at a time: every local user may open the agent's socket, and none may use up our descriptors."""


async def serve_unix(listener: trio.SocketListener, app: ASGIApp) -> None:
    """Serve ``app`` until cancelled, then close ``listener``."""

    async def serve(stream: trio.SocketStream, caller: PeerCred, slot: Slot) -> None:
        extra = {CALLER: caller, CONNECTION: stream.socket, STEP_ASIDE: slot.give_back}
        await serve_connection(stream, app, extra=extra)

    await serve_callers(listener, serve)


async def serve_callers(listener: trio.SocketListener, serve: "Serve") -> None:
    """Serve whoever connects until cancelled, so many of a user at a time; then close ``listener``."""
    refusals, live = Refusals(), Counter[int]()

    async def handle(stream: trio.abc.Stream) -> None:
        if not isinstance(stream, trio.SocketStream):
            return
        try:
            caller = peer_cred(stream.socket)
        except LocalError:
            await trio.aclose_forcefully(stream)
            return
        if live[caller.uid] >= CALLS_PER_UID:
            refusals.note("limit", "too many calls at once on a control socket", uid=caller.uid)
            await trio.aclose_forcefully(stream)
            return
        slot = Slot(live, caller.uid)
        try:
            await serve(stream, caller, slot)
        finally:
            slot.give_back()

    async with listener:
        await accept_forever(
            listener, handle, lambda: refusals.note("full", "no descriptors left, a control socket pauses")
        )


class Slot:
    """A uid's share of the calls at a time."""

    def __init__(self, live: Counter[int], uid: int) -> None:
        self._live: Counter[int] | None = live
        self._uid = uid
        live[uid] += 1

    def give_back(self) -> None:
        """Again is nothing."""
        if self._live is not None:
            self._live.subtract((self._uid,))
            self._live = None


Serve = Callable[[trio.SocketStream, PeerCred, Slot], Awaitable[None]]


def step_aside(request: Request) -> None:
    """Count this call no more: it will last, and must not keep its caller from making others."""
    request.scope[STEP_ASIDE]()


def caller_of(request: Request) -> PeerCred:
    """Who makes this request."""
    caller = request.scope[CALLER]
    if not isinstance(caller, PeerCred):
        raise LocalError("control socket: a request without credentials")
    return caller


def connection_of(request: Request) -> Connection:
    """The connection that this request came by: the kernel knows the process at its other end."""
    connection: Connection = request.scope[CONNECTION]
    return connection


def is_root(caller: PeerCred) -> bool:
    """Whether the caller could do as it likes anyway: root, or the user that runs this daemon."""
    return caller.uid in (0, os.geteuid())


async def body_of(request: Request) -> object:
    """The JSON in a request, not yet of any shape; raises RemoteError. Every local user may send some."""
    try:
        return msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, RecursionError):
        raise RemoteError("request: the body is not JSON") from None


def answer(body: Mapping[str, Any], status: int = 200) -> JSONResponse:
    """``body`` as a JSON object of this API."""
    return JSONResponse({"schema_version": SCHEMA_VERSION, **body}, status)


async def on_error(request: Request, error: Exception) -> Response:
    """A refusal as JSON. One of our own errors is an answer; anything else is a bug and stays one."""
    match error:
        case HTTPException():
            return _refusal(
                error.status_code,
                "not_found",
                f"{request.method} {request.url.path}: no such call; is --dir of the right daemon?",
            )
        case ConfigError():
            return _refusal(400, "faults", "\n".join(map(str, error.faults)))
        case UnreachableError():
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, "unreachable", str(error))
        case _:
            return _refusal(400, "refused", str(error))


ERROR_HANDLERS = {LockgateError: on_error, HTTPException: on_error}


def _refusal(status: int, reason: str, message: str) -> JSONResponse:
    return answer({"error": {"reason": reason, "message": message}}, status)
