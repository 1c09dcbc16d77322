"""Messages and headers for tests, well-formed unless a test breaks them."""

import json
from typing import Any

from sidecar.http.seams import Fields

SESSIONS, STATELESS = "2025-11-25", "2026-07-28"


def request(asked: object, params: dict[str, Any] | None = None, **more: Any) -> bytes:
    """A JSON-RPC request; ``more`` replaces or adds members."""
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": asked,
        **({} if params is None else {"params": params}),
        **more,
    }
    return json.dumps(body).encode()


def notification(method: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method}).encode()


def call(tool: str, **arguments: Any) -> bytes:
    return request("tools/call", {"name": tool, "arguments": arguments})


def fields(**more: str) -> Fields:
    """The headers of 2025-11-25; ``more`` in snake case replaces or adds some, an empty value removes."""
    named = {"content-type": "application/json", "mcp-protocol-version": SESSIONS}
    named |= {name.replace("_", "-"): value for name, value in more.items()}
    return tuple((name.encode(), value.encode()) for name, value in named.items() if value)


def stateless(method: str, name: str = "", **more: str) -> Fields:
    """The headers of 2026-07-28."""
    return fields(**{"mcp_protocol_version": STATELESS, "mcp_method": method, "mcp_name": name} | more)


def meta(params: dict[str, Any] | None = None, version: str = STATELESS) -> dict[str, Any]:
    """Params with the _meta of 2026-07-28."""
    return {**(params or {}), "_meta": {"io.modelcontextprotocol/protocolVersion": version}}
