from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pki.certificate import MAX_CERTIFICATE_BYTES
from pki.chain import MAX_CHAIN_CERTIFICATES, from_pem, to_pem
from pki.errors import RemoteError
from tests.authority import new_key, tiny_ca
from tests.forge import forge, uris

CA = tiny_ca()
CHAIN = CA.issue(CA.node(), new_key())


@pytest.mark.parametrize("length", range(1, MAX_CHAIN_CERTIFICATES + 1))
def test_a_chain_comes_back_byte_for_byte_and_in_order(length: int) -> None:
    """Also when it is written twice: issuers are compared by their bytes."""
    chain = (CHAIN * 2)[:length]
    assert from_pem(to_pem(chain)) == chain


def test_text_around_the_certificates_is_skipped() -> None:
    """RFC 7468 section 2: tools write subjects and comments between them."""
    assert from_pem(b"subject=\n" + to_pem(CHAIN) + b"# end\n") == CHAIN


@pytest.mark.parametrize(
    ("pem", "problem"),
    [
        (b"", "not certificates in PEM"),
        (b"hello", "not certificates in PEM"),
        (to_pem(CHAIN)[:-40], "cut off"),
        (
            to_pem(CHAIN) + to_pem(CHAIN).replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"),
            "not only certificates",
        ),
        (to_pem(CHAIN).replace(b"MII", b"MIJ"), "not certificates in PEM"),
        (to_pem((CHAIN * 3)[:5]), "5 certificates, at most 4"),
        (to_pem((CHAIN * 3)[:5]).replace(b" CERT", b" X509 CERT"), "5 certificates, at most 4"),
        (b"\n" * 100_000, "100000 bytes"),
    ],
    ids=["empty", "text", "torn", "requests", "damaged", "five", "five-by-another-label", "large"],
)
def test_what_is_not_a_short_chain_is_a_remote_error(pem: bytes, problem: str) -> None:
    """The file may have come from anyone."""
    with pytest.raises(RemoteError, match=f"^certificate chain: .*{problem}"):
        from_pem(pem)


def test_each_certificate_has_a_cap_of_its_own() -> None:
    """A chain of short ones may not hide a long one."""
    long = forge(CA.issuer, change=[uris("x" * MAX_CERTIFICATE_BYTES)])
    pem = to_pem(CHAIN)
    with pytest.raises(RemoteError, match="certificate of over"):
        from_pem(pem + as_pem(long))
    with pytest.raises(RemoteError, match=r"^certificate: "):
        to_pem((long,))


def as_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda body: to_pem(CHAIN)[:500] + body))
def test_any_bytes_give_a_chain_or_a_remote_error(pem: bytes) -> None:
    """Nothing else gets out of the decoder."""
    with suppress(RemoteError):
        assert from_pem(pem)
