from collections.abc import Iterable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pki.clock import HOUR, SECOND
from pki.spiffe import SpiffeId
from sidecar.address import Address
from sidecar.audit.record import Kind
from sidecar.config import NodeLimits
from sidecar.gossip.standing import confirmed
from sidecar.reasons import Reason
from tests.datapath import LogBook, ScriptedArrival
from tests.sidecar.control.world import Station
from tests.sidecar.working import at_work, carrying, clock_of, take
from tests.statements import lock, revocation


@pytest.fixture
def log() -> LogBook:
    return LogBook()


@pytest.fixture
async def node(tmp_path: Path, log: LogBook) -> Station:
    return await at_work(tmp_path, log)


# -- What is put in force


async def test_a_stop_does_not_wait_for_the_streams_of_the_one_before(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """They hang on a peer that does not read, say; their receipt is late, and nothing else."""
    await carrying(node, nursery, log, "wiki")
    nursery.start_soon(node.aftermath.run)
    [(_, arrival)] = node.carrier.arrivals.values()
    assert isinstance(arrival, ScriptedArrival)
    released = trio.Event()
    arrival.on_finish = released.wait
    first, second = (node.mint.says("lock", lock("agent", name)) for name in ("researcher", "clerk"))
    await take(node, first)
    await take(node, second)
    await node.outbox.deliver()
    assert confirmed(node.member.store).get(second.id)
    assert not confirmed(node.member.store).get(first.id)
    released.set()
    await trio.testing.wait_all_tasks_blocked()
    await node.outbox.deliver()
    assert confirmed(node.member.store).get(first.id)


async def test_a_receipt_is_given_once_the_streams_are_dead(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """Whoever has it may read the end of each stream on record."""
    await carrying(node, nursery, log, "wiki")
    nursery.start_soon(node.aftermath.run)
    stop = node.mint.says("lock", lock())
    await take(node, stop)
    while not await node.outbox.deliver():
        await trio.lowlevel.checkpoint()
    assert (log.end.fields["reason"], log.end.fields["rule"]) == (Reason.LOCKED, stop.id)
    assert len(node.carrier.table) == 0


async def test_a_receipt_counts_the_streams_it_ended(
    node: Station, log: LogBook, nursery: trio.Nursery
) -> None:
    """Signed by this node, handed to the member outside of its own merge."""
    await carrying(node, nursery, log, "wiki", "tickets")
    nursery.start_soon(node.aftermath.run)
    stop = node.mint.says("lock", lock())
    await take(node, stop)
    await trio.testing.wait_all_tasks_blocked()
    await node.outbox.deliver()
    line = confirmed(node.member.store)[stop.id][str(node.credential.id)]
    assert (line.id, line.cut) == (stop.id, 2)


async def test_a_cut_stream_says_why_before_its_connection_is_closed(
    node: Station, log: LogBook, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked node hears the reason on the very connection that ends with it."""
    closing: list[int] = []

    async def drop_strangers() -> None:
        closing.append(len(node.carrier.table))

    await carrying(node, nursery, log, "wiki")
    monkeypatch.setattr(node.tool, "drop_strangers", drop_strangers)
    nursery.start_soon(node.aftermath.run)
    await take(node, node.mint.says("revocation", revocation("node", "agents-1")))
    await trio.testing.wait_all_tasks_blocked()
    assert set(closing) == {0}


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


async def test_what_decisions_read_is_kept_before_they_read_it(node: Station, log: LogBook) -> None:
    """Each snapshot that was ever in force can be had again by the digest that records name."""
    await take(node, node.mint.says("lock", lock("agent", "somebody")))
    kept = {sha256(one).hexdigest() for one in log.bodies}
    assert node.member.snapshot.digest in kept
    assert {sha256(one).hexdigest() for one in node.member.snapshot.bodies()} <= kept


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


# -- What the parts ask


async def test_in_a_demo_mesh_whoever_runs_it_is_the_agent(node: Station) -> None:
    """Root, too; nowhere else."""
    assert node.uid_of("researcher") == 1001
    assert "root's" in node.uid_fault("researcher", 0)
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
    nursery.start_soon(node.warmth.run)
    await trio.sleep(2.5)
    assert warmed == ["tools-1"] * 3
    nursery.cancel_scope.cancel()


async def test_what_a_new_session_will_ask_for_is_decided_before(
    node: Station, nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its bindings' services, on each of their nodes; and its first stream finds the answer there."""

    async def warm(peer: SpiffeId, addresses: Iterable[Address]) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(node.pool, "warm", warm)
    nursery.start_soon(node.warmth.run)
    session = await node.life.start("researcher", 1001)
    await trio.testing.wait_all_tasks_blocked()
    sight, cache = node.sight(), node.carrier.cache
    asked = replace(node.agent.expected(session, "wiki"), tool_node="tools-1")
    cache.decide(asked, sight.snapshot, sight.moment, "x")
    assert (cache.hits, cache.prewarmed_hits, cache.misses) == (1, 1, 0)
    nursery.cancel_scope.cancel()


async def test_the_ca_is_a_contact(node: Station) -> None:
    """Control links lead to the other nodes and to it."""
    assert str(node.mint.ca.bundle.trust_domain) in {one.id.trust_domain for one in node.contacts()}
    assert [one.id.name for one in node.contacts()] == ["tools-1", "ca-1"]
