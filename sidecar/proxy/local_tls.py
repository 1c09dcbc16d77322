"""TLS on the local entrances whose callers are told by `mtls`; certificates by :mod:`sidecar.proxy.local_certificate`.

The server shows the node's certificate, which names `localhost`. What is asked of the client is a certificate of
this daemon's own issuer and no other: not the mesh's roots, so that an SVID, the session's own too, opens nothing here.
The rules of TLS are those of the overlay (:mod:`pki.tls.context`): 1.3 only, no tickets, no resumption. A handshake
has one deadline, its wait for its turn included, and each binding its own share of those under way.
"""

import secrets
from dataclasses import dataclass, field
from typing import Protocol

import trio
from OpenSSL import SSL

from pki import keys
from pki.certificate import read
from pki.clock import Wall
from pki.errors import RefusedError, RemoteError
from pki.spki import PublicKey
from pki.svid import SERIAL_ENTROPY_BYTES, serial_of
from pki.tls.context import make_context
from pki.tls.stream import TlsStream
from pki.tls.threshold import Threshold
from sidecar.identity import Credential
from sidecar.overlay import Standing
from sidecar.policy.model import Binding
from sidecar.proxy import local_certificate
from sidecar.proxy.local_certificate import LocalIssuer, Pin, Term

HANDSHAKE_SECONDS = 5.0
HANDSHAKES = 64
HANDSHAKES_PER_BINDING = 16


class Node(Protocol):
    """What it needs to know of the node it runs on."""

    @property
    def name(self) -> str: ...

    def standing(self) -> Standing: ...


@dataclass(frozen=True, slots=True)
class Proven:
    """A caller that proved a key of ours, and what that key is good for."""

    stream: TlsStream
    pin: Pin


@dataclass(eq=False)
class LocalTls:
    """One for a daemon. Its issuer is never written anywhere."""

    node: Node
    _threshold: Threshold = field(default_factory=lambda: Threshold(HANDSHAKES, HANDSHAKES_PER_BINDING))
    _context: tuple[Credential, SSL.Context] | None = None
    _issuer: LocalIssuer | None = None

    def certify(self, pin: Pin, key: PublicKey, until: Wall) -> bytes:
        """A client certificate for ``pin``, DER; raises LocalError when ``until`` is not ahead."""
        term = Term(_new_serial(), self.node.standing().now, until)
        return local_certificate.issue(pin, key, term, self.issuer)

    @property
    def issuer(self) -> LocalIssuer:
        """Made when the first is asked for: most nodes have no such binding."""
        if self._issuer is None:
            now = self.node.standing().now
            self._issuer = local_certificate.new_issuer(self.node.name, keys.generate(), _new_serial(), now)
        return self._issuer

    async def accept(self, transport: trio.SocketStream, binding: Binding) -> Proven:
        """Shake hands with a caller; raises RemoteError or RefusedError, whose words are for the record."""
        stream = TlsStream(transport, self._server_context(), server_side=True)
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                async with self._threshold.crossing(binding.address):
                    await stream.do_handshake()
        except trio.TooSlowError:
            raise RefusedError(f"TLS handshake: not completed within {HANDSHAKE_SECONDS:.0f} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise RemoteError("TLS handshake: the caller left") from None
        return Proven(stream, self._pin_of(stream))

    def _pin_of(self, stream: TlsStream) -> Pin:
        chain = stream.peer_chain()
        if len(chain) != 2 or chain[1] != self.issuer.certificate:
            raise RemoteError("client certificate: not of this daemon's issuer")
        return local_certificate.pin_of(read(chain[0]), self.node.standing().now)

    def _server_context(self) -> SSL.Context:
        """Made again when the node's certificate was renewed."""
        credential = self.node.standing().credential
        if self._context is None or self._context[0] is not credential:
            context = make_context(
                anchors=[self.issuer.certificate],
                chain=credential.chain,
                key=credential.key,
                server_side=True,
            )
            self._context = (credential, context)
        return self._context[1]


def _new_serial() -> int:
    return serial_of(secrets.token_bytes(SERIAL_ENTROPY_BYTES))
