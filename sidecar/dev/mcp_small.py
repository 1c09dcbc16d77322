"""An MCP server in a page, for where the official SDK is not installed: tools and one document, JSON answers only.

It speaks protocol 2025-11-25 without sessions, and 2026-07-28. For trying out, like all in this package.
"""

import inspect
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sidecar.dev.mcp_tickets import DESTRUCTIVE, HANDBOOK, READ_ONLY, Tickets

VERSIONS = ("2025-11-25", "2026-07-28")
HANDBOOK_URI = "docs://handbook"

_TYPES = {int: "integer", str: "string"}


class _UnknownError(Exception):
    """A method or thing that is not here."""


def small_app(tickets: Tickets) -> Starlette:
    """POST /mcp."""
    methods = _methods({tool.__name__: tool for tool in tickets.tools})

    async def post(request: Request) -> Response:
        message = await request.json()
        method, params, number = message.get("method"), message.get("params") or {}, message.get("id")
        if number is None:
            return Response(status_code=202)
        try:
            if method not in methods:
                raise _UnknownError(f"no method {method}")
            result = methods[method](params)
        except _UnknownError as error:
            said = {"code": -32601, "message": str(error)}
            return JSONResponse({"jsonrpc": "2.0", "id": number, "error": said})
        return JSONResponse({"jsonrpc": "2.0", "id": number, "result": {"resultType": "complete", **result}})

    return Starlette(routes=[Route("/mcp", post, methods=["POST"])])


def _methods(tools: dict[str, Callable[..., str]]) -> dict[str, Callable[[dict[str, Any]], dict[str, Any]]]:
    about: dict[str, Any] = {"capabilities": {"tools": {}, "resources": {}}}
    listed = {"ttlMs": 0, "cacheScope": "private"}
    handbook = {"uri": HANDBOOK_URI, "name": "handbook", "mimeType": "text/plain"}

    def initialize(_: dict[str, Any]) -> dict[str, Any]:
        return {**about, "protocolVersion": VERSIONS[0], "serverInfo": {"name": "tickets", "version": "0"}}

    def call(params: dict[str, Any]) -> dict[str, Any]:
        name = params.get("name")
        if name not in tools:
            raise _UnknownError(f"no tool {name}")
        try:
            said, failed = tools[name](**params.get("arguments") or {}), False
        except (TypeError, ValueError) as error:
            said, failed = str(error), True
        return {"content": [{"type": "text", "text": said}], "isError": failed}

    def read(params: dict[str, Any]) -> dict[str, Any]:
        if params.get("uri") != HANDBOOK_URI:
            raise _UnknownError("no such document")
        return {**listed, "contents": [{"uri": HANDBOOK_URI, "mimeType": "text/plain", "text": HANDBOOK}]}

    return {
        "initialize": initialize,
        "server/discover": lambda _: {**about, **listed, "supportedVersions": [VERSIONS[1]]},
        "ping": lambda _: {},
        "tools/list": lambda _: {**listed, "tools": [_described(tool) for tool in tools.values()]},
        "tools/call": call,
        "resources/list": lambda _: {**listed, "resources": [handbook]},
        "resources/read": read,
    }


def _described(tool: Callable[..., str]) -> dict[str, Any]:
    name, parameters = tool.__name__, inspect.signature(tool).parameters
    return {
        "name": name,
        "description": inspect.getdoc(tool),
        "inputSchema": {
            "type": "object",
            "properties": {key: {"type": _TYPES[one.annotation]} for key, one in parameters.items()},
            "required": list(parameters),
        },
        "annotations": {"readOnlyHint": name in READ_ONLY, "destructiveHint": name in DESTRUCTIVE},
    }
