"""Certificates for the other proxies, as they want them: a root, and for each side a leaf with a DNS name, in PEM.

Like ours in what costs time: ECDSA P-256, SHA-256, one certificate below the root.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certs import NOT_AFTER, NOT_BEFORE, Issued, root

NAME = "peer.bench.internal"


@dataclass(frozen=True)
class Files:
    """Each side's file holds its certificate and its key, as haproxy and stunnel want it; the key also stands alone."""

    root: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def issue(folder: Path) -> Files:
    """New certificates for one pair."""
    anchor = root()
    found = Files(
        *(folder / name for name in ("root.pem", "server.pem", "server.key", "client.pem", "client.key"))
    )
    found.root.write_bytes(anchor.certificate.public_bytes(Encoding.PEM))
    for whole, alone in ((found.server, found.server_key), (found.client, found.client_key)):
        certificate, key = _leaf(anchor)
        alone.write_bytes(key)
        whole.write_bytes(certificate + key)
        for path in (whole, alone):
            path.chmod(0o600)
    return found


def _leaf(anchor: Issued) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(anchor.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=True)
        .sign(anchor.key, hashes.SHA256())
    )
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), plain
