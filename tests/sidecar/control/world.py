"""Control sockets without sockets: a request to an app over a stream in memory, as whatever user the test likes."""

import json
from typing import Any

import trio
import trio.testing
from starlette.types import ASGIApp

from pki.http.server import serve_connection
from sidecar.control.unix import CALLER
from sidecar.peercred import PeerCred

ROOT = PeerCred(pid=1, uid=0, gid=0)


async def ask(
    app: ASGIApp, method: str, path: str, body: object = None, *, caller: PeerCred = ROOT
) -> tuple[int, Any]:
    """HTTP status and decoded body of one request. ``bytes`` go as they are."""
    payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(theirs, app, extra={CALLER: caller}))
        await ours.send_all(head.encode() + payload)
        said = b"".join([part async for part in ours])
    start, _, answer = said.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(answer)


def message(answer: tuple[int, Any]) -> str:
    """What a refusal says."""
    return str(answer[1]["error"]["message"])
