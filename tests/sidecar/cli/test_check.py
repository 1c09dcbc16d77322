import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon, lockgate

UID = 64_123

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="--bypass takes root")


@pytest.fixture
def tool() -> Iterator[int]:
    """The port of one that everybody reaches."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        port: int = end.getsockname()[1]
        return port


def knows(daemon: FakeDaemon, *places: str, agents: list[dict[str, Any]] | None = None) -> None:
    researcher = {"agent": "researcher", "uid": UID, "ports": [15001], "sockets": []}
    daemon.says(
        "GET /v1/bypass",
        node="tools-1",
        uid=os.geteuid(),
        sequence=7,
        agents=[researcher] if agents is None else agents,
        targets=["127.0.0.1:8080"],
        ways=[
            {"service": f"s{number}", "place": place, "node": "tools-1"}
            for number, place in enumerate(places)
        ],
    )


@needs_root
def test_what_an_agent_reaches_around_the_mesh_is_named_with_its_cure(daemon: FakeDaemon, tool: int) -> None:
    """By service, place and user; exit code 1."""
    knows(daemon, f"127.0.0.1:{tool}")
    done = daemon.run("check", "--bypass")
    assert (done.code, done.err) == (Exit.NO, "")
    assert done.out.splitlines() == [
        f"as researcher (uid {UID}), nobody on node tools-1:",
        f"  OPEN      s0 at 127.0.0.1:{tool} to researcher (uid {UID}), nobody",
        "            let only the sidecar dial it: load `lockgate check --print-confinement nftables`",
    ]


@needs_root
def test_a_socket_for_the_sidecar_alone_is_closed(daemon: FakeDaemon, tmp_path: Path) -> None:
    """The sidecar's user gets through, the others do not: exit code 0."""
    path = tmp_path / "tool.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(folder.stat().st_mode | 0o011)
        knows(daemon, f"unix:{path}")
        done = daemon.run("check", "--bypass")
        assert (done.code, done.out.splitlines()[1]) == (Exit.YES, f"  closed    s0 at unix:{path}")
        path.chmod(0o666)
        assert f"chmod 0660 {path}" in daemon.run("check", "--bypass").out


@needs_root
def test_a_tool_that_is_down_proves_nothing(daemon: FakeDaemon) -> None:
    """Exit code 3: not confirmed."""
    place = f"127.0.0.1:{closed_port()}"
    knows(daemon, place)
    done = daemon.run("check", "--bypass")
    assert done.code == Exit.UNCONFIRMED
    assert f"  UNPROVEN  s0 at {place}: it does not answer the sidecar either" in done.out


@needs_root
def test_an_agent_without_a_user_here_was_not_tried(daemon: FakeDaemon) -> None:
    """Which is said, and no success."""
    knows(daemon, agents=[{"agent": "lost", "uid": None, "ports": [], "sockets": []}])
    done = daemon.run("check", "--bypass")
    assert done.code == Exit.UNCONFIRMED
    assert "  UNPROVEN  agent lost: its user is unknown on this machine" in done.out


@needs_root
def test_bypass_as_json_says_the_same(daemon: FakeDaemon, tool: int) -> None:
    """One object at every exit code."""
    knows(daemon, f"127.0.0.1:{tool}")
    [way] = daemon.run("check", "--bypass", "--json").json["ways"]
    assert (way["state"], way["users"]) == ("open", [f"researcher (uid {UID})", "nobody"])


def test_bypass_takes_root(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not is told in one line, and nothing is dialled."""
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    done = daemon.run("check", "--bypass")
    assert done.code == Exit.NO
    assert "takes root; run it by sudo" in done.err
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("means", "said"),
    [
        ("nftables", 'oif "lo" tcp dport { 8080 } reject with tcp reset'),
        ("systemd", f"User={UID}"),
    ],
)
def test_confinement_is_printed_for_this_node(means: str, said: str, daemon: FakeDaemon) -> None:
    """As it can be loaded, and in --json."""
    knows(daemon)
    done = daemon.run("check", "--print-confinement", means)
    assert (done.code, said in done.out) == (0, True)
    assert (
        daemon.run("check", "--print-confinement", means, "--json").json["text"].rstrip() == done.out.rstrip()
    )


def test_two_things_at_once_are_a_mistake(daemon: FakeDaemon) -> None:
    """Usage, with what to give."""
    assert daemon.run("check", "--bypass", "--print-confinement", "nftables").code == Exit.USAGE
    assert lockgate("check", "--print-confinement", "iptables").code == Exit.USAGE
