"""Leaves that the CA would never make, signed all the same: each test changes what it is about."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes,
    CertificatePublicKeyTypes,
)
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.certificate import to_datetime
from pki.clock import HOUR, Wall
from pki.svid import Signer
from tests.authority import NOW, new_key, new_serial

NODE_URI = "spiffe://example.org/node/agents-1"

USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)

LATER = Wall(NOW + HOUR)

Hash = hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512
Extension = tuple[x509.ExtensionType, bool]


@dataclass(frozen=True)
class Fields:
    """All of a certificate but its extensions. Without changes: a node's, valid at ``NOW``."""

    key: CertificatePublicKeyTypes | None = None
    signing_key: CertificateIssuerPrivateKeyTypes | None = None
    algorithm: Hash | None = field(default_factory=hashes.SHA256)
    subject: str = ""
    issuer: x509.Name | None = None
    at: Wall = NOW
    until: Wall = LATER


def forge(
    signer: Signer,
    fields: Fields | None = None,
    *,
    change: Sequence[Extension] = (),
    without: type[x509.ExtensionType] | None = None,
) -> bytes:
    """A leaf under ``signer``, DER: good but for ``fields``, the extensions in ``change``, and the one left out."""
    fields = fields or Fields()
    key = fields.key or new_key().public_key()
    above = x509.load_der_x509_certificate(signer.certificate)
    extensions: dict[x509.ObjectIdentifier, Extension] = {
        extension.oid: (extension, critical)
        for extension, critical in [*good_extensions(key, signer), *change]
        if without is None or extension.oid != without.oid
    }
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(fields.subject))
        .issuer_name(fields.issuer or above.subject)
        .public_key(key)
        .serial_number(new_serial())
        .not_valid_before(to_datetime(fields.at))
        .not_valid_after(to_datetime(fields.until))
    )
    for extension, critical in extensions.values():
        builder = builder.add_extension(extension, critical)
    return builder.sign(fields.signing_key or signer.key, fields.algorithm).public_bytes(Encoding.DER)


def good_extensions(key: CertificatePublicKeyTypes, signer: Signer) -> list[Extension]:
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key())
    return [
        names(x509.UniformResourceIdentifier(NODE_URI)),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        key_usage("digital_signature"),
        purposes(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (by, False),
    ]


def name(common_name: str) -> x509.Name:
    """A subject; empty for the empty string."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def names(*general: x509.GeneralName, critical: bool = True) -> Extension:
    return x509.SubjectAlternativeName(general), critical


def uris(*values: str) -> Extension:
    return names(*map(x509.UniformResourceIdentifier, values))


def key_usage(*usages: str, critical: bool = True) -> Extension:
    return x509.KeyUsage(**{usage: usage in usages for usage in USAGES}), critical


def purposes(*oids: x509.ObjectIdentifier) -> Extension:
    return x509.ExtendedKeyUsage(oids), False


def unknown(oid: str | x509.ObjectIdentifier, value: bytes, *, critical: bool = False) -> Extension:
    """An extension that cryptography does not parse."""
    oid = oid if isinstance(oid, x509.ObjectIdentifier) else x509.ObjectIdentifier(oid)
    return x509.UnrecognizedExtension(oid, value), critical
