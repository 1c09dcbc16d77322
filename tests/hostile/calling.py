"""Nonsense at the HTTP APIs: the CA's port, and the Unix sockets that local users can reach."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

from pki.clock import SystemClock
from pki.errors import ConfigError, RefusedError, RemoteError, UnreachableError
from pki.http.client import connect_ca
from sidecar.control.client import UnixConnection
from sidecar.identity import Credential
from tests.hostile.rogue import AGENTS, Rogue

VALUES: tuple[object, ...] = (None, True, -1, 2**70, "", "x", "\0", "../../x", "A" * 9_000, [], {}, [[]] * 9)

CALLS: dict[str, dict[str, object]] = {
    "/v1/enrol": {
        "secret": "A" * 22 + "==",
        "csr": "AAAA",
        "addresses": ["a:1"],
        "version": "1",
        "features": [],
    },
    "/v1/sessions": {"csr": "AAAA", "agent": "researcher", "session": "a" * 26},
    "/v1/renew": {"csr": "AAAA"},
    "/v1/grace": {"csr": "AAAA", "chain": ["AAAA"], "signature": "AAAA"},
    "/v1/policy": {"text": "x"},
    "/v1/lifts": {"demand": "AAAA"},
    "/v1/nothing": {},
}

LOCAL: dict[str, dict[str, object]] = {
    "/v1/statements": {"envelope": "AAAA"},
    "/v1/sessions": {"agent": "nobody", "own_cgroup": True},
    "/v1/tokens": {"kind": "node", "name": "x", "roles": [], "ttl": -1},
    "/v1/streams/%00/cut": {},
    "/v1/sessions/%2e%2e": {},
    "/v1/statements/x": {},
}
SOCKETS = ((AGENTS, "admin.sock"), (AGENTS, "agent.sock"), ("ca", "admin.sock"))


def spoilt(body: dict[str, object]) -> Iterator[object]:
    """Anything but ``body``: other values, one field wrong, one missing, one too many."""
    yield from VALUES
    for name in body:
        yield {key: value for key, value in body.items() if key != name}
        yield from ({**body, name: value} for value in VALUES)
    yield {**body, "more": 1}


async def at_the_ca(rogue: Rogue, who: Credential | None) -> list[str]:
    """Calls that were not refused in words."""
    chain, key = (who.chain, who.key) if who else ((), None)
    address, answered = str(rogue.ca), []
    async with await connect_ca(address, rogue.authority.bundle, chain, key, SystemClock()) as client:
        for path, body in CALLS.items():
            for value in spoilt(body):
                try:
                    await client.request("POST", path, json=value)
                except (RefusedError, RemoteError, ConfigError):
                    continue
                except UnreachableError as error:
                    answered.append(f"{path} {json.dumps(value)[:60]}: {error}")
                    return answered
                answered.append(f"{path} {json.dumps(value)[:60]}")
    return answered


def at_the_sockets(rogue: Rogue) -> list[str]:
    """Calls that were neither refused in words nor a harmless list."""
    odd = []
    for member, name in SOCKETS:
        path = rogue.mesh.member(member) / "run" / name
        for target, body in LOCAL.items():
            texts = [json.dumps(value).encode() for value in spoilt(body)]
            for text in [*texts, b"[" * 20_000, b"{", b"\xff", b'{"a":1,"a":2}']:
                for method in ("POST", "GET", "DELETE"):
                    status = _status(path, method, target, text)
                    is_list = (method, target, status) == ("GET", "/v1/sessions", 200)
                    if not (400 <= status < 500 or is_list):
                        odd.append(f"{member}/{name} {method} {target} {text[:60]!r}: {status}")
    return odd


def _status(path: Path, method: str, target: str, body: bytes) -> int:
    connection = UnixConnection(path)
    try:
        connection.request(method, target, body, {"content-type": "application/json"})
        return connection.getresponse().status
    except http.client.HTTPException:
        return 0
    finally:
        connection.close()
