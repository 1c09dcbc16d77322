"""Each kind by each signer, and what a stolen key is good for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import pytest

from pki.asking import ANSWER_LIFE, PENDING, Answer, EscalationRequest, Lease
from pki.clock import HOUR, SECOND, Wall
from pki.errors import RemoteError
from pki.fields import Wire
from pki.ids import new_id
from pki.judge import Trust, Word, judge
from pki.spiffe import SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import (
    KINDS,
    Adoption,
    Applied,
    AuditHead,
    Bundle,
    Canary,
    Cutoff,
    Demand,
    Finding,
    Heartbeat,
    Kind,
    Lift,
    Lock,
    Member,
    Operator,
    Policy,
    Receipt,
    Revocation,
    RolloverAck,
    Signer,
    Statement,
    Target,
    Terms,
    sign,
)
from tests.authority import NOW, TRUST_DOMAIN, new_key, tiny_ca

CA = tiny_ca()
OTHER = tiny_ca()
ID = CA.bundle_statement.id
HASH = "ab" * 32
TERMS = Terms(epoch=1, issued=NOW, expires=NOW + HOUR)
OWN_SESSION = Target(kind="id", value=str(CA.agent()))


class Opaque(Wire, frozen=True):
    """Stands for the body of a kind that is not applied yet."""


REQUEST = EscalationRequest(
    session=str(CA.agent()),
    uid=1001,
    rule="ticket-writes",
    services=["tickets"],
    operations=None,
    arguments="",
    tool_node="",
    uses=0,
    ttl=HOUR // 2,
    reason="ticket 7",
    policy=HASH,
    decide_by=NOW + HOUR // 2,
    nonce=bytes(16),
)

BODIES: dict[str, Wire] = {
    "bundle": Bundle(
        trust_domain=TRUST_DOMAIN,
        sequence=2,
        roots=[CA.root.certificate],
        issuers=[b"x"],
        statement_keys=[b"x"],
    ),
    "policy": Policy(sequence=1, digest=HASH, size=1, author="alice"),
    "canary": Canary(sequence=1, digest=HASH, size=1, author="alice", nodes=["tools-1"]),
    "member": Member(member=Operator(sequence=1, name="alice", key=HASH, roles=[])),
    "heartbeat": Heartbeat(
        number=1, policy_sequence=1, policy_digest=HASH, bundle_sequence=1, bundle_digest=HASH, digest=HASH
    ),
    "adoption": Adoption(original=b"raw"),
    "unlock": Lift(ids=[ID]),
    "unrevoke": Lift(ids=[ID]),
    "lock": Lock(target=Target(kind="all")),
    "revocation": Revocation(target=OWN_SESSION),
    "finding": Finding(
        rule="probing", what="refusals", target=Target(kind="agent", value="a"), enforced=True, count=3
    ),
    "cutoff": Cutoff(target=Target(kind="agent", value="researcher"), before=NOW),
    "demand": Demand(action="unlock", ids=[ID]),
    "receipt": Receipt(applied=[Applied(id=ID, since=NOW, cut=0)]),
    "rollover-ack": RolloverAck(sequence=1, digest=HASH, issuer="0a"),
    "audit-head": AuditHead(volume="v.jsonl", count=1, head=HASH, at=NOW, signature=b"s"),
    "request": REQUEST,
    "approval": Answer(request=HASH),
    "refusal": Answer(request=HASH),
    "lease": Lease(request=b"raw", until=NOW + HOUR, approvers=["anna"]),
}


@dataclass(frozen=True)
class Author:
    """Someone with a key and a chain that verifies."""

    key: Key
    chain: tuple[bytes, ...]
    capacities: frozenset[Signer]
    author: str


def member(spiffe_id: SpiffeId, *capacities: Signer) -> Author:
    key = new_key()
    return Author(key, CA.issue(spiffe_id, key), frozenset(capacities), str(spiffe_id))


AUTHORS: dict[str, Author] = {
    "root": Author(CA.root.key, (CA.root.certificate,), frozenset({Signer.ROOT}), "root"),
    "ca": Author(CA.statement_key, CA.statement_chain, frozenset({Signer.CA}), "ca"),
    "ca's TLS leaf": Author(CA.ca_key, CA.ca_chain, frozenset(), "spiffe://example.org/ca/ca-1"),
    "node": member(CA.node(), Signer.NODE),
    "session": member(CA.agent(), Signer.SESSION),
    "responder": member(CA.operator("rita"), Signer.RESPONDER),
    "admin": member(CA.operator("adam"), Signer.ADMIN),
    "approver": member(CA.operator("anna"), Signer.APPROVER),
    "all roles": member(CA.operator("alice"), Signer.ADMIN, Signer.RESPONDER, Signer.APPROVER),
    "auditor": member(CA.operator("otto")),
    "operator off the roster": member(CA.operator("mallory")),
}

ROLES = {
    "responder": ["responder"],
    "admin": ["admin"],
    "approver": ["approver"],
    "all roles": ["admin", "responder", "approver", "auditor"],
    "auditor": ["auditor", "no-such-role"],
}
ROSTER = {
    (name := SpiffeId.parse(AUTHORS[who].author).name): Operator(
        sequence=1, name=name, key=spki_sha256(AUTHORS[who].key.public_key()).hex(), roles=roles
    )
    for who, roles in ROLES.items()
}
TRUST = Trust(CA.bundle, ROSTER.get)


def say(author: Author, kind: str = "lock", body: Wire | None = None, terms: Terms = TERMS) -> Statement:
    return sign(kind, body or BODIES.get(kind, Opaque()), terms, author.key, author.chain)


def refusal(statement: Statement, trust: Trust = TRUST, at: Wall = NOW) -> str:
    """Why it is refused."""
    with pytest.raises(RemoteError) as caught:
        judge(statement, trust, at)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("who", AUTHORS)
@pytest.mark.parametrize("kind", [*KINDS, "from-the-future"])
def test_a_kind_is_taken_from_those_who_may_sign_it(kind: str, who: str) -> None:
    """Row by row of the registry; a kind that is not applied here, or not known, from the CA alone."""
    author = AUTHORS[who]
    row = KINDS.get(kind, Kind(kind, frozenset({Signer.CA})))
    applied = row.body is not None or Signer.CA in author.capacities
    statement = say(author, kind)
    if author.capacities & row.signers and applied:
        word = judge(statement, TRUST, NOW)
        assert (word.statement, word.signers, word.author) == (statement, author.capacities, author.author)
    else:
        assert refusal(statement).startswith(f"statement {kind}: ")


def test_a_word_names_its_speaker_and_the_end_of_its_credential() -> None:
    """None for the CA and the root, whose words outlive certificates."""
    word = judge(say(AUTHORS["responder"]), TRUST, NOW)
    assert (word.by, word.not_after) == (CA.operator("rita"), NOW + HOUR)
    word = judge(say(AUTHORS["ca"]), TRUST, NOW)
    assert (word.by, word.not_after) == (None, None)
    assert isinstance(word, Word)


def test_a_stolen_issuing_key_mints_no_operator_who_may_speak() -> None:
    """It makes a valid certificate of /operator/alice, but the roster names the one key that is hers."""
    minted = member(CA.operator("alice"))
    assert "may not sign it" in refusal(say(minted))
    assert "may not sign it" in refusal(say(minted, "demand"))
    assert judge(say(AUTHORS["all roles"]), TRUST, NOW).by == CA.operator("alice")


def test_a_stolen_issuing_key_mints_no_statement_keys() -> None:
    """A statement key counts because the root-signed bundle lists it: a look-alike speaks as nobody."""
    key = new_key()
    posing = Author(key, CA.issue(CA.node("ca-1"), key), frozenset(), "")
    assert "may not sign it" in refusal(say(posing, "policy"))
    assert "may not sign it" in refusal(say(posing, "unlock"))


def test_a_stolen_statement_key_does_not_replace_the_bundle() -> None:
    """Only the root signs whom to trust."""
    assert "may not sign it" in refusal(say(AUTHORS["ca"], "bundle"))


@pytest.mark.parametrize(
    "target",
    [
        Target(kind="session", value=CA.agent().session),
        Target(kind="id", value=str(CA.agent(node="tools-1"))),
        Target(kind="agent", value="researcher"),
        Target(kind="node", value="agents-1"),
        Target(kind="operator", value="alice"),
        Target(kind="serial", value="ab"),
    ],
    ids=str,
)
def test_a_node_ends_sessions_of_its_own_only(target: Target) -> None:
    """Named by the whole SPIFFE ID: by session id alone it could end another node's."""
    assert "bound to it" in refusal(say(AUTHORS["node"], "revocation", Revocation(target=target)))
    own = judge(say(AUTHORS["node"], "revocation", Revocation(target=OWN_SESSION)), TRUST, NOW)
    assert own.by == CA.node()


@pytest.mark.parametrize("kind", ["lock", "revocation"])
def test_a_responder_does_not_stop_an_admin(kind: str) -> None:
    """A stolen responder's key must not remove those who could stop it; the CA may."""
    body = Lock if kind == "lock" else Revocation
    at_admin, at_other, at_nobody = (
        body(target=Target(kind="operator", value=name)) for name in ("adam", "otto", "nobody")
    )
    assert "an admin is stopped by the CA only" in refusal(say(AUTHORS["responder"], kind, at_admin))
    for who, target in (("responder", at_other), ("responder", at_nobody), ("ca", at_admin)):
        assert judge(say(AUTHORS[who], kind, target), TRUST, NOW).statement.body == target


@pytest.mark.parametrize("who", ["root", "ca", "node", "responder"])
def test_a_signature_by_another_key_is_nobodys_word(who: str) -> None:
    """The chain is public: to hold it is not to be its subject."""
    author = AUTHORS[who]
    kind = {"root": "bundle", "node": "receipt"}.get(who, "lock")
    assert "bad signature" in refusal(say(replace(author, key=new_key()), kind))


def test_an_epoch_binds_the_ca_and_nobody_else() -> None:
    """After a tainted statement key, what it signed before does not apply; members sign under no epoch."""
    assert "of another epoch" in refusal(say(AUTHORS["ca"], terms=replace(TERMS, epoch=2)))
    older = Trust(replace(CA.bundle, epoch=2), ROSTER.get)
    assert "of another epoch" in refusal(say(AUTHORS["ca"]), older)
    assert judge(say(AUTHORS["responder"], terms=replace(TERMS, epoch=2)), TRUST, NOW).by is not None


@pytest.mark.parametrize(
    ("issued", "good"),
    [
        (NOW - 60 * SECOND, True),
        (NOW - 60 * SECOND - 1, False),
        (NOW + HOUR - 1, True),
        (NOW + HOUR, False),
    ],
)
def test_a_member_speaks_within_its_credentials_life(issued: int, good: bool) -> None:
    """Nobody dates a word back to before, or ahead to after, the certificate that vouches for it."""
    statement = say(AUTHORS["responder"], terms=Terms(epoch=1, issued=issued, expires=issued + HOUR))
    if good:
        assert judge(statement, TRUST, NOW).by is not None
    else:
        assert "outside its signer's validity" in refusal(statement)


def test_a_members_credential_must_be_valid_when_its_word_is_first_seen() -> None:
    """A leaked key of an expired certificate says nothing new; the CA's words keep."""
    late = Wall(NOW + HOUR + 1)
    assert "expired" in refusal(say(AUTHORS["responder"]), at=late)
    assert judge(say(AUTHORS["ca"]), TRUST, late).by is None


@pytest.mark.parametrize("who", ["responder", "node"])
def test_only_the_ca_numbers_statements(who: str) -> None:
    """A number of a member's own could fill, or fake, a gap that the heartbeat counts."""
    kind = "receipt" if who == "node" else "lock"
    assert "only the CA numbers" in refusal(say(AUTHORS[who], kind, terms=replace(TERMS, number=1)))
    assert judge(say(AUTHORS["ca"], terms=replace(TERMS, number=1)), TRUST, NOW).by is None


CHAINS: dict[str, Callable[[Author], tuple[bytes, ...]]] = {
    "junk": lambda _: (b"junk",),
    "without the issuer": lambda author: author.chain[:1],
    "with another issuer": lambda author: (author.chain[0], OTHER.issuer.certificate),
    "of another CA": lambda author: OTHER.issue(CA.operator("rita"), author.key),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_signer_proves_who_it_is(chain: str) -> None:
    """The same judgement of a chain as everywhere, and its reasons are in the refusal."""
    author = AUTHORS["responder"]
    statement = say(replace(author, chain=CHAINS[chain](author)))
    assert "certificate refused" in refusal(statement)


def test_roles_stand_in_the_roster_and_change_with_it() -> None:
    """Taking a role away silences the operator at once, with the certificate still valid."""
    statement = say(AUTHORS["responder"])
    bare = Operator(sequence=2, name="rita", key=ROSTER["rita"].key, roles=[])
    for entry in (bare, None):
        assert "may not sign it" in refusal(statement, Trust(CA.bundle, {"rita": entry}.get))


def asked(terms: Terms = TERMS, **other: object) -> Statement:
    """A request that differs from a good one in these fields."""
    return say(AUTHORS["session"], "request", msgspec.structs.replace(REQUEST, **other), terms)


def test_a_request_asks_for_its_signer_alone() -> None:
    """A session of the same agent on the same node may not ask in another one's name."""
    other = member(CA.agent(session=new_id(b"b" * 16)), Signer.SESSION)
    assert other.author != REQUEST.session
    statement = say(other, "request", REQUEST)
    assert "another session" in refusal(statement)


@pytest.mark.parametrize(
    ("terms", "other", "why"),
    [
        (TERMS, {"decide_by": NOW}, "at most an hour"),
        (
            Terms(1, NOW, NOW + PENDING + 1 + HOUR // 2),
            {"decide_by": NOW + PENDING + 1},
            "at most an hour",
        ),
        (Terms(1, NOW, NOW + HOUR + 1), {}, "expires when"),
        (Terms(1, NOW, NOW + HOUR - 1), {}, "expires when"),
        (TERMS, {"uses": 1}, "one tool node"),
        (TERMS, {"tool_node": "tools-1"}, "one tool node"),
    ],
)
def test_a_request_waits_an_hour_at_most_and_lives_as_long_as_its_lease(
    terms: Terms, other: dict[str, object], why: str
) -> None:
    """What would fill a place for longer than it can matter is refused, and a count without a place to count."""
    assert why in refusal(asked(terms=terms, **other))


def test_a_request_may_wait_a_whole_hour() -> None:
    """And be bound to a number of uses at one node."""
    good = asked(
        terms=Terms(1, NOW, NOW + PENDING + HOUR // 2), decide_by=NOW + PENDING, uses=1, tool_node="tools-1"
    )
    assert judge(good, TRUST, NOW).signers == {Signer.SESSION}


def test_an_answer_of_an_operator_lives_no_longer_than_what_it_is_about() -> None:
    """The CA's own refusal is numbered, and may."""
    longer = Terms(1, NOW, NOW + ANSWER_LIFE + 1)
    assert "longer than any request" in refusal(say(AUTHORS["approver"], "refusal", terms=longer))
    assert judge(say(AUTHORS["ca"], "refusal", terms=longer), TRUST, NOW).by is None
