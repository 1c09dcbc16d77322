from functools import partial

import pytest
import trio
from mcp.shared.exceptions import MCPError
from starlette.types import ASGIApp

from pki.http.server import serve_connection
from sidecar.dev.mcp_small import small_app
from sidecar.dev.mcp_tickets import HANDBOOK, Tickets
from sidecar.dev.mcp_tool import official_app
from tests.sidecar.mcp.official import MODES, Mode, client


async def serve(nursery: trio.Nursery, app: ASGIApp) -> str:
    """Where it is served."""
    handle = partial(serve_connection, app=app, extra={})
    [listener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
    return f"http://127.0.0.1:{listener.socket.getsockname()[1]}/mcp"


@pytest.mark.parametrize("mode", MODES)
async def test_the_official_client_works_with_the_small_server(mode: Mode, nursery: trio.Nursery) -> None:
    """Tools that answer, fail and are not there, and a document, in both versions."""
    async with client(await serve(nursery, small_app(Tickets())), mode) as agent:
        assert (await agent.call_tool("create_ticket", {"title": "New"})).content
        said = await agent.call_tool("list_tickets", {})
        assert "3 New" in str(said.content)
        assert (await agent.call_tool("get_ticket", {"number": 9})).is_error
        with pytest.raises(MCPError, match="no tool"):
            await agent.call_tool("paint", {})
        [content] = (await agent.read_resource("docs://handbook")).contents
        assert getattr(content, "text", "") == HANDBOOK


async def test_both_servers_of_the_demo_have_the_same_tools(nursery: trio.Nursery) -> None:
    """So the sample policy fits, whether the SDK is installed or not."""
    app, running = official_app()
    async with running:
        seen = []
        for one in (app, small_app(Tickets())):
            async with client(await serve(nursery, one), "2026-07-28") as agent:
                tools = (await agent.list_tools()).tools
                documents = (await agent.list_resources()).resources
                seen.append(([tool.name for tool in tools], [str(document.uri) for document in documents]))
    assert seen[0] == seen[1]
