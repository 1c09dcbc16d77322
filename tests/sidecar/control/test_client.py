import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pki.errors import LocalError, RefusedError, RemoteError, UnreachableError
from sidecar.control.client import call

Ask = Callable[[bytes], object]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Call a daemon that answers with these bytes."""

    def ask(reply: bytes) -> object:
        path = tmp_path / "a.sock"
        with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
            listener.bind(str(path))
            listener.listen()

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(reply)

            served = pool.submit(serve)
            try:
                return call(path, "GET", "/v1/status")
            finally:
                served.result()

    return ask


def reply(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


def test_an_answer_is_a_json_object(ask: Ask) -> None:
    """As it was sent."""
    assert ask(reply("200 OK", b'{"a": 1}')) == {"a": 1}


def test_a_refusal_has_the_daemons_words(ask: Ask) -> None:
    """They are for the person at the command line."""
    with pytest.raises(RefusedError, match=r"^no such stream$"):
        ask(reply("400 Bad Request", b'{"error": {"message": "no such stream"}}'))


def test_who_the_daemon_cannot_reach_is_unreachable(ask: Ask) -> None:
    """So the exit code is 3, as if we had tried ourselves."""
    with pytest.raises(UnreachableError, match=r"^the CA is away$"):
        ask(reply("503 Service Unavailable", b'{"error": {"message": "the CA is away"}}'))


@pytest.mark.parametrize(
    "answer",
    [
        reply("200 OK", b""),
        reply("200 OK", b"[]"),
        reply("200 OK", b"\xff"),
        reply("200 OK", b"[" * 100_000),
        reply("400 Bad Request", b"{}"),
        reply("400 Bad Request", b'{"error": 7}'),
        reply("500 Internal Server Error", b'"no"'),
    ],
)
def test_what_is_not_of_this_api_is_said_to_be(ask: Ask, answer: bytes) -> None:
    """Something else listens there, or another version."""
    with pytest.raises(RemoteError, match="not of this API"):
        ask(answer)


@pytest.mark.parametrize("answer", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}"])
def test_an_answer_that_breaks_off_is_no_answer(ask: Ask, answer: bytes) -> None:
    """A daemon that died is unreachable."""
    with pytest.raises(UnreachableError, match="is the daemon running"):
        ask(answer)


def test_without_a_daemon_the_error_names_the_socket(tmp_path: Path) -> None:
    """And asks whether it runs."""
    with pytest.raises(
        UnreachableError, match=r"a\.sock: No such file or directory; is the daemon running\?"
    ):
        call(tmp_path / "a.sock", "GET", "/")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every socket")
def test_a_socket_of_others_is_not_taken_for_a_dead_daemon(tmp_path: Path) -> None:
    """Starting it again would not help."""
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0)
        with pytest.raises(LocalError, match="you may not use this socket"):
            call(path, "GET", "/")
