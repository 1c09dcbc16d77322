import hashlib
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import msgspec
import pytest
import trio

from pki.clock import DAY, HOUR, MINUTE, SECOND
from pki.errors import LocalError, RemoteError
from pki.judge import Word
from pki.statement import Applied, Bundle, Finding, Receipt, Statement, Target, Terms, sign
from pki.svid import LeafPlan, statement_key
from sidecar.defaults import OPERATOR_LIVE_STATEMENTS, RETENTION
from sidecar.gossip.editions import NO_POLICY
from sidecar.gossip.member import Member
from sidecar.gossip.store import Store
from sidecar.packed import pack
from sidecar.wire import Accepted, Fetch, Object, Statements, Summary
from tests.authority import NOW, SESSION, new_key, new_serial
from tests.sidecar.gossip.member_world import BOOT_ID, FakeOutlet, Home, connect, deliver
from tests.sidecar.policy.world import POLICY
from tests.statements import Mint, ca_word, lock, revocation

MINT = Mint()
ALICE, BOB, NODE = MINT.operator("alice"), MINT.operator("bob"), MINT.node("tools-1")
ROSTER = (MINT.enlists(ALICE), MINT.enlists(BOB), MINT.enrols("tools-1"))
TEXT = POLICY.encode()
DIGEST = hashlib.sha256(TEXT).hexdigest()
PACKED = pack(TEXT)

New = Callable[[str], Home]


@pytest.fixture
def new(tmp_path: Path) -> New:
    """Makes a member by name, in a folder of its own."""

    def make(name: str) -> Home:
        folder = tmp_path / name
        folder.mkdir()
        return Home(folder, MINT, FakeOutlet(name))

    return make


@pytest.fixture
async def home(new: New) -> Home:
    """A member that has a roster."""
    home = new("own")
    assert await home.take(*ROSTER) == []
    home.outlet.log.clear()
    return home


def policy(sequence: int, text: bytes = TEXT) -> Statement:
    return MINT.policy(sequence, hashlib.sha256(text).hexdigest(), len(text))


def holding(*statements: Statement) -> str:
    """The digest of a set that the CA numbered."""
    store = Store()
    for statement in statements:
        store.merge(ca_word(statement), None, NOW)
        store.settle([statement.id])
    return store.numbered_digest(NOW)


# -- restrictions and permissions


async def test_a_lock_acts_is_durable_and_then_acknowledged(home: Home) -> None:
    """In that order, with the streams it cut counted."""
    stop = ALICE.says("lock", lock())
    home.outlet.cuts = {stop.id: 3, "read-wiki": 1}
    assert await home.take(stop) == []
    assert home.locks() == [stop.id]
    assert home.outlet.log == ["applied", "acknowledged"]
    assert home.outlet.receipts == [(stop.id, 3)]
    assert home.outlet.announced[-1] == (stop.id, str(ALICE.id))
    assert stop.id in (await home.restart()).member.store


async def test_a_restriction_acts_although_it_cannot_be_made_durable(home: Home) -> None:
    """From memory, at once; without a receipt, and with the node unready."""
    home.journal.broken = "disk full"
    stop = ALICE.says("lock", lock())
    assert await home.take(stop) == []
    assert home.locks() == [stop.id]
    assert home.member.unready == "disk full"
    assert home.outlet.receipts == []
    assert stop.id not in {name for name, _ in home.outlet.announced}


async def test_a_restriction_is_written_as_soon_as_the_disk_takes_it(home: Home) -> None:
    """Then its receipt is due, with what it cut when it acted."""
    home.journal.broken = "disk full"
    stop = ALICE.says("lock", lock())
    home.outlet.cuts = {stop.id: 2}
    await home.take(stop)
    await home.member.tick(b"")
    assert home.outlet.receipts == []
    home.journal.broken = ""
    await home.member.tick(b"")
    assert home.member.unready == ""
    assert home.outlet.receipts == [(stop.id, 2)]
    assert (stop.id, str(ALICE.id)) in home.outlet.announced
    assert (await home.restart()).locks() == [stop.id]


async def test_a_permission_is_not_applied_when_it_cannot_be_made_durable(home: Home) -> None:
    """Neither a lift nor a roster entry; both are forgotten, refused to whoever hands them in, and come again."""
    stop = ALICE.says("lock", lock())
    await home.take(stop)
    before = home.member.snapshot
    home.journal.broken = "disk full"
    permissions = (MINT.lifts("unlock", stop.id), MINT.enrols("tools-2"), policy(1))
    refusals = await home.take(*permissions)
    assert refusals == [f"{one.id}: not durable here: disk full" for one in permissions]
    assert home.member.snapshot == before
    assert not any(one.id in home.member.store for one in permissions)
    home.journal.broken = ""
    assert await home.take(*permissions) == []
    assert home.locks() == []
    assert "tools-2" in home.member.snapshot.roster.nodes


async def test_a_roster_entry_that_cannot_be_written_leaves_the_one_before(home: Home) -> None:
    """The operator keeps the roles that are durable."""
    home.journal.broken = "disk full"
    await home.take(MINT.enlists(ALICE, ("auditor",), sequence=2))
    entry = home.member.operator("alice")
    assert entry is not None
    assert entry.roles == ["responder"]
    assert home.member.operator("nobody") is None


async def test_unlock_lifts_a_lock_once_it_is_durable(home: Home) -> None:
    """And is acknowledged itself."""
    stop = ALICE.says("lock", lock())
    lift = MINT.lifts("unlock", stop.id)
    await home.take(stop)
    await home.take(lift)
    assert home.locks() == []
    assert home.outlet.receipts == [(stop.id, 0), (lift.id, 0)]


async def test_a_lock_ends_by_itself_and_leaves_the_snapshot(home: Home) -> None:
    """When the floor has passed its end; the wall clock alone ends nothing."""
    await beat(home)
    stop = ALICE.says("lock", lock(), ttl=MINUTE)
    await home.take(stop)
    home.clock.wall_time += HOUR
    await home.member.tick(b"")
    assert home.locks() == [stop.id]
    home.clock.wall_time -= HOUR
    home.clock.pass_time(MINUTE)
    await home.member.tick(b"")
    assert home.locks() == []
    assert stop.id in home.member.store


async def test_what_ended_long_ago_is_deleted_from_disk_too(home: Home) -> None:
    """And does not come back, neither from disk nor from a peer."""
    await beat(home)
    stop = ALICE.says("lock", lock(), ttl=MINUTE)
    await home.take(stop)
    home.clock.pass_time(MINUTE + RETENTION)
    home.journal.broken = "disk full"
    await home.member.tick(b"")
    assert stop.id not in home.member.store
    assert stop.id in {entry.statement.id for entry in home.journal.entries()}
    home.journal.broken = ""
    await home.member.tick(b"")
    assert stop.id not in {entry.statement.id for entry in home.journal.entries()}
    assert await home.take(stop, source="peer") == [f"{stop.id}: statement lock: expired"]


async def test_a_superseded_statement_leaves_the_disk(home: Home) -> None:
    """Only the newest roster entry of a name is kept."""
    newer = MINT.enrols("tools-1", sequence=2)
    await home.take(newer)
    await home.member.tick(b"")
    kept = {entry.statement.id for entry in home.journal.entries()}
    assert newer.id in kept
    assert ROSTER[2].id not in kept


# -- who may say what


async def test_an_operators_lock_under_another_key_than_the_rosters_is_refused(home: Home) -> None:
    """Whoever stole an issuing key can mint an alice, and not alice's key. Nothing of it is passed on."""
    await home.member.link_changed("peer", True)
    home.outlet.sent.clear()
    stop = MINT.operator("alice").says("lock", lock())
    [refusal] = await home.take(stop, source="rogue")
    assert refusal.startswith(f"{stop.id}: ")
    assert home.locks() == []
    assert home.member.declined == 1
    assert not home.outlet.sent
    assert home.outlet.receipts == []


async def test_a_revoked_operator_is_heard_no_more_and_what_it_said_stays(home: Home) -> None:
    """Until it is lifted."""
    stop = ALICE.says("lock", lock())
    await home.take(stop)
    await home.take(BOB.says("revocation", revocation("operator", "alice")))
    [refusal] = await home.take(ALICE.says("lock", lock("agent", "researcher")))
    assert refusal.endswith("is revoked")
    assert home.locks() == [stop.id]


async def test_a_signer_over_its_quota_is_refused_and_nothing_in_force_moves(home: Home) -> None:
    """Two hundred live statements, and not one more."""
    locks = [ALICE.says("lock", lock("agent", f"a{n}")) for n in range(OPERATOR_LIVE_STATEMENTS)]
    await home.take(*locks)
    [refusal] = await home.take(ALICE.says("lock", lock()), source="peer")
    assert "the most there may be" in refusal
    assert len(home.locks()) == OPERATOR_LIVE_STATEMENTS


async def test_a_batch_may_hold_what_makes_its_own_signers_known(new: New) -> None:
    """A joiner gets bundle, roster and an operator's lock in one message, in any order."""
    home = new("joiner")
    body = MINT.ca.bundle_statement.body
    assert isinstance(body, Bundle)
    key = new_key()
    name = MINT.ca.node().for_ca(MINT.ca.trust_domain, "ca-1")
    leaf = statement_key(LeafPlan(name, key.public_key(), new_serial(), MINT.ca.at, DAY), MINT.ca.root)
    newer = msgspec.structs.replace(body, sequence=2, statement_keys=[*body.statement_keys, leaf])
    root = MINT.ca.root
    bundle = sign("bundle", newer, Terms(1, NOW, NOW + HOUR), root.key, (root.certificate,))
    enrolled = sign("member", MINT.enrols("late").body, Terms(1, NOW, NOW + HOUR, 900), key, (leaf,))  # type: ignore[arg-type]  # a Member
    stop = ALICE.says("lock", lock())
    assert await home.take(stop, enrolled, *ROSTER, bundle) == []
    assert home.locks() == [stop.id]
    assert "late" in home.member.snapshot.roster.nodes
    assert home.member.bundle.sequence == 2
    assert home.member.snapshot.bundle_digest == home.member.bundle.digest
    assert (await home.restart()).member.bundle == home.member.bundle


async def test_an_older_bundle_never_replaces_the_one_in_force(new: New) -> None:
    """Not even where the store holds none yet, or holds an older one than the daemon started with."""
    home = new("own")
    await home.take(MINT.ca.bundle_statement)
    newer = replace(MINT.ca.bundle, sequence=5, digest="5" * 64)
    later = Member(home.journal, home.objects, newer, home.clock, home.outlet)
    await later.restore(BOOT_ID)
    assert later.bundle == newer


async def test_what_does_not_even_parse_ends_the_link(home: Home) -> None:
    """And takes nothing of its batch in."""
    stop = ALICE.says("lock", lock())
    with pytest.raises(RemoteError):
        await home.member.message("peer", Statements(envelopes=[stop.raw, b"junk"]))
    assert stop.id not in home.member.store


async def test_what_is_no_control_message_ends_the_link(home: Home) -> None:
    """A peer that mixes up its roles."""
    with pytest.raises(RemoteError, match="Accepted does not belong on a control link"):
        await home.member.message("peer", Accepted(ordinal=1))


async def test_a_statement_taken_again_changes_nothing(home: Home) -> None:
    """No second receipt, no second snapshot."""
    stop = ALICE.says("lock", lock())
    await home.take(stop)
    receipts, applied = list(home.outlet.receipts), len(home.outlet.applied)
    assert await home.take(stop, source="peer") == []
    assert home.outlet.receipts == receipts
    assert len(home.outlet.applied) == applied


async def test_a_superseded_statement_is_remembered_and_not_asked_for_again(home: Home) -> None:
    """A peer that is behind lists it each second until it catches up."""
    await home.member.link_changed("peer", True)
    await home.take(MINT.enrols("tools-1", sequence=3))
    old = MINT.enrols("tools-1", sequence=2)
    assert await home.take(old, source="peer") == []
    home.outlet.sent.clear()
    await home.member.tick(b"")
    listed = {message.digest for _, _, message in home.outlet.sent if isinstance(message, Summary)}
    assert listed != {home.member.store.ids_digest()}


# -- receipts


async def test_an_adopted_restriction_is_acknowledged_once_under_its_own_id(home: Home) -> None:
    """Whether the adoption came first or the original."""
    first, second = ALICE.says("lock", lock()), ALICE.says("lock", lock("agent", "clerk"))
    await home.take(first)
    await home.take(MINT.adopts(first))
    await home.take(MINT.adopts(second))
    await home.take(second)
    assert [name for name, _ in home.outlet.receipts] == [first.id, second.id]


async def test_the_end_of_a_session_gets_no_receipt(home: Home) -> None:
    """Nobody waits for it, and receipts are rationed: whoever ends sessions all day must not use them up."""
    end = NODE.says("revocation", revocation("id", str(MINT.ca.agent("researcher", "tools-1", SESSION))))
    home.outlet.cuts = {end.id: 2}
    assert await home.take(end) == []
    assert home.outlet.log == ["applied"]
    assert home.outlet.receipts == []


async def test_what_needs_no_receipt_gets_none(home: Home) -> None:
    """Roster, receipts, heartbeats, and kinds of a newer version."""
    receipt = NODE.says("receipt", Receipt(applied=[Applied(id="a" * 26, since=NOW, cut=0)]))
    await home.take(MINT.enrols("x"), receipt, MINT.beats("0" * 64), MINT.says("a-newer-kind", lock()))
    assert home.outlet.receipts == []


async def test_whoever_hears_of_a_statement_may_answer_with_one(home: Home) -> None:
    """The CA adopts from within the announcement: the member is free by then."""

    async def adopt(statement: Statement, word: Word) -> None:
        if statement.kind == "lock":
            assert await home.take(MINT.adopts(statement)) == []

    home.outlet.merged = adopt  # type: ignore[method-assign]  # the fake of this test
    stop = ALICE.says("lock", lock())
    with trio.fail_after(5):
        await home.take(stop)
    entry = home.member.store.entry(stop.id)
    assert entry is not None
    assert len(entry.adoptions) == 1


async def test_a_batch_is_taken_in_whole_although_its_link_dies(home: Home) -> None:
    """Merged in memory and lost on the way to disk, it would be held and never in force or passed on."""
    home.outlet.gate = trio.Event()
    stop, lift = ALICE.says("lock", lock()), MINT.lifts("unlock", "a" * 26)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.take, stop, lift)
        while not home.outlet.applied[len(ROSTER) :] and not home.locks():
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        home.outlet.gate.set()
    assert home.outlet.receipts == [(lift.id, 0), (stop.id, 0)]
    assert {stop.id, lift.id} <= {entry.statement.id for entry in home.journal.entries()}


# -- time and freshness


async def beat(home: Home, digest: str | None = None, **in_force: object) -> Statement:
    """A heartbeat of now, by default one at which this member is complete."""
    promised = {
        "policy_sequence": home.member.loaded.sequence,
        "policy_digest": home.member.loaded.digest,
        **in_force,
    }
    held = home.member.store.numbered_digest(home.clock.wall_time)
    statement = MINT.beats(digest or held, home.clock.wall_time, **promised)  # type: ignore[arg-type]  # see there
    assert await home.take(statement) == []
    return statement


async def test_a_complete_member_is_fresh(home: Home) -> None:
    """As of the heartbeat at which it held everything."""
    await beat(home)
    assert home.member.moment().as_of == NOW
    assert home.member.floor == NOW


async def test_a_withheld_statement_keeps_a_member_from_being_fresh(home: Home) -> None:
    """Until it comes; then the heartbeat that counted it is enough."""
    withheld = MINT.says("revocation", revocation("node", "rogue"))
    await beat(home, holding(*ROSTER, withheld))
    assert home.member.moment().as_of is None
    await home.take(withheld)
    assert home.member.moment().as_of == NOW


async def test_a_member_is_not_fresh_while_something_is_not_durable(home: Home) -> None:
    """A crash would lose it, and the freshness with it would be a lie."""
    home.journal.broken = "disk full"
    await home.take(MINT.says("revocation", revocation("node", "rogue")))
    await beat(home)
    assert home.member.moment().as_of is None
    home.journal.broken = ""
    await home.member.tick(b"")
    home.clock.pass_time(SECOND)
    await beat(home)
    assert home.member.moment().as_of == NOW + SECOND


async def test_what_the_ca_said_after_its_heartbeat_does_not_count_against_it(home: Home) -> None:
    """A newer statement may overtake the heartbeat on its way."""
    digest, number = home.member.store.numbered_digest(NOW), home.member.store.last_number()
    await home.take(MINT.says("lock", lock()))
    await home.take(MINT.beats(digest, number=number))
    assert home.member.moment().as_of == NOW


async def test_a_heartbeat_far_ahead_of_the_wall_clock_changes_nothing(home: Home) -> None:
    """Whoever is wrong, the floor is not pushed; the node goes stale instead."""
    await beat(home)
    home.clock.wall_time -= 2 * MINUTE
    await home.take(MINT.beats(home.member.store.numbered_digest(NOW), NOW + SECOND))
    assert home.member.floor == NOW
    assert home.member.moment().as_of is None


async def test_a_heartbeat_is_passed_on_once(home: Home) -> None:
    """And not to where it came from."""
    for peer in "ab":
        await home.member.link_changed(peer, True)
    home.outlet.sent.clear()
    statement = MINT.beats("0" * 64)
    for _ in range(2):
        await home.take(statement, source="a")
    assert list(home.outlet.sent) == [("own", "b", Statements(envelopes=[statement.raw]))]
    await home.take(MINT.beats("1" * 64, NOW - SECOND), source="a")
    assert len(home.outlet.sent) == 1


async def test_a_heartbeat_signed_by_anyone_else_is_refused(home: Home) -> None:
    """An operator's is not even a bad one."""
    body = MINT.beats("0" * 64).body
    assert body is not None
    [refusal] = await home.take(ALICE.says("heartbeat", body), source="peer")
    assert "may not sign it" in refusal
    assert home.member.floor == 0


# -- restart


async def test_a_restart_equals_continuing(home: Home) -> None:
    """Same snapshot, same ids, same time, same freshness. Only the policy, compiled anew, is acknowledged again."""
    home.objects.put(TEXT)
    stop, gone = ALICE.says("lock", lock()), MINT.says("lock", lock("agent", "clerk"))
    end = NODE.says("revocation", revocation("id", str(MINT.ca.agent(node="tools-1"))))
    named = policy(3)
    await home.take(stop, gone, end, named)
    await home.take(MINT.adopts(stop, 2 * HOUR), MINT.lifts("unlock", gone.id))
    await beat(home)
    home.clock.pass_time(SECOND)
    await beat(home, "0" * 64)
    await home.member.keep_time(BOOT_ID)
    home.clock.pass_time(5 * SECOND)
    again = await home.restart()
    assert again.member.snapshot.digest == home.member.snapshot.digest
    assert again.member.moment() == home.member.moment()
    assert again.member.moment().as_of == NOW
    assert sorted(again.member.store.ids()) == sorted(home.member.store.ids())
    assert again.member.loaded.sequence == home.member.loaded.sequence == 3
    assert again.outlet.receipts == [(named.id, 0)]
    assert again.outlet.announced == []


async def test_after_a_reboot_the_kept_heartbeat_is_as_old_as_the_boot(home: Home) -> None:
    """Its boot time is another boot's."""
    await beat(home)
    await home.member.keep_time(BOOT_ID)
    home.clock.wall_time += 30 * SECOND
    home.clock.boot_time = 20 * SECOND
    again = await home.restart("another boot")
    assert again.member.floor == NOW + 20 * SECOND
    assert again.member.moment().as_of == NOW
    await again.member.keep_time("another boot")
    assert again.journal.heartbeats()[0] == home_beat(home)


def home_beat(home: Home) -> object:
    newest, _ = Home(home.folder, home.mint).journal.heartbeats()
    return newest


async def test_time_is_written_when_there_is_something_new(home: Home) -> None:
    """Once a second is asked, and a disk is not worn for nothing."""
    await home.member.keep_time(BOOT_ID)
    assert home.journal.heartbeats() == (None, None)
    await beat(home)
    await home.member.keep_time(BOOT_ID)
    kept = home.journal.heartbeats()
    assert kept[0] == kept[1] is not None
    home.journal.close()
    await home.member.keep_time(BOOT_ID)
    assert home.member.unready == ""


async def test_a_new_link_gets_the_heartbeat_that_was_kept(home: Home) -> None:
    """A node that restarts while the CA is away still tells its peers the newest there is."""
    statement = await beat(home)
    await home.member.keep_time(BOOT_ID)
    again = await home.restart()
    await again.member.link_changed("peer", True)
    assert again.outlet.sent[0] == ("own", "peer", Statements(envelopes=[statement.raw]))


async def test_damaged_state_refuses_to_start(home: Home) -> None:
    """A policy text that somebody edited, where it was good before."""
    home.objects.put(TEXT)
    await home.take(policy(1))
    (home.folder / "objects" / DIGEST).write_bytes(b"[services.evil]\n")
    with pytest.raises(LocalError, match="delete it"):
        await home.restart()


# -- policies


async def test_a_policy_is_in_force_and_acknowledged_once_its_text_is_here(home: Home) -> None:
    """The statement alone is not the policy."""
    named = policy(1)
    await home.take(named)
    assert home.member.loaded.digest == NO_POLICY
    assert home.outlet.receipts == []
    home.objects.put(TEXT)
    await home.member.link_changed("peer", True)
    part = Object(digest=DIGEST, offset=0, total=len(PACKED), data=PACKED)
    await home.member.message("peer", part)
    assert (home.member.loaded.sequence, home.member.loaded.digest) == (1, DIGEST)
    assert home.member.snapshot.policy is not None
    assert home.outlet.receipts == [(named.id, 0)]


async def test_a_policy_that_is_held_is_in_force_at_once(home: Home) -> None:
    """As at the CA that published it."""
    home.objects.put(TEXT)
    await home.take(policy(1))
    assert home.member.loaded.sequence == 1


async def test_a_bad_policy_keeps_the_old_and_says_why(home: Home) -> None:
    """It is not tried again; a newer one is, and the fault is gone with it."""
    for text in (TEXT, b"nonsense = 1\n", TEXT + b"\n"):
        home.objects.put(text)
    await home.take(policy(1))
    receipts = list(home.outlet.receipts)
    await home.take(policy(2, b"nonsense = 1\n"))
    assert (home.member.loaded.sequence, home.member.loaded.digest) == (1, DIGEST)
    assert "policy 2: " in home.member.loaded.fault
    assert "nonsense" in home.member.loaded.fault
    assert home.outlet.receipts == receipts
    await home.member.tick(b"")
    await home.take(policy(3, TEXT + b"\n"))
    assert home.member.loaded.sequence == 3
    assert home.member.loaded.fault == ""


async def test_the_same_text_under_a_new_sequence_is_in_force(home: Home) -> None:
    """Applied again, it is named by the heartbeats with its new sequence."""
    home.objects.put(TEXT)
    await home.take(policy(1))
    snapshot = home.member.snapshot
    await home.take(policy(2))
    assert home.member.loaded.sequence == 2
    assert home.member.snapshot == snapshot
    assert len(home.outlet.receipts) == 2


async def test_a_policy_too_large_to_keep_is_refused(home: Home) -> None:
    """Whatever the statement promises."""
    await home.take(MINT.policy(1, "1" * 64, 2**40))
    assert "at most" in home.member.loaded.fault


async def test_a_policy_text_is_fetched_from_a_peer_in_parts(new: New) -> None:
    """The CA's text reaches a node over the control link, whole and proven by its digest."""
    ca, node = new("ca"), new("node")
    noise = (hashlib.sha256(b"%d" % number).hexdigest() for number in range(8_000))
    text = TEXT + "".join(f"# {line}\n" for line in noise).encode()
    ca.objects.put(text)
    await connect(ca, node)
    await ca.take(*ROSTER, policy(1, text))
    await deliver(ca, node)
    assert node.objects.read(hashlib.sha256(text).hexdigest()) == text
    assert node.member.snapshot.digest == ca.member.snapshot.digest
    assert node.member.snapshot.policy is not None


async def test_a_lying_peers_part_is_refused_and_another_is_asked(new: New) -> None:
    """The liar's link ends; the text comes from an honest peer."""
    node, honest = new("node"), new("honest")
    honest.objects.put(TEXT)
    await node.member.link_changed("a-liar", True)
    await node.take(policy(1))
    assert ("node", "a-liar", Fetch(digest=DIGEST, offset=0)) in node.outlet.sent
    made_up = pack(b"x" * len(TEXT))
    lie = Object(digest=DIGEST, offset=0, total=len(made_up), data=made_up)
    with pytest.raises(RemoteError, match="not what its digest says"):
        await node.member.message("a-liar", lie)
    assert node.member.snapshot.policy is None
    await node.member.link_changed("a-liar", False)
    node.outlet.sent.clear()
    await connect(node, honest)
    await deliver(node, honest)
    assert node.member.loaded.digest == DIGEST


async def test_a_text_that_cannot_be_kept_is_fetched_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no reason to run without the policy for ever."""
    await home.member.link_changed("peer", True)
    await home.take(policy(1))
    whole = Object(digest=DIGEST, offset=0, total=len(PACKED), data=PACKED)

    def full(data: bytes) -> str:
        raise LocalError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(home.objects, "put", full)
        await home.member.message("peer", whole)
    assert home.member.snapshot.policy is None
    await home.member.tick(b"")
    await home.member.tick(b"")
    await home.member.message("peer", whole)
    assert home.member.loaded.digest == DIGEST


async def test_a_text_is_served_to_whoever_asks(home: Home) -> None:
    """And where it is not held, or damaged, that is the answer."""
    home.objects.put(TEXT)
    await home.member.message("peer", Fetch(digest=DIGEST, offset=10))
    assert home.outlet.sent.pop() == (
        "own",
        "peer",
        Object(digest=DIGEST, offset=10, total=len(PACKED), data=PACKED[10:]),
    )
    (home.folder / "objects" / DIGEST).write_bytes(b"changed")
    for digest in (DIGEST, "0" * 64):
        await home.member.message("peer", Fetch(digest=digest, offset=0))
        assert home.outlet.sent.pop()[2] == Object(digest=digest, offset=0, total=0, data=b"")


async def test_a_kill_switch_never_waits_behind_a_policy(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large policy takes seconds to compile; a lock that comes meanwhile acts at once."""
    compiling, done = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(text: bytes, name: str, limit: int) -> object:
        trio.from_thread.run_sync(compiling.set, trio_token=token)
        trio.from_thread.run(done.wait, trio_token=token)
        raise LocalError("never mind")

    monkeypatch.setattr("sidecar.gossip.policies.load_aside", slow)
    home.objects.put(TEXT)
    stop = ALICE.says("lock", lock())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(home.take, policy(1))
        await compiling.wait()
        nursery.start_soon(home.take, stop)
        while not home.outlet.receipts:
            await trio.lowlevel.checkpoint()
        assert home.locks() == [stop.id]
        done.set()


async def test_a_policy_that_was_overtaken_while_it_compiled_is_not_put_in_force(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest is, alone."""
    newest = policy(2, TEXT + b"\n")
    for text in (TEXT, TEXT + b"\n"):
        home.objects.put(text)
    prepare = home.member._policies.prepare

    async def overtaken(named, current, peers):  # type: ignore[no-untyped-def]  # as prepare
        if named.sequence == 1:
            home.member.store.merge(ca_word(newest), None, NOW)
            home.member.store.settle([newest.id])
        return await prepare(named, current, peers)

    monkeypatch.setattr(home.member._policies, "prepare", overtaken)
    await home.take(policy(1))
    assert home.member.loaded.sequence == 2
    assert [name for name, _ in home.outlet.receipts] == [newest.id]


# -- several members


async def test_a_lock_at_one_node_is_in_force_at_all(new: New) -> None:
    """Said by an operator with the CA away: flooded, in force and acknowledged everywhere without a tick."""
    homes = [new(f"node-{n}") for n in range(5)]
    for home in homes:
        await home.take(*ROSTER)
    for one, other in combinations(homes, 2):
        await connect(one, other)
    await deliver(*homes)
    stop = ALICE.says("lock", lock())
    await homes[2].take(stop)
    await deliver(*homes)
    assert [home.locks() for home in homes] == [[stop.id]] * 5
    assert [home.outlet.receipts for home in homes] == [[(stop.id, 0)]] * 5


async def test_a_joiner_gets_all_there_is(new: New) -> None:
    """Statements, heartbeat and policy, from one link, and is complete."""
    ca, joiner = new("ca"), new("joiner")
    ca.objects.put(TEXT)
    locks = [ALICE.says("lock", lock("agent", f"a{n}")) for n in range(100)]
    await ca.take(*ROSTER, policy(1), *locks)
    await beat(ca)
    await connect(ca, joiner)
    await deliver(ca, joiner)
    assert joiner.member.snapshot.digest == ca.member.snapshot.digest
    assert joiner.member.moment().as_of == NOW


async def test_two_members_that_refuse_each_others_statements_come_to_rest(new: New) -> None:
    """Each is full of other words of one signer: their digests agree all the same, and nothing is sent for ever."""
    homes = [new("one"), new("other")]
    for home in homes:
        names = (f"{home.outlet.name}-{n}" for n in range(OPERATOR_LIVE_STATEMENTS))
        await home.take(*ROSTER, *(ALICE.says("lock", lock("agent", name)) for name in names))
    await connect(*homes)
    await deliver(*homes)
    for second in range(4):
        for home in homes:
            await home.member.tick(bytes([second]))
        await deliver(*homes)
    for home in homes:
        await home.member.tick(b"at rest")
    await homes[0].member.message("other", homes[1].outlet.sent.popleft()[2])
    assert [type(message) for home in homes for _, _, message in home.outlet.sent] == [Summary]
    assert {home.member.declined for home in homes} == {OPERATOR_LIVE_STATEMENTS}


async def test_a_node_acts_on_its_own_finding_and_on_nobody_elses(home: Home) -> None:
    """At once, over a restart, until it is unlocked; another's is kept and passed on, and stops nothing here."""
    home.member.node = NODE.id.name
    target = Target(kind="agent", value="researcher")
    own, other = (
        who.says("finding", Finding(rule="r", what="refusals", target=target, enforced=True, count=3))
        for who in (NODE, MINT.node("elsewhere"))
    )
    await home.take(own, other)
    assert home.locks() == [own.id]
    assert other.id in home.member.store
    home.journal.close()
    again = Home(home.folder, home.mint, FakeOutlet(home.outlet.name), home.clock)
    again.member.node = NODE.id.name
    await again.member.restore(BOOT_ID)
    assert again.locks() == [own.id]
    await again.take(MINT.lifts("unlock", own.id))
    assert again.locks() == []


async def test_a_finding_that_only_observes_stops_nothing(home: Home) -> None:
    """It is there to be looked at."""
    home.member.node = NODE.id.name
    target = Target(kind="agent", value="researcher")
    said = Finding(rule="r", what="refusals", target=target, enforced=False, count=3)
    await home.take(NODE.says("finding", said))
    assert home.locks() == []
