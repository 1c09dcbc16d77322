from pathlib import Path

import pytest
from msgspec.structs import replace

from pki.authority.keystore import Authority
from pki.authority.register import Register
from pki.authority.signer import Span, StatementSigner
from pki.clock import HOUR, Wall
from pki.errors import LocalError, RemoteError
from pki.judge import Trust, judge
from pki.statement import (
    Adoption,
    Canary,
    Edition,
    Heartbeat,
    Lift,
    Lock,
    Member,
    Node,
    Operator,
    Policy,
    Revocation,
    Signer,
    Statement,
    Target,
)
from tests.authority import NOW, SESSION

SPAN = Span(NOW, Wall(NOW + HOUR))
LOCK = Lock(target=Target(kind="all"))
NODE = Node(sequence=0, name="agents-1", addresses=["a:1"], version="0.1", features=[], labels=[])
OPERATOR = Operator(sequence=0, name="alice", key="0" * 64, roles=["admin"])
POLICY = Policy(sequence=0, digest="0" * 64, size=4, author="alice", approver="bob")
CANARY = Canary(sequence=0, digest="0" * 64, size=4, author="alice", nodes=["agents-1"])
HEARTBEAT = Heartbeat(
    number=7,
    policy_sequence=1,
    policy_digest="0" * 64,
    bundle_sequence=1,
    bundle_digest="0" * 64,
    digest="0" * 64,
)


@pytest.fixture
def signer(authority: Authority, register: Register) -> StatementSigner:
    return StatementSigner(authority, register)


def every_kind(signer: StatementSigner) -> list[Statement]:
    lock = signer.restriction(LOCK, SPAN)
    return [
        signer.policy(POLICY, NOW),
        signer.policy(CANARY, NOW),
        signer.member(NODE, NOW),
        signer.member(OPERATOR, NOW),
        lock,
        signer.restriction(Revocation(target=Target(kind="node", value="a")), SPAN),
        signer.adoption(lock, SPAN),
        signer.lift("unlock", Lift(ids=[lock.id]), SPAN),
        signer.lift("unrevoke", Lift(ids=[SESSION]), SPAN),
    ]


def test_what_it_signs_is_the_word_of_the_ca(authority: Authority, signer: StatementSigner) -> None:
    """Every statement passes the judgement that nodes make, in the epoch of the bundle."""
    for statement in (*every_kind(signer), signer.heartbeat(HEARTBEAT, SPAN)):
        word = judge(statement, Trust(authority.bundle, lambda _: None), NOW)
        assert word.signers == {Signer.CA}
        assert statement.payload.epoch == authority.bundle.epoch


def test_each_statement_has_the_next_number(signer: StatementSigner) -> None:
    """One, two, three, over all kinds, and the register knows the last."""
    assert sorted(statement.payload.number for statement in every_kind(signer)) == list(range(1, 10))
    assert signer.register.last_number() == 9


def test_a_heartbeat_takes_no_number(signer: StatementSigner) -> None:
    """It says that of others."""
    heartbeat = signer.heartbeat(HEARTBEAT, SPAN)
    assert heartbeat.payload.number == 0
    assert heartbeat.body == HEARTBEAT
    assert signer.register.last_number() == 0


def test_a_number_is_gone_before_anything_is_signed_with_it(
    authority: Authority, tmp_path: Path, register: Register
) -> None:
    """A CA that fails or dies while it signs leaves a gap, never a second statement of one number."""
    broken = StatementSigner(authority, register)
    too_long = Lock(target=Target(kind="all"), message="x" * 501)
    with pytest.raises(RemoteError, match="500"):
        broken.restriction(too_long, SPAN)
    with Register.open(tmp_path / "register.sqlite") as reopened:
        assert StatementSigner(authority, reopened).restriction(LOCK, SPAN).payload.number == 2


def test_no_number_no_signature(authority: Authority, register: Register, tmp_path: Path) -> None:
    """Without its register the CA says nothing."""
    (tmp_path / "register.sqlite").unlink()
    with pytest.raises(LocalError):
        StatementSigner(authority, register).restriction(LOCK, SPAN)


def test_each_name_has_sequences_of_its_own(signer: StatementSigner) -> None:
    """The newest entry of a name wins, so each gets a higher one; other names do not move it."""
    members = [signer.member(NODE, NOW), signer.member(OPERATOR, NOW), signer.member(NODE, NOW)]
    bodies = [statement.body for statement in members]
    assert [body.member.sequence for body in bodies if isinstance(body, Member)] == [1, 1, 2]
    policies = [signer.policy(one, NOW).body for one in (POLICY, CANARY, POLICY)]
    assert [body.sequence for body in policies if isinstance(body, Edition)] == [1, 2, 3]


def test_a_policy_is_signed_as_it_is_given_but_for_its_sequence(signer: StatementSigner) -> None:
    """Its kind follows from whom it is for."""
    policy, canary = signer.policy(POLICY, NOW), signer.policy(CANARY, NOW)
    assert (policy.kind, policy.body) == ("policy", replace(POLICY, sequence=1))
    assert (canary.kind, canary.body) == ("canary", replace(CANARY, sequence=2))


def test_an_adoption_keeps_the_original_whole(signer: StatementSigner) -> None:
    """Byte for byte, so that the id and the first signature stay what they were."""
    lock = signer.restriction(LOCK, SPAN)
    body = signer.adoption(lock, SPAN).body
    assert isinstance(body, Adoption)
    assert body.original == lock.raw


def test_what_has_no_end_lasts_as_long_as_the_bundle(authority: Authority, signer: StatementSigner) -> None:
    """Roster and policy do not fade away on a CA that is off for a week."""
    for statement in (signer.policy(POLICY, NOW), signer.member(NODE, NOW)):
        assert statement.payload.expires == authority.bundle_statement.payload.expires
