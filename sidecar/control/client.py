"""The command line's way to a daemon: HTTP over its Unix socket. Standard library only, to start fast."""

import http
import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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
        with _explained(path):
            response = _asked(connection, method, target, body)
            data = response.read(MAX_ANSWER_BYTES)
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
    finally:
        connection.close()
    return _read(path, response.status, data)


class Held:
    """An answer that goes on, JSON Lines: what it is about lasts as long as this connection (`session exec`)."""

    def __init__(self, path: Path, target: str, body: object) -> None:
        """Raises what :func:`call` does; ``first`` is the first line."""
        self._path = path
        self._connection = UnixConnection(path)
        try:
            with _explained(path):
                self._response = _asked(self._connection, "POST", target, body)
                line = self._response.readline(MAX_ANSWER_BYTES)
            self.first = _read(path, self._response.status, line)
        except BaseException:
            self.close()
            raise
        if self._connection.sock is not None:
            self._connection.sock.settimeout(None)

    def close(self) -> None:
        """Let go of it."""
        self._connection.close()

    def more(self) -> Iterator[dict[str, Any]]:
        """The lines after the first, as they come. Raises UnreachableError when the daemon is gone."""
        while line := self._line():
            yield _read(self._path, http.HTTPStatus.OK, line)

    def _line(self) -> bytes:
        with _explained(self._path):
            return self._response.readline(MAX_ANSWER_BYTES)


def _asked(connection: UnixConnection, method: str, target: str, body: object) -> http.client.HTTPResponse:
    payload = None if body is None else json.dumps(body).encode()
    headers = {} if payload is None else {"content-type": "application/json"}
    connection.request(method, target, payload, headers)
    return connection.getresponse()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError:
        raise LocalError(
            f"{path}: you may not use this socket; become root, or a member of its group"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreachableError(f"{path}: {why}; is the daemon running?") from None


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
