from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pki import svid
from pki.certificate import STATEMENT_SIGNING, lineage_of, read, user_of
from pki.clock import DAY, HOUR, SECOND, Wall
from pki.errors import LocalError, RemoteError
from pki.profile import check_issuer, check_leaf, check_root
from pki.spiffe import SpiffeId
from tests.authority import NOW, TRUST_DOMAIN, new_issuer, new_key, new_root, new_serial, tiny_ca
from tests.forge import name, uris

CA = tiny_ca()
CA_ID = SpiffeId.for_ca(TRUST_DOMAIN, "ca-1")
KEY = new_key()
POINT = PublicFormat.UncompressedPoint


def plan(
    spiffe_id: SpiffeId, *, at: Wall = NOW, lifetime: int = HOUR, lineage: str = "", serial: int = 0
) -> svid.LeafPlan:
    return svid.LeafPlan(spiffe_id, KEY.public_key(), serial or new_serial(), at, lifetime, lineage)


def extension(der: bytes, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    found = read(der).extension(kind)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spiffe_id", "signer"),
    [(CA.node(), CA.issuer), (CA.agent(), CA.issuer), (CA.operator(), CA.issuer), (CA_ID, CA.root)],
    ids=["node", "agent", "operator", "ca"],
)
def test_what_the_ca_makes_passes_its_own_profile(spiffe_id: SpiffeId, signer: svid.Signer) -> None:
    """Every kind of member gets exactly its SPIFFE ID and nothing the strict rules refuse."""
    certificate = read(svid.leaf(plan(spiffe_id), signer))
    assert check_leaf(certificate, TRUST_DOMAIN) == (spiffe_id, ())
    assert certificate.key == KEY.public_key()


def test_the_authorities_pass_their_profiles_too() -> None:
    """A root and an issuer, also for the longest trust domain there is."""
    trust_domain = "a" * 255
    root = new_root(trust_domain)
    assert check_root(read(root.certificate)) == ()
    assert check_issuer(read(new_issuer(root, trust_domain).certificate)) == ()


@pytest.mark.parametrize(
    ("spiffe_id", "dns"),
    [(CA.node(), ["localhost"]), (CA_ID, ["localhost"]), (CA.agent(), []), (CA.operator(), [])],
    ids=["node", "ca", "agent", "operator"],
)
def test_only_what_is_dialled_locally_is_called_localhost(spiffe_id: SpiffeId, dns: list[str]) -> None:
    """curl knows no SPIFFE and needs a DNS name; agents and operators serve nobody."""
    der = svid.leaf(plan(spiffe_id), CA.root if spiffe_id is CA_ID else CA.issuer)
    names = extension(der, x509.SubjectAlternativeName)
    assert isinstance(names.value, x509.SubjectAlternativeName)
    assert names.critical
    assert names.value.get_values_for_type(x509.DNSName) == dns
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(spiffe_id)]


@pytest.mark.parametrize(
    ("spiffe_id", "signer"), [(CA_ID, CA.issuer), (CA.node(), CA.root)], ids=["ca", "node"]
)
def test_the_wrong_key_is_never_asked_to_sign(spiffe_id: SpiffeId, signer: svid.Signer) -> None:
    """Issuers sign nothing below /ca/, and the root, which is offline, signs nothing else."""
    with pytest.raises(LocalError, match="may sign it"):
        svid.leaf(plan(spiffe_id), signer)


def test_an_issuer_makes_no_issuers_and_no_statement_keys() -> None:
    """Whoever steals an issuing key cannot make another, nor speak for the CA."""
    below = svid.CaPlan(TRUST_DOMAIN, new_serial(), NOW, DAY)
    with pytest.raises(LocalError, match="a root may sign it"):
        svid.issuer(below, KEY.public_key(), CA.issuer)
    with pytest.raises(LocalError, match="a root may sign it"):
        svid.statement_key(plan(CA_ID), CA.issuer)


def test_a_statement_key_is_the_cas_and_no_good_for_tls() -> None:
    """Its one purpose is private: without any, TLS libraries would allow them all."""
    der = svid.statement_key(plan(CA_ID), CA.root)
    assert extension(der, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([STATEMENT_SIGNING])
    _, wrong = check_leaf(read(der), TRUST_DOMAIN)
    assert [mismatch.rule for mismatch in wrong] == ["extended-key-usage"]
    with pytest.raises(LocalError, match="is not a CA"):
        svid.statement_key(plan(CA.node()), CA.root)


def test_both_ends_of_a_connection_present_the_same_leaf() -> None:
    """Either side may dial."""
    usage = extension(svid.leaf(plan(CA.node()), CA.issuer), x509.ExtendedKeyUsage)
    both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert usage.value == x509.ExtendedKeyUsage(both)


def test_a_certificate_begins_a_minute_before_its_issue() -> None:
    """A member whose clock lags must not refuse it; the issue time can be read back."""
    certificate = read(svid.leaf(plan(CA.node(), lifetime=HOUR), CA.issuer))
    assert certificate.not_before + svid.BACKDATE == NOW
    assert certificate.not_after == NOW + HOUR


@given(st.integers(1, 200 * DAY), st.integers(0, 89 * DAY))
def test_no_certificate_outlives_its_signer(lifetime: int, later: int) -> None:
    """It ends with its lifetime or its issuer, whichever is first, down to the second."""
    ends = read(CA.issuer.certificate).not_after
    at = Wall(NOW + later)
    certificate = read(svid.leaf(plan(CA.node(), at=at, lifetime=lifetime), CA.issuer))
    assert 0 <= min(at + lifetime, ends) - certificate.not_after < SECOND


@pytest.mark.parametrize(("at", "lifetime"), [(Wall(NOW + 90 * DAY), HOUR), (NOW, 0), (NOW, -HOUR)])
def test_no_certificate_ends_before_it_begins(at: Wall, lifetime: int) -> None:
    """An expired issuer is said, not hidden in a certificate that nobody accepts."""
    with pytest.raises(LocalError, match="has expired"):
        svid.leaf(plan(CA.node(), at=at, lifetime=lifetime), CA.issuer)


def test_a_lineage_begins_with_its_first_certificate() -> None:
    """A renewal names the first serial of its line, whatever its own is."""
    first = read(svid.leaf(plan(CA.node()), CA.issuer))
    renewed = read(svid.leaf(plan(CA.node(), lineage=f"{first.serial:x}"), CA.issuer))
    assert lineage_of(first) == lineage_of(renewed) == first.serial != renewed.serial


def test_a_session_s_certificate_names_its_user() -> None:
    """And no other member's may, nor one that is no name."""
    wanted = replace(plan(CA.agent()), on_behalf_of="alice@example.org")
    assert user_of(read(svid.leaf(wanted, CA.issuer))) == "alice@example.org"
    for wrong in (replace(wanted, id=CA.node()), replace(wanted, on_behalf_of="a\nb")):
        with pytest.raises(LocalError, match="cannot name a user"):
            svid.leaf(wrong, CA.issuer)


@pytest.mark.parametrize("lineage", ["0", "-1", "f" * 41])
def test_a_lineage_is_a_serial(lineage: str) -> None:
    """What no certificate can have as its serial, no lineage begins with."""
    with pytest.raises(LocalError, match="lineage"):
        svid.leaf(plan(CA.node(), lineage=lineage), CA.issuer)


@pytest.mark.parametrize("serial", [-1, 1 << 159])
def test_a_serial_out_of_range_is_not_used(serial: int) -> None:
    """RFC 5280 4.1.2.2, on the making side."""
    with pytest.raises(LocalError, match="the serial number is not positive"):
        svid.leaf(plan(CA.node(), serial=serial), CA.issuer)


def test_a_signer_whose_key_is_another_is_refused() -> None:
    """Else everything it signed would be void, and members would find out."""
    with pytest.raises(LocalError, match="do not belong together"):
        svid.leaf(plan(CA.node()), svid.Signer(CA.issuer.certificate, new_key()))


@pytest.mark.parametrize(
    ("entropy", "serial"), [(bytes(20), 1), (b"\xff" * 20, (1 << 159) - 1), (bytes(19) + b"\x02", 1)]
)
def test_a_serial_is_made_of_the_randomness_it_is_given(entropy: bytes, serial: int) -> None:
    """159 bits, never zero."""
    assert svid.serial_of(entropy) == serial


@pytest.mark.parametrize("length", [0, 19, 21])
def test_a_serial_takes_exactly_its_randomness(length: int) -> None:
    """Less could be guessed."""
    with pytest.raises(ValueError, match="20 bytes"):
        svid.serial_of(bytes(length))


def test_of_a_request_only_its_key_is_taken() -> None:
    """Names and rights that it asks for go nowhere (CVE-2022-40716)."""
    greedy = x509.CertificateSigningRequestBuilder().subject_name(name("root"))
    for wanted, critical in (
        uris("spiffe://example.org/operator/alice"),
        (x509.BasicConstraints(True, 3), True),
    ):
        greedy = greedy.add_extension(wanted, critical)
    der = greedy.sign(KEY, hashes.SHA256()).public_bytes(Encoding.DER)
    assert svid.public_key_of_csr(der) == KEY.public_key()
    assert svid.public_key_of_csr(svid.request(KEY)) == KEY.public_key()


def csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(name(""))
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def stolen() -> bytes:
    """A request for someone else's key: its own was swapped after it was signed."""
    own, other = (key.public_key().public_bytes(Encoding.X962, POINT) for key in (KEY, new_key()))
    return svid.request(KEY).replace(own, other)


@pytest.mark.parametrize(
    ("der", "problem"),
    [
        (b"", "not a readable"),
        (svid.request(KEY)[:-1], "not a readable"),
        (svid.request(KEY).replace(b"\x02\x01\x00", b"\x02\x01\x05", 1), "not a readable"),
        (svid.request(KEY) + bytes(svid.MAX_CSR_BYTES), "at most 8192"),
        (csr(ec.derive_private_key(7, ec.SECP384R1())), "not for a P-256 key"),
        (csr(rsa.generate_private_key(65_537, 2_048)), "not for a P-256 key"),
        (stolen(), "not signed with the key"),
    ],
    ids=["empty", "torn", "version-6", "large", "p384", "rsa", "stolen"],
)
def test_a_request_that_proves_no_p256_key_is_refused(der: bytes, problem: str) -> None:
    """Who cannot sign with a key gets no certificate for it."""
    with pytest.raises(RemoteError, match=f"^certificate request: .*{problem}"):
        svid.public_key_of_csr(der)


@given(st.binary(max_size=400))
def test_any_bytes_give_a_key_or_a_remote_error(der: bytes) -> None:
    """A request comes from someone who is no member yet."""
    with suppress(RemoteError):
        svid.public_key_of_csr(der)
