from typing import Any

import pytest

from sidecar.cli.settings import Settings
from sidecar.cli.wait import report
from sidecar.exits import Exit
from tests.sidecar.cli.world import FakeDaemon

ID = "a" * 26
CALL = f"GET /v1/statements/{ID}"
CONFIRMED = {"state": "confirmed", "since": 12_000, "cut": 2}
UNCONFIRMED = {"state": "unconfirmed", "refuses_by": {"retrieval": 1_900_000_000_000_000}}


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only sleeping moves."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    return slept


def reported(daemon: FakeDaemon, wait: int = 0) -> int:
    return report(Settings(str(daemon.root)), {"id": ID}, wait, "done")


@pytest.mark.parametrize(
    ("nodes", "code", "lines"),
    [
        ({"a": CONFIRMED}, Exit.YES, ["  a: in force after 10 ms, 2 streams cut"]),
        ({}, Exit.YES, []),
        (
            {"a": CONFIRMED, "b": UNCONFIRMED},
            Exit.UNCONFIRMED,
            [
                "  a: in force after 10 ms, 2 streams cut",
                "  b: unconfirmed; refuses by itself retrieval by 2030-03-17 17:46:40 UTC",
            ],
        ),
        ({"b": {"state": "unconfirmed", "refuses_by": {}}}, Exit.UNCONFIRMED, ["  b: unconfirmed"]),
    ],
)
def test_each_node_is_named_and_one_that_is_missing_makes_it_unconfirmed(
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    nodes: dict[str, Any],
    code: Exit,
    lines: list[str],
) -> None:
    """With the time after which it refuses by itself, where that is known."""
    daemon.says(CALL, issued=2_000, counted=True, nodes=nodes)
    assert reported(daemon) == code
    assert capsys.readouterr().out.splitlines() == ["done", *lines]


def test_it_is_asked_until_all_have_confirmed(daemon: FakeDaemon, naps: list[float]) -> None:
    """And no longer."""
    answers: list[tuple[int, Any]] = [(400, {"error": {"message": "not held here"}})] * 2
    answers.append((200, {"issued": 0, "counted": True, "nodes": {"a": UNCONFIRMED}}))
    answers.append((200, {"issued": 0, "counted": True, "nodes": {"a": CONFIRMED}}))

    class Changing(dict[str, Any]):
        def get(self, call: str, _: object = None) -> Any:
            assert call == CALL
            return answers.pop(0)

    daemon.answers = Changing()
    assert reported(daemon, wait=5_000_000) == Exit.YES
    assert len(naps) == 3


def test_it_gives_up_after_the_wait(daemon: FakeDaemon, naps: list[float]) -> None:
    """What is unconfirmed then is said to be."""
    daemon.says(CALL, issued=0, counted=True, nodes={"a": UNCONFIRMED})
    assert reported(daemon, wait=1_000_000) == Exit.UNCONFIRMED
    assert sum(naps) == pytest.approx(1, abs=0.05)


def test_what_was_done_is_said_though_the_daemon_here_is_down(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """A policy that the CA applied is applied, whatever the node beside us does."""
    daemon.paths.admin_sock.unlink()
    assert reported(daemon) == Exit.UNCONFIRMED
    first, second = capsys.readouterr().out.splitlines()
    assert first == "done"
    assert second.startswith("  not seen by the daemon of")


def test_a_limit_that_rests_on_the_ca_being_down_says_so(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    """A node that is cut off from us only may go on hearing the CA."""
    daemon.says(CALL, issued=0, counted=False, nodes={"a": UNCONFIRMED})
    reported(daemon)
    assert capsys.readouterr().out.endswith("UTC, unless it hears a CA that has not heard of this\n")
