from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.clock import Boot
from sidecar.aftermath import CUT_SECONDS, Aftermath, Receipted
from sidecar.proxy.streams import Limits, Live
from tests.datapath import request


@dataclass
class Scene:
    """Streams that die when the test says so, and what followed."""

    gone: dict[str, trio.Event] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aftermath = Aftermath(self._until_gone, self._acknowledge, self._part)

    def stream(self, name: str) -> Live:
        self.gone[name] = trio.Event()
        return Live(name, request(), Limits(), Boot(0), lambda: None, Boot(0), Boot(0))

    def due(self, name: str) -> None:
        self.aftermath.due(Receipted([], {name: 1}))

    async def _until_gone(self, ended: Iterable[Live]) -> None:
        for live in ended:
            await self.gone[live.id].wait()

    def _acknowledge(self, due: Receipted) -> None:
        self.log += [f"receipt {name}" for name in due.cut]

    async def _part(self) -> None:
        self.log.append("part")


@pytest.fixture
def scene(nursery: trio.Nursery) -> Scene:
    scene = Scene()
    nursery.start_soon(scene.aftermath.run)
    return scene


async def test_without_a_cut_everything_follows_at_once(scene: Scene) -> None:
    """Before anything runs, too: locks are restored, and acknowledged, before a daemon serves."""
    await scene.aftermath.cut([])
    scene.due("lock")
    assert scene.log == ["part", "receipt lock"]


async def test_a_receipt_waits_for_the_streams_that_were_cut(scene: Scene) -> None:
    """It says that they are dead. Strangers go after it, since their connections carry the last words."""
    await scene.aftermath.cut([scene.stream("a"), scene.stream("b")])
    scene.due("lock")
    scene.gone["a"].set()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.log == []
    scene.gone["b"].set()
    await trio.testing.wait_all_tasks_blocked()
    assert scene.log[-1] == "part"
    assert scene.log.count("receipt lock") == 1


async def test_a_later_receipt_does_not_wait_for_an_earlier_cut(scene: Scene) -> None:
    """What is stuck is the earlier one's, and so is its delay."""
    await scene.aftermath.cut([scene.stream("stuck")])
    scene.due("first")
    await scene.aftermath.cut([])
    scene.due("second")
    assert scene.log == ["receipt second"]


async def test_a_stream_that_does_not_die_delays_a_receipt_for_so_long(
    scene: Scene, autojump_clock: MockClock
) -> None:
    """Then it is given: the stream passes nothing any more, and only its record is late."""
    await scene.aftermath.cut([scene.stream("stuck")])
    scene.due("lock")
    await trio.sleep(CUT_SECONDS - 1)
    assert scene.log == []
    await trio.sleep(2)
    assert "receipt lock" in scene.log
