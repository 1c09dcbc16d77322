"""A Python agent with nothing but the standard library, driven line by line. Run by a test as a program of its own.

What it does with the sidecar is what docs/local-api.md shows. A line on its input is a JSON list: the name of one of
the functions below and its arguments; the line that it answers is JSON too.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
from typing import Any

STREAMS: dict[str, socket.socket] = {}
BELOW: dict[str, "subprocess.Popen[str]"] = {}


class Sidecar(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(os.environ["LOCKGATE_AGENT_SOCK"])


def ask(method: str, path: str, body: object = None) -> Any:
    """One call; a refusal is its message."""
    sidecar = Sidecar("localhost", timeout=60)
    try:
        sidecar.request(method, path, None if body is None else json.dumps(body))
        answer = json.load(sidecar.getresponse())
    finally:
        sidecar.close()
    return answer["error"]["message"] if "error" in answer else answer


def use(name: str) -> str:
    """Say something to the echo tool on the open stream ``name``; what comes back, or what broke."""
    try:
        STREAMS[name].sendall(b"pong")
        return STREAMS[name].recv(4).decode()
    except OSError as error:
        return type(error).__name__


def connect(name: str, address: str) -> str:
    """A new stream, and the same."""
    host, _, port = address.rpartition(":")
    try:
        STREAMS[name] = socket.create_connection((host, int(port)), 60)
    except OSError as error:
        return type(error).__name__
    return use(name)


def http_ask(host: str, port: int, method: str, path: str) -> tuple[int, str]:
    """One request to a service; status and body."""
    service = http.client.HTTPConnection(host, port, timeout=60)
    try:
        service.request(method, path, b"text" if method == "POST" else None)
        answer = service.getresponse()
        return answer.status, answer.read().decode()
    finally:
        service.close()


def less(name: str, body: object) -> Any:
    """Start another of these as a child; what it says that it is."""

    def become_less() -> None:
        answer = ask("POST", "/v1/children", body)
        assert isinstance(answer, dict), answer

    BELOW[name] = subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=become_less,  # noqa: PLW1509 - as documented; this program has no threads
    )
    return tell(name, "ask", "GET", "/v1/session")


def tell(name: str, *words: object) -> Any:
    """Pass words on to one below, and its answer back."""
    below = BELOW[name]
    assert below.stdin is not None
    assert below.stdout is not None
    below.stdin.write(json.dumps(words) + "\n")
    below.stdin.flush()
    return json.loads(below.stdout.readline())


def leave(name: str) -> int:
    """Let one below come to its end; its exit code."""
    below = BELOW.pop(name)
    assert below.stdin is not None
    below.stdin.close()
    return below.wait()


def main() -> None:
    known = {function.__name__: function for function in (ask, use, connect, http_ask, less, tell, leave)}
    for line in sys.stdin:
        name, *words = json.loads(line)
        print(json.dumps(known[name](*words)), flush=True)  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
