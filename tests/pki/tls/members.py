"""What the TLS tests share: one small CA, two members, and streams between them."""

from collections.abc import Sequence
from dataclasses import dataclass

import trio
import trio.testing
from OpenSSL import SSL

from pki.tls.context import ClientCertificate, make_context
from pki.tls.stream import TlsStream
from tests import certs

ROOT = certs.root()
ISSUER = certs.issue(ROOT, "issuer", ca=True)
ALICE = certs.issue(ISSUER, "spiffe://mesh.test/node/alice")
BOB = certs.issue(ISSUER, "spiffe://mesh.test/node/bob")

Transports = tuple[trio.abc.Stream, trio.abc.Stream]


def client_context(
    credential: certs.Issued | None = ALICE, anchors: Sequence[certs.Issued] = (ROOT,)
) -> SSL.Context:
    return make_context(
        anchors=[anchor.der for anchor in anchors],
        chain=credential.chain if credential else (),
        key=credential.key if credential else None,
        server_side=False,
    )


def server_context(
    client_certificate: ClientCertificate = ClientCertificate.REQUIRED,
    credential: certs.Issued = BOB,
    anchors: Sequence[certs.Issued] = (ROOT,),
) -> SSL.Context:
    return make_context(
        anchors=[anchor.der for anchor in anchors],
        chain=credential.chain,
        key=credential.key,
        server_side=True,
        client_certificate=client_certificate,
    )


def streams(
    client: SSL.Context | None = None,
    server: SSL.Context | None = None,
    transports: Transports | None = None,
) -> tuple[TlsStream, TlsStream]:
    """A client and a server, not yet shaken hands."""
    near, far = transports or trio.testing.memory_stream_pair()
    return (
        TlsStream(near, client or client_context(), server_side=False),
        TlsStream(far, server or server_context(), server_side=True),
    )


async def secured(
    client: SSL.Context | None = None,
    server: SSL.Context | None = None,
    transports: Transports | None = None,
) -> tuple[TlsStream, TlsStream]:
    """A client and a server that trust each other."""
    pair = streams(client, server, transports)
    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(stream.do_handshake)
    return pair


@dataclass
class Outcome:
    """How an attempt to connect and to be greeted went, on each side: the error, if any."""

    client: Exception | None = None
    server: Exception | None = None


async def attempt(client: SSL.Context | None = None, server: SSL.Context | None = None) -> Outcome:
    """Shake hands; then the server greets and the client reads it. Whoever fails hangs up."""
    near, far = streams(client, server)
    outcome = Outcome()

    async def knock() -> None:
        try:
            await near.do_handshake()
            await near.receive_some()
        except Exception as error:  # noqa: BLE001 - which one is what the test asks
            outcome.client = error
            await near.aclose()

    async def greet() -> None:
        try:
            await far.do_handshake()
            await far.send_all(b"welcome")
        except Exception as error:  # noqa: BLE001 - which one is what the test asks
            outcome.server = error
            await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(knock)
        nursery.start_soon(greet)
    return outcome
