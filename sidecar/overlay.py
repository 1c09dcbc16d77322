"""Connections between members: TLS handshake, SPIFFE verification, HELLO. Nothing is trusted before all three.

    accept/dial -> TLS 1.3 (OpenSSL judges the chain) -> pki.verify (we judge it again, strictly)
                -> may this identity be a peer here? -> HELLO each way -> Connection

A peer is ``/node/`` in the roster and not revoked, or ``/ca/`` on control links. Any other identity that the CA
vouches for (an agent's session, an operator) is refused before HELLO: it has nothing to do on the overlay.

A TLS 1.3 client is through before the server has judged its certificate: a dial counts once the server's HELLO came.
"""

import hashlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio
from OpenSSL import SSL

from pki import codec
from pki.bundle import TrustBundle
from pki.clock import Wall
from pki.errors import RemoteError, UnreachableError
from pki.spiffe import IdKind, SpiffeId
from pki.spki import spki
from pki.tls.context import make_context
from pki.tls.frames import FrameStream
from pki.tls.stream import TlsStream
from pki.verify import Identity, verify
from sidecar.address import Address
from sidecar.identity import Credential
from sidecar.wire import (
    CONTROL_LIMITS,
    HELLO_LIMITS,
    STREAM_LIMITS,
    VERSION,
    Feature,
    FrameType,
    Hello,
    decode_as,
)

HANDSHAKE_SECONDS = 5.0

Role = Literal["control", "stream"]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a connection is judged by, as of now."""

    credential: Credential
    bundle: TrustBundle
    now: Wall
    is_member: Callable[[Identity], bool]
    """Whether a node is in the roster and not revoked."""


class Dial(Protocol):
    """The seam for outgoing connections."""

    async def __call__(self, address: Address) -> trio.abc.Stream: ...


@dataclass(eq=False, slots=True)
class Connection:
    """A verified peer and the frames to and from it."""

    identity: Identity
    frames: FrameStream
    role: Role
    opens: bool
    """Whether we are the side that opens streams here."""
    dialled: bool
    """Whether we dialled."""
    own_spki: bytes
    """Our SubjectPublicKeyInfo, DER."""
    tls: TlsStream
    features: frozenset[str] = frozenset()
    """What the peer's HELLO names."""
    peer_spki: bytes = field(init=False)
    """The key that the peer's handshake was signed with; a renewed certificate has another."""
    on_prove: Callable[[bytes], None] | None = None
    """Takes the body of a PROVE that comes in the middle of a stream; raises RemoteError."""

    def __post_init__(self) -> None:
        self.peer_spki = spki(self.identity.public_key)

    @property
    def peer(self) -> SpiffeId:
        return self.identity.id

    def exporter(self, label: bytes) -> bytes:
        """32 bytes that only the two ends of this very connection can know (RFC 8446 section 7.5).

        The context binds both ends' keys in the order opener, acceptor, so that neither can be swapped.
        """
        opener, acceptor = self.own_spki, self.peer_spki
        if not self.opens:
            opener, acceptor = acceptor, opener
        return self.tls.exporter(label, spki_pair(opener, acceptor))

    def is_quiet(self) -> bool:
        """Whether an idle connection is still there, with nothing unasked for on it. Asks the kernel, waits for nothing.

        What came along with a stream's last frame counts: left there, it would answer the next OPEN.
        """
        if self.frames.has_unread or self.tls.has_unread:
            return False
        transport = self.tls.transport
        if not isinstance(transport, trio.SocketStream):
            return True
        try:
            with socket.fromfd(
                transport.socket.fileno(), transport.socket.family, socket.SOCK_STREAM
            ) as peek:
                peek.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            return False  # An end, or bytes that nobody asked for.
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.tls)


class Overlay:
    """Makes connections. Contexts are rebuilt when the certificate or the bundle changes, and only then."""

    def __init__(self, standing: Callable[[], Standing], dial: Dial) -> None:
        self._standing = standing
        self._dial = dial
        self._contexts: dict[bool, tuple[object, SSL.Context]] = {}

    async def accept(self, transport: trio.abc.Stream) -> Connection:
        """The peer at the other end of an accepted connection.

        Otherwise closes it, and raises RemoteError for what the peer did or is, UnreachableError if it went away.
        """
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                async with _closed_on_failure(transport):
                    return await self._welcome(transport)
        except trio.TooSlowError:
            raise RemoteError(f"no handshake within {HANDSHAKE_SECONDS:.0f} s") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            raise UnreachableError("the peer left before its HELLO") from None

    async def dial(
        self, address: Address, expected: SpiffeId, role: Role, *, opens: bool = True
    ) -> Connection:
        """A connection to ``expected``; raises UnreachableError, or RemoteError when somebody else answers."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                transport = await self._dial(address)
                async with _closed_on_failure(transport):
                    return await self._greet(transport, expected, role, opens=opens)
        except trio.TooSlowError:
            raise UnreachableError(f"{address}: no answer within {HANDSHAKE_SECONDS:.0f} s") from None
        except RemoteError as error:
            raise RemoteError(f"{address}: {error}") from None
        except OSError as error:
            raise UnreachableError(f"{address}: {error.strerror or error}") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise UnreachableError(f"{address}: it left before its HELLO") from None

    def admits(self, connection: Connection) -> bool:
        """Whether the peer may still be one, as of now.

        Whoever keeps connections asks again once this one can be found there: a revocation that came between its
        handshake and that moment found nothing to close.
        """
        try:
            self._require_peer(connection.identity, connection.role)
        except RemoteError:
            return False
        return True

    async def _welcome(self, transport: trio.abc.Stream) -> Connection:
        secured = await self._secure(transport, server_side=True)
        self._require_peer(
            secured.identity, "control"
        )  # The role that asks least: the peer's own comes with HELLO.
        theirs = await _receive_hello(secured.frames)
        self._require_peer(secured.identity, theirs.role)
        await _send_hello(secured.frames, theirs.role, opens=not theirs.opens)
        _require_version(theirs)  # After ours went out, so that the other side can say it too.
        return secured.connection(theirs, opens=not theirs.opens, dialled=False)

    async def _greet(
        self, transport: trio.abc.Stream, expected: SpiffeId, role: Role, *, opens: bool
    ) -> Connection:
        secured = await self._secure(transport, server_side=False)
        if secured.identity.id != expected:
            raise RemoteError(f"{secured.identity.id} answers, not {expected}")
        self._require_peer(secured.identity, role)
        await _send_hello(secured.frames, role, opens=opens)
        theirs = await _receive_hello(secured.frames)
        _require_version(theirs)
        if theirs.role != role or theirs.opens is opens:
            raise RemoteError("its HELLO does not answer ours")
        return secured.connection(theirs, opens=opens, dialled=True)

    async def _secure(self, transport: trio.abc.Stream, *, server_side: bool) -> "_Secured":
        standing = self._standing()
        tls = TlsStream(transport, self._context(standing, server_side), server_side=server_side)
        await tls.do_handshake()
        identity = verify(tls.peer_chain(), standing.bundle, standing.now)
        if not isinstance(identity, Identity):
            raise RemoteError(f"peer certificate: {identity}")
        own = spki(standing.credential.key.public_key())
        return _Secured(tls, identity, FrameStream(tls, HELLO_LIMITS), own)

    def _require_peer(self, identity: Identity, role: Role) -> None:
        standing = self._standing()
        # The CA is a member and never a proxy: no stream begins or ends at it.
        is_proxied = role == "stream"
        _require_kind(identity, _NODES if is_proxied else _PEERS)
        if is_proxied and standing.credential.id.kind is not IdKind.NODE:
            raise RemoteError(f"peer {identity.id}: no streams are carried here")
        if identity.id.kind is IdKind.NODE and not standing.is_member(identity):
            raise RemoteError(f"peer {identity.id}: not in the roster, or revoked")

    def _context(self, standing: Standing, server_side: bool) -> SSL.Context:
        made_of = (standing.bundle.digest, standing.credential.chain)
        known = self._contexts.get(server_side)
        if known is None or known[0] != made_of:
            context = make_context(
                anchors=standing.bundle.roots,
                chain=standing.credential.chain,
                key=standing.credential.key,
                server_side=server_side,
            )
            known = self._contexts[server_side] = (made_of, context)
        return known[1]


@dataclass(frozen=True, slots=True)
class _Secured:
    """A connection whose peer proved who it is, and has not said what it wants."""

    tls: TlsStream
    identity: Identity
    frames: FrameStream
    own_spki: bytes

    def connection(self, theirs: Hello, *, opens: bool, dialled: bool) -> Connection:
        # The same frames go on: their decoder may hold what came right behind the HELLO.
        self.frames.limits = CONTROL_LIMITS if theirs.role == "control" else STREAM_LIMITS
        return Connection(
            identity=self.identity,
            frames=self.frames,
            role=theirs.role,
            opens=opens,
            dialled=dialled,
            own_spki=self.own_spki,
            tls=self.tls,
            features=frozenset(theirs.features),
        )


_NODES = frozenset({IdKind.NODE})
_PEERS = frozenset({IdKind.NODE, IdKind.CA})


def spki_pair(opener: bytes, acceptor: bytes) -> bytes:
    """SHA-256 over both ends' SubjectPublicKeyInfo (DER, which tells its own length), the opener's first."""
    return hashlib.sha256(opener + acceptor).digest()


def _require_kind(identity: Identity, kinds: frozenset[IdKind]) -> None:
    if identity.id.kind not in kinds:
        raise RemoteError(f"peer {identity.id}: it has no business here")


def _require_version(theirs: Hello) -> None:
    if theirs.version != VERSION:
        raise RemoteError(f"HELLO: version {theirs.version}, this side speaks {VERSION}")


async def _send_hello(frames: FrameStream, role: Role, *, opens: bool) -> None:
    hello = Hello(version=VERSION, features=list(Feature.ALL), role=role, opens=opens)
    await frames.send(FrameType.HELLO, codec.encode(hello))


async def _receive_hello(frames: FrameStream) -> Hello:
    frame = await frames.receive()
    if frame is None:
        raise RemoteError("the peer left before its HELLO")
    return decode_as(Hello, frame.body, FrameType.HELLO)


@asynccontextmanager
async def _closed_on_failure(transport: trio.abc.Stream) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await trio.aclose_forcefully(transport)
        raise
