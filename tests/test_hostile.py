"""What strangers and rogue members may try at the overlay port of a running node, and that it costs them all and it nothing.

The tables stand in tests/hostile, an attack a line. Each says what its maker sees and where the node counts it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import trio

from tests.hostile import (
    answering,
    calling,
    gossiping,
    greeting,
    knocking,
    lingering,
    mutating,
    narrowing,
    proving,
    streaming,
)
from tests.hostile.answering import free_port
from tests.hostile.rogue import (
    AGENTS,
    BAD_PROOF,
    GONE,
    HANDSHAKE,
    PATIENCE,
    PROTOCOL,
    REVOKED,
    ROGUE,
    STATEMENT,
    VICTIM,
    Case,
    Rogue,
    soon,
)
from tests.mesh import Mesh, dev_mesh, lockgate, until

CASES = [
    *knocking.CASES,
    *greeting.CASES,
    *proving.CASES,
    *narrowing.CASES,
    *streaming.CASES,
    *gossiping.CASES,
]


@dataclass(frozen=True)
class Siege:
    """The mesh under attack, and how the victim was before."""

    rogue: Rogue
    port: int
    """Where the roster says that the rogue listens."""
    status: dict[str, Any]
    pid: int
    descriptors: int
    resident_mib: int
    log_lines: int

    @property
    def mesh(self) -> Mesh:
        return self.rogue.mesh


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """A dev mesh with two more nodes in its roster, one of them revoked, that have no daemon."""
    with dev_mesh(tmp_path_factory.mktemp("hostile") / "mesh") as mesh:
        port = free_port()
        for name in (ROGUE, REVOKED):
            _join(mesh, name, port)
        assert mesh.cli("revoke", f"node:{REVOKED}", "--wait", "0s", operator="alice").code in (0, 3)
        until(lambda: mesh.status(VICTIM)["revocations"], "the revocation to arrive")
        rogue = Rogue.of(mesh)
        pid = mesh.pid(VICTIM)
        yield Siege(rogue, port, rogue.status(), pid, _descriptors(pid), _resident_mib(pid), _log_lines(mesh))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_attack_is_refused_and_counted(siege: Siege, case: Case) -> None:
    """Whatever a peer does that it may not do, it is refused, and the refusal is counted under its cause."""
    rogue = siege.rogue
    before = _count(rogue, case.counted)
    assert trio.run(case.attack, rogue) == case.seen
    if case.counted:
        soon(lambda: _count(rogue, case.counted) > before, f"{case.counted} to be counted")


def test_who_begins_and_does_not_go_on_is_hung_up_on(siege: Siege) -> None:
    """A handshake, HELLO included, has one deadline, however its bytes come."""
    before = _count(siege.rogue, HANDSHAKE)
    words = trio.run(lingering.all_at_once, siege.rogue)
    assert words == dict.fromkeys(words, GONE)
    soon(lambda: _count(siege.rogue, HANDSHAKE) >= before + len(words), "all of them to be counted")


def test_500_half_open_connections_keep_no_good_client_out(siege: Siege) -> None:
    """They and the good client come from one address: it waits for one of them to stall, and no longer."""

    async def flood() -> None:
        async with lingering.half_open(siege.rogue, 500), streaming.opened(siege.rogue):
            pass  # Within the deadline of an honest dial.

    trio.run(flood)
    assert _count(siege.rogue, "limit") > 0


def test_who_answers_a_dial_wrongly_is_dialled_again(siege: Siege) -> None:
    """A peer that is dialled may be anything: it costs the dialler that one try."""
    assert len(trio.run(lingering.serve_them, siege.rogue, siege.port)) == len(lingering.SERVERS)


def test_a_rogue_tools_node_gets_no_byte_before_it_accepts(siege: Siege) -> None:
    """However it answers: its own stream ends, on record, the agent hears what was said on it, and no more."""
    mesh, entrance = siege.mesh, free_port()
    _apply(mesh, TRAP.format(node=ROGUE, port=entrance))
    soon(lambda: _listens(mesh, entrance), "the entrance to open")
    soon(lambda: _digest(mesh, VICTIM) == _digest(mesh, AGENTS), "the policy to arrive")
    assert trio.run(proving.asks(service="trap"), siege.rogue) == "misbound"  # The victim is no node of it.
    soon(lambda: _count(siege.rogue, "denied:misbound") > 0, "it to be on record")

    async def play() -> tuple[answering.Trap, list[bytes]]:
        async with answering.trap(siege.rogue, siege.port) as trap:
            heard = await answering.ask_all(entrance, len(trap.replies))
            return trap, heard

    trap, heard = trio.run(play)
    assert (trap.replies, sorted(heard)) == ([], sorted(reply.heard for reply in trap.given.values()))
    soon(lambda: len(_ends(mesh)) == len(trap.given), "all ends to be on record")
    for stream, reason in _ends(mesh).items():
        reply = trap.given[stream]
        assert reason == reply.reason, reply.name
        assert trap.told.get(stream, b"") in ((answering.SECRET, b"") if reply.is_accepted else (b"",)), (
            reply.name
        )
    _apply(mesh, "")


def test_nonsense_at_the_apis_is_refused_in_words(siege: Siege) -> None:
    """By the CA, whoever asks, and at the sockets that every local user can open."""
    rogue = siege.rogue
    for who in (None, rogue.members[AGENTS], rogue.session):
        assert trio.run(calling.at_the_ca, rogue, who) == []
    assert calling.at_the_sockets(rogue) == []
    for member in (AGENTS, "ca"):
        log = (siege.mesh.root / "logs" / f"{member}.log").read_text()
        assert "Traceback" not in log
        assert len(log.splitlines()) < 100


def test_mutated_exchanges_leave_no_trace_but_refusals(siege: Siege) -> None:
    """Whatever the bytes: no bug is met (the log would have it), nothing is locked, and each stream has one end."""
    trio.run(mutating.plays, siege.rogue, range(150))
    assert "Traceback" not in _log(siege.mesh)
    soon(
        lambda: set(_streams(siege.mesh, "admitted")) == set(_streams(siege.mesh, *ENDS)),
        "all streams to end",
    )
    admitted, ended = _streams(siege.mesh, "admitted"), _streams(siege.mesh, *ENDS)
    assert len(admitted) > 20
    assert sorted(ended) == sorted(admitted)


def test_after_all_that_the_node_is_as_it_was(siege: Siege) -> None:
    """The same process, no descriptor more, a short log, a whole audit log; and it serves its good clients."""
    mesh = siege.mesh
    assert mesh.pid(VICTIM) == siege.pid
    assert _is_running(siege.pid)
    soon(lambda: _descriptors(siege.pid) <= siege.descriptors + SLACK, "the descriptors to be closed")
    assert _log_lines(mesh) - siege.log_lines < 50
    assert _resident_mib(siege.pid) < siege.resident_mib + 100
    assert "Traceback" not in _log(mesh)
    status = siege.rogue.status()
    assert status["ready"], status
    assert status["locks"] == []
    for cause in (HANDSHAKE, PROTOCOL, BAD_PROOF, STATEMENT, "limit"):
        assert status["refused"][cause] > siege.status["refused"].get(cause, 0)
    soon(lambda: siege.rogue.status()["streams"] == 0, "all streams to end")
    assert lockgate("audit", "verify", str(mesh.member(VICTIM) / "lib" / "audit")).code == 0
    with urlopen(f"{mesh.env['WIKI']}/api/pages", timeout=PATIENCE) as page:  # noqa: S310 - our own loopback URL
        assert page.status == 200


TRAP = """
[services.trap]
segment = "retrieval"
nodes = ["{node}"]
target = "127.0.0.1:1"
protocol = "tcp"
[[bindings]]
agent = "researcher"
service = "trap"
listen = {port}
[[grants]]
id = "trap"
agents = ["researcher"]
services = ["trap"]
"""

ENDS = ("closed", "cut")

SLACK = 4
"""Descriptors that a busy node may hold more than an idle one: pooled connections of the good peer."""


def _join(mesh: Mesh, name: str, port: int) -> None:
    token = mesh.cli("token", "create", f"node:{name}", member="ca").out
    done = lockgate(
        "--dir", str(mesh.member(name)), "join", "-", "--listen", f"127.0.0.1:{port}", given=token
    )
    assert done.code == 0, done.err


def _apply(mesh: Mesh, more: str) -> None:
    """The sample policy and more."""
    file = mesh.root / "more.toml"
    file.write_text((mesh.root / "policy.toml").read_text() + more)
    done = mesh.cli("policy", "apply", "--yes", str(file), "--wait", "0s", operator="alice")
    assert done.code in (0, 3), done.err


def _digest(mesh: Mesh, member: str) -> str:
    return str(mesh.status(member)["policy"]["digest"])


def _listens(mesh: Mesh, port: int) -> bool:
    entrances = mesh.status(AGENTS)["bindings"]
    return any(one["port"] == port and not one["problem"] for one in entrances)


def _streams(mesh: Mesh, *kinds: str) -> list[str]:
    return [one["stream"] for one in mesh.records(VICTIM) if one["kind"] in kinds]


def _ends(mesh: Mesh) -> dict[str, str]:
    """What became of the streams to the trap, by the log of the node they came from."""
    ends = ("closed", "cut", "denied")
    records = [one for one in mesh.records(AGENTS, service="trap") if one["kind"] in ends]
    return {one["stream"]: one.get("reason", "") for one in records}


def _count(rogue: Rogue, counter: str) -> int:
    if ":" in counter:
        kind, _, reason = counter.partition(":")
        return len(rogue.mesh.records(VICTIM, kind=kind, reason=reason))
    return int(rogue.status()["refused"].get(counter, 0))


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _resident_mib(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _log_lines(mesh: Mesh) -> int:
    return len(_log(mesh).splitlines())


def _log(mesh: Mesh) -> str:
    return (mesh.root / "logs" / f"{VICTIM}.log").read_text()


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
