from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from pki.clock import Wall
from sidecar.audit import record
from sidecar.audit.record import Record, Role, Ruling, Subject
from sidecar.reasons import Reason
from sidecar.telemetry.export import BATCH, QUEUE, Telemetry
from sidecar.telemetry.spans import Span

SUBJECT = Subject(stream="a" * 26, role=Role.AGENT, trace=f"00-{'ab' * 16}-{'1' * 16}-01")


def refusal(number: int = 0) -> Record:
    return record.denied(Wall(number), SUBJECT, Ruling(verdict="deny", reason=Reason.NO_GRANT))


class Collector:
    """Takes batches, or does not."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.takes = True

    def send(self, batch: Sequence[Span]) -> bool:
        self.batches.append([span.start for span in batch])
        return self.takes


async def settled(telemetry: Telemetry, count: int) -> None:
    """So many spans were sent or dropped."""
    while telemetry.sent + telemetry.dropped < count:  # noqa: ASYNC110 - counters wake nobody
        await trio.sleep(1)  # Of the test's clock.


async def test_spans_leave_in_batches_in_their_order(autojump_clock: MockClock) -> None:
    """After a moment, so that there are few of them."""
    collector = Collector()
    telemetry = Telemetry("agents-1", collector.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(telemetry.run)
        for number in range(BATCH + 1):
            telemetry.note(refusal(number))
        await settled(telemetry, BATCH + 1)
        nursery.cancel_scope.cancel()
    assert [len(batch) for batch in collector.batches] == [BATCH, 1]
    assert [one for batch in collector.batches for one in batch] == list(range(BATCH + 1))
    assert (telemetry.sent, telemetry.dropped) == (BATCH + 1, 0)


async def test_a_full_queue_drops_and_counts() -> None:
    """The data path never waits for a collector."""
    telemetry = Telemetry("agents-1", Collector().send)
    for number in range(QUEUE + 3):
        telemetry.note(refusal(number))
    assert telemetry.dropped == 3


async def test_what_a_collector_does_not_take_is_counted(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """And said once, not with each batch."""
    collector = Collector()
    collector.takes = False
    telemetry = Telemetry("agents-1", collector.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(telemetry.run)
        for count in (1, 2):
            telemetry.note(refusal())
            await settled(telemetry, count)
        collector.takes = True
        telemetry.note(refusal())
        await settled(telemetry, 3)
        nursery.cancel_scope.cancel()
    assert (telemetry.sent, telemetry.dropped) == (1, 2)
    said = capsys.readouterr()
    assert (said.out + said.err).count("spans are not taken") == 1


async def test_what_waits_at_the_end_still_leaves() -> None:
    """In a bounded time."""
    collector = Collector()
    telemetry = Telemetry("agents-1", collector.send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(telemetry.run)
        telemetry.note(refusal(1))
        await trio.testing.wait_all_tasks_blocked()
        telemetry.note(refusal(2))
        nursery.cancel_scope.cancel()
    assert [one for batch in collector.batches for one in batch] == [1, 2]
