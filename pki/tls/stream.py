"""TLS as a Trio stream, over any stream of bytes.

Theory of operation. OpenSSL runs on two memory buffers (BIOs) instead of a socket. Its calls never wait: they take
encrypted bytes out of the one, put encrypted bytes into the other, and raise WantReadError where more must arrive. So
each method here is a call into OpenSSL followed by at most one kind of waiting: *flush* carries what is leaving to the
transport, *feed* brings what has arrived from it. Nothing is awaited between a call and its flush, so no other task
ever sees OpenSSL half-way.

Rules:

1. Reading never writes to the transport. In TLS 1.3 the only answer a read can owe is a KeyUpdate; it waits among the
   leaving bytes and goes out before our next data, as RFC 8446 section 4.6.3 allows. So each direction belongs to one
   task, and a receiver is never stuck behind a peer that does not read. A second task in one direction is a bug of the
   caller: BusyResourceError, never a queue. A peer that makes us owe ever more answers is cut off.
2. A server's handshake ends without a flush. All that is left then are session tickets (of a cache that is off), and
   a client that has not begun to read need not take them: they leave with the first bytes sent.
3. A client's handshake ends before the server has judged its certificate. A refusal comes with the first read.
4. A send that was cancelled or failed is final: nobody knows how much of a record went out. Receiving goes on, since
   the peer's last words (why it cut us) may still be unread.
5. An end without close_notify is a truncation attack until shown otherwise: BrokenResourceError, never a clean end.
   OpenSSL itself reports a clean end on the second read after a fatal alert; the direction stays broken here.
6. The peer is judged as the handshake ends, once: a resumed session (its certificate was not asked for) or a
   certificate without a verified chain is refused there, so no user of the stream can forget to ask.

Blame: what the peer does to the handshake is RemoteError; after it, as Trio has it, BrokenResourceError.
"""

import operator
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from pki.direct import direct
from pki.errors import LocalError, RemoteError
from pki.tls.openssl import PlainBuffer, bytes_arrived, bytes_leaving, verify_error, was_resumed

READ_BYTES = 131_072
"""Both of a transport read and of a receive by default. Over 128 KiB glibc maps fresh pages for every read."""

RECORD_BYTES = 16_384
WRITE_BYTES = 17 * RECORD_BYTES
"""What is encrypted and flushed at a time: the greatest frame in one piece."""

MAX_OWED_BYTES = 4_096
"""Of answers to KeyUpdates, 27 bytes each. Honest peers ask for new keys once in hundreds of gigabytes."""


class TlsStream(trio.abc.HalfCloseableStream):
    """One TLS 1.3 connection. ``do_handshake`` first, under the caller's deadline; then any Trio stream call.

    ``server_name`` is only sent (SNI); whom we talk to is decided by ``peer_chain``, never by a name.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        context: SSL.Context,
        *,
        server_side: bool,
        server_name: str | None = None,
    ) -> None:
        self.transport = transport
        self._wire = direct(transport)
        self._tls = SSL.Connection(context, None)
        self._server_side = server_side
        self._sender = _Direction("sending")
        self._receiver = _Direction("receiving")
        self._handshaken = self._closed = False
        self._peer_chain: tuple[bytes, ...] = ()
        if server_side:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
        if server_name is not None:
            self._tls.set_tlsext_host_name(server_name.encode("ascii"))

    async def do_handshake(self) -> None:
        """Agree on keys and judge the peer's certificate. At most once.

        Raises RemoteError when either side refuses, BrokenResourceError when the connection ends on the way.
        """
        with self._sender, self._receiver:
            self._require_open(self._sender)
            if self._handshaken:
                raise LocalError("TLS: the handshake is done once")
            try:
                await self._shake_hands()
                self._peer_chain = self._judge_peer()
            except BaseException:
                self._sender.broken = self._receiver.broken = "the TLS handshake was not completed"
                raise
            self._handshaken = True

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, at most ``max_bytes`` (128 KiB); empty after the peer's close_notify."""
        limit = READ_BYTES if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiver:
            self._require_use(self._receiver)
            await trio.lowlevel.checkpoint_if_cancelled()
            plain = self._decrypt(limit)
            if plain is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            while plain is None:
                await self._feed()
                plain = self._decrypt(limit)
            return plain

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``. Cancelled on the way, the stream can send no more."""
        with self._sender:
            self._require_sending()
            await trio.lowlevel.checkpoint_if_cancelled()
            if not data:
                await trio.lowlevel.cancel_shielded_checkpoint()
            with memoryview(data) as view:
                for start in range(0, len(view), WRITE_BYTES):
                    self._encrypt(view[start : start + WRITE_BYTES])
                    await self._flush()

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        with self._sender:
            self._require_sending()
            await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send close_notify: a clean end of this direction. The other one stays open. Again is nothing."""
        with self._sender:
            self._require_use(self._sender)
            if self._sender.ended:
                await trio.lowlevel.checkpoint()
                return
            await trio.lowlevel.checkpoint_if_cancelled()
            self._end_sending()
            await self._flush()

    async def aclose(self) -> None:
        """Say close_notify where it can still be said, and close the transport. Waits for a transport that is full."""
        if self._closed:
            await self.transport.aclose()  # which also frees an earlier call that waits there
            return
        self._closed = True
        try:
            if self._handshaken and self._sender.usable:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError), self._sender:
                    self._end_sending()
                    await self._flush()
        finally:
            await self.transport.aclose()

    def peer_chain(self) -> tuple[bytes, ...]:
        """The peer's verified chain in DER, leaf first, root last; empty if it showed no certificate.

        Raises LocalError on a connection that does not verify its peer.
        """
        self._require_handshake()
        if not self._verifies():
            raise LocalError("TLS: this connection believes anyone, it has no verified peer")
        return self._peer_chain

    @property
    def has_unread(self) -> bool:
        """Whether bytes have come from the transport that no receive has taken yet."""
        return bool(self._tls.pending() or bytes_arrived(self._tls))

    def exporter(self, label: bytes, context: bytes, length: int = 32) -> bytes:
        """Keying material that both ends of this connection, and nobody else, can derive (RFC 8446 section 7.5)."""
        self._require_handshake()
        return self._tls.export_keying_material(label, length, context)

    async def _shake_hands(self) -> None:
        while not await self._advance_handshake():
            await self._flush()
            await self._feed()
        if not self._server_side:
            await self._flush()

    async def _advance_handshake(self) -> bool:
        """Whether the handshake is complete; False when it waits for the peer."""
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            with suppress(trio.BrokenResourceError):
                await self._flush()  # the alert that tells the peer why
            raise RemoteError(f"TLS handshake: {_reason(error, self._tls)}") from error
        return True

    def _judge_peer(self) -> tuple[bytes, ...]:
        if was_resumed(self._tls):
            raise RemoteError("TLS handshake: a resumed session shows no certificate, it is refused")
        if not self._verifies():
            return ()
        chain = self._tls.get_verified_chain(as_cryptography=True) or ()
        if not chain and not self._may_be_anonymous():
            raise RemoteError("TLS handshake: the peer's certificate has no verified chain")
        return tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)

    def _may_be_anonymous(self) -> bool:
        """Whether the peer is a client that may show no certificate, and showed none."""
        required = self._tls.get_verify_mode() & SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        return self._server_side and not required and self._tls.get_peer_certificate() is None

    def _verifies(self) -> bool:
        return bool(self._tls.get_verify_mode() & SSL.VERIFY_PEER)

    def _decrypt(self, limit: int) -> bytes | None:
        """Up to ``limit`` bytes of what has arrived, empty for the peer's clean end, None if more must arrive."""
        buffer = _plain_buffer()
        room = min(limit, buffer.size)
        size = 0
        try:
            while size < room and self._may_have_more():
                size += buffer.read(self._tls, size, room - size)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._receiver.ended = True
        except SSL.Error as error:
            self._receiver.broken = f"TLS: {_reason(error, self._tls)}"
            if not size:  # else: what came before is genuine, the next call tells
                raise trio.BrokenResourceError(self._receiver.broken) from error
        if bytes_leaving(self._tls) > MAX_OWED_BYTES:
            self._receiver.broken = "the peer demands new keys over and over"
            raise trio.BrokenResourceError(self._receiver.broken)
        return buffer.first(size) if size or self._receiver.ended else None

    def _may_have_more(self) -> bool:
        """Whether OpenSSL holds bytes: to ask it for what it does not have costs an exception."""
        return not self._receiver.ended and bool(self._tls.pending() or bytes_arrived(self._tls))

    def _encrypt(self, data: memoryview) -> None:
        try:
            self._tls.sendall(data)
        except SSL.Error as error:
            self._sender.broken = f"TLS: {_reason(error, self._tls)}"
            raise trio.BrokenResourceError(self._sender.broken) from error

    def _end_sending(self) -> None:
        self._sender.ended = True
        try:
            self._tls.shutdown()
        except SSL.Error as error:
            self._sender.broken = f"TLS: {_reason(error, self._tls)}"
            raise trio.BrokenResourceError(self._sender.broken) from error

    async def _feed(self) -> None:
        data = await self._wire.receive_some(READ_BYTES)
        if not data:
            self._receiver.broken = "the connection ended without a TLS close"
            raise trio.BrokenResourceError(self._receiver.broken)
        self._tls.bio_write(data)

    async def _flush(self) -> None:
        try:
            while ready := bytes_leaving(self._tls):
                await self._wire.send_all(self._tls.bio_read(ready))
        except BaseException:  # Cancelled too
            self._sender.broken = "an earlier send was cut short"
            raise

    def _require_open(self, direction: "_Direction") -> None:
        if self._closed:
            raise trio.ClosedResourceError("this TLS stream was closed")
        if direction.broken:
            raise trio.BrokenResourceError(direction.broken)

    def _require_use(self, direction: "_Direction") -> None:
        self._require_open(direction)
        self._require_handshake()

    def _require_sending(self) -> None:
        self._require_use(self._sender)
        if self._sender.ended:
            raise trio.ClosedResourceError("this TLS stream has sent its end")

    def _require_handshake(self) -> None:
        if not self._handshaken:
            raise LocalError("TLS: do_handshake comes first")


class _Direction:
    """One direction of a stream: who is in it, and whether it has ended or broken (why)."""

    def __init__(self, doing: str) -> None:
        self.ended = False
        self.broken = ""
        self._doing = doing
        self._busy = False

    @property
    def usable(self) -> bool:
        return not (self._busy or self.ended or self.broken)

    def __enter__(self) -> Self:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing} on this TLS stream")
        self._busy = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._busy = False


_shared: trio.lowlevel.RunVar[PlainBuffer] = trio.lowlevel.RunVar("plain_buffer")


def _plain_buffer() -> PlainBuffer:
    """One for all streams of a loop, since no other task runs while it is in use. Loops in other threads have theirs."""
    try:
        return _shared.get()
    except LookupError:
        fresh = PlainBuffer(READ_BYTES)
        _shared.set(fresh)
        return fresh


def _reason(error: SSL.Error, connection: SSL.Connection) -> str:
    """OpenSSL's words for an error. They are its own constants, never the peer's bytes."""
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = [reason for _, _, reason in queue]
    return ": ".join(filter(None, [*reasons, verify_error(connection)])) or type(error).__name__
