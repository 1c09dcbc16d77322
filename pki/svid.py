"""Certificates as the CA makes them (X509-SVID; the rules they must pass are in :mod:`pki.profile`).

A plan says all of a certificate that is not fixed by its role. The names in a certificate come from the plan and
nowhere else: of a request (CSR) only the public key is taken, whatever names it asks for (CVE-2022-40716 is what
happens otherwise). Time and serial numbers are arguments, so this module knows no clock and no randomness.

    root ──signs──> issuer ──signs──> node, agent session, operator
      └───────────> /ca/<name>: the CA's TLS leaf, and statement keys

Every certificate begins ``BACKDATE`` before its plan's time, for members whose clocks lag; its issue time is
therefore its notBefore plus ``BACKDATE``. None outlives its signer.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.certificate import (
    LINEAGE,
    MAX_SERIAL_BITS,
    ON_BEHALF_OF,
    STATEMENT_SIGNING,
    UNREADABLE,
    Certificate,
    is_p256,
    is_serial,
    is_user,
    lineage_value,
    read,
    to_datetime,
    user_value,
)
from pki.clock import SECOND, Wall
from pki.errors import LocalError, RemoteError
from pki.profile import LOCAL_NAME
from pki.spiffe import IdKind, SpiffeId
from pki.spki import Key, PublicKey

BACKDATE = 60 * SECOND
SERIAL_ENTROPY_BYTES = 20
MAX_CSR_BYTES = 8_192

_BOTH_ENDS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
_STATEMENTS_ONLY = x509.ExtendedKeyUsage([STATEMENT_SIGNING])
_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)
_SIGNS_DATA = x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True})
_SIGNS_CERTIFICATES = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})


@dataclass(frozen=True, slots=True)
class Signer:
    """A CA certificate (DER) and its private key."""

    certificate: bytes
    key: Key


@dataclass(frozen=True, slots=True)
class CaPlan:
    """A root or issuing certificate to be made. ``at`` is the time of issue, ``lifetime`` counts from it (us)."""

    trust_domain: str
    serial: int
    at: Wall
    lifetime: int


@dataclass(frozen=True, slots=True)
class LeafPlan:
    """A leaf to be made. ``lineage`` is the serial of the first of its line, as hex; empty: it is the first."""

    id: SpiffeId
    key: PublicKey
    serial: int
    at: Wall
    lifetime: int
    lineage: str = ""
    on_behalf_of: str = ""
    """The verified user whom a session runs for; empty: nobody's."""


def serial_of(entropy: bytes) -> int:
    """A serial number of 20 random bytes: positive, 159 bits (RFC 5280 4.1.2.2)."""
    if len(entropy) != SERIAL_ENTROPY_BYTES:
        raise ValueError(f"a serial number is made of {SERIAL_ENTROPY_BYTES} bytes")
    return int.from_bytes(entropy) >> (8 * SERIAL_ENTROPY_BYTES - MAX_SERIAL_BITS) or 1


def root(plan: CaPlan, key: Key) -> bytes:
    """A new self-signed root certificate, DER."""
    name = _ca_name("root", plan)
    builder = _ca(plan, key.public_key(), path_length=1).subject_name(name).issuer_name(name)
    builder = _valid(builder, plan.at, plan.at + plan.lifetime)
    return _sign(builder, key)


def issuer(plan: CaPlan, key: PublicKey, signer: Signer) -> bytes:
    """A new issuing certificate for ``key`` under the root ``signer``, DER; raises LocalError."""
    above = _signer_certificate(signer, root=True)
    builder = _ca(plan, key, path_length=0).subject_name(_ca_name("issuer", plan))
    return _sign_below(builder, plan, above, signer)


def leaf(plan: LeafPlan, signer: Signer) -> bytes:
    """A new X.509-SVID, DER; raises LocalError.

    Under ``/ca/`` only a root signs, so that an issuing key that was stolen cannot pose as the CA. All others are
    signed by an issuer.
    """
    above = _signer_certificate(signer, root=plan.id.kind is IdKind.CA)
    dns = [x509.DNSName(LOCAL_NAME)] if plan.id.kind in (IdKind.NODE, IdKind.CA) else []
    builder = _leaf(plan, dns).add_extension(_BOTH_ENDS, critical=False)
    return _sign_below(builder, plan, above, signer)


def statement_key(plan: LeafPlan, signer: Signer) -> bytes:
    """A new certificate of the CA's statement key, DER, which no TLS end accepts; raises LocalError."""
    if plan.id.kind is not IdKind.CA:
        raise LocalError(f"statement key: {plan.id} is not a CA")
    above = _signer_certificate(signer, root=True)
    builder = _leaf(plan, []).add_extension(_STATEMENTS_ONLY, critical=False)
    return _sign_below(builder, plan, above, signer)


def request(key: Key) -> bytes:
    """A request (CSR, DER) for a certificate for ``key``. It asks for no name: the CA would not read it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def public_key_of_csr(der: bytes) -> PublicKey:
    """The P-256 key of a request that was signed with it, which is all we take of it; raises RemoteError."""
    if len(der) > MAX_CSR_BYTES:
        raise RemoteError(f"certificate request: {len(der)} bytes, at most {MAX_CSR_BYTES} are allowed")
    try:
        asked = x509.load_der_x509_csr(der)
        key, signed = asked.public_key(), asked.is_signature_valid
    except UNREADABLE:
        raise RemoteError("certificate request: not a readable PKCS #10 request") from None
    if not is_p256(key):
        raise RemoteError("certificate request: not for a P-256 key")
    if not signed:
        raise RemoteError("certificate request: not signed with the key that it asks for")
    return key


def _ca(plan: CaPlan, key: PublicKey, *, path_length: int) -> x509.CertificateBuilder:
    return (
        _for_key(key, plan.serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_SIGNS_CERTIFICATES, critical=True)
    )


def _leaf(plan: LeafPlan, dns: list[x509.DNSName]) -> x509.CertificateBuilder:
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(plan.id)), *dns])
    builder = _for_key(plan.key, plan.serial)
    first = int(plan.lineage, 16) if plan.lineage else plan.serial
    if not is_serial(first):
        raise LocalError(f"certificate of {plan.id}: its lineage is not a serial number")
    if plan.on_behalf_of:
        if plan.id.kind is not IdKind.AGENT or not is_user(plan.on_behalf_of):
            raise LocalError(f"certificate of {plan.id}: it cannot name a user")
        user = x509.UnrecognizedExtension(ON_BEHALF_OF, user_value(plan.on_behalf_of))
        builder = builder.add_extension(user, critical=False)
    return (
        builder.subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_SIGNS_DATA, critical=True)
        .add_extension(x509.UnrecognizedExtension(LINEAGE, lineage_value(first)), critical=False)
    )


def _for_key(key: PublicKey, serial: int) -> x509.CertificateBuilder:
    if not is_serial(serial):
        raise LocalError("certificate: the serial number is not positive, or longer than 20 octets")
    key_id = x509.SubjectKeyIdentifier.from_public_key(key)
    return (
        x509.CertificateBuilder().serial_number(serial).public_key(key).add_extension(key_id, critical=False)
    )


def _valid(builder: x509.CertificateBuilder, at: Wall, until: int) -> x509.CertificateBuilder:
    if until <= at:
        raise LocalError("certificate: it would end before it begins; the CA's own certificate has expired")
    begin = to_datetime(Wall(at - BACKDATE))
    return builder.not_valid_before(begin).not_valid_after(to_datetime(Wall(until)))


def _sign_below(
    builder: x509.CertificateBuilder, plan: CaPlan | LeafPlan, above: Certificate, signer: Signer
) -> bytes:
    builder = builder.issuer_name(above.parsed.subject)
    return _sign(_valid(builder, plan.at, min(plan.at + plan.lifetime, above.not_after)), signer.key)


def _sign(builder: x509.CertificateBuilder, key: Key) -> bytes:
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(by, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _signer_certificate(signer: Signer, *, root: bool) -> Certificate:
    certificate = read(signer.certificate)
    if certificate.self_issued is not root:
        raise LocalError(f"certificate: only {'a root' if root else 'an issuer'} may sign it")
    if certificate.key != signer.key.public_key():
        raise LocalError("certificate: the CA's key and its certificate do not belong together")
    return certificate


def _ca_name(role: str, plan: CaPlan) -> x509.Name:
    # The serial keeps apart the names of a CA key and its successor: verifiers look up signers by name first.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, plan.trust_domain),
            x509.NameAttribute(NameOID.COMMON_NAME, f"lockgate {role} {plan.serial:040x}"),
        ]
    )
