from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from pki.chain import from_pem
from pki.clock import HOUR, MINUTE, SECOND
from pki.errors import LocalError
from pki.keys import to_pem
from sidecar.audit.record import Kind
from sidecar.reasons import Reason
from sidecar.session.ends import Limits
from sidecar.session.hold import Hold
from sidecar.session.life import Wish
from sidecar.session.sessions import Sessions
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


# -- Ends by themselves


def limited(node: Station, monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    monkeypatch.setattr(node.life, "_limits", lambda _: Limits(**limits))


async def test_a_session_that_nobody_uses_ends(
    node: Station, log: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for a stream is use, and so is every byte; its end says why, everywhere."""
    limited(node, monkeypatch, idle=MINUTE)
    session = await node.life.start("researcher", 1001)
    clock_of(node).pass_time(59 * SECOND)
    node.sessions.used(session.id.session, clock_of(node).boot())
    for _ in range(2):
        node.life.watch(clock_of(node).boot())
        assert len(node.sessions) == 1
        clock_of(node).pass_time(59 * SECOND)
    node.life.watch(clock_of(node).boot())
    assert log.of(Kind.SESSION)[-1].fields["why"] == "idle"
    assert await node.outbox.deliver() == 0  # Its streams say why first.
    node.life.watch(clock_of(node).boot())
    assert await node.outbox.deliver() == 1


@pytest.mark.parametrize("reason", [Reason.IDLE, Reason.LIFETIME])
async def test_streams_end_with_their_session_and_for_its_reason(
    node: Station, log: LogBook, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    """Not as revoked, though that is what its end is to other nodes."""
    session = await node.life.start("researcher", 1001)
    await carrying(node, nursery, log, "wiki")
    [live] = node.carrier.table
    node.carrier.table.rebind(live, replace(live.request, session=session.id))
    limited(node, monkeypatch, **{reason: MINUTE})
    clock_of(node).pass_time(MINUTE)
    live.active = clock_of(node).boot()
    node.life.watch(clock_of(node).boot())
    if reason is Reason.IDLE:
        assert len(node.sessions) == 1
        clock_of(node).pass_time(MINUTE)
        node.life.watch(clock_of(node).boot())
    await trio.testing.wait_all_tasks_blocked()
    assert log.end.fields["reason"] == reason
    assert log.of(Kind.SESSION)[-1].fields["why"] == reason


async def test_a_session_is_not_renewed_past_its_longest_life(
    node: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA would refuse it; one whose certificate ends before that is renewed as ever."""
    session = await node.life.start("researcher", 1001)
    assert node.life.renewable() == [session]
    limited(node, monkeypatch, lifetime=HOUR)
    assert node.life.renewable() == []
    limited(node, monkeypatch, lifetime=2 * HOUR)
    assert node.life.renewable() == [session]


class Group:
    """A cgroup whose processes the test plays."""

    id = 7
    populated_now = True

    def populated(self) -> bool:
        return self.populated_now

    def remove(self) -> bool:
        return True


@pytest.fixture
def group(node: Station, monkeypatch: pytest.MonkeyPatch) -> Group:
    made = Group()
    monkeypatch.setattr(node.sessions, "confine", lambda *_: made)
    return made


async def test_a_session_ends_when_the_last_process_has_left_its_cgroup(
    node: Station, log: LogBook, group: Group
) -> None:
    """Whatever became of the command that started it."""
    await node.life.start("researcher", 1001, Wish(pidfd=1))
    assert log.of(Kind.SESSION)[-1].fields["attribution"] == "cgroup"
    await node.life.end_empty()
    assert len(node.sessions) == 1
    group.populated_now = False
    await node.life.end_empty()
    assert log.of(Kind.SESSION)[-1].fields["why"] == "empty"
    assert len(node.sessions) == 0


async def test_a_session_that_is_let_go_ends_unless_its_cgroup_is_populated(
    node: Station, log: LogBook, group: Group
) -> None:
    """Its command may be killed and its children live on: they are still that run."""
    kept = await node.life.start("researcher", 1001, Wish(pidfd=1, hold=Hold()))
    node.life.let_go(kept)
    assert len(node.sessions) == 1
    group.populated_now = False
    again = await node.life.start("researcher", 1001, Wish(pidfd=1, hold=Hold()))
    node.life.let_go(again)
    plain = await node.life.start("researcher", 1001, Wish(hold=Hold()))
    node.life.let_go(plain)
    node.life.let_go(plain)
    ends = [one.fields["why"] for one in log.of(Kind.SESSION) if one.fields["what"] == "ended"]
    assert ends == ["empty", "released"]


async def test_a_holder_hears_of_each_certificate_and_of_the_end(
    node: Station, nursery: trio.Nursery
) -> None:
    """The key only where it was asked for, and all of it fits together."""
    hold = Hold()
    session = await node.life.start("researcher", 1001, Wish(hold=hold, export=True))
    identity, key = await node.certify(session.id, "", node.certificates.ca_access())
    node.life.take_up_session(session, identity, key, nursery.start_soon)
    news = await hold.told()
    assert news is not None
    assert news["key"] == to_pem(key).decode()
    assert from_pem(str(news["svid"]).encode()) == identity.chain
    assert from_pem(str(news["bundle"]).encode()) == node.member.bundle.roots
    node.life.end(session)
    assert await hold.told() == {"ended": "asked"}
    assert await hold.told() is None


async def test_a_key_that_was_not_asked_for_stays(node: Station) -> None:
    """Export is decided at the start, and on record."""
    session = await node.life.start("researcher", 1001)
    with pytest.raises(LocalError, match="stays here"):
        node.life.exported(session)


async def test_what_a_killed_daemon_left_running_is_a_finding(
    node: Station, log: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches nothing, and somebody should know why."""
    monkeypatch.setattr(Sessions, "orphans", {"a" * 26: 2})
    node.life.sweep()
    [finding] = log.of(Kind.FINDING)
    assert (finding.fields["session"], finding.fields["processes"]) == ("a" * 26, 2)
