"""Serve an ASGI app on a Unix socket. Each request carries the caller's kernel credentials in its scope."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from pki.errors import ConfigError, LocalError, LockgateError
from pki.http.server import serve_connection
from sidecar.net import BACKLOG, accept_forever
from sidecar.peercred import PeerCred, peer_cred

CALLER = "lockgate.caller"
SCHEMA_VERSION = 1

log = structlog.get_logger(__name__)


def listen_unix(path: Path, mode: int) -> trio.SocketListener:
    """A listener at ``path`` with ``mode``, in place of a leftover; raises LocalError.

    A socket that still answers belongs to a running daemon and is left alone.
    """
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        raise LocalError(f"{path}: another daemon serves it; stop that one first")
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(fresh))
        fresh.chmod(mode)
        listener.listen(BACKLOG)
        fresh.rename(path)  # Never there with the wrong mode, never there and not listening.
    except OSError as error:
        raise LocalError(f"{path}: {error.strerror or error}") from None
    listener.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


async def serve_unix(listener: trio.SocketListener, app: ASGIApp) -> None:
    """Serve ``app`` until cancelled."""

    async def handle(stream: trio.abc.Stream) -> None:
        if not isinstance(stream, trio.SocketStream):
            return
        try:
            extra: Mapping[str, Any] = {CALLER: peer_cred(stream.socket)}
        except LocalError:
            await trio.aclose_forcefully(stream)
            return
        await serve_connection(stream, app, extra=extra)

    await accept_forever(listener, handle, lambda: log.warning("no descriptors left, a control socket pauses"))


def caller_of(request: Request) -> PeerCred:
    """Who makes this request."""
    caller = request.scope[CALLER]
    if not isinstance(caller, PeerCred):
        raise LocalError("control socket: a request without credentials")
    return caller


def answer(body: Mapping[str, Any], status: int = 200) -> JSONResponse:
    return JSONResponse({"schema_version": SCHEMA_VERSION, **body}, status)


async def on_error(request: Request, error: Exception) -> Response:
    """A refusal as JSON. One of our own errors is an answer; anything else is a bug and stays one."""
    if isinstance(error, HTTPException):
        return _refusal(error.status_code, "not_found", f"{request.method} {request.url.path}: no such call")
    if isinstance(error, ConfigError):
        return _refusal(400, "bad_request", "\n".join(map(str, error.faults)))
    return _refusal(400, "refused", str(error))


ERROR_HANDLERS = {LockgateError: on_error, HTTPException: on_error}


def _refusal(status: int, reason: str, message: str) -> JSONResponse:
    return answer({"error": {"reason": reason, "message": message}}, status)


def is_root(caller: PeerCred) -> bool:
    return caller.uid in (0, os.geteuid())
