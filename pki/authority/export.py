"""What others can read of a CA: its roots as a SPIFFE bundle, and what it has revoked as a CRL. Pure."""

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pki.bundle import TrustBundle, key_of
from pki.certificate import read, to_datetime
from pki.clock import DAY, SECOND, Wall
from pki.svid import Signer

CRL_LIFE = DAY
REFRESH_HINT = 300
"""Seconds after which a SPIFFE bundle should be fetched again."""

_COORDINATE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Revoked:
    """A certificate that was revoked before its end: its serial in hex, and when."""

    serial: str
    at: Wall


def spiffe_bundle(bundle: TrustBundle) -> bytes:
    """The roots as a JWK set (SPIFFE Trust Domain and Bundle, section 4), as other trust domains federate with it."""
    document = {
        "keys": [_jwk(root) for root in bundle.roots],
        "spiffe_sequence": bundle.sequence,
        "spiffe_refresh_hint": REFRESH_HINT,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def crl(issuer: Signer, revoked: Iterable[Revoked], number: int, at: Wall) -> bytes:
    """A CRL (RFC 5280 section 5) in PEM, under the key that issued what it names; good for a day."""
    above = read(issuer.certificate).parsed
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(above.subject)
        .last_update(to_datetime(at))
        .next_update(to_datetime(Wall(at + CRL_LIFE)))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(by, critical=False)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(int(one.serial, 16))
        # A CRL knows whole seconds.
        since = to_datetime(Wall(one.at - one.at % SECOND))
        builder = builder.add_revoked_certificate(entry.revocation_date(since).build())
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _jwk(root: bytes) -> dict[str, object]:
    numbers = key_of(root).public_numbers()
    return {
        "use": "x509-svid",
        "kty": "EC",
        "crv": "P-256",
        "x": _coordinate(numbers.x),
        "y": _coordinate(numbers.y),
        "x5c": [b64encode(root).decode()],
    }


def _coordinate(number: int) -> str:
    return urlsafe_b64encode(number.to_bytes(_COORDINATE_BYTES)).rstrip(b"=").decode()
