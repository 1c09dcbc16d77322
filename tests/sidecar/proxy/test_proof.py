import hashlib
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.clock import HOUR, Wall
from pki.errors import RemoteError
from pki.ids import new_id
from pki.svid import LeafPlan, leaf
from pki.verify import Identity, verify
from sidecar import wire
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.proof import check, prove
from sidecar.session.narrowing import child_id, make
from sidecar.wire import (
    MAX_CHILD_DEPTH,
    MAX_NARROWING_BYTES,
    MAX_NARROWING_SERVICES,
    FrameType,
    Prove,
    ProveBody,
)
from tests.authority import NOW, new_key, new_serial, tiny_ca
from tests.statements import Mint, Signatory

MINT = Mint()
BUNDLE = MINT.ca.bundle
SESSION = MINT.member(MINT.ca.agent(node="agents-1"))
OTHER = MINT.member(MINT.ca.agent(node="agents-1", session=new_id(b"another-session-")))
EXPORTER, OTHER_EXPORTER = bytes(32), bytes(31) + b"\1"
PROOF = prove(SESSION.key, SESSION.chain, EXPORTER)


def identity_of(member: Signatory) -> Identity:
    """The peer of a connection whose handshake this member did."""
    identity = verify(member.chain, BUNDLE, NOW)
    assert isinstance(identity, Identity)
    return identity


AGENTS_1 = MINT.node("agents-1")
PEER, OTHER_PEER = identity_of(AGENTS_1), identity_of(MINT.node("tools-1"))


def test_a_session_is_proven_on_its_connection() -> None:
    """By its own node, with what only the two ends can know."""
    assert check(PROOF, EXPORTER, PEER, BUNDLE, NOW).identity.id == SESSION.id


def test_the_signed_message_is_what_the_wire_format_says() -> None:
    """Prefix, exporter, and the digest of the body's bytes as received: another implementation can check it."""
    message = b"lockgate/prove/v1\0" + EXPORTER + hashlib.sha256(PROOF.body).digest()
    SESSION.key.public_key().verify(PROOF.signature, message, ec.ECDSA(hashes.SHA256()))


def test_a_proof_is_worthless_on_another_connection() -> None:
    """Captured and replayed, it meets another exporter."""
    with pytest.raises(RemoteError, match=r"not signed by .* on this connection"):
        check(PROOF, OTHER_EXPORTER, PEER, BUNDLE, NOW)


def test_a_node_speaks_for_its_own_sessions_alone() -> None:
    """A rogue node that got hold of another node's session key still cannot use it."""
    with pytest.raises(RemoteError, match="is not bound to node tools-1"):
        check(PROOF, EXPORTER, OTHER_PEER, BUNDLE, NOW)


def test_a_proof_by_another_key_is_refused() -> None:
    """The chain is public, and the signature must be by its leaf's key."""
    for key in (OTHER.key, new_key()):
        with pytest.raises(RemoteError, match="not signed by"):
            check(prove(key, SESSION.chain, EXPORTER), EXPORTER, PEER, BUNDLE, NOW)


def test_a_signature_cannot_be_moved_to_another_body() -> None:
    """Not even to another session of the same node."""
    mixed = Prove(body=prove(OTHER.key, OTHER.chain, EXPORTER).body, signature=PROOF.signature)
    with pytest.raises(RemoteError, match="not signed by"):
        check(mixed, EXPORTER, PEER, BUNDLE, NOW)


@pytest.mark.parametrize("member", [MINT.node("agents-1"), MINT.operator("alice")], ids=["node", "operator"])
def test_only_a_session_is_proven(member: Signatory) -> None:
    """A node's certificate makes no stream, and an operator's none either."""
    proof = prove(member.key, member.chain, EXPORTER)
    with pytest.raises(RemoteError, match="is no session"):
        check(proof, EXPORTER, PEER, BUNDLE, NOW)


def renewed(member: Signatory, lineage: str) -> Signatory:
    """The member's next certificate, with a key of its own."""
    key = new_key()
    plan = LeafPlan(member.id, key.public_key(), new_serial(), NOW, HOUR, lineage)
    return Signatory(member.id, key, (leaf(plan, MINT.ca.issuer), MINT.ca.issuer.certificate))


def test_either_end_may_prove_its_own_renewed_certificate() -> None:
    """A stream outlives the certificate that it began under; the exporter is still that of the handshake."""
    after = renewed(AGENTS_1, PEER.lineage)
    proof = prove(after.key, after.chain, EXPORTER, "node")
    assert check(proof, EXPORTER, PEER, BUNDLE, NOW).identity.id == PEER.id
    with pytest.raises(RemoteError, match="not signed by"):
        check(proof, OTHER_EXPORTER, PEER, BUNDLE, NOW)


def test_only_the_peers_own_lineage_renews_it() -> None:
    """Neither another node's certificate nor one of its name from elsewhere: that would be a clone."""
    clone = MINT.node("agents-1")
    for other in (clone, renewed(AGENTS_1, identity_of(clone).lineage), MINT.node("tools-1"), SESSION):
        proof = prove(other.key, other.chain, EXPORTER, "node")
        with pytest.raises(RemoteError, match="is not the peer's next certificate"):
            check(proof, EXPORTER, PEER, BUNDLE, NOW)


def test_a_session_that_expired_proves_nothing() -> None:
    """At the later of wall and floor, which the caller passes."""
    with pytest.raises(RemoteError, match="expired"):
        check(PROOF, EXPORTER, PEER, BUNDLE, Wall(NOW + 2 * HOUR))


def test_a_session_of_another_mesh_proves_nothing() -> None:
    """Its CA is none of ours, whatever it calls itself."""
    with pytest.raises(RemoteError, match="PROVE: certificate refused"):
        check(PROOF, EXPORTER, PEER, tiny_ca().bundle, NOW)


LEFT = Narrowing(frozenset({"wiki"}), None, Wall(NOW + HOUR))
STEP = make(SESSION.id.session, LEFT, bytes(16))


def test_a_child_is_proven_behind_its_session() -> None:
    """By the session's own certificate and key; it is named by its own id."""
    proven = check(prove(SESSION.key, SESSION.chain, EXPORTER, steps=[STEP]), EXPORTER, PEER, BUNDLE, NOW)
    assert (proven.identity.id, proven.name) == (SESSION.id, child_id(STEP))
    assert proven.parents == (SESSION.id.session,)
    assert proven.narrowing == replace(LEFT, children=(child_id(STEP),))


def test_a_session_itself_is_proven_without_narrowings() -> None:
    """Its name is its own, nothing is above it, and the body has no key that an older node does not know."""
    proven = check(PROOF, EXPORTER, PEER, BUNDLE, NOW)
    assert (proven.name, proven.parents, proven.narrowing) == (SESSION.id.session, (), None)
    assert b"narrowings" not in PROOF.body


def test_a_child_of_another_session_is_not_proven() -> None:
    """Signed by the right key, and for somebody else."""
    step = make(OTHER.id.session, LEFT, bytes(16))
    with pytest.raises(RemoteError, match="a step is not of"):
        check(prove(SESSION.key, SESSION.chain, EXPORTER, steps=[step]), EXPORTER, PEER, BUNDLE, NOW)


def test_the_narrowings_are_part_of_what_is_signed() -> None:
    """Taken out of a captured proof they leave no proof of the whole session."""
    proof = prove(SESSION.key, SESSION.chain, EXPORTER, steps=[STEP])
    bare = Prove(body=PROOF.body, signature=proof.signature)
    with pytest.raises(RemoteError, match="not signed by"):
        check(bare, EXPORTER, PEER, BUNDLE, NOW)


def test_a_node_has_no_children() -> None:
    """Its renewed certificate is proven as it is."""
    after = renewed(AGENTS_1, PEER.lineage)
    proof = prove(after.key, after.chain, EXPORTER, "node", [STEP])
    with pytest.raises(RemoteError, match="is not the peer's next certificate"):
        check(proof, EXPORTER, PEER, BUNDLE, NOW)


def test_the_longest_chain_of_the_largest_steps_fits_its_frame() -> None:
    """So what one node may make another can always be told."""
    services = frozenset(f"{'s' * 60}-{number}" for number in range(10, 10 + MAX_NARROWING_SERVICES))
    left = Narrowing(services, ("GET /" + "x" * 100,) * 9, Wall(2**53 - 1))
    step = make(SESSION.id.session, left, bytes(16))
    assert 3_000 < len(step) <= MAX_NARROWING_BYTES
    wire.encode(prove(SESSION.key, SESSION.chain, EXPORTER, steps=[step] * MAX_CHILD_DEPTH))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        PROOF.body[:-1],
        PROOF.body + b"\0",
        codec.encode(ProveBody(role="session", chain=[])),
        codec.encode(ProveBody(role="session", chain=[b"junk"])),
        codec.encode({"role": "session", "chain": list(SESSION.chain), "extra": 1}),
        codec.encode({"role": "operator", "chain": list(SESSION.chain)}),
        bytes(wire.STREAM_LIMITS[FrameType.PROVE] + 1),
    ],
    ids=["empty", "truncated", "longer", "no-chain", "junk", "unknown-key", "unknown-role", "oversized"],
)
def test_a_body_out_of_shape_is_refused(body: bytes) -> None:
    """Signed correctly or not."""
    with pytest.raises(RemoteError, match="PROVE"):
        check(Prove(body=body, signature=PROOF.signature), EXPORTER, PEER, BUNDLE, NOW)


@given(st.binary(max_size=100), st.binary(max_size=128))
def test_any_bytes_are_a_proof_or_the_peers_fault(junk: bytes, signature: bytes) -> None:
    """Nothing that a peer sends raises anything else."""
    for proof in (Prove(body=junk, signature=signature), msgspec.structs.replace(PROOF, signature=signature)):
        with pytest.raises(RemoteError):
            check(proof, EXPORTER, PEER, BUNDLE, NOW)


def test_a_proof_fits_its_frame() -> None:
    """With room for longer chains."""
    frame_type, body = wire.encode(PROOF)
    assert (frame_type, len(body) < 4_096) == (FrameType.PROVE, True)
