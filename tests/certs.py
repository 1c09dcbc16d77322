"""Certificates for tests, made on the spot: ECDSA P-256, valid from 2020 to 2099 unless told otherwise.

They are what a well-behaved CA would issue. The real issuer is tested on its own; a test that wants a certificate with
a flaw asks for it here.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOT_BEFORE = datetime(2020, 1, 1, tzinfo=UTC)
NOT_AFTER = datetime(2099, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and the certificates above it (nearest first, root last)."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    above: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What its holder presents: DER, itself first, without the root."""
        return tuple(c.public_bytes(Encoding.DER) for c in (self.certificate, *self.above[:-1]))


def root(name: str = "root") -> Issued:
    """A self-signed CA."""
    return _sign(None, _name(name), ca=True)


def issue(
    issuer: Issued, name: str, *, ca: bool = False, not_after: datetime = NOT_AFTER, key_ids: bool = True
) -> Issued:
    """A CA called ``name``, or a leaf whose one URI SAN is ``name``; one without a scheme is a DNS name."""
    if ca:
        return _sign(issuer, _name(name), ca=True, not_after=not_after, key_ids=key_ids)
    return _sign(issuer, x509.Name([]), uri=name, not_after=not_after, key_ids=key_ids)


def _sign(
    issuer: Issued | None,
    subject: x509.Name,
    *,
    ca: bool = False,
    uri: str = "",
    not_after: datetime = NOT_AFTER,
    key_ids: bool = True,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    signer = issuer.key if issuer else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(_key_usage(ca), critical=True)
    )
    if key_ids:
        own_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
        builder = builder.add_extension(own_id, critical=False).add_extension(issuer_id, critical=False)
    if not ca:
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        kind = x509.UniformResourceIdentifier if ":" in uri else x509.DNSName
        names = x509.SubjectAlternativeName([kind(uri)])
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        builder = builder.add_extension(names, critical=True)
    above = (issuer.certificate, *issuer.above) if issuer else ()
    return Issued(builder.sign(signer, hashes.SHA256()), key, above)


def _key_usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
