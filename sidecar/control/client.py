"""The command line's way to a daemon: HTTP over its Unix socket. Standard library only, to start fast."""

import http
import http.client
import json
import socket
from pathlib import Path
from typing import Any

from pki.errors import LocalError, RefusedError, RemoteError, UnreachableError

MAX_ANSWER_BYTES = 32 * 1024 * 1024
TIMEOUT_SECONDS = 30.0


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to the socket at ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, target: str, body: object = None) -> dict[str, Any]:
    """The answer of the daemon at ``path``; raises UnreachableError, or RefusedError with its words."""
    connection = UnixConnection(path)
    try:
        payload = None if body is None else json.dumps(body).encode()
        headers = {} if payload is None else {"content-type": "application/json"}
        connection.request(method, target, payload, headers)
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES)
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
    except PermissionError:
        raise LocalError(
            f"{path}: you may not use this socket; become root, or a member of its group"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(f"{path}: {why}; is the daemon running?") from None
    finally:
        connection.close()
    return _read(path, response.status, data)


def _read(path: Path, status: int, data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
        if status < http.HTTPStatus.BAD_REQUEST and isinstance(answer, dict):
            return answer
        message = str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RemoteError(f"{path}: an answer that is not of this API (HTTP {status})") from None
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        raise UnreachableError(message)
    raise RefusedError(message)
