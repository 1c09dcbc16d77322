"""Certificate chains on paper: PEM and DER, leaf first, with caps before any decoding (RFC 7468)."""

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki.certificate import MAX_CERTIFICATE_BYTES, UNREADABLE, read
from pki.errors import RemoteError

MAX_CHAIN_CERTIFICATES = 4

# Base64 makes four bytes of three, and a line break for every 64.
_MAX_PEM_BYTES = MAX_CHAIN_CERTIFICATES * MAX_CERTIFICATE_BYTES * 3 // 2


def to_pem(chain: Sequence[bytes]) -> bytes:
    """A chain of DER certificates as PEM, in the same order; raises RemoteError for what is not a certificate."""
    return b"".join(read(der).parsed.public_bytes(Encoding.PEM) for der in chain)


def from_pem(pem: bytes) -> tuple[bytes, ...]:
    """The certificates in ``pem`` as DER, 1 to 4 in the order they stand; raises RemoteError."""
    if len(pem) > _MAX_PEM_BYTES:
        raise RemoteError(f"certificate chain: {len(pem)} bytes, at most {_MAX_PEM_BYTES} are allowed")
    try:
        chain = tuple(found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(pem))
    except UNREADABLE:
        raise RemoteError("certificate chain: not certificates in PEM") from None
    if len(chain) != pem.count(b"-----BEGIN "):
        # The parser skips a block that was cut off, and one of another kind.
        raise RemoteError("certificate chain: cut off, or not only certificates")
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise RemoteError(f"certificate chain: {len(chain)} certificates, at most {MAX_CHAIN_CERTIFICATES}")
    if any(len(der) > MAX_CERTIFICATE_BYTES for der in chain):
        raise RemoteError(f"certificate chain: a certificate of over {MAX_CERTIFICATE_BYTES} bytes")
    return chain
