"""TLS contexts: one way to speak TLS 1.3, with or without a certificate of one's own.

The rules, each with the attack or trouble it ends:

- TLS 1.3 only: no downgrade, no renegotiation, no cipher that leaks its plain text.
- No tickets, no session cache. A resumed session skips the certificate, so an expired or revoked client comes back
  through it (nginx CVE-2025-23419, Go CVE-2025-68121). OpenSSL still sends two tickets, which name a cache that is off;
  TlsStream refuses a resumed connection all the same.
- The hybrid group X25519MLKEM768 first: what is recorded today stays closed to a quantum computer later.
- No Python callback (verify, ALPN, SNI, key log): cffi would need memory that is writable and executable, which
  MemoryDenyWriteExecute forbids. What OpenSSL cannot judge without one, ``pki.verify`` judges after the handshake.
- X509_STRICT and a short chain. OpenSSL's yes is necessary, never sufficient: it says nothing of SPIFFE.
- Trust is the mesh's own roots. The system's are never loaded.
"""

from collections.abc import Sequence
from enum import Enum
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from OpenSSL import SSL
from OpenSSL.crypto import X509, X509Store, X509StoreFlags

from pki.errors import LocalError
from pki.tls.openssl import set_groups, write_whole_buffers

GROUPS = "X25519MLKEM768/X25519/P-256"
"""Most wanted first. Slashes make it the server's choice, at the price of a second hello if the client guessed else."""

MAX_INTERMEDIATES = 2
"""The issuer, and a root signed by its predecessor."""


class ClientCertificate(Enum):
    """What a server asks of its clients. OPTIONAL is for the CA API alone: to join is to have none yet."""

    REQUIRED = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    OPTIONAL = SSL.VERIFY_PEER


def make_context(
    *,
    anchors: Sequence[bytes],
    chain: Sequence[bytes],
    key: EllipticCurvePrivateKey | None,
    server_side: bool,
    client_certificate: ClientCertificate = ClientCertificate.REQUIRED,
) -> SSL.Context:
    """A context that trusts ``anchors`` (DER roots) and presents ``chain`` (DER, own leaf first) with its ``key``.

    A client may have neither chain nor key. Raises LocalError when a server has none, no anchor is given, a
    certificate cannot be read, or the key is not the leaf's.
    """
    if not anchors:
        raise LocalError("TLS: no trust anchor")
    context = _bare_context(server_side)
    context.set_verify(client_certificate.value if server_side else SSL.VERIFY_PEER)
    context.set_verify_depth(MAX_INTERMEDIATES)
    _trust(context, anchors)
    if chain and key is not None:
        _present(context, chain, key)
    elif chain or key is not None or server_side:
        raise LocalError("TLS: an own chain and its key come together, and a server needs both")
    return context


def unverified_client_context() -> SSL.Context:
    """A client context that believes anyone: only to fetch the public trust bundle, which a pin then proves."""
    context = _bare_context(server_side=False)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def tool_context(
    anchors: Sequence[x509.Certificate],
    chain: Sequence[x509.Certificate],
    key: EllipticCurvePrivateKey | RSAPrivateKey | None,
) -> SSL.Context:
    """A client context for a private tool that speaks TLS itself: TLS 1.2 or newer, ``anchors`` and nobody else.

    ``chain`` and ``key`` are the client certificate it wants, if it wants one. Whose certificate the tool shows is
    for the caller to check.
    """
    context = _bare_context(server_side=False)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_PEER)
    store = context.get_cert_store()
    if store is None:
        raise LocalError("TLS: the context has no certificate store")
    for anchor in anchors:
        store.add_cert(X509.from_cryptography(anchor))
    if chain and key is not None:
        try:
            context.use_certificate(chain[0])
            context.use_privatekey(key)
            context.check_privatekey()
        except SSL.Error:
            raise LocalError("TLS: the client certificate and its key do not fit") from None
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
    return context


def _bare_context(server_side: bool) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection in a pool keeps no record buffers
    set_groups(context, GROUPS)
    write_whole_buffers(context)
    return context


def _trust(context: SSL.Context, anchors: Sequence[bytes]) -> None:
    store = cast(X509Store, context.get_cert_store())  # a context always has one
    store.set_flags(X509StoreFlags.X509_STRICT)
    for anchor in anchors:
        store.add_cert(X509.from_cryptography(_load(anchor)))


def _present(context: SSL.Context, chain: Sequence[bytes], key: EllipticCurvePrivateKey) -> None:
    leaf, *issuers = map(_load, chain)
    if leaf.public_key() != key.public_key():
        raise LocalError("TLS: the key is not that of the own certificate")
    context.use_certificate(leaf)
    context.use_privatekey(key)
    for issuer in issuers:
        context.add_extra_chain_cert(issuer)


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise LocalError("TLS: an anchor or own certificate is not DER X.509") from None
