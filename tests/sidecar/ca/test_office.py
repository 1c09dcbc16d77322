from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from pki import statement
from pki.authority.service import application
from pki.clock import HOUR, MINUTE, SECOND
from pki.errors import LocalError, RefusedError, RemoteError
from pki.http.client import HttpClient
from pki.http.server import serve_connection
from pki.statement import Cutoff, Demand, Heartbeat, Lift, Revocation, Statement, Target
from pki.verify import Identity, verify
from sidecar.ca import office
from sidecar.ca.daemon import hooks_of
from sidecar.defaults import SKEW
from sidecar.gossip.journal import Journal
from sidecar.peering import is_member_identity
from tests.authority import NOW, new_key
from tests.sidecar.ca.world import CONFIG, POLICY, Bureau, unlock
from tests.statements import Signatory, lock, revocation


@pytest.fixture
def bureau(tmp_path: Path) -> Iterator[Bureau]:
    bureau = Bureau(tmp_path)
    yield bureau
    bureau.register.close()


@pytest.fixture
async def mesh(bureau: Bureau) -> Bureau:
    """With two nodes in the roster, which is what a policy needs."""
    await bureau.enrol("agents-1", "tools-1")
    return bureau


async def lift(bureau: Bureau, who: Signatory, demand: Statement) -> dict[str, object]:
    return await bureau.office.lift(demand.raw, bureau.identity(who))


# Issuing


async def test_may_issue_follows_the_policy_and_what_is_revoked(mesh: Bureau) -> None:
    """No policy, no session; none for an agent elsewhere; none once node or agent is revoked."""
    office = mesh.office
    assert not office.may_issue("agents-1", "researcher")
    await mesh.apply(POLICY)
    assert office.may_issue("agents-1", "researcher")
    assert not office.may_issue("tools-1", "researcher")
    assert not office.may_issue("agents-1", "stranger")
    alice = await mesh.enlist("alice", "responder")
    await mesh.hears(alice.says("revocation", revocation("agent", "researcher")))
    assert not office.may_issue("agents-1", "researcher")


# Adoption


async def test_restrictions_of_others_are_adopted_each_with_a_number(bureau: Bureau) -> None:
    """Three that arrive together get three numbers, keep their ids, and are not adopted again."""
    alice = await bureau.enlist("alice", "responder")
    said = [alice.says("lock", lock("agent", name)) for name in ("a", "b", "c")]
    assert await bureau.hears(*said) == []
    await bureau.office.adopt_due()
    numbers = bureau.numbers(*said)
    assert len(set(numbers)) == 3
    await bureau.office.adopt_due()
    assert bureau.numbers(*said) == numbers
    assert bureau.locks() == sorted(one.id for one in said)


async def test_an_adopted_lock_outlives_its_signer(bureau: Bureau) -> None:
    """Revoking an operator does not lift what it locked."""
    alice, bob = await bureau.enlist("alice", "responder"), await bureau.enlist("bob", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    await bureau.office.adopt_due()
    await bureau.hears(bob.says("revocation", revocation("operator", "alice")))
    assert bureau.locks() == [locked.id]


async def test_one_that_cannot_be_adopted_keeps_no_other_from_it(bureau: Bureau) -> None:
    """It stays in force by itself, and is tried again; the log says it once."""
    alice = await bureau.enlist("alice", "responder")
    said = [alice.says("lock", lock("agent", name)) for name in ("a", "b")]
    await bureau.hears(*said)
    bureau.register.broken = "disk full"
    with capture_logs() as logs:
        await bureau.office.adopt_due()
        await bureau.office.adopt_due()
    assert [entry["why"] for entry in logs] == ["disk full", "disk full"]
    assert bureau.locks() == sorted(one.id for one in said)
    bureau.register.broken = ""
    await bureau.office.adopt_due()
    assert len(set(bureau.numbers(*said))) == 2


async def test_what_was_not_adopted_before_a_crash_is_adopted_after_it(bureau: Bureau) -> None:
    """What is owed is read off the store, so no queue is lost with the process."""
    alice = await bureau.enlist("alice", "responder")
    said = alice.says("lock", lock("agent", "a"))
    await bureau.hears(said)
    again = await bureau.restarted()
    await again.office.adopt_due()
    assert len(again.numbers(said)) == 1
    again.register.close()


async def test_a_lock_that_has_ended_is_not_adopted(bureau: Bureau) -> None:
    """Between its end by the wall clock and its end by the floor there is nothing left to take over."""
    alice = await bureau.enlist("alice", "responder")
    said = alice.says("lock", lock("agent", "a"), ttl=MINUTE)
    await bureau.hears(said)
    bureau.clock.pass_time(2 * MINUTE)
    await bureau.office.adopt_due()
    assert bureau.numbers(said) == []


async def test_news_is_adopted_without_waiting_for_the_next_round(
    bureau: Bureau, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop wakes for each restriction that was taken in."""
    monkeypatch.setattr(office, "RETRY_SECONDS", HOUR)
    alice = await bureau.enlist("alice", "responder")
    said = alice.says("lock", lock("agent", "a"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bureau.office.adopt_all)
        await trio.testing.wait_all_tasks_blocked()
        await bureau.hears(said)
        while not bureau.numbers(said):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()


# Bans


async def test_a_revocation_is_in_the_register_once_it_was_taken(bureau: Bureau) -> None:
    """Whoever sent it may rely on the CA's refusing that name from then on."""
    alice = await bureau.enlist("alice", "responder")
    await bureau.hears(alice.says("revocation", revocation("node", "tools-1")))
    assert bureau.register.is_banned(bureau.mint.ca.node("tools-1"))


async def test_a_ban_that_could_not_be_written_is_written_later(bureau: Bureau) -> None:
    """A full disk puts it off, and ends nothing."""
    alice = await bureau.enlist("alice", "responder")
    bureau.register.broken = "disk full"
    with capture_logs():
        await bureau.hears(alice.says("revocation", revocation("node", "tools-1")))
        assert not bureau.register.is_banned(bureau.mint.ca.node("tools-1"))
        bureau.register.broken = ""
        await bureau.office.adopt_due()
    assert bureau.register.is_banned(bureau.mint.ca.node("tools-1"))


# Heartbeats


async def test_a_heartbeat_counts_all_that_is_held(mesh: Bureau) -> None:
    """Its number is the highest there is, adoptions included, and it names the policy and bundle in force."""
    alice = await mesh.enlist("alice", "responder")
    await mesh.hears(alice.says("lock", lock("agent", "a")))
    await mesh.office.adopt_due()
    await mesh.apply(POLICY)
    await mesh.office.beat_once()
    member = mesh.office.member
    assert member.freshness.newest is not None
    body: Heartbeat = member.freshness.newest.body
    assert body.number == member.store.last_number() == mesh.register.last_number() == 5
    assert (body.policy_sequence, body.policy_digest) == (1, member.loaded.digest)
    assert body.bundle_digest == member.bundle.digest


async def test_the_ca_is_fresh_by_its_own_heartbeat(bureau: Bureau) -> None:
    """It holds what it says, so a node with the same set is fresh too."""
    await bureau.enlist("alice", "responder")
    await bureau.office.beat_once()
    assert bureau.office.member.moment().as_of == NOW


async def test_a_heartbeat_has_no_number_of_its_own(bureau: Bureau) -> None:
    """Else it would have to count itself."""
    await bureau.office.beat_once()
    bureau.clock.pass_time(SECOND)
    await bureau.office.beat_once()
    assert bureau.register.last_number() == 0


# Lifts


async def test_another_operator_lifts_lock_all(bureau: Bureau) -> None:
    """The unlock lives as long as the lock, and carries the demand."""
    alice, bob = await bureau.enlist("alice", "responder"), await bureau.enlist("bob", "admin")
    locked = alice.says("lock", lock("all"))
    await bureau.hears(locked)
    demand = bob.says("demand", unlock([locked.id]))
    answer = await lift(bureau, bob, demand)
    assert bureau.locks() == []
    entry = bureau.office.member.store.entry(str(answer["id"]))
    assert entry is not None
    assert entry.statement.body == Lift(ids=[locked.id], demand=demand.raw)
    assert entry.statement.payload.expires >= locked.payload.expires


async def test_lock_all_is_not_lifted_by_who_locked(bureau: Bureau) -> None:
    """One stolen key must not be worth both."""
    alice = await bureau.enlist("alice", "responder", "admin")
    locked = alice.says("lock", lock("all"))
    await bureau.hears(locked)
    await bureau.office.adopt_due()
    with pytest.raises(RefusedError, match="another operator"):
        await lift(bureau, alice, alice.says("demand", unlock([locked.id])))
    assert bureau.locks() == [locked.id]


async def test_a_smaller_lock_is_lifted_by_who_locked(bureau: Bureau) -> None:
    """A mistake is mended by who made it."""
    alice = await bureau.enlist("alice", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    await lift(bureau, alice, alice.says("demand", unlock([locked.id])))
    assert bureau.locks() == []


async def test_a_demand_works_once(bureau: Bureau) -> None:
    """What it named is lifted; brought again, it names nothing that is in force."""
    alice = await bureau.enlist("alice", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    demand = alice.says("demand", unlock([locked.id]))
    await lift(bureau, alice, demand)
    with pytest.raises(RefusedError, match="no such lock is in force"):
        await lift(bureau, alice, demand)


async def test_a_demand_brought_twice_at_once_works_once(bureau: Bureau) -> None:
    """Judging and lifting are one step."""
    alice = await bureau.enlist("alice", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    demand = alice.says("demand", unlock([locked.id]))
    outcomes: list[str] = []

    async def bring() -> None:
        try:
            await lift(bureau, alice, demand)
            outcomes.append("lifted")
        except RefusedError:
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        nursery.start_soon(bring)
    assert sorted(outcomes) == ["lifted", "refused"]


@pytest.mark.parametrize(
    ("issued", "ttl"), [(NOW - 2 * MINUTE, MINUTE), (NOW - MINUTE, MINUTE), (NOW + SKEW + 1, MINUTE)]
)
async def test_a_demand_counts_within_its_life_only(bureau: Bureau, issued: int, ttl: int) -> None:
    """Found in a log later, or made for later, it is worth nothing."""
    alice = await bureau.enlist("alice", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    with pytest.raises(RefusedError, match="expired, or of the future"):
        await lift(bureau, alice, alice.says("demand", unlock([locked.id]), issued, ttl))
    assert bureau.locks() == [locked.id]


async def test_a_demand_is_brought_by_who_signed_it(bureau: Bureau) -> None:
    """Whoever sees another's demand cannot use it."""
    alice, bob = await bureau.enlist("alice", "responder"), await bureau.enlist("bob", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    with pytest.raises(RefusedError, match="somebody else"):
        await lift(bureau, bob, alice.says("demand", unlock([locked.id])))


async def test_only_responders_and_admins_demand(bureau: Bureau) -> None:
    """The role is looked up in the roster, not in the certificate."""
    alice, eve = await bureau.enlist("alice", "responder"), await bureau.enlist("eve", "approver", "auditor")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    with pytest.raises(RemoteError, match="may not sign"):
        await lift(bureau, eve, eve.says("demand", unlock([locked.id])))


async def test_a_demand_under_another_key_of_the_same_name_is_worthless(bureau: Bureau) -> None:
    """A stolen issuing key can mint the name, and not the key that the roster names."""
    alice = await bureau.enlist("alice", "responder")
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(locked)
    forged = bureau.mint.operator("alice")
    with pytest.raises(RemoteError, match="may not sign"):
        await lift(bureau, forged, forged.says("demand", unlock([locked.id])))


async def test_only_locks_in_force_are_lifted(bureau: Bureau) -> None:
    """Not a revocation, not what nobody holds, and not one whose other half is gone."""
    alice = await bureau.enlist("alice", "responder", "admin")
    revoked = alice.says("revocation", revocation("node", "tools-1"))
    locked = alice.says("lock", lock("agent", "a"))
    await bureau.hears(revoked, locked)
    unknown = "a" * 26
    for ids in ([revoked.id], [unknown], [locked.id, unknown]):
        with pytest.raises(RefusedError, match="no such lock is in force"):
            await lift(bureau, alice, alice.says("demand", unlock(ids)))
    assert bureau.locks() == [locked.id]


# Unrevoke


def unrevoke(*ids: str, mistake: bool = False) -> Demand:
    return Demand(action="unrevoke", ids=list(ids), mistake=mistake)


async def test_who_is_unrevoked_comes_back_with_new_certificates_only(
    bureau: Bureau, autojump_clock: trio.testing.MockClock
) -> None:
    """The name is free at the CA and everywhere; what was issued before is refused at both, for good."""
    alice, tools = await bureau.enlist("alice", "responder"), bureau.mint.ca.node("tools-1")
    await bureau.enrol("tools-1")
    old = identity_of(bureau, bureau.issuer.admit(tools, new_key().public_key(), bureau.clock.wall(), "t"))
    revoked = alice.says("revocation", revocation("node", "tools-1"))
    await bureau.hears(revoked)
    started = trio.current_time()
    answer = await lift(bureau, alice, alice.says("demand", unrevoke(revoked.id)))
    [cutoff] = bureau.office.member.snapshot.restrictions.revocations
    assert (cutoff.id, cutoff.before) == (revoked.id, NOW - NOW % SECOND + SECOND)
    # Whoever joins once it is answered joins after the cutoff.
    assert trio.current_time() - started == pytest.approx(1 - NOW % SECOND / SECOND)
    assert len(bureau.numbers(revoked)) == 1  # Adopted: a joiner must get it too.
    bureau.clock.pass_time(SECOND)
    assert not is_member_identity(old, bureau.office.member.snapshot)
    with pytest.raises(RefusedError, match="of before"):
        bureau.issuer.renew(old, new_key().public_key(), bureau.clock.wall())
    new = identity_of(bureau, bureau.issuer.admit(tools, new_key().public_key(), bureau.clock.wall(), "t"))
    assert is_member_identity(new, bureau.office.member.snapshot)
    bureau.issuer.renew(new, new_key().public_key(), bureau.clock.wall())
    entry = bureau.office.member.store.entry(str(answer["id"]))
    assert entry is not None
    assert entry.ends >= revoked.payload.expires


async def test_a_mistake_is_lifted_whole_by_an_admin(
    bureau: Bureau, autojump_clock: trio.testing.MockClock
) -> None:
    """Certificates of before count again. A responder alone may not revive what may be in somebody else's hands."""
    alice, bob = await bureau.enlist("alice", "responder"), await bureau.enlist("bob", "admin")
    tools = bureau.mint.ca.node("tools-1")
    await bureau.enrol("tools-1")
    old = identity_of(bureau, bureau.issuer.admit(tools, new_key().public_key(), bureau.clock.wall(), "t"))
    revoked = alice.says("revocation", revocation("node", "tools-1"))
    await bureau.hears(revoked)
    with pytest.raises(RefusedError, match="role admin"):
        await lift(bureau, alice, alice.says("demand", unrevoke(revoked.id, mistake=True)))
    await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id, mistake=True)))
    assert is_member_identity(old, bureau.office.member.snapshot)
    bureau.issuer.renew(old, new_key().public_key(), bureau.clock.wall())


async def test_what_is_left_of_a_revocation_is_lifted_as_a_mistake_later(
    bureau: Bureau, autojump_clock: trio.testing.MockClock
) -> None:
    """First unrevoked with its cutoff, then seen to have been wrong: the cutoff goes too, and a third time nothing."""
    bob = await bureau.enlist("bob", "admin", "responder")
    revoked = bob.says("revocation", revocation("agent", "researcher"))
    await bureau.hears(revoked)
    await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id)))
    with pytest.raises(RefusedError, match="no such revocation"):
        await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id)))
    await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id, mistake=True)))
    assert bureau.office.member.snapshot.restrictions.revocations == ()
    with pytest.raises(RefusedError, match="no such revocation"):
        await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id, mistake=True)))


@pytest.mark.parametrize("target", [("session", "a" * 26), ("serial", "ab12")])
async def test_what_has_no_other_certificate_is_unrevoked_as_a_mistake_only(
    bureau: Bureau, target: tuple[str, str]
) -> None:
    """With a cutoff it would stay dead, and the operator would think that it lives."""
    bob = await bureau.enlist("bob", "admin", "responder")
    revoked = bob.says("revocation", revocation(*target))
    await bureau.hears(revoked)
    with pytest.raises(RefusedError, match="no other certificate"):
        await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id)))
    await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id, mistake=True)))
    assert bureau.office.member.snapshot.restrictions.revocations == ()


async def test_an_unrevoke_that_the_register_did_not_take_is_written_later(
    bureau: Bureau, autojump_clock: trio.testing.MockClock
) -> None:
    """After a crash in between, too: what it owes is read off the store, and a lift always after what it lifts."""
    bob = await bureau.enlist("bob", "admin", "responder")
    revoked = bob.says("revocation", revocation("node", "tools-1"))
    await bureau.hears(revoked)
    bureau.register.broken_lifts = "disk full"
    with capture_logs() as logs:
        await lift(bureau, bob, bob.says("demand", unrevoke(revoked.id)))
    assert [one["why"] for one in logs if one["log_level"] == "error"] == ["disk full"]
    tools = bureau.mint.ca.node("tools-1")
    assert bureau.register.is_banned(tools)
    again = await bureau.restarted()
    await again.office.adopt_due()
    assert not again.register.is_banned(tools)
    assert again.register.is_banned(tools, issued=NOW - 1)
    again.register.close()


async def test_root_orders_an_unrevoke_and_a_cutoff(bureau: Bureau) -> None:
    """On the CA's host it takes nobody else; a cutoff revokes what was issued before, and nothing after."""
    made = await bureau.office.order(Revocation(target=Target(kind="agent", value="researcher")), HOUR)
    await bureau.office.unrevoke_by_order(made.id, mistake=True)
    cut = await bureau.office.order(Cutoff(target=Target(kind="node", value="tools-1"), before=NOW), HOUR)
    [found] = bureau.office.member.snapshot.restrictions.revocations
    assert (found.id, found.before) == (cut.id, NOW)
    tools = bureau.mint.ca.node("tools-1")
    assert bureau.register.is_banned(tools, issued=NOW - 1)
    assert not bureau.register.is_banned(tools, issued=NOW)
    await bureau.office.unrevoke_by_order(cut.id, mistake=True)
    assert not bureau.register.is_banned(tools, issued=NOW - 1)
    assert bureau.office.member.snapshot.restrictions.revocations == ()


def identity_of(bureau: Bureau, chain: tuple[bytes, ...]) -> Identity:
    found = verify(chain, bureau.mint.ca.bundle, bureau.clock.wall())
    assert isinstance(found, Identity)
    return found


# Demands


async def test_a_lift_needs_a_demand(bureau: Bureau) -> None:
    """Another statement of the same operator does not pass for one."""
    alice = await bureau.enlist("alice", "responder")
    with pytest.raises(RemoteError, match="a demand is needed"):
        await lift(bureau, alice, alice.says("lock", lock("agent", "a")))


# Operators


async def test_roles_are_those_of_the_roster_under_its_key(bureau: Bureau) -> None:
    """A certificate of the same name and another key has none."""
    alice = await bureau.enlist("alice", "responder", "admin")
    assert bureau.office.roles_of(bureau.identity(alice)) == {"responder", "admin"}
    assert bureau.office.roles_of(bureau.identity(bureau.mint.operator("alice"))) == frozenset()
    assert bureau.office.roles_of(bureau.identity(bureau.mint.operator("nobody"))) == frozenset()


@pytest.mark.parametrize("by", ["name", "serial"])
async def test_a_revoked_operator_is_refused_everywhere(bureau: Bureau, by: str) -> None:
    """At every endpoint of the CA, and in gossip."""
    alice, bob = await bureau.enlist("alice", "responder"), await bureau.enlist("bob", "responder")
    identity = bureau.identity(alice)
    target = ("operator", "alice") if by == "name" else ("serial", identity.serial)
    assert await bureau.hears(bob.says("revocation", revocation(*target))) == []
    assert bureau.office.roles_of(identity) == frozenset()
    for method, path, body in (
        ("POST", "/v1/policy", {"text": POLICY}),
        ("POST", "/v1/lifts", {"demand": alice.says("demand", unlock(["a" * 26])).raw}),
        ("GET", "/v1/status", None),
    ):
        with pytest.raises(RefusedError, match="revoked"):
            await ask(bureau, identity, method, path, body)
    [refusal] = await bureau.hears(alice.says("lock", lock("all")))
    assert "revoked" in refusal


async def test_a_serial_from_the_middle_of_a_line_revokes_the_line(bureau: Bureau) -> None:
    """Nodes know the first and the newest serial of a certificate's line; the register knows all in between."""
    bob = await bureau.enlist("bob", "responder")
    now = bureau.clock.wall()
    chain = bureau.issuer.admit(bureau.mint.ca.node(), new_key().public_key(), now, "t")
    serials = []
    for _ in range(2):
        holder = verify(chain, bureau.mint.ca.bundle, now)
        assert isinstance(holder, Identity)
        serials.append(holder.serial)
        chain = bureau.issuer.renew(holder, new_key().public_key(), now)
    assert await bureau.hears(bob.says("revocation", revocation("serial", serials[1]))) == []
    restrictions = bureau.office.member.snapshot.restrictions
    assert restrictions.revokes("serial", serials[1])
    assert restrictions.revokes("serial", serials[0])


async def ask(bureau: Bureau, peer: Identity, method: str, path: str, body: object) -> None:
    """The CA's API as ``peer``; raises its refusal."""
    app = application(bureau.issuer, hooks_of(CONFIG, bureau.office, bureau.clock))
    ours, theirs = trio.testing.memory_stream_pair()
    refusal: list[RefusedError] = []
    async with trio.open_nursery() as nursery, HttpClient(ours, name="ca") as client:
        extra = {"lockgate.peer": peer, "lockgate.exporter": None}
        nursery.start_soon(lambda: serve_connection(theirs, app, extra=extra))
        try:
            await client.request(method, path, json=body)
        except RefusedError as error:
            refusal.append(error)
    if refusal:
        raise refusal[0]


# Publishing


async def test_what_cannot_be_made_durable_is_not_published(
    bureau: Bureau, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked hears that it failed."""

    def fail(*_: object) -> None:
        raise LocalError("disk full")

    monkeypatch.setattr(Journal, "append", fail)
    with capture_logs(), pytest.raises(LocalError, match="not published"):
        await bureau.enlist("alice", "responder")


async def test_what_the_store_refuses_is_an_error(bureau: Bureau) -> None:
    """A statement of another epoch, say, would be gone without a word."""
    stale = bureau.mint.signed("unlock", Lift(ids=["a" * 26]), statement.Terms(7, NOW, NOW + HOUR, 1))
    with pytest.raises(LocalError, match="another epoch"):
        await bureau.office.publish(stale)
