from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from pki import svid
from pki.certificate import MAX_CERTIFICATE_BYTES, read
from pki.clock import DAY, HOUR, SECOND, Wall
from pki.spiffe import SpiffeId
from pki.spki import spki_sha256
from pki.verify import Identity, Mismatch, Rejected, Rule, verify
from tests.authority import NOW, SESSION, TRUST_DOMAIN, new_issuer, new_key, new_root, new_serial, tiny_ca
from tests.forge import NODE_URI, Extension, Fields, forge, key_usage, purposes, unknown, uris

CA = tiny_ca()
OTHER = tiny_ca()
BUNDLE = CA.bundle
ROOT, ISSUER = CA.root.certificate, CA.issuer.certificate
KEY = new_key()
NODE = CA.node()
CHAIN = CA.issue(NODE, KEY)
LEAF = CHAIN[0]
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Chain = tuple[bytes, ...]


def rejected(chain: Chain, at: Wall = NOW) -> frozenset[Rule]:
    """The rules that the chain breaks."""
    result = verify(chain, BUNDLE, at)
    assert isinstance(result, Rejected)
    return result.rules


def accepted(chain: Chain, at: Wall = NOW) -> Identity:
    result = verify(chain, BUNDLE, at)
    assert isinstance(result, Identity), str(result)
    return result


def test_an_identity_says_all_that_others_rely_on() -> None:
    """Names, serials and times are those of the leaf; its end is the earliest of the chain."""
    identity = accepted(CHAIN)
    leaf = read(LEAF)
    assert identity == Identity(
        id=NODE,
        chain=CHAIN,
        serial=f"{leaf.serial:x}",
        lineage=f"{leaf.serial:x}",
        spki_sha256=spki_sha256(KEY.public_key()),
        issuer=read(ISSUER).subject_key_id,
        not_before=Wall(NOW - svid.BACKDATE),
        not_after=Wall(NOW + HOUR),
        public_key=KEY.public_key(),
    )
    assert identity.public_key == KEY.public_key()
    assert len({identity, accepted(CHAIN)}) == 1


@pytest.mark.parametrize(
    "spiffe_id",
    [NODE, CA.agent(), CA.operator(), SpiffeId.for_ca(TRUST_DOMAIN, "ca-2")],
    ids=lambda spiffe_id: spiffe_id.kind.value,
)
def test_a_chain_verifies_as_presented_and_as_a_tls_library_returns_it(spiffe_id: SpiffeId) -> None:
    """The root at the end adds nothing: both ways give the same identity."""
    chain = CA.issue(spiffe_id, KEY)
    assert accepted(chain).id == spiffe_id
    assert accepted((*chain, ROOT)) == accepted(chain)
    assert accepted(chain).chain == chain


def test_the_cas_own_leaf_hangs_on_the_root() -> None:
    """The signer that it names is the root itself."""
    assert accepted(CA.ca_chain).issuer == read(ROOT).subject_key_id


def test_a_renewed_leaf_keeps_its_lineage() -> None:
    """A revocation of the first serial reaches every renewal."""
    plan = svid.LeafPlan(NODE, new_key().public_key(), new_serial(), NOW, HOUR, accepted(CHAIN).serial)
    renewed = accepted((svid.leaf(plan, CA.issuer), ISSUER))
    assert renewed.lineage == accepted(CHAIN).serial != renewed.serial


def leaf(*change: Extension, signer: svid.Signer = CA.issuer, fields: Fields | None = None) -> bytes:
    return forge(signer, fields, change=change)


def with_sha1(der: bytes) -> bytes:
    """The same leaf under a true ecdsa-with-SHA1 signature of our issuer: the maker of certificates refuses to."""
    sha256, sha1 = bytes.fromhex("300a06082a8648ce3d040302"), bytes.fromhex("300906072a8648ce3d0401")
    shorter = read(der).parsed.tbs_certificate_bytes.replace(sha256, sha1)
    content = shorter[:2] + (len(shorter) - 4).to_bytes(2) + shorter[4:]
    signature = b"\0" + CA.issuer.key.sign(content, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - what is refused
    whole = content + sha1 + bytes([3, len(signature)]) + signature
    return b"\x30\x82" + len(whole).to_bytes(2) + whole


WEAK = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - that is what is refused
P384 = ec.derive_private_key(7, ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
SECOND_ISSUER = new_issuer(CA.root)
STRANGER = svid.Signer(ISSUER, new_key())  # says it is our issuer, signs with a key of its own
NODE_KEY = new_key()
NODE_AS_ISSUER = svid.Signer(CA.issue(NODE, NODE_KEY)[0], NODE_KEY)
MEGABYTE = LEAF + bytes(1_000_000)
CA_URI = uris("spiffe://example.org/ca/ca-1")

CASES: dict[str, tuple[Chain, set[Rule]]] = {
    "nothing": ((), {Rule.COUNT}),
    "five certificates": ((*CHAIN, ISSUER, ISSUER, ROOT), {Rule.COUNT}),
    "a thousand certificates": (CHAIN * 500, {Rule.COUNT}),
    "a megabyte": ((MEGABYTE, ISSUER), {Rule.SIZE}),
    "a megabyte beside a good leaf": ((LEAF, MEGABYTE), {Rule.SIZE}),
    "one byte over the cap": ((bytes(MAX_CERTIFICATE_BYTES + 1),), {Rule.SIZE}),
    "empty bytes": ((b"", ISSUER), {Rule.UNREADABLE}),
    "no certificate": ((b"GET / HTTP/1.1\r\n\r\n", ISSUER), {Rule.UNREADABLE}),
    "a torn leaf": ((LEAF[:-1], ISSUER), {Rule.UNREADABLE}),
    "a leaf with a tail": ((LEAF + b"\0", ISSUER), {Rule.UNREADABLE}),
    "a leaf alone": ((LEAF,), {Rule.CHAIN, Rule.ROOT}),
    "a leaf and the root": ((LEAF, ROOT), {Rule.CHAIN, Rule.ROOT}),
    "order reversed": ((ISSUER, LEAF), {Rule.ISSUER, Rule.BASIC_CONSTRAINTS, Rule.SUBJECT, Rule.NAMES}),
    "the leaf twice": ((LEAF, LEAF), {Rule.ISSUER}),
    "the issuer twice": ((LEAF, ISSUER, ISSUER), {Rule.CHAIN}),
    "the root twice": ((LEAF, ISSUER, ROOT, ROOT), {Rule.CHAIN}),
    "the root in the middle": ((LEAF, ROOT, ISSUER), {Rule.CHAIN}),
    "a stranger in the middle": ((LEAF, b"junk", ISSUER), {Rule.CHAIN}),
    "a stranger at the end": ((LEAF, ISSUER, OTHER.root.certificate), {Rule.CHAIN}),
    "another good issuer beside it": ((LEAF, SECOND_ISSUER.certificate), {Rule.ISSUER}),
    "an issuer as leaf": ((ISSUER,), {Rule.BASIC_CONSTRAINTS, Rule.KEY_USAGE, Rule.NAMES}),
    "the root as leaf": ((ROOT,), {Rule.BASIC_CONSTRAINTS, Rule.KEY_USAGE, Rule.NAMES}),
    "a statement key": (CA.statement_chain, {Rule.EXTENDED_KEY_USAGE}),
    "another CA of the same name": (OTHER.issue(NODE, KEY), {Rule.ISSUER}),
    "our leaf, its issuer": ((LEAF, OTHER.issuer.certificate), {Rule.ISSUER}),
    "its leaf, our issuer": ((OTHER.issue(NODE, KEY)[0], ISSUER), {Rule.CHAIN}),
    "a leaf of an issuer not in the bundle": (
        (leaf(signer=SECOND_ISSUER), SECOND_ISSUER.certificate),
        {Rule.ISSUER},
    ),
    "a leaf signed by a leaf": ((leaf(signer=NODE_AS_ISSUER), NODE_AS_ISSUER.certificate), {Rule.ISSUER}),
    "a leaf signed by a leaf, hidden": ((leaf(signer=NODE_AS_ISSUER), ISSUER), {Rule.CHAIN}),
    "a leaf that names our issuer but was signed by another": (
        (leaf(fields=Fields(signing_key=new_key())), ISSUER),
        {Rule.SIGNATURE},
    ),
    "a leaf under a name that is not its issuer's": (
        (leaf(fields=Fields(issuer=read(ROOT).parsed.subject)), ISSUER),
        {Rule.SIGNATURE},
    ),
    "a CA leaf signed by an issuer": ((leaf(CA_URI), ISSUER), {Rule.CA_PATH}),
    "a CA leaf signed by an issuer, alone": ((leaf(CA_URI),), {Rule.ROOT}),
    "a CA leaf signed by an issuer, and the root": ((leaf(CA_URI), ROOT), {Rule.ROOT}),
    "a good CA leaf and an issuer": ((CA.ca_leaf, ISSUER), {Rule.CA_PATH, Rule.CHAIN}),
    "a CA leaf of another root": (OTHER.ca_chain, {Rule.ROOT}),
    "a node signed by the root": ((leaf(signer=CA.root),), {Rule.CHAIN}),
    "a node signed by the root, and the root": ((leaf(signer=CA.root), ROOT), {Rule.CHAIN}),
    "no URI": ((leaf(uris()), ISSUER), {Rule.NAMES}),
    "two URIs": ((leaf(uris(NODE_URI, "spiffe://example.org/node/tools-1")), ISSUER), {Rule.NAMES}),
    "a hundred URIs": ((leaf(uris(*[NODE_URI] * 100)), ISSUER), {Rule.NAMES}),
    "another scheme": ((leaf(uris("https://example.org/node/agents-1")), ISSUER), {Rule.SPIFFE_ID}),
    "a NUL in the URI": ((leaf(uris(NODE_URI + "\0.evil")), ISSUER), {Rule.SPIFFE_ID}),
    "another trust domain": ((leaf(uris("spiffe://example.com/node/a")), ISSUER), {Rule.TRUST_DOMAIN}),
    "client only": ((leaf(purposes(ExtendedKeyUsageOID.CLIENT_AUTH)), ISSUER), {Rule.EXTENDED_KEY_USAGE}),
    "server only": ((leaf(purposes(ExtendedKeyUsageOID.SERVER_AUTH)), ISSUER), {Rule.EXTENDED_KEY_USAGE}),
    "a CA below the issuer": (
        (leaf((x509.BasicConstraints(True, None), True)), ISSUER),
        {Rule.BASIC_CONSTRAINTS},
    ),
    "a leaf that signs certificates": (
        (leaf(key_usage("digital_signature", "key_cert_sign")), ISSUER),
        {Rule.KEY_USAGE},
    ),
    "an unknown critical extension": (
        (leaf(unknown("1.2.3", b"\x05\x00", critical=True)), ISSUER),
        {Rule.CRITICAL_EXTENSION},
    ),
    "name constraints in a leaf": (
        (leaf((x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None), True)), ISSUER),
        {Rule.CRITICAL_EXTENSION},
    ),
    "an RSA key of 1,024 bits": ((leaf(fields=Fields(key=WEAK.public_key())), ISSUER), {Rule.KEY}),
    "a key on another curve": ((leaf(fields=Fields(key=P384.public_key())), ISSUER), {Rule.KEY}),
    "an Ed25519 key": ((leaf(fields=Fields(key=ED25519.public_key())), ISSUER), {Rule.KEY}),
    "a SHA-1 signature": ((with_sha1(LEAF), ISSUER), {Rule.ALGORITHM}),
    "a SHA-224 signature": ((leaf(fields=Fields(algorithm=hashes.SHA224())), ISSUER), {Rule.ALGORITHM}),
    "all that at once": (
        (leaf(uris(), purposes(ExtendedKeyUsageOID.CODE_SIGNING), key_usage(), signer=STRANGER), LEAF),
        {Rule.NAMES, Rule.EXTENDED_KEY_USAGE, Rule.KEY_USAGE, Rule.ISSUER},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_chain_that_departs_from_the_rules_proves_nothing(case: str) -> None:
    """Each departure is named by the rules it breaks."""
    chain, broken = CASES[case]
    assert rejected(chain) >= broken
    if not broken & {Rule.BASIC_CONSTRAINTS}:  # a CA in the place of a leaf breaks many rules
        assert rejected(chain) == broken


@pytest.mark.parametrize(
    ("at", "broken"),
    [
        (NOW - svid.BACKDATE - 1, {Rule.NOT_YET_VALID}),
        (NOW - svid.BACKDATE, set()),
        (NOW + HOUR, set()),
        (NOW + HOUR + 1, {Rule.EXPIRED}),
        (0, {Rule.NOT_YET_VALID}),
        (-(2**70), {Rule.NOT_YET_VALID}),
        (2**70, {Rule.EXPIRED}),
    ],
)
def test_validity_is_inclusive_at_both_ends(at: int, broken: set[Rule]) -> None:
    """RFC 5280 4.1.2.5; and no time, however odd, is too much for it."""
    result = verify(CHAIN, BUNDLE, Wall(at))
    assert (result.rules if isinstance(result, Rejected) else set()) == broken


def test_every_certificate_of_the_path_must_be_in_time() -> None:
    """A leaf that outlives its issuer ends with it, and an issuer with its root; each is named."""
    root = new_root(lifetime=3 * DAY)
    issuer = new_issuer(root, lifetime=2 * DAY)
    long = forge(issuer, Fields(until=Wall(NOW + 10 * DAY)))
    bundle = replace(BUNDLE, roots=(root.certificate,), issuers=(issuer.certificate,))
    chain = (long, issuer.certificate)
    identity = verify(chain, bundle, NOW)
    assert isinstance(identity, Identity)
    assert identity.not_after == NOW + 2 * DAY
    ends = [verify(chain, bundle, Wall(NOW + days * DAY + SECOND)) for days in (2, 3, 10)]
    assert [str(end) for end in ends] == [
        "certificate refused: expired: issuer",
        "certificate refused: expired: issuer; expired: root",
        "certificate refused: expired: leaf; expired: issuer; expired: root",
    ]


def test_certificates_that_never_meet_in_time_prove_nothing() -> None:
    """A leaf dated after the end of its issuer is good at no time at all."""
    late = forge(CA.issuer, Fields(at=Wall(NOW + 100 * DAY), until=Wall(NOW + 101 * DAY)))
    assert rejected((late, ISSUER), NOW) == {Rule.SIGNATURE, Rule.NOT_YET_VALID}
    assert rejected((late, ISSUER), Wall(NOW + 100 * DAY)) == {Rule.SIGNATURE, Rule.EXPIRED}


def test_a_remembered_chain_expires_all_the_same() -> None:
    """What is remembered does not depend on time."""
    chain = CA.issue(CA.agent(), new_key())
    assert accepted(chain).id == CA.agent()
    assert rejected(chain, Wall(NOW + HOUR + SECOND)) == {Rule.EXPIRED}
    assert accepted(chain).id == CA.agent()


def test_a_remembered_chain_counts_under_its_own_bundle_only() -> None:
    """A root or an issuer that left the bundle takes its members along at once."""
    chain = CA.issue(CA.agent(), new_key())
    assert accepted(chain).id == CA.agent()
    for bundle, rule in (
        (replace(BUNDLE, issuers=(SECOND_ISSUER.certificate,)), Rule.ISSUER),
        (replace(BUNDLE, roots=(OTHER.root.certificate,)), Rule.ROOT),
        (replace(BUNDLE, roots=()), Rule.ROOT),
        (replace(BUNDLE, trust_domain="example.com"), Rule.TRUST_DOMAIN),
    ):
        result = verify(chain, bundle, NOW)
        assert isinstance(result, Rejected)
        assert result.rules == {rule}


def test_members_of_an_old_and_a_new_ca_key_verify_side_by_side() -> None:
    """During a rollover the bundle lists both."""
    bundle = replace(
        BUNDLE,
        roots=(ROOT, OTHER.root.certificate),
        issuers=(ISSUER, OTHER.issuer.certificate, SECOND_ISSUER.certificate),
    )
    for chain in (CHAIN, OTHER.issue(NODE, KEY), (leaf(signer=SECOND_ISSUER), SECOND_ISSUER.certificate)):
        assert isinstance(verify(chain, bundle, NOW), Identity)
    crossed = verify((*CHAIN, OTHER.root.certificate), bundle, NOW)
    assert isinstance(crossed, Rejected)
    assert crossed.rules == {Rule.CHAIN}


@pytest.mark.parametrize(
    ("issuer", "broken"),
    [
        (b"junk", {Rule.UNREADABLE}),
        (OTHER.issuer.certificate, {Rule.ROOT, Rule.CHAIN}),
        (LEAF, {Rule.BASIC_CONSTRAINTS, Rule.KEY_USAGE, Rule.CHAIN, Rule.ROOT}),
    ],
    ids=["junk", "of-another-root", "leaf"],
)
def test_a_listed_issuer_is_judged_too(issuer: bytes, broken: set[Rule]) -> None:
    """A mistake in a bundle must not become a hole in it."""
    result = verify((LEAF, issuer), replace(BUNDLE, issuers=(issuer,)), NOW)
    assert isinstance(result, Rejected)
    assert result.rules == broken


def test_an_issuer_that_no_root_signed_makes_no_members() -> None:
    """It names the root, and the bundle lists it, but the signature is not the root's."""
    posing = new_issuer_of(svid.Signer(ROOT, new_key()))
    result = verify(
        (leaf(signer=posing), posing.certificate), replace(BUNDLE, issuers=(posing.certificate,)), NOW
    )
    assert isinstance(result, Rejected)
    assert result.rules == {Rule.SIGNATURE}


def new_issuer_of(forged_root: svid.Signer) -> svid.Signer:
    """An issuing certificate that names a root whose key the maker has not got."""
    key = new_key()
    fields = Fields(key=key.public_key(), subject="issuer")
    real = x509.AuthorityKeyIdentifier(read(ROOT).subject_key_id, None, None)
    change: list[Extension] = [
        (x509.BasicConstraints(True, 0), True),
        key_usage("key_cert_sign"),
        (real, False),
    ]
    return svid.Signer(forge(forged_root, fields, change=change, without=x509.SubjectAlternativeName), key)


def test_unreadable_and_unfit_roots_are_no_anchors() -> None:
    """The good ones among them go on to count."""
    bundle = replace(BUNDLE, roots=(b"junk", LEAF, ROOT))
    assert isinstance(verify(CHAIN, bundle, NOW), Identity)
    result = verify((LEAF, ISSUER), replace(BUNDLE, roots=(b"junk", LEAF)), NOW)
    assert isinstance(result, Rejected)
    assert result.rules == {Rule.ROOT}


def test_a_second_encoding_of_one_certificate_is_the_same_identity() -> None:
    """ECDSA is malleable: whoever revokes by fingerprint revokes one of two encodings."""
    twin = twin_of(LEAF)
    assert twin != LEAF
    one, other = accepted(CHAIN), accepted((twin, ISSUER))
    assert other.serials == one.serials  # what a revocation by serial is held against
    assert replace(other, chain=one.chain) == one
    assert rejected((LEAF, twin_of(ISSUER))) == {Rule.ISSUER}


def twin_of(der: bytes) -> bytes:
    """The same certificate with s replaced by n - s in its signature."""
    parsed = read(der).parsed
    r, s = decode_dss_signature(parsed.signature)
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    signature = b"\0" + encode_dss_signature(r, P256_ORDER - s)
    content = parsed.tbs_certificate_bytes + algorithm + bytes([3, len(signature)]) + signature
    return b"\x30\x82" + len(content).to_bytes(2) + content


def test_a_rejection_is_one_printable_line_with_every_reason() -> None:
    """It is what a log and an operator get to see."""
    rejection = Rejected((Mismatch(Rule.EXPIRED, "leaf"), Mismatch(Rule.NAMES, "leaf: 2 URI names")))
    assert str(rejection) == "certificate refused: expired: leaf; names: leaf: 2 URI names"
    assert str(verify((leaf(uris("\n")), ISSUER), BUNDLE, NOW)).isprintable()


@given(st.lists(st.binary(max_size=200) | st.sampled_from([LEAF, ISSUER, ROOT, CA.ca_leaf, b""]), max_size=6))
def test_any_chain_gives_a_value(chain: list[bytes]) -> None:
    """Whatever it is made of, and however it is ordered."""
    result = verify(chain, BUNDLE, NOW)
    assert isinstance(result, Rejected) or result.chain in {CHAIN, CA.ca_chain}


@settings(max_examples=300)
@given(at=st.integers(0, 2 * len(LEAF)), bit=st.integers(0, 7), which=st.sampled_from([0, 1]))
def test_no_bit_of_a_good_chain_can_change(at: int, bit: int, which: int) -> None:
    """Each bit of a leaf is signed, or is the signature; and an issuer is listed byte for byte."""
    changed = bytearray(CHAIN[which])
    changed[at % len(changed)] ^= 1 << bit
    chain = (bytes(changed), ISSUER) if which == 0 else (LEAF, bytes(changed))
    assert rejected(chain)


def test_a_signature_has_one_spelling() -> None:
    """DER lets the last zero bit of a BIT STRING go unused; a certificate so rewritten is not taken for the same."""
    even = next(leaf for _ in range(64) if not (leaf := CA.issue(NODE, KEY)[0])[-1] & 1)
    signature = x509.load_der_x509_certificate(even).signature
    at = len(even) - len(signature) - 1
    assert rejected((even[:at] + b"\1" + signature, ISSUER)) == {Rule.UNREADABLE}


@given(st.integers(-1, 2 * HOUR))
def test_verification_is_a_pure_function_of_its_arguments(offset: int) -> None:
    """The same chain, bundle and time give the same answer, in time or out of it."""
    at = Wall(NOW + offset)
    first = verify(CHAIN, BUNDLE, at)
    assert verify(list(CHAIN), BUNDLE, at) == first
    assert isinstance(first, Identity) is (offset <= HOUR)


def test_names_of_sessions_are_whole_ids() -> None:
    """An agent's identity carries the node and session that a revocation names."""
    identity = accepted(CA.issue(CA.agent(node="tools-1"), KEY))
    assert (identity.id.node, identity.id.session) == ("tools-1", SESSION)
