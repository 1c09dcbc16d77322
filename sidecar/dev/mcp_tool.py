"""The demo's MCP tool: ``python -m sidecar.dev.mcp_tool PORT`` serves http://127.0.0.1:PORT/mcp.

With the official SDK's server where that is installed (``pip install mcp``), else with a small one of our own.
"""

import signal
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial

import trio
from starlette.types import ASGIApp

from pki.http.server import serve_connection
from sidecar.dev.mcp_small import small_app
from sidecar.dev.mcp_tickets import DESTRUCTIVE, HANDBOOK, READ_ONLY, Tickets
from sidecar.lifecycle import use_all_descriptors


async def serve(port: int) -> None:
    """Serve 127.0.0.1 until cancelled."""
    app: ASGIApp
    running: AbstractAsyncContextManager[None]
    try:
        app, running = official_app()
    except ImportError:  # Not there, or of another major version.
        app, running = small_app(Tickets()), nullcontext()
    async with running:
        await trio.serve_tcp(partial(serve_connection, app=app, extra={}), port, host="127.0.0.1")


def official_app() -> tuple[ASGIApp, AbstractAsyncContextManager[None]]:
    """The SDK's server, and what must be entered while it serves; raises ImportError where there is none."""
    from mcp.server.mcpserver import MCPServer  # noqa: PLC0415 - it may not be there
    from mcp_types import ToolAnnotations  # noqa: PLC0415

    server, tickets = MCPServer("tickets"), Tickets()
    for tool in tickets.tools:
        name = tool.__name__
        hints = ToolAnnotations(read_only_hint=name in READ_ONLY, destructive_hint=name in DESTRUCTIVE)
        server.tool(annotations=hints)(tool)

    @server.resource("docs://handbook", mime_type="text/plain")
    def handbook() -> str:
        return HANDBOOK

    app = server.streamable_http_app()
    return app, server.session_manager.run()


def main() -> None:
    """Serve until ended; Ctrl-C ends it without a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    use_all_descriptors()
    trio.run(serve, int(sys.argv[1]))


if __name__ == "__main__":
    main()
