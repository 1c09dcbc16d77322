from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
import trio.testing

from pki.clock import HOUR
from sidecar.audit.record import Kind
from sidecar.reasons import Reason
from tests.datapath import LogBook
from tests.sidecar.control.world import Station
from tests.sidecar.working import at_work, carrying, clock_of, take
from tests.statements import revocation


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
async def node(tmp_path: Path, log: LogBook) -> Station:
    return await at_work(tmp_path, log)


async def test_an_ended_session_reaches_nothing_here_or_elsewhere(node: Station, log: LogBook) -> None:
    """Unknown to bindings at once, and revoked for every node by a statement of its own node."""
    session = await node.life.start("researcher", 1001)
    node.life.end(session)
    assert node.sessions.find(session.id.session) is None
    await node.outbox.deliver()
    [found] = node.member.snapshot.restrictions.revocations
    assert (found.target.kind, found.target.value) == ("id", str(session.id))
    assert [one.fields["what"] for one in log.of(Kind.SESSION)] == ["started", "ended"]


async def test_an_expired_session_ends_without_a_revocation(node: Station, log: LogBook) -> None:
    """There is nothing left to stop."""
    session = await node.life.start("researcher", 1001)
    await node.outbox.deliver()
    clock_of(node).pass_time(2 * HOUR)
    node.life.end(session)
    assert await node.outbox.deliver() == 0


async def test_sessions_that_are_over_are_not_live(node: Station) -> None:
    """Neither the revoked nor the expired are renewed."""
    stays, goes, gone = [await node.life.start("researcher", 1001) for _ in range(3)]
    await take(node, node.mint.says("revocation", revocation("session", goes.id.session)))
    await take(node, node.mint.says("revocation", revocation("serial", gone.identity.serial)))
    assert node.life.live() == [stays]
    clock_of(node).pass_time(2 * HOUR)
    assert node.life.live() == []


async def test_an_ended_session_has_no_streams_even_if_nobody_can_be_told(
    node: Station, nursery: trio.Nursery, log: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may have so many statements alive, and no more; its own streams need none."""

    async def refuse(raws: Iterable[bytes], _: str | None) -> list[str]:
        return ["id: its signer has 4096 live already" for _ in raws]

    await carrying(node, nursery, log, "wiki")
    session = await node.life.start("researcher", 1001)
    monkeypatch.setattr(node.member, "take", refuse)
    nursery.start_soon(node.outbox.run)
    node.life.end(session)
    await trio.testing.wait_all_tasks_blocked()
    assert log.end.fields["reason"] == Reason.REVOKED
    nursery.cancel_scope.cancel()
