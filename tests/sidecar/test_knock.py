import os
import socket
from pathlib import Path

import pytest

from sidecar.knock import knock


def test_whatever_listens_is_reached_and_nothing_is_said(tmp_path: Path) -> None:
    """TCP over both families, Unix sockets; each only where it is named."""
    path = tmp_path / "tool.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(str(path))
        unix.listen()
        places = {
            f"127.0.0.1:{four.getsockname()[1]}",
            f"[::1]:{six.getsockname()[1]}",
            f"localhost:{four.getsockname()[1]}",
            f"unix:{path}",
        }
        assert knock([*places, *places]) == places
        for listener in (four, six, unix):
            listener.settimeout(10)
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.recv(1) == b""


def test_what_does_not_listen_is_not_reached(tmp_path: Path) -> None:
    """Nor what is no socket, or has a name that nobody knows."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        (tmp_path / "file").write_text("")
        places = [
            f"127.0.0.1:{port}",
            f"unix:{tmp_path / 'file'}",
            f"unix:{tmp_path / 'none'}",
            "x.invalid:80",
        ]
        assert knock(places) == frozenset()


def test_a_full_socket_is_reached_all_the_same(tmp_path: Path) -> None:
    """Its user may connect: that its backlog is full is chance."""
    path = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_UNIX) as waiting:
        unix.bind(str(path))
        unix.listen(0)
        waiting.connect(str(path))
        assert knock([f"unix:{path}"]) == {f"unix:{path}"}


def test_silence_ends_after_a_while_and_leaves_no_descriptor() -> None:
    """A rule that drops packets never answers; here a listener whose backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        waiting = [socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
        for one in waiting:
            one.connect_ex(listener.getsockname())
        before = len(os.listdir("/proc/self/fd"))
        assert knock([place], seconds=0.05) == frozenset()
        assert len(os.listdir("/proc/self/fd")) == before
        for one in waiting:
            one.close()


@pytest.mark.parametrize("places", [[], ["unix:"]])
def test_nothing_to_dial_is_nothing_reached(places: list[str]) -> None:
    """Without waiting."""
    assert knock(places) == frozenset()
