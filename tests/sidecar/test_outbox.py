from collections.abc import Iterable

import pytest
import trio
import trio.testing

from pki.statement import Statement
from sidecar.gossip.member import Member
from sidecar.outbox import Outbox
from tests.statements import Mint, lock

MINT = Mint()
FIRST, SECOND = MINT.says("lock", lock()), MINT.says("lock", lock(message="another"))


class Box(Outbox):
    """An outbox whose member takes or refuses as told; what was sealed and taken is kept."""

    def __init__(self) -> None:
        self.sealed: list[dict[str, int]] = []
        self.taken: list[bytes] = []
        self.unsaid = 0
        self.refusing = False
        super().__init__(Member.__new__(Member), self._sign, self._note)
        self._member = self  # type: ignore[assignment]  # the one call that it makes is take, below

    async def take(self, raws: Iterable[bytes], _: str | None) -> list[str]:
        self.taken += raws
        return ["id: refused"] if self.refusing else []

    def _sign(self, statements: list[Statement], cut: dict[str, int]) -> list[bytes]:
        if statements:
            self.sealed.append({one.id: cut[one.id] for one in statements})
        return [b"receipt"] if statements else []

    def _note(self) -> None:
        self.unsaid += 1


async def test_receipts_that_wait_are_one_for_each_statement() -> None:
    """However often it cut something: streams are counted together, and none is lost."""
    box = Box()
    for _ in range(5_000):
        box.acknowledge([FIRST], {FIRST.id: 2})
    box.acknowledge([SECOND], {})
    assert await box.deliver() == 1
    assert box.sealed == [{FIRST.id: 10_000, SECOND.id: 0}]
    assert await box.deliver() == 0
    assert len(box.sealed) == 1


async def test_what_is_put_in_while_it_is_emptied_is_handed_over_next(nursery: trio.Nursery) -> None:
    """The task that runs it sleeps only on an empty one."""
    box = Box()
    nursery.start_soon(box.run)
    for raw in (b"one", b"two"):
        box.put([raw])
        await trio.testing.wait_all_tasks_blocked()
    assert box.taken == [b"one", b"two"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("refusing", [True, False])
async def test_a_statement_that_is_refused_is_noticed(*, refusing: bool) -> None:
    """Its meaning must come about here all the same: the node is called."""
    box = Box()
    box.refusing = refusing
    box.put([b"one"])
    await box.deliver()
    assert box.unsaid == refusing
