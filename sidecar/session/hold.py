"""A session that lives no longer than a connection: `session exec` and `session start --export` hold theirs.

The answer to their start does not end. It is JSON Lines, one when the session has started, one for each certificate
after that if it is exported, one when it has ended. When the connection goes, however its holder died, the session
is let go: it ends then, unless it is known by a cgroup, which tells better who is left.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

MAX_WAITING = 16
"""News that a holder has not read. One that reads nothing for so long is let go."""

News = Mapping[str, Any]


class Hold:
    """What a holder is told."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[News](MAX_WAITING)

    def tell(self, news: News) -> None:
        try:
            self._send.send_nowait(news)
        except (trio.WouldBlock, trio.ClosedResourceError):
            self._send.close()

    def close(self) -> None:
        """After what was told there is nothing more."""
        self._send.close()

    async def told(self) -> News | None:
        """The next of it; None at the end."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return None


class HeldResponse(Response):
    """The answer of a held session. ``let_go`` is called exactly once, when nobody holds it any more."""

    def __init__(self, first: News, hold: Hold, let_go: Callable[[], None]) -> None:
        super().__init__(status_code=201, media_type="application/jsonl")
        del self.headers["content-length"]
        self._first = first
        self._hold = hold
        self._let_go = let_go

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, send, nursery.cancel_scope)
                while (await receive())["type"] != "http.disconnect":
                    pass
                nursery.cancel_scope.cancel()
        finally:
            self._let_go()

    async def _tell(self, send: Send, scope: trio.CancelScope) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        news: News | None = self._first
        while news is not None:
            line = msgspec.json.encode(news) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            news = await self._hold.told()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        scope.cancel()
