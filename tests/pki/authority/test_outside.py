"""A root of a company's own PKI: taken where our verifier honours all that it says, refused whole where not."""

from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki.authority.keystore import Birth, create_below, open_online
from pki.authority.outside import outside_root
from pki.authority.succession import RootAccess, Successor
from pki.clock import DAY, SECOND, Wall
from pki.errors import LocalError
from pki.spiffe import SpiffeId
from tests.authority import NOW, new_key

NUMBERS = count(1)
CA = SpiffeId.for_ca("example.org", "main")
KEY = new_key()
NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Corporation")])
USAGE = {
    "digital_signature": False,
    "content_commitment": False,
    "key_encipherment": False,
    "data_encipherment": False,
    "key_agreement": False,
    "key_cert_sign": True,
    "crl_sign": True,
    "encipher_only": False,
    "decipher_only": False,
}


def entropy(size: int) -> bytes:
    return (1 << 150 | next(NUMBERS) << 8).to_bytes(20)[-size:]


BIRTH = Birth(CA, NOW, entropy)


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at // SECOND, UTC)


def corporate(
    *more: x509.ExtensionType,
    key: ec.EllipticCurvePrivateKey = KEY,
    path_length: int | None = 2,
    days: int = 3650,
    issuer: x509.Name = NAME,
) -> bytes:
    """A root as a company's PKI makes one; ``more`` are critical extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(moment(NOW - DAY))
        .not_valid_after(moment(NOW + days * DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(x509.KeyUsage(**USAGE), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension in more:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_company_root_is_the_root_of_a_mesh(tmp_path: Path) -> None:
    """With room below it and a name of its own; its key is nowhere in the CA's folder."""
    root = outside_root(corporate(), KEY, BIRTH)
    create_below(tmp_path / "ca", BIRTH, root)
    assert open_online(tmp_path / "ca").bundle.roots == (root.certificate,)
    assert not (tmp_path / "ca" / "root.key").exists()
    with pytest.raises(LocalError, match=r"root\.key"):
        Successor(tmp_path / "ca", BIRTH, RootAccess(None)).stock()


@pytest.mark.parametrize(
    ("pem", "why"),
    [
        (corporate(x509.NameConstraints([x509.DNSName("example.org")], None)), "critical-extension"),
        (corporate(x509.PolicyConstraints(0, None)), "critical-extension"),
        (corporate(path_length=0), "room for an issuer"),
        (corporate(key=ec.generate_private_key(ec.SECP384R1())), "key"),
        (corporate(key=new_key()), "not that of the certificate"),
        (corporate(days=300), "less than a year"),
        (corporate(issuer=x509.Name([])), "issued by itself"),
        (corporate() * 2, "2 certificates"),
        (b"junk", "outside root"),
    ],
    ids=["names", "policies", "path", "curve", "another-key", "short", "not-self", "two", "junk"],
)
def test_what_our_verifier_cannot_honour_is_refused_at_import(pem: bytes, why: str) -> None:
    """Constraints that nobody here would enforce, and keys that nobody here would take: better now than later."""
    with pytest.raises(LocalError, match=why):
        outside_root(pem, KEY, BIRTH)


def test_all_that_is_wrong_is_named_at_once() -> None:
    """Whoever asks the company's PKI for another one asks once."""
    with pytest.raises(LocalError) as caught:
        outside_root(corporate(path_length=0, key=new_key(), days=1), KEY, BIRTH)
    assert str(caught.value).count(";") == 2


def test_a_root_of_the_past_is_none() -> None:
    """Its own end counts before anything else."""
    late = Birth(CA, Wall(NOW + 4_000 * DAY), entropy)
    with pytest.raises(LocalError, match="not valid now"):
        outside_root(corporate(), KEY, late)
