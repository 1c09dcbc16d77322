import os
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import ConfigError, Fault, LocalError, RefusedError, UnreachableError
from sidecar.control import unix
from sidecar.control.client import call
from sidecar.control.unix import ERROR_HANDLERS, answer, caller_of, is_root, serve_unix
from sidecar.net import listen_unix
from sidecar.peercred import PeerCred
from tests.sidecar.control.world import ask, message

RAISED = {
    "refused": RefusedError("no"),
    "config": ConfigError([Fault("a:1", "bad"), Fault("a:2", "worse", "mend it")]),
    "unreachable": UnreachableError("the CA is away"),
}


async def who(request: Request) -> Response:
    caller = caller_of(request)
    return answer({"uid": caller.uid, "pid": caller.pid})


async def fail(request: Request) -> Response:
    raise RAISED[request.path_params["how"]]


APP = Starlette(routes=[Route("/who", who), Route("/fail/{how}", fail)], exception_handlers=ERROR_HANDLERS)


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
async def test_a_socket_has_its_mode_from_its_first_moment(tmp_path: Path, mode: int) -> None:
    """It appears under its name when it listens and is as open as it will ever be."""
    path = tmp_path / "a.sock"
    async with listen_unix(path, mode):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert os.listdir(tmp_path) == ["a.sock"]


async def test_a_leftover_socket_is_replaced(tmp_path: Path) -> None:
    """A daemon that was killed could not remove its own."""
    path = tmp_path / "a.sock"
    for name in ("a.sock", "a.sock.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    async with listen_unix(path, 0o600):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


async def test_the_socket_of_a_running_daemon_is_left_alone(tmp_path: Path) -> None:
    """A second daemon on the same folder says what is in its way."""
    path = tmp_path / "a.sock"
    async with listen_unix(path, 0o600):
        with pytest.raises(LocalError, match=r"a\.sock: another daemon serves it"):
            listen_unix(path, 0o600)


def test_a_folder_that_cannot_hold_a_socket_is_named(tmp_path: Path) -> None:
    """It is gone, or its path is longer than a socket's may be."""
    for path in (tmp_path / "gone" / "a.sock", tmp_path / ("x" * 120)):
        with pytest.raises(LocalError, match=path.name):
            listen_unix(path, 0o600)


async def test_the_caller_is_who_the_kernel_says(tmp_path: Path) -> None:
    """Nothing that a client sends has a part in it."""
    path = tmp_path / "a.sock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_unix, listen_unix(path, 0o600), APP)
        said = await trio.to_thread.run_sync(call, path, "GET", "/who")
        nursery.cancel_scope.cancel()
    assert said == {"schema_version": 1, "uid": os.getuid(), "pid": os.getpid()}


@pytest.mark.parametrize(
    ("how", "status", "reason", "words"),
    [
        ("refused", 400, "refused", "no"),
        ("config", 400, "faults", "a:1: bad\na:2: worse (mend it)"),
        ("unreachable", 503, "unreachable", "the CA is away"),
    ],
)
async def test_each_of_our_errors_is_an_answer(how: str, status: int, reason: str, words: str) -> None:
    """In one form, so that the command line can tell them apart."""
    said = await ask(APP, "GET", f"/fail/{how}")
    assert (said[0], said[1]["error"]["reason"], message(said)) == (status, reason, words)


async def test_one_user_has_a_share_of_the_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it they are closed at once; when others end, there is room again."""
    monkeypatch.setattr(unix, "CALLS_PER_UID", 3)
    path = tmp_path / "a.sock"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_unix, listen_unix(path, 0o666), APP)
        held = [await trio.open_unix_socket(str(path)) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(UnreachableError):
            await trio.to_thread.run_sync(call, path, "GET", "/who")
        for stream in held:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        answer = await trio.to_thread.run_sync(call, path, "GET", "/who")
        assert answer["uid"] == os.geteuid()
        nursery.cancel_scope.cancel()


def test_root_and_the_daemons_own_user_may_do_all() -> None:
    """They could read its memory anyway."""
    assert is_root(PeerCred(1, 0, 0))
    assert is_root(PeerCred(1, os.geteuid(), 0))
    assert not is_root(PeerCred(1, os.geteuid() + 1, 0))


def test_a_request_without_credentials_is_our_own_fault() -> None:
    """It can only come from an app that is served some other way."""
    with pytest.raises(LocalError, match="without credentials"):
        caller_of(Request({"type": "http", "lockgate.caller": None, "headers": []}))
