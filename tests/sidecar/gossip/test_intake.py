from dataclasses import replace

import msgspec
import pytest

from pki.bundle import TrustBundle, open_successor
from pki.clock import HOUR, MINUTE, SECOND, Wall
from pki.errors import RemoteError
from pki.spki import spki_sha256
from pki.statement import Bundle, Demand, Operator, Signer, Statement, Terms, sign
from pki.verify import Identity, verify
from sidecar.defaults import OPERATOR_LOCK_MAX_TTL, RETENTION, SKEW
from sidecar.gossip.intake import Ground, admit, original_of
from sidecar.snapshot import LockInForce, Moment, Restrictions, RevocationInForce, Target
from tests.asking import approves, asks
from tests.authority import NOW, SESSION
from tests.statements import Mint, Signatory, lock, revocation

MINT = Mint()
ALICE, NODE, ROGUE = MINT.operator("alice"), MINT.node("tools-1"), MINT.node("rogue")
KEY = spki_sha256(ALICE.key.public_key()).hex()
ROSTER = {"alice": Operator(sequence=1, name="alice", key=KEY, roles=["responder"])}


def operator(name: str) -> Operator | None:
    return ROSTER.get(name)


def ground(
    *revoked: Target, wall: int = NOW, floor: int = NOW, bundle: TrustBundle = MINT.ca.bundle
) -> Ground:
    restrictions = Restrictions((), [RevocationInForce(str(n), one, "ca") for n, one in enumerate(revoked)])
    return Ground(bundle, operator, restrictions, Moment(Wall(wall), Wall(floor), None))


def is_admitted(statement: Statement, at: Ground) -> bool:
    """True; a refusal raises."""
    return admit(statement, at).statement is statement


def test_a_statement_of_who_may_sign_it_is_admitted() -> None:
    """With the capacity in which its signer speaks."""
    assert admit(ALICE.says("lock", lock()), ground()).signers == {Signer.RESPONDER}
    assert admit(MINT.policy(1), ground()).signers == {Signer.CA}
    end = NODE.says("revocation", revocation("id", str(MINT.ca.agent(node="tools-1"))))
    assert admit(end, ground()).signers == {Signer.NODE}


def test_an_operators_lock_under_another_key_than_the_rosters_is_refused() -> None:
    """Whoever stole an issuing key can mint an alice, and not alice's key."""
    imposter = MINT.operator("alice")
    with pytest.raises(RemoteError, match="may not sign it"):
        admit(imposter.says("lock", lock()), ground())


def test_a_statement_from_the_future_is_refused() -> None:
    """Beyond the skew, nobody can park what acts later; the later of wall and floor is now."""
    early = ALICE.says("lock", lock(), issued=NOW + SKEW + 1)
    with pytest.raises(RemoteError, match="issued in the future"):
        admit(early, ground())
    assert is_admitted(early, ground(wall=NOW - HOUR, floor=NOW + SECOND))
    assert is_admitted(ALICE.says("lock", lock(), issued=NOW + SKEW), ground())


def test_what_one_member_deleted_no_other_brings_back() -> None:
    """Refused from the very instant at which the store deletes."""
    short = MINT.says("lock", lock(), ttl=MINUTE)
    gone = NOW + MINUTE + RETENTION
    assert is_admitted(short, ground(floor=gone - 1))
    with pytest.raises(RemoteError, match="expired"):
        admit(short, ground(floor=gone))


def test_only_the_floor_says_that_a_restriction_expired() -> None:
    """A wall clock set ahead must not keep a lock out."""
    assert is_admitted(MINT.says("lock", lock(), ttl=MINUTE), ground(wall=NOW + 24 * HOUR))


def test_an_operators_lock_is_refused_beyond_four_hours() -> None:
    """A stolen operator's key stops the mesh for so long at most; the CA may for longer."""
    assert is_admitted(ALICE.says("lock", lock(), ttl=OPERATOR_LOCK_MAX_TTL), ground())
    with pytest.raises(RemoteError, match="at most 4 h"):
        admit(ALICE.says("lock", lock(), ttl=OPERATOR_LOCK_MAX_TTL + 1), ground())
    assert is_admitted(MINT.says("lock", lock(), ttl=10 * HOUR), ground())


def test_a_demand_travels_inside_its_unlock_only() -> None:
    """On its own, anyone who saw it could send it again and fill its signer's quota."""
    demand = ALICE.says("demand", Demand(action="unlock", ids=["a" * 26]))
    with pytest.raises(RemoteError, match="inside an unlock"):
        admit(demand, ground())


def serial(who: Signatory) -> str:
    identity = verify(who.chain, MINT.ca.bundle, NOW)
    assert isinstance(identity, Identity)
    return identity.lineage


@pytest.mark.parametrize("target", [Target("operator", "alice"), Target("serial", serial(ALICE))])
def test_a_revoked_operator_says_nothing_new(target: Target) -> None:
    """Whether its name or its certificate's lineage was revoked."""
    with pytest.raises(RemoteError, match="operator/alice is revoked"):
        admit(ALICE.says("lock", lock()), ground(target))


@pytest.mark.parametrize("target", [Target("node", "rogue"), Target("serial", serial(ROGUE))])
def test_a_revoked_node_says_nothing_new(target: Target) -> None:
    """Not even of its own sessions."""
    end = ROGUE.says("revocation", revocation("id", str(MINT.ca.agent(node="rogue"))))
    with pytest.raises(RemoteError, match="node/rogue is revoked"):
        admit(end, ground(target))


def test_a_locked_operator_says_nothing_new_until_its_lock_ends() -> None:
    """By its own name only: a lock of all stops streams, and silences nobody who could add to it."""

    def at(target: Target, floor: int) -> Ground:
        restrictions = Restrictions([LockInForce("l", target, Wall(NOW + 10), "bob", "")], ())
        return Ground(MINT.ca.bundle, operator, restrictions, Moment(Wall(NOW), Wall(floor), None))

    with pytest.raises(RemoteError, match="operator/alice is locked"):
        admit(ALICE.says("lock", lock()), at(Target("operator", "alice"), NOW))
    assert is_admitted(ALICE.says("lock", lock()), at(Target("operator", "alice"), NOW + 10))
    assert is_admitted(ALICE.says("lock", lock()), at(Target("operator", "bob"), NOW))
    assert is_admitted(ALICE.says("lock", lock()), at(Target("all"), NOW))


def test_the_revocation_of_others_silences_nobody() -> None:
    """A node's name is no operator's."""
    others = (Target("node", "alice"), Target("operator", "bob"), Target("agent", "alice"))
    assert is_admitted(ALICE.says("lock", lock()), ground(*others))


def successor(sequence: int) -> Statement:
    """A bundle that the root signs later."""
    body, root = MINT.ca.bundle_statement.body, MINT.ca.root
    assert isinstance(body, Bundle)
    newer = msgspec.structs.replace(body, sequence=sequence)
    return sign("bundle", newer, Terms(1, NOW, NOW + HOUR), root.key, (root.certificate,))


def test_a_newer_bundle_is_admitted_as_the_roots() -> None:
    """And the one in force, again."""
    for statement in (successor(2), MINT.ca.bundle_statement):
        word = admit(statement, ground())
        assert word.signers == {Signer.ROOT}
        assert word.by is None


def test_an_older_bundle_is_refused() -> None:
    """Rolled back, it would revive a key that was tainted."""
    newer = open_successor(successor(3), MINT.ca.bundle)
    with pytest.raises(RemoteError, match="older than the one in force"):
        admit(successor(2), ground(bundle=newer))


def test_two_bundles_of_one_sequence_do_not_replace_each_other() -> None:
    """The one that is in force stays."""
    with pytest.raises(RemoteError, match="older than the one in force"):
        admit(successor(1), ground(bundle=replace(MINT.ca.bundle, digest="0" * 64)))


def test_an_adoption_wraps_a_restriction() -> None:
    """The CA signs permissions itself; wrapped ones would slip past their own rules."""
    original = ALICE.says("lock", lock())
    assert original_of(MINT.adopts(original)) == original
    for other in (MINT.policy(1), MINT.adopts(original), MINT.says("a-newer-kind", lock())):
        with pytest.raises(RemoteError, match="only restrictions are adopted"):
            original_of(MINT.adopts(other))
    assert original_of(original) is None


def test_a_session_signs_requests_and_nothing_else() -> None:
    """It asks; that anything follows is for others to say."""
    session = MINT.member(MINT.ca.agent(session=SESSION))
    assert admit(asks(session), ground()).signers == {Signer.SESSION}
    with pytest.raises(RemoteError, match="may not sign it"):
        admit(approves(session, asks(session)), ground())


def test_a_revoked_session_asks_for_nothing() -> None:
    """Nor does an operator who is revoked answer anything."""
    session = MINT.member(MINT.ca.agent(session=SESSION))
    with pytest.raises(RemoteError, match="is revoked"):
        admit(asks(session), ground(Target("session", SESSION)))
