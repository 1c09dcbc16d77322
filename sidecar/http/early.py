"""The refusal of an http or mcp stream before anybody reads its requests: a fixed 403, and the end.

What the agent says is not parsed, here or anywhere: only a tool's node reads requests. It is discarded, 64 KiB of it
at most, for a second, so that the agent gets to read why.
"""

from contextlib import suppress

import trio

from sidecar.http.ends import LINGER_BYTES, LINGER_SECONDS
from sidecar.http.refusal import FORBIDDEN, json_answer, raw
from sidecar.http.seams import Refusal
from sidecar.reasons import Reason


async def refuse_unread(stream: trio.abc.HalfCloseableStream, reason: Reason, rule: str, hint: str) -> None:
    """Say why, and wait a moment for the agent's end. Closing is left to the caller."""
    answer = raw(json_answer(Refusal("", reason, rule, hint, status=FORBIDDEN)))
    with trio.move_on_after(LINGER_SECONDS), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(answer)
        await stream.send_eof()
        left = LINGER_BYTES
        while left > 0 and (data := await stream.receive_some(LINGER_BYTES)):
            left -= len(data)
