"""Attacks before the first frame: bytes that are no TLS, and certificates of every wrong kind."""

from collections.abc import Awaitable, Callable
from functools import partial

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from pki import svid
from pki.clock import DAY, HOUR
from pki.spki import Key
from pki.tls.frames import FrameStream
from pki.tls.openssl import was_resumed
from pki.tls.stream import TlsStream
from sidecar import wire
from sidecar.identity import Credential
from tests.authority import new_key, tiny_ca
from tests.forge import Extension, Fields, forge, key_usage, purposes, uris
from tests.hostile.greeting import hello
from tests.hostile.rogue import (
    AGENTS,
    ANYTHING,
    HANDSHAKE,
    REVOKED,
    TROUBLE,
    Case,
    Rogue,
    hangs_up,
    presenting,
    seen,
)

Attack = Callable[[Rogue], Awaitable[str]]


def says(data: bytes) -> Attack:
    """Bytes on a bare connection, and no more of them."""

    async def attack(rogue: Rogue) -> str:
        async with rogue.tcp() as stream:
            await stream.send_all(data)
            await stream.send_eof()
            return await hangs_up(stream)

    return attack


def shows(context_of: Callable[[Rogue], SSL.Context]) -> Attack:
    """A whole TLS handshake and a good HELLO. In TLS 1.3 the client hears of its refusal only afterwards."""

    async def attack(rogue: Rogue) -> str:
        try:
            async with rogue.tls(context_of(rogue)) as stream:
                frames = FrameStream(stream, ANYTHING)
                await frames.send(wire.FrameType.HELLO, hello())
                return await seen(frames)
        except TROUBLE:
            return "gone"

    return attack


def holds(credential_of: Callable[[Rogue], Credential]) -> Attack:
    """The same with a credential that fits together."""
    return shows(lambda rogue: rogue.context(credential_of(rogue)))


def ca(rogue: Rogue) -> Credential:
    """The CA is a member on control links, and never a proxy."""
    return Credential(rogue.authority.id, (rogue.authority.tls.certificate,), rogue.authority.tls.key)


def tls_1_2(rogue: Rogue) -> SSL.Context:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


def self_signed(rogue: Rogue) -> SSL.Context:
    key = new_key()
    own = svid.Signer(_root(key, rogue), key)
    return presenting(rogue, own.certificate, key)


def foreign_ca(rogue: Rogue) -> Credential:
    """A whole mesh of the same name, with a node of the same name."""
    mesh = tiny_ca(rogue.trust_domain, rogue.now())
    key, who = new_key(), rogue.node_id(AGENTS)
    return Credential(who, mesh.issue(who, key), key)


def other_trust_domain(rogue: Rogue) -> SSL.Context:
    return forged(rogue, change=[uris("spiffe://elsewhere.example/node/agents-1")])


def forged(rogue: Rogue, fields: Fields | None = None, **changes: object) -> SSL.Context:
    """A leaf of agents-1 under the stolen issuing key that breaks one rule."""
    key = new_key()
    at = rogue.now()
    fields = fields or Fields(key=key.public_key(), at=at, until=type(at)(at + HOUR))
    change = [uris(str(rogue.node_id(AGENTS))), *changes.pop("change", ())]  # type: ignore[misc]  # a list of them
    leaf = forge(rogue.authority.issuer, fields, change=change, **changes)  # type: ignore[arg-type]  # as forge has it
    return presenting(rogue, leaf, key, [rogue.authority.issuer.certificate])


def breaks(**changes: object) -> Attack:
    return shows(partial(forged, **changes))  # type: ignore[arg-type]  # as forged has it


def others_key(rogue: Rogue) -> Credential:
    """The public chain of agents-1, copied off the wire, beside a key of one's own."""
    return Credential(rogue.node_id(AGENTS), rogue.members[AGENTS].chain, new_key())


async def copied_chain(rogue: Rogue) -> str:
    """OpenSSL will not present a chain without its key: the proof of possession is in the handshake."""
    chain = rogue.members[AGENTS].chain
    own = rogue.mint(rogue.node_id("stranger-1"))
    return await shows(lambda rogue: presenting(rogue, own.chain[0], own.key, chain))(rogue)


async def resumes(rogue: Rogue) -> str:
    """Offers the session of an earlier handshake: the victim wants to see the certificate all the same."""
    context = rogue.context(rogue.members[AGENTS])
    async with rogue.tls(context) as first:
        frames = FrameStream(first, ANYTHING)
        await frames.send(wire.FrameType.HELLO, hello())
        assert await seen(frames) == "HELLO"
        session = first._tls.get_session()
    assert session is not None
    async with rogue.tcp() as transport:
        second = TlsStream(transport, context, server_side=False)
        second._tls.set_session(session)
        await second.do_handshake()
        return "resumed" if was_resumed(second._tls) else "whole handshake"


def _root(key: Key, rogue: Rogue) -> bytes:
    return svid.root(svid.CaPlan(rogue.trust_domain, 7, rogue.now(), DAY), key)


_CA_TRUE: Extension = (x509.BasicConstraints(ca=True, path_length=None), True)
_NODE = f"spiffe://dev.lockgate.internal/node/{AGENTS}"
_TWO = uris(_NODE, "spiffe://dev.lockgate.internal/node/tools-1")

CASES = [
    Case("zeros", says(bytes(4_096)), HANDSHAKE),
    Case("random-bytes", says(bytes(range(256)) * 64), HANDSHAKE),
    Case("http", says(b"GET / HTTP/1.1\r\nHost: tools-1\r\n\r\n"), HANDSHAKE),
    Case("ssh", says(b"SSH-2.0-OpenSSH_9.2p1\r\n"), HANDSHAKE),
    Case("nothing-and-end", says(b""), HANDSHAKE),
    Case("half-a-client-hello", says(bytes.fromhex("1603010200010001fc0303") + bytes(100)), HANDSHAKE),
    Case("a-record-of-64-KiB", says(b"\x16\x03\x01\xff\xff" + bytes(65_535)), HANDSHAKE),
    Case("tls-1.2", shows(tls_1_2), HANDSHAKE),
    Case("no-certificate", shows(lambda rogue: rogue.context(None)), HANDSHAKE),
    Case("self-signed", shows(self_signed), HANDSHAKE),
    Case("foreign-ca", holds(foreign_ca), HANDSHAKE),
    Case("other-trust-domain", shows(other_trust_domain), HANDSHAKE),
    Case("expired", holds(lambda r: r.mint(r.node_id(AGENTS), type(r.now())(r.now() - 2 * HOUR))), HANDSHAKE),
    Case("not-yet", holds(lambda r: r.mint(r.node_id(AGENTS), type(r.now())(r.now() + HOUR))), HANDSHAKE),
    Case("agents-session", holds(lambda r: r.session), HANDSHAKE),
    Case("operator", holds(lambda r: r.alice.credential), HANDSHAKE),
    Case("ca-on-a-stream", holds(ca), HANDSHAKE),
    Case(
        "statement-key",
        shows(lambda r: presenting(r, r.authority.statement.certificate, r.authority.statement.key)),
        HANDSHAKE,
    ),
    Case(
        "issuer-itself",
        shows(lambda r: presenting(r, r.authority.issuer.certificate, r.authority.issuer.key)),
        HANDSHAKE,
    ),
    Case(
        "issuer-missing",
        shows(lambda r: presenting(r, r.members[AGENTS].chain[0], r.members[AGENTS].key)),
        HANDSHAKE,
    ),
    Case("copied-chain", copied_chain, HANDSHAKE),
    Case("not-in-the-roster", holds(lambda r: r.mint(r.node_id("stranger-1"))), HANDSHAKE),
    Case("revoked-node", holds(lambda r: r.members[REVOKED]), HANDSHAKE),
    Case("revoked-node-new-certificate", holds(lambda r: r.mint(r.node_id(REVOKED))), HANDSHAKE),
    Case("issuer-mints-a-ca", breaks(change=[uris("spiffe://dev.lockgate.internal/ca/main")]), HANDSHAKE),
    Case("two-spiffe-ids", breaks(change=[_TWO]), HANDSHAKE),
    Case("leaf-that-is-a-ca", breaks(change=[_CA_TRUE]), HANDSHAKE),
    Case(
        "leaf-that-signs-certificates",
        breaks(change=[key_usage("digital_signature", "key_cert_sign")]),
        HANDSHAKE,
    ),
    Case("no-key-usage", breaks(without=x509.KeyUsage), HANDSHAKE),
    Case("server-only", breaks(change=[purposes(ExtendedKeyUsageOID.SERVER_AUTH)]), HANDSHAKE),
    Case("path-below-node", breaks(change=[uris(_NODE + "/more")]), HANDSHAKE),
    Case("resumed-session", resumes, HANDSHAKE, seen="whole handshake"),
]
