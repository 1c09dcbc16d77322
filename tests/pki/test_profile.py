from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.certificate import LINEAGE, ON_BEHALF_OF, read, to_datetime, user_value
from pki.clock import DAY, Wall
from pki.profile import Mismatch, Rule, check_issuer, check_leaf, check_root
from pki.spiffe import SpiffeId
from tests.authority import NOW, SESSION, TRUST_DOMAIN, new_key, new_serial, tiny_ca
from tests.forge import NODE_URI, Extension, Fields, forge, key_usage, name, names, purposes, unknown, uris

CA = tiny_ca()
NODE = CA.node()
URI = x509.UniformResourceIdentifier
LOCALHOST = x509.DNSName("localhost")
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CODE = ExtendedKeyUsageOID.CODE_SIGNING
AGENT_URI = f"spiffe://example.org/agent/researcher/agents-1/{SESSION}"


def rules(wrong: tuple[Mismatch, ...]) -> list[str]:
    return [mismatch.rule.value for mismatch in wrong]


def check(der: bytes) -> tuple[SpiffeId | None, list[str]]:
    spiffe_id, wrong = check_leaf(read(der), TRUST_DOMAIN)
    return spiffe_id, rules(wrong)


def test_the_unchanged_leaf_is_good() -> None:
    """What the tables below change is right before the change."""
    assert check(forge(CA.issuer)) == (NODE, [])


@pytest.mark.parametrize(
    "change",
    [
        names(URI(NODE_URI), LOCALHOST),
        names(LOCALHOST, URI(NODE_URI)),
        uris("spiffe://example.org/ca/ca-1"),
        uris(AGENT_URI),
        uris("spiffe://example.org/operator/alice"),
        key_usage("digital_signature", "key_agreement"),
        purposes(SERVER, CLIENT),
        (x509.BasicConstraints(ca=False, path_length=None), False),
        unknown("1.2.3", b"\x05\x00"),
    ],
    ids=[
        "localhost",
        "order",
        "ca",
        "agent",
        "operator",
        "agreement",
        "eku-order",
        "not-critical",
        "private",
    ],
)
def test_what_a_good_leaf_may_differ_in(change: Extension) -> None:
    """X509-SVID leaves these open, and nothing depends on them."""
    spiffe_id, wrong = check(forge(CA.issuer, change=[change]))
    assert spiffe_id is not None
    assert wrong == []


DEPARTURES: dict[str, tuple[list[Extension], list[str]]] = {
    "no names": ([uris()], ["names"]),
    "a DNS name alone": ([names(LOCALHOST)], ["names"]),
    "one URI twice": ([uris(NODE_URI, NODE_URI)], ["names"]),
    "two URIs": ([uris(NODE_URI, "spiffe://example.org/node/tools-1")], ["names"]),
    "100 URIs": ([uris(*(f"spiffe://example.org/node/n{i}" for i in range(100)))], ["names"]),
    "another DNS name": ([names(URI(NODE_URI), x509.DNSName("example.org"))], ["names"]),
    "localhost twice": ([names(URI(NODE_URI), LOCALHOST, LOCALHOST)], ["names"]),
    "a mail address": ([names(URI(NODE_URI), x509.RFC822Name("a@example.org"))], ["names"]),
    "a directory name": ([names(URI(NODE_URI), x509.DirectoryName(name("x")))], ["names"]),
    "an agent at localhost": ([names(URI(AGENT_URI), LOCALHOST)], ["names"]),
    "an operator at localhost": ([names(URI("spiffe://example.org/operator/alice"), LOCALHOST)], ["names"]),
    "names not critical": ([names(URI(NODE_URI), critical=False)], ["names"]),
    "another scheme": ([uris("https://example.org/node/agents-1")], ["spiffe-id"]),
    "NUL in the URI": ([uris("spiffe://example.org/node/agents-1\0.evil")], ["spiffe-id"]),
    "one more segment": ([uris("spiffe://example.org/node/agents-1/x")], ["spiffe-id"]),
    "a query": ([uris("spiffe://example.org/node/agents-1?x")], ["spiffe-id"]),
    "no path": ([uris("spiffe://example.org/")], ["spiffe-id"]),
    "another trust domain": ([uris("spiffe://example.com/node/agents-1")], ["trust-domain"]),
    "a subdomain": ([uris("spiffe://sub.example.org/node/agents-1")], ["trust-domain"]),
    "a CA": ([(x509.BasicConstraints(ca=True, path_length=None), True)], ["basic-constraints"]),
    "usage not critical": ([key_usage("digital_signature", critical=False)], ["key-usage"]),
    "no digitalSignature": ([key_usage("key_encipherment")], ["key-usage"]),
    "keyCertSign": ([key_usage("digital_signature", "key_cert_sign")], ["key-usage"]),
    "cRLSign": ([key_usage("digital_signature", "crl_sign")], ["key-usage"]),
    "usage all wrong": ([key_usage("crl_sign", critical=False)], ["key-usage"] * 3),
    "client only": ([purposes(CLIENT)], ["extended-key-usage"]),
    "server only": ([purposes(SERVER)], ["extended-key-usage"]),
    "one purpose more": ([purposes(CLIENT, SERVER, CODE)], ["extended-key-usage"]),
    "any purpose": ([purposes(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)], ["extended-key-usage"]),
    "unknown, critical": ([unknown("1.2.3", b"\x05\x00", critical=True)], ["critical-extension"]),
    "lineage, critical": ([unknown(LINEAGE, b"\x02\x01\x05", critical=True)], ["critical-extension"]),
    "lineage of zero": ([unknown(LINEAGE, b"\x02\x01\x00")], ["lineage"]),
    "on a node's behalf": ([unknown(ON_BEHALF_OF, user_value("alice"))], ["on-behalf-of"]),
    "on nobody's behalf": ([unknown(ON_BEHALF_OF, b"alice")], ["on-behalf-of"]),
    "on an agent's behalf, critically": (
        [uris(AGENT_URI), unknown(ON_BEHALF_OF, user_value("alice"), critical=True)],
        ["critical-extension"],
    ),
    "all at once": (
        [uris(), key_usage("crl_sign"), purposes(SERVER), (x509.BasicConstraints(True, None), True)],
        ["basic-constraints", "extended-key-usage", "key-usage", "key-usage", "names"],
    ),
}


@pytest.mark.parametrize("departure", DEPARTURES)
def test_each_departure_from_the_profile_is_named(departure: str) -> None:
    """All of them, so that whoever repairs a certificate repairs it once."""
    changes, broken = DEPARTURES[departure]
    _, wrong = check(forge(CA.issuer, change=changes))
    assert sorted(wrong) == broken


@pytest.mark.parametrize(
    ("missing", "broken"),
    [
        (x509.SubjectAlternativeName, ["names"]),
        (x509.BasicConstraints, ["basic-constraints"]),
        (x509.KeyUsage, ["key-usage"]),
        (x509.ExtendedKeyUsage, ["extended-key-usage"]),
        (x509.AuthorityKeyIdentifier, ["key-identifier"]),
        (x509.SubjectKeyIdentifier, []),
    ],
)
def test_what_other_validators_let_go_missing_is_missed(
    missing: type[x509.ExtensionType], broken: list[str]
) -> None:
    """cryptography's verifier accepts a leaf without most of these."""
    assert check(forge(CA.issuer, without=missing))[1] == broken


ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
P384 = ec.derive_private_key(7, ec.SECP384R1())
RSA = rsa.generate_private_key(65_537, 2_048)


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        (Fields(key=RSA.public_key()), ["key"]),
        (Fields(key=P384.public_key()), ["key"]),
        (Fields(key=ED25519.public_key()), ["key"]),
        (Fields(algorithm=hashes.SHA224()), ["algorithm"]),
        (Fields(algorithm=hashes.SHA384()), []),
        (Fields(algorithm=hashes.SHA512()), []),
        (Fields(signing_key=RSA), ["algorithm"]),
        (Fields(signing_key=ED25519, algorithm=None), ["algorithm"]),
        (Fields(subject="alice"), ["subject"]),
    ],
    ids=["rsa", "p384", "ed25519", "sha224", "sha384", "sha512", "rsa-signed", "ed25519-signed", "subject"],
)
def test_keys_hashes_and_subjects_are_judged(fields: Fields, broken: list[str]) -> None:
    """P-256 keys, ECDSA with SHA-256 or better, and no second identity in the subject."""
    assert check(forge(CA.issuer, fields))[1] == broken


def test_versions_and_serials_are_judged() -> None:
    """Version 3 and a positive serial of at most 20 octets (RFC 5280 4.1.2)."""
    der = forge(CA.issuer)
    assert check(as_version_1(der))[1] == ["version"]
    _, wrong = check_leaf(replace(read(der), serial=0), TRUST_DOMAIN)
    assert rules(wrong) == ["serial"]


def as_version_1(der: bytes) -> bytes:
    """The same without its version field, the two lengths around it mended (its signature is then void)."""
    version = b"\xa0\x03\x02\x01\x02"
    whole, inner, rest = int.from_bytes(der[2:4]), int.from_bytes(der[6:8]), der[8:].removeprefix(version)
    header = (
        b"\x30\x82" + (whole - len(version)).to_bytes(2) + b"\x30\x82" + (inner - len(version)).to_bytes(2)
    )
    assert len(header + rest) == len(der) - len(version)
    return header + rest


def test_a_mismatch_never_repeats_what_a_stranger_wrote() -> None:
    """Its text goes to logs and terminals."""
    der = forge(CA.issuer, Fields(subject="\n\x1b[31mforged"), change=[uris("spiffe://\nforged\x1b[31m")])
    _, wrong = check_leaf(read(der), TRUST_DOMAIN)
    assert rules(wrong) == ["subject", "spiffe-id"]
    assert all(str(mismatch).isprintable() and "forged" not in str(mismatch) for mismatch in wrong)


def authority(
    *, own: bool, change: Extension | None = None, without: type[x509.ExtensionType] | None = None
) -> bytes:
    """A root (``own``) or an issuer, good but for one extension."""
    key = CA.root.key if own else new_key()
    root_name = read(CA.root.certificate).parsed.subject
    usual: list[Extension] = [
        (x509.BasicConstraints(ca=True, path_length=1 if own else 0), True),
        key_usage("key_cert_sign", "crl_sign"),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.root.key.public_key()), False),
    ]
    if change is not None:
        usual = [each for each in usual if each[0].oid != change[0].oid] + [change]
    builder = (
        x509.CertificateBuilder()
        .subject_name(root_name if own else name("issuer"))
        .issuer_name(root_name)
        .public_key(key.public_key())
        .serial_number(new_serial())
        .not_valid_before(to_datetime(NOW))
        .not_valid_after(to_datetime(Wall(NOW + DAY)))
    )
    for extension, critical in usual:
        if without is None or extension.oid != without.oid:
            builder = builder.add_extension(extension, critical)
    return builder.sign(CA.root.key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (None, []),
        ((x509.BasicConstraints(ca=False, path_length=None), True), ["basic-constraints"]),
        ((x509.BasicConstraints(ca=True, path_length=0), False), ["basic-constraints"]),
        ((x509.BasicConstraints(ca=True, path_length=1), True), ["basic-constraints"]),
        ((x509.BasicConstraints(ca=True, path_length=None), True), ["basic-constraints"]),
        (key_usage("digital_signature"), ["key-usage"]),
        (key_usage("key_cert_sign", critical=False), ["key-usage"]),
        ((x509.NameConstraints([x509.DNSName("x")], None), True), ["critical-extension"]),
    ],
    ids=["good", "no-ca", "not-critical", "path-1", "no-path", "no-cert-sign", "usage-not-critical", "names"],
)
def test_an_issuer_signs_leaves_and_nothing_else(change: Extension | None, broken: list[str]) -> None:
    """A CA of path length 0."""
    assert rules(check_issuer(read(authority(own=False, change=change)))) == broken


@pytest.mark.parametrize(
    ("missing", "broken"),
    [
        (x509.BasicConstraints, ["basic-constraints"]),
        (x509.KeyUsage, ["key-usage"]),
        (x509.SubjectKeyIdentifier, ["key-identifier"]),
        (x509.AuthorityKeyIdentifier, ["key-identifier"]),
    ],
)
def test_an_issuer_lacks_nothing(missing: type[x509.ExtensionType], broken: list[str]) -> None:
    """Its key identifier names it in records and revocations."""
    assert rules(check_issuer(read(authority(own=False, without=missing)))) == broken


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (None, []),
        ((x509.BasicConstraints(ca=True, path_length=None), True), []),
        ((x509.BasicConstraints(ca=True, path_length=0), True), ["basic-constraints"]),
        ((x509.BasicConstraints(ca=False, path_length=None), True), ["basic-constraints"]),
        (key_usage("crl_sign"), ["key-usage"]),
    ],
    ids=["good", "no-path-length", "path-0", "no-ca", "no-cert-sign"],
)
def test_a_root_has_room_for_issuers(change: Extension | None, broken: list[str]) -> None:
    """A CA that may have a CA below it."""
    assert rules(check_root(read(authority(own=True, change=change)))) == broken


def test_roots_and_issuers_do_not_pass_for_each_other_or_for_leaves() -> None:
    """Each role's rules exclude the two others."""
    root, issuer, leaf = map(read, (CA.root.certificate, CA.issuer.certificate, forge(CA.issuer)))
    assert Rule.SUBJECT in rules(check_issuer(root))
    assert Rule.SUBJECT in rules(check_root(issuer))
    assert Rule.BASIC_CONSTRAINTS in rules(check_issuer(leaf))
    for authority_certificate in (root, issuer):
        spiffe_id, wrong = check_leaf(authority_certificate, TRUST_DOMAIN)
        assert spiffe_id is None
        assert {Rule.BASIC_CONSTRAINTS, Rule.SUBJECT, Rule.NAMES} <= set(rules(wrong))


def test_a_root_needs_no_authority_key_identifier() -> None:
    """It would name itself (RFC 5280 4.2.1.1)."""
    bare = authority(own=True, without=x509.AuthorityKeyIdentifier)
    assert check_root(read(bare)) == ()
