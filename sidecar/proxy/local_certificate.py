"""Client certificates of `mtls` bindings: how one is made, and what is believed of it. Pure.

Where the kernel cannot tell who calls (a container, a user namespace, one uid for many), a binding may ask its
callers for a certificate. The rules:

1. Its issuer is a key that this daemon makes at its start and keeps in memory. It stands in no trust bundle: what it
   signs proves nothing to a peer, to the CA, or to another node. It ends with the daemon, as sessions do.
2. It names one binding and one session, ``urn:lockgate:binding:<agent>:<service>:<session>``, and nothing else. That
   is no SPIFFE ID, so that nobody can take it for an SVID; and an SVID is never taken for it.
3. Its key is the caller's own, never the session's. Only the public half comes here.
4. It is for TLS clients, and ends with the session's certificate of its time. The session's end ends it at once,
   since each caller's session is looked up.

OpenSSL judges signature and time, by the machine's clock, as the handshake ends. :func:`pin_of` judges the rest.
"""

import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.certificate import Certificate, read, to_datetime
from pki.clock import DAY, Wall
from pki.errors import LocalError, RemoteError
from pki.ids import is_id
from pki.spiffe import is_name
from pki.spki import Key, PublicKey
from pki.svid import BACKDATE

PREFIX = "urn:lockgate:binding:"
ISSUER_LIFETIME = 3_650 * DAY
"""Longer than a daemon runs."""

_USAGE = dict.fromkeys(
    (
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


@dataclass(frozen=True, slots=True)
class Pin:
    """The one binding and session that a certificate is good for."""

    agent: str
    service: str
    session: str

    def __str__(self) -> str:
        return f"{PREFIX}{self.agent}:{self.service}:{self.session}"

    @classmethod
    def parse(cls, text: str) -> "Pin":
        """Raises RemoteError for anything that :meth:`__str__` does not write."""
        found = re.fullmatch(rf"{PREFIX}([a-z0-9-]+):([a-z0-9-]+):([a-z2-7]+)", text)
        if found is None or not (is_name(found[1]) and is_name(found[2]) and is_id(found[3])):
            raise RemoteError("client certificate: its name is not a binding's")
        return cls(*found.groups())


@dataclass(frozen=True, slots=True)
class Term:
    """Serial number and validity of a certificate to be made."""

    serial: int
    at: Wall
    until: Wall


@dataclass(frozen=True, slots=True)
class LocalIssuer:
    """A node's own issuer of client certificates: self-signed, DER, and its key."""

    certificate: bytes
    key: Key


def new_issuer(node: str, key: Key, serial: int, at: Wall) -> LocalIssuer:
    """The issuer of one run of ``node``'s daemon."""
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, f"lockgate bindings of {node} {serial:x}"[:64])]
    )
    usage = x509.KeyUsage(digital_signature=False, key_cert_sign=True, crl_sign=False, **_USAGE)
    builder = _builder(key.public_key(), Term(serial, at, Wall(at + ISSUER_LIFETIME)), name, key)
    builder = (
        builder.subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return LocalIssuer(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER), key)


def issue(pin: Pin, key: PublicKey, term: Term, issuer: LocalIssuer) -> bytes:
    """A client certificate for ``key``, DER; raises LocalError where it would end before it begins."""
    if term.until <= term.at:
        raise LocalError(
            f"client certificate of session {pin.session}: the session's own certificate has expired"
        )
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=False, crl_sign=False, **_USAGE)
    name = read(issuer.certificate).parsed.subject
    builder = (
        _builder(key, term, name, issuer.key)
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(pin))]), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def pin_of(leaf: Certificate, now: Wall) -> Pin:
    """What a verified certificate of ours is good for; raises RemoteError.

    ``now`` is the later of the wall clock and the floor: a clock that was set back revives nothing.
    """
    if not leaf.not_before <= now <= leaf.not_after:
        raise RemoteError("client certificate: it has expired, or is not valid yet")
    names = leaf.extension(x509.SubjectAlternativeName)
    uris = (
        [name.value for name in names.value if isinstance(name, x509.UniformResourceIdentifier)]
        if names
        else []
    )
    if names is None or len(names.value) != 1 or len(uris) != 1:
        raise RemoteError("client certificate: not exactly one name")
    return Pin.parse(uris[0])


def _builder(key: PublicKey, term: Term, issuer: x509.Name, signer: Key) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(term.serial)
        .not_valid_before(to_datetime(Wall(term.at - BACKDATE)))
        .not_valid_after(to_datetime(term.until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
