import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.clock import HOUR, SECOND
from pki.spiffe import SpiffeId
from pki.statement import Statement
from sidecar.address import Address
from sidecar.audit.record import Kind
from sidecar.audit.writer import AuditWriter
from sidecar.config import NodeLimits
from sidecar.reasons import Reason
from tests.authority import NOW
from tests.clock import ManualClock
from tests.datapath import LogBook, ScriptedArrival, subject
from tests.sidecar.control.world import Station, station, with_policy
from tests.statements import Mint, lock, revocation

POLICY = """
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"

[services.tickets]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:8002"

[agents.researcher]
nodes = ["agents-1"]
uid = 1001

[agents.clerk]
nodes = ["agents-1"]
uid = "nobody"

[agents.ghost]
nodes = ["agents-1"]
uid = "lockgate-no-such-user"

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[grants]]
id = "all"
agents = ["researcher"]
services = ["wiki", "tickets"]
"""


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
async def node(tmp_path: Path, log: LogBook) -> Station:
    """agents-1 with a policy in force, fresh, and a log that tests can read."""
    made = station(tmp_path, Mint())
    made.seams = replace(made.seams, audit=cast("AuditWriter", log))
    made.carrier.audit = log
    await with_policy(made, POLICY)
    number, loaded = 2**40, made.member.loaded
    digest = made.member.store.numbered_digest(NOW, number)
    in_force = {"policy_sequence": loaded.sequence, "policy_digest": loaded.digest}
    await take(made, made.mint.beats(digest, NOW, number, **in_force))
    log.records.clear()
    return made


async def take(node: Station, *statements: Statement) -> None:
    assert await node.member.take([one.raw for one in statements], None) == []


def clock_of(node: Station) -> ManualClock:
    assert isinstance(node.seams.clock, ManualClock)
    return node.seams.clock


async def publish(node: Station) -> int:
    """What :meth:`Node.publish_own` does, once: how many statements of its own the node handed over."""
    count = 0
    while node._inbox.statistics().current_buffer_used:
        raws = node._inbox.receive_nowait()
        count += len(raws)
        assert await node.member.take(raws, None) == []
    return count


async def carrying(node: Station, nursery: trio.Nursery, log: LogBook, *services: str) -> None:
    """A live stream to each service."""
    for service in services:
        stream = subject(stream=service.ljust(16, "-").encode())
        nursery.start_soon(node.carrier.carry, ScriptedArrival(log, subject=stream).of(service))
    await trio.testing.wait_all_tasks_blocked()
    assert len(node.carrier.table) == len(services)


# -- What is put in force


async def test_a_lock_is_in_force_once_its_streams_are_dead(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """Whoever hands it in may read the end of each stream on record when it comes back."""
    await carrying(node, nursery, log, "wiki")
    stop = node.mint.says("lock", lock())
    await take(node, stop)
    assert (log.end.fields["reason"], log.end.fields["rule"]) == (Reason.LOCKED, stop.id)
    assert len(node.carrier.table) == 0


async def test_a_receipt_counts_the_streams_it_ended(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """Signed by this node, handed to the member outside of its own merge."""
    await carrying(node, nursery, log, "wiki", "tickets")
    stop = node.mint.says("lock", lock())
    await take(node, stop)
    await publish(node)
    receipt = node.member.store.receipts(stop.id)[str(node.credential.id)]
    assert [(one.id, one.cut) for one in receipt.applied if one.id == stop.id] == [(stop.id, 2)]


async def test_a_cut_stream_says_why_before_its_connection_is_closed(
    node: Station, log: LogBook, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked node hears the reason on the very connection that ends with it."""
    closing: list[int] = []

    async def drop_strangers() -> None:
        closing.append(len(node.carrier.table))

    await carrying(node, nursery, log, "wiki")
    monkeypatch.setattr(node.tool, "drop_strangers", drop_strangers)
    await take(node, node.mint.says("revocation", revocation("node", "agents-1")))
    assert closing == [0]


async def test_what_comes_into_force_is_on_record(node: Station, log: LogBook) -> None:
    """Locks and their lifting, revocations, policies, each with its statement and author."""
    stop, ban = node.mint.says("lock", lock()), node.mint.says("revocation", revocation("agent", "clerk"))
    await take(node, stop, ban)
    await take(node, node.mint.lifts("unlock", stop.id))
    told = [(one.kind, one.fields["what"], one.fields["statement"]) for one in log.records]
    assert sorted(told) == sorted(
        [
            (Kind.LOCK, "applied", stop.id),
            (Kind.REVOCATION, "applied", ban.id),
            (Kind.LOCK, "lifted", stop.id),
        ]
    )


# -- Time


async def test_streams_that_need_the_log_end_soon_after_it(
    node: Station, log: LogBook, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Within 5 s of the log's failure those of required segments are cut; the others go on."""
    await carrying(node, nursery, log, "wiki", "tickets")
    nursery.start_soon(node.watch_streams)
    await trio.sleep(10)
    assert len(node.carrier.table) == 2
    log.available = False
    await trio.sleep(5)
    assert log.end.fields["service"] == "tickets"
    assert log.end.fields["reason"] == Reason.AUDIT_UNAVAILABLE
    assert len(node.carrier.table) == 1


async def test_time_alone_ends_a_stream(
    node: Station, log: LogBook, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A certificate under it expires, and nothing else happens."""
    await carrying(node, nursery, log, "wiki")
    nursery.start_soon(node.watch_streams)
    clock_of(node).pass_time(HOUR + SECOND)
    await trio.sleep(2)
    assert log.end.fields["reason"] == Reason.EXPIRED


async def test_a_stream_that_stands_still_is_ended(
    node: Station, log: LogBook, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its own limits are looked at once a second."""
    node.reconfigure(node.config.model_copy(update={"limits": NodeLimits.model_validate({"idle": "60s"})}))
    await carrying(node, nursery, log, "wiki")
    nursery.start_soon(node.watch_streams)
    clock_of(node).pass_time(61 * SECOND)
    await trio.sleep(2)
    assert log.end.fields["reason"] == Reason.IDLE


async def test_streams_are_as_many_as_descriptors_allow(
    node: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than configured are never carried, fewer where the machine sets the limit."""
    monkeypatch.setattr("sidecar.node.room_for_streams", lambda: 1_000_000)
    node.reconfigure(node.config)
    assert node.carrier.max_streams == node.config.limits.streams
    monkeypatch.setattr("sidecar.node.room_for_streams", lambda: 7)
    node.reconfigure(node.config)
    assert node.carrier.max_streams == 7


# -- Sessions


async def test_an_ended_session_reaches_nothing_here_or_elsewhere(node: Station, log: LogBook) -> None:
    """Unknown to bindings at once, and revoked for every node by a statement of its own node."""
    session = await node.start_session("researcher", 1001)
    node.end_session(session)
    assert node.sessions.find(session.id.session) is None
    await publish(node)
    [found] = node.member.snapshot.restrictions.revocations
    assert (found.target.kind, found.target.value) == ("id", str(session.id))
    assert [one.fields["what"] for one in log.of(Kind.SESSION)] == ["ended"]


async def test_an_expired_session_ends_without_a_revocation(node: Station, log: LogBook) -> None:
    """There is nothing left to stop."""
    session = await node.start_session("researcher", 1001)
    await publish(node)
    clock_of(node).pass_time(2 * HOUR)
    node.end_session(session)
    assert await publish(node) == 0


async def test_sessions_that_are_over_are_not_live(node: Station) -> None:
    """Neither the revoked nor the expired are renewed."""
    stays, goes, gone = [await node.start_session("researcher", 1001) for _ in range(3)]
    await take(node, node.mint.says("revocation", revocation("session", goes.id.session)))
    await take(node, node.mint.says("revocation", revocation("serial", gone.identity.serial)))
    assert list(node.live_sessions()) == [stays]
    clock_of(node).pass_time(2 * HOUR)
    assert list(node.live_sessions()) == []


async def test_an_ended_session_has_no_streams_even_if_nobody_can_be_told(
    node: Station, nursery: trio.Nursery, log: LogBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node may have so many statements alive, and no more; its own streams need none."""

    async def refuse(raws: Iterable[bytes], _: str | None) -> list[str]:
        return ["id: its signer has 4096 live already" for _ in raws]

    await carrying(node, nursery, log, "wiki")
    session = await node.start_session("researcher", 1001)
    monkeypatch.setattr(node.member, "take", refuse)
    nursery.start_soon(node.publish_own)
    node.end_session(session)
    await trio.testing.wait_all_tasks_blocked()
    assert log.end.fields["reason"] == Reason.REVOKED
    nursery.cancel_scope.cancel()


# -- What the parts ask


@pytest.mark.parametrize(
    ("agent", "uid"), [("researcher", 1001), ("clerk", 65534), ("ghost", None), ("nobody-knows", None)]
)
async def test_an_agents_uid_is_the_policys(agent: str, uid: int | None, node: Station) -> None:
    """By number, by a user of this machine, or not at all."""
    assert node.uid_of(agent) == uid


async def test_an_agent_has_a_user_of_its_own(node: Station) -> None:
    """A policy names users; only the node knows that one is root by another name, the daemon's, or another's."""
    await with_policy(node, POLICY.replace('uid = "lockgate-no-such-user"', "uid = 65534"), 2)
    assert "root's" in node.uid_fault("researcher", 0)
    assert "the daemon's" in node.uid_fault("researcher", os.geteuid())
    assert "agent clerk's too" in node.uid_fault("ghost", 65534)
    assert node.uid_fault("researcher", 1001) == ""
    node.config = node.config.model_copy(update={"dev": True})
    assert node.uid_fault("researcher", 0) == ""


async def test_addresses_are_the_rosters(node: Station) -> None:
    """Those that can be read; none for a node that only dials."""
    await take(node, node.mint.enrols("tools-2", addresses=["nonsense", "127.0.0.1:7443"]))
    assert list(node.addresses_of("tools-2")) == [Address("127.0.0.1", 7443)]
    assert list(node.addresses_of("tools-1")) == []
    assert list(node.addresses_of("nowhere")) == []


async def test_paths_are_warmed_to_the_nodes_that_bindings_lead_to(
    node: Station, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Again each second, and one that does not answer keeps no other waiting."""
    warmed: list[str] = []

    async def warm(peer: SpiffeId, addresses: Iterable[Address]) -> None:
        warmed.append(peer.name)
        await trio.sleep_forever()

    monkeypatch.setattr(node.pool, "warm", warm)
    nursery.start_soon(node.keep_warm)
    await trio.sleep(2.5)
    assert warmed == ["tools-1"] * 3
    nursery.cancel_scope.cancel()


async def test_the_ca_is_a_contact(node: Station) -> None:
    """Control links lead to the other nodes and to it."""
    assert str(node.mint.ca.bundle.trust_domain) in {one.id.trust_domain for one in node.contacts()}
    assert [one.id.name for one in node.contacts()] == ["tools-1", "ca-1"]
