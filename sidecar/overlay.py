"""Connections between members: TLS handshake, SPIFFE verification, HELLO. Nothing is trusted before all three.

    accept/dial -> TLS 1.3 (OpenSSL judges the chain) -> pki.verify (we judge it again, strictly)
                -> may this identity be a peer here? -> HELLO each way -> Connection

A peer is ``/node/`` in the roster and not revoked, or ``/ca/`` on control links. Any other identity that the CA
vouches for (an agent's session, an operator) is refused before HELLO: it has nothing to do on the overlay.
"""

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import trio
from OpenSSL import SSL

from pki import codec
from pki.bundle import TrustBundle, key_of
from pki.clock import Clock, Wall
from pki.errors import RefusedError, RemoteError, UnreachableError
from pki.keys import spki_sha256
from pki.spiffe import IdKind, SpiffeId
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
    tls: TlsStream

    @property
    def peer(self) -> SpiffeId:
        return self.identity.id

    def exporter(self, label: bytes) -> bytes:
        """32 bytes that only the two ends of this very connection can know (RFC 8446 section 7.5).

        The context binds both ends' keys in the order opener, acceptor, so that neither can be swapped.
        """
        opener, acceptor = self.own_spki, self.identity.spki_sha256
        if not self.opens:
            opener, acceptor = acceptor, opener
        return self.tls.exporter(label, spki_pair(opener, acceptor))

    def is_quiet(self) -> bool:
        """Whether an idle connection is still there, with nothing unasked for on it. Asks the kernel, waits for nothing."""
        transport = self.tls.transport
        if not isinstance(transport, trio.SocketStream):
            return True
        try:
            with socket.fromfd(transport.socket.fileno(), transport.socket.family, socket.SOCK_STREAM) as peek:
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

    def __init__(self, standing: Callable[[], Standing], dial: Dial, clock: Clock) -> None:
        self._standing = standing
        self._dial = dial
        self._clock = clock
        self._contexts: dict[bool, tuple[object, SSL.Context]] = {}

    async def accept(self, transport: trio.abc.Stream) -> Connection:
        """The peer at the other end of an accepted connection; raises RemoteError, and closes it, otherwise."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                tls, identity, standing = await self._secure(transport, server_side=True)
                frames = FrameStream(tls, HELLO_LIMITS)
                theirs = await _receive_hello(frames)
                self._admit(identity, standing, theirs.role)
                await _send_hello(frames, theirs.role, opens=not theirs.opens)
        except BaseException as error:
            await trio.aclose_forcefully(transport)
            raise _as_refusal(error) from None
        frames.limits = CONTROL_LIMITS if theirs.role == "control" else STREAM_LIMITS
        own = spki_sha256(key_of(standing.credential.chain[0]))
        return Connection(identity, frames, theirs.role, not theirs.opens, False, own, tls)

    async def dial(self, address: Address, expected: SpiffeId, role: Role, *, opens: bool = True) -> Connection:
        """A connection to ``expected``; raises UnreachableError, or RemoteError when somebody else answers."""
        with trio.move_on_after(HANDSHAKE_SECONDS) as deadline:
            transport = await self._dial(address)
            try:
                tls, identity, standing = await self._secure(transport, server_side=False)
                if identity.id != expected:
                    raise RemoteError(f"{address}: {identity.id} answers, not {expected}")
                self._admit(identity, standing, role)
                frames = FrameStream(tls, HELLO_LIMITS)
                await _send_hello(frames, role, opens=opens)
                theirs = await _receive_hello(frames)
                if theirs.role != role or theirs.opens is opens:
                    raise RemoteError(f"{address}: HELLO does not answer ours")
            except BaseException as error:
                await trio.aclose_forcefully(transport)
                raise _as_refusal(error) from None
            frames.limits = CONTROL_LIMITS if role == "control" else STREAM_LIMITS
            own = spki_sha256(key_of(standing.credential.chain[0]))
            return Connection(identity, frames, role, opens, True, own, tls)
        assert deadline.cancelled_caught
        raise UnreachableError(f"{address}: no answer within {HANDSHAKE_SECONDS:.0f} s")

    async def _secure(
        self, transport: trio.abc.Stream, *, server_side: bool
    ) -> tuple[TlsStream, Identity, Standing]:
        standing = self._standing()
        tls = TlsStream(transport, self._context(standing, server_side), server_side=server_side)
        await tls.do_handshake()
        identity = verify(tls.peer_chain(), standing.bundle, standing.now)
        if not isinstance(identity, Identity):
            raise RemoteError(f"peer certificate: {identity}")
        return tls, identity, standing

    def _admit(self, identity: Identity, standing: Standing, role: Role) -> None:
        if identity.id.kind is IdKind.CA and role == "control":
            return
        if identity.id.kind is not IdKind.NODE:
            raise RemoteError(f"peer {identity.id}: only nodes have business on the overlay")
        if not standing.is_member(identity):
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


def spki_pair(opener: bytes, acceptor: bytes) -> bytes:
    """SHA-256 over both ends' SPKI digests, the opener's first."""
    return hashlib.sha256(opener + acceptor).digest()


async def _send_hello(frames: FrameStream, role: Role, *, opens: bool) -> None:
    hello = Hello(version=VERSION, features=list(Feature.ALL), role=role, opens=opens)
    await frames.send(FrameType.HELLO, codec.encode(hello))


async def _receive_hello(frames: FrameStream) -> Hello:
    frame = await frames.receive()
    if frame is None:
        raise RemoteError("the peer left before its HELLO")
    hello = decode_as(Hello, frame.body, FrameType.HELLO)
    if hello.version != VERSION:
        raise RemoteError(f"HELLO: version {hello.version}, this side speaks {VERSION}")
    return hello


def _as_refusal(error: BaseException) -> BaseException:
    """Network trouble becomes one of our own types; cancellation and bugs stay what they are."""
    if isinstance(error, trio.TooSlowError):
        return RemoteError(f"no handshake within {HANDSHAKE_SECONDS:.0f} s")
    if isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | OSError):
        return UnreachableError("the connection broke during the handshake")
    if isinstance(error, RefusedError):
        return RemoteError(str(error))
    return error
