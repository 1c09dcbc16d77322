"""What strangers and rogue members may try at the overlay port of a running node, and that it costs them all and it nothing.

The tables stand in tests/hostile, an attack a line. Each says what its maker sees and where the node counts it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from tests.hostile import gossiping, greeting, knocking, proving, streaming
from tests.hostile.rogue import REVOKED, ROGUE, VICTIM, Case, Rogue, soon
from tests.mesh import Mesh, dev_mesh, lockgate, until

CASES = [*knocking.CASES, *greeting.CASES, *proving.CASES, *streaming.CASES, *gossiping.CASES]


@dataclass(frozen=True)
class Siege:
    """The mesh under attack, and how the victim was before."""

    rogue: Rogue
    status: dict[str, Any]
    pid: int
    descriptors: int
    log_lines: int

    @property
    def mesh(self) -> Mesh:
        return self.rogue.mesh


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """A dev mesh with two more nodes in its roster, one of them revoked, that have no daemon."""
    with dev_mesh(tmp_path_factory.mktemp("hostile") / "mesh") as mesh:
        for name in (ROGUE, REVOKED):
            _join(mesh, name)
        assert mesh.cli("revoke", f"node:{REVOKED}", "--wait", "0s", operator="alice").code in (0, 3)
        until(lambda: mesh.status(VICTIM)["revocations"], "the revocation to arrive")
        rogue = Rogue.of(mesh)
        pid = mesh.pid(VICTIM)
        yield Siege(rogue, rogue.status(), pid, _descriptors(pid), _log_lines(mesh))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_attack_is_refused_and_counted(siege: Siege, case: Case) -> None:
    """Whatever a peer does that it may not do, it is refused, and the refusal is counted under its cause."""
    rogue = siege.rogue
    before = _count(rogue, case.counted)
    assert trio.run(case.attack, rogue) == case.seen
    if case.counted:
        soon(lambda: _count(rogue, case.counted) > before, f"{case.counted} to be counted")


def _join(mesh: Mesh, name: str) -> None:
    token = mesh.cli("token", "create", f"node:{name}", member="ca").out
    done = lockgate("--dir", str(mesh.member(name)), "join", "-", "--listen", "127.0.0.1:1", given=token)
    assert done.code == 0, done.err


def _count(rogue: Rogue, counter: str) -> int:
    if ":" in counter:
        kind, _, reason = counter.partition(":")
        return len(rogue.mesh.records(VICTIM, kind=kind, reason=reason))
    status = rogue.status()
    return int(status["declined"] if counter == "declined" else status["refused"].get(counter, 0))


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _log_lines(mesh: Mesh) -> int:
    return len((mesh.root / "logs" / f"{VICTIM}.log").read_bytes().splitlines())
