"""Keys by their SubjectPublicKeyInfo (RFC 5280 4.1.2.7), which stays the same whatever certificate carries them."""

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def spki(key: PublicKey) -> bytes:
    """The SubjectPublicKeyInfo of ``key``, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(key: PublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo: 32 bytes that name a key whatever certificate carries it."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(spki(key))
    return digest.finalize()
