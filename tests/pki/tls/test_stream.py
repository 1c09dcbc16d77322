import hashlib
from collections.abc import Awaitable, Callable
from itertools import cycle

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from OpenSSL.crypto import X509
from trio.testing import MemoryReceiveStream, MemorySendStream

from pki.errors import LocalError, RemoteError
from pki.framing import HEADER_BYTES, MAX_FRAME_BODY
from pki.tls import stream as stream_module
from pki.tls.stream import RECORD_BYTES, TlsStream
from tests.pki.tls.members import ALICE, BOB, ROOT, attempt, client_context, secured, server_context, streams

MIB = 1_048_576
BLOB = hashlib.shake_256(b"lockgate").digest(4 * MIB)

MemoryStream = trio.StapledStream[MemorySendStream, MemoryReceiveStream]


class Trickle(trio.abc.Stream):
    """A transport that hands out what it receives in awkward pieces, and counts what is sent."""

    def __init__(self, inner: trio.abc.Stream, sizes: tuple[int, ...] = (131_072,)) -> None:
        self.inner = inner
        self.sizes = cycle(sizes)
        self.sent: list[int] = []

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(min(max_bytes or MIB, next(self.sizes)))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(len(data))
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()


def memory_pair() -> tuple[MemoryStream, MemoryStream]:
    return trio.testing.memory_stream_pair()


async def receive_all(stream: TlsStream) -> bytes:
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


async def both(*calls: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)


# What Trio asks of a stream


async def test_it_is_a_half_closeable_stream_as_trio_has_it() -> None:
    """All of Trio's own conformance checks, with buffers without end and with none at all."""

    async def unbuffered() -> tuple[TlsStream, TlsStream]:
        return await secured(transports=trio.testing.lockstep_stream_pair())

    await trio.testing.check_two_way_stream(secured, unbuffered)
    await trio.testing.check_half_closeable_stream(secured, unbuffered)


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((1,), id="a byte at a time"),
        pytest.param((5, 16_401, 3), id="across record headers"),
        pytest.param((131_072,), id="whole reads"),
    ],
)
@pytest.mark.parametrize("most", [1_000, 16_384, 131_072])
async def test_bytes_arrive_the_same_however_the_network_cuts_them(sizes: tuple[int, ...], most: int) -> None:
    """A record in pieces is waited for; many records in one read are handed out as one."""
    near, far = memory_pair()
    client, server = await secured(transports=(near, Trickle(far, sizes)))
    sent = BLOB[: RECORD_BYTES + 701]
    received = bytearray()

    async def send() -> None:
        await client.send_all(sent)
        await client.aclose()

    async def receive() -> None:
        while data := await server.receive_some(most):
            assert len(data) <= most
            received.extend(data)

    await both(send, receive)
    assert received == sent


async def test_both_directions_carry_bulk_at_once() -> None:
    """Neither waits for the other, over a transport that holds back."""
    client, server = await secured(transports=trio.testing.lockstep_stream_pair())
    received: dict[str, bytes] = {}

    async def receive(name: str, stream: TlsStream) -> None:
        received[name] = await receive_all(stream)

    async def send(stream: TlsStream, data: bytes) -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, client, BLOB)
        nursery.start_soon(send, server, BLOB[::-1])
        nursery.start_soon(receive, "client", client)
        nursery.start_soon(receive, "server", server)
    assert received == {"client": BLOB[::-1], "server": BLOB}


async def test_a_read_never_shows_what_another_stream_received() -> None:
    """All streams decrypt into one buffer; each gets a copy of its own bytes and no more."""
    long, short = await secured(), await secured()
    await long[0].send_all(b"secret" * 5_000)
    await short[0].send_all(b"hi")
    first = await long[1].receive_some()
    assert await short[1].receive_some(MIB) == b"hi"
    assert first == b"secret" * 5_000


async def test_the_greatest_frame_leaves_in_one_write() -> None:
    """Bulk is won by few large system calls: OpenSSL must not stop after a record."""
    near, far = memory_pair()
    transport = Trickle(near)
    client, _ = await secured(transports=(transport, far))
    before = len(transport.sent)
    await client.send_all(bytes(HEADER_BYTES + MAX_FRAME_BODY))
    assert len(transport.sent) == before + 1


async def test_a_servers_handshake_ends_without_a_write() -> None:
    """Session tickets, which nobody asked for, do not wait for a client that does not read yet."""
    near, far = memory_pair()
    transport = Trickle(far)
    await secured(transports=(near, transport))
    assert len(transport.sent) == 1  # its one flight, answering the client's hello


# Ends


async def test_half_close_ends_one_direction_only() -> None:
    """A tool may answer at length after its caller has said all it had to say."""
    client, server = await secured()
    await client.send_all(b"question")
    await client.send_eof()
    assert await receive_all(server) == b"question"
    assert await server.receive_some() == b""
    await server.send_all(BLOB)
    await server.aclose()
    assert await receive_all(client) == BLOB


async def test_an_end_without_close_notify_is_no_end() -> None:
    """Whoever cuts the wire cannot make half an answer look like a whole one (truncation attack)."""
    near, far = memory_pair()
    client, server = await secured(transports=(near, far))
    await server.send_all(b"first half")
    await far.aclose()
    assert await client.receive_some() == b"first half"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_a_changed_byte_breaks_the_stream_for_good() -> None:
    """What came before it is genuine and handed out. After it no read is ever taken for a clean end."""
    near, far = memory_pair()
    client, server = await secured(transports=(near, far))
    await server.send_all(b"genuine")
    await server.send_all(b"changed")
    wire = far.send_stream
    pipe = near.receive_stream
    data = bytearray(await pipe.receive_some())
    data[-1] ^= 1
    await wire.send_all(data)
    assert await client.receive_some() == b"genuine"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_a_fatal_alert_is_no_clean_end() -> None:
    """OpenSSL reports the end of the connection on the read after the alert; a caller must not take it for one."""
    client, server = streams(client_context(None))
    refused: list[Exception] = []

    async def serve() -> None:
        try:
            await server.do_handshake()
        except RemoteError as error:
            refused.append(error)

    await both(client.do_handshake, serve)
    assert len(refused) == 1
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    await client.aclose()


async def test_a_cancelled_receive_loses_nothing() -> None:
    """A reader may give up and come back."""
    client, server = await secured()
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.receive_some()
    await server.send_all(b"still here")
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.receive_some()
    assert await client.receive_some() == b"still here"


async def test_a_send_that_was_cut_short_ends_sending_but_not_receiving() -> None:
    """The peer's last words, why it cut us, may still be unread."""
    client, server = await secured(transports=trio.testing.lockstep_stream_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"x")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"y")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"last words")
        assert await client.receive_some() == b"last words"


async def test_a_send_cancelled_before_it_began_harms_nothing() -> None:
    """Nothing was encrypted, so nothing is lost."""
    client, server = await secured()
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(b"never")
    await client.send_all(b"later")
    assert await server.receive_some() == b"later"


async def test_closing_while_a_send_hangs_closes_the_transport() -> None:
    """No close_notify is slipped into the middle of a record, and nobody waits for the peer to read."""
    client, server = await secured(transports=trio.testing.lockstep_stream_pair())
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.send_all(b"x")

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
    assert await server.receive_some() == b"x"
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()


async def test_a_close_that_waits_for_a_full_transport_can_be_cut_short() -> None:
    """By whoever closes forcefully: a peer that does not read holds nobody."""
    client, _ = await secured(transports=trio.testing.lockstep_stream_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client)


# New keys


class Keys:
    """A TLS 1.3 sender's keys (RFC 8446 sections 5.3 and 7.3), to say what OpenSSL would not say for us."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def key_update(self) -> bytes:
        """A record that announces our next keys and demands the peer's."""
        record = self._seal(bytes([24, 0, 0, 1, 1]), content_type=22)
        self.secret = self._expand(b"traffic upd", 48)
        return record

    def first_data(self, data: bytes) -> bytes:
        """The first record of data under the present keys."""
        return self._seal(data, content_type=23)

    def _seal(self, content: bytes, content_type: int) -> bytes:
        header = bytes([23, 3, 3]) + (len(content) + 1 + 16).to_bytes(2)
        key, nonce = (
            self._expand(b"key", 32),
            self._expand(b"iv", 12),
        )  # the first record: its number, 0, changes nothing
        return header + AESGCM(key).encrypt(nonce, content + bytes([content_type]), header)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = length.to_bytes(2) + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(SHA384(), length, info).derive(self.secret)


async def secured_with_keys() -> tuple[TlsStream, TlsStream, Keys]:
    """A pair, and the keys with which its client sends."""
    secrets: dict[bytes, bytes] = {}

    def remember(_: SSL.Connection, line: bytes) -> None:
        label, _random, secret = line.split()
        secrets[label] = bytes.fromhex(secret.decode())

    context = client_context()
    context.set_keylog_callback(remember)
    client, server = await secured(context)
    return client, server, Keys(secrets[b"CLIENT_TRAFFIC_SECRET_0"])


async def test_new_keys_are_answered_with_our_next_write() -> None:
    """And the stream goes on in both directions under the new keys."""
    client, server, keys = await secured_with_keys()
    for _ in range(3):
        await client.transport.send_all(keys.key_update())
    await client.transport.send_all(keys.first_data(b"new keys"))
    assert await server.receive_some() == b"new keys"
    await server.send_all(b"in use")
    assert await client.receive_some() == b"in use"


async def test_a_peer_that_only_demands_new_keys_is_cut_off() -> None:
    """Each demand leaves an answer here until we write: a rogue peer must not grow our memory."""
    client, server, keys = await secured_with_keys()
    for _ in range(200):
        await client.transport.send_all(keys.key_update())
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="over and over"):
            await server.receive_some()


# The handshake


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: tools-1\r\n\r\n", id="HTTP"),
        pytest.param(b"\x05" * 100, id="garbage"),
        pytest.param(b"\x16\x03\x01\x00\x05hello", id="a record that is no hello"),
        pytest.param(b"\x16\x03\x01\xff\xff" + b"\x00" * 70_000, id="a record too long"),
    ],
)
@pytest.mark.parametrize("server_side", [True, False], ids=["to a server", "to a client"])
async def test_what_is_not_tls_is_the_peers_fault(words: bytes, server_side: bool) -> None:
    """It gets an error of its own type, and never an answer but an alert."""
    near, far = memory_pair()
    context = server_context() if server_side else client_context()
    await far.send_all(words)
    with pytest.raises(RemoteError):
        await TlsStream(near, context, server_side=server_side).do_handshake()


async def test_a_peer_that_leaves_during_the_handshake_is_no_wrongdoer() -> None:
    """A port scan, or a lost network: broken, not refused."""
    near, far = memory_pair()
    await far.aclose()
    for server_side, context in ((True, server_context()), (False, client_context())):
        with pytest.raises(trio.BrokenResourceError):
            await TlsStream(near, context, server_side=server_side).do_handshake()


async def test_a_client_learns_of_its_refusal_with_its_first_read() -> None:
    """TLS 1.3: its own handshake had succeeded, so nothing counts as open before the server has spoken."""
    outcome = await attempt(client_context(None))
    assert isinstance(outcome.client, trio.BrokenResourceError)
    assert str(outcome.client) == "TLS: tlsv13 alert certificate required"


async def test_nothing_is_sent_or_received_before_the_handshake() -> None:
    """Its user's mistake, said as such; only closing is always possible."""
    client, _ = streams()
    for call in (
        client.receive_some,
        lambda: client.send_all(b"x"),
        client.send_eof,
        client.wait_send_all_might_not_block,
    ):
        with pytest.raises(LocalError):
            await call()
    with pytest.raises(LocalError):
        client.exporter(b"label", b"")
    with pytest.raises(LocalError):
        client.peer_chain()
    await client.aclose()


async def test_the_handshake_is_done_once() -> None:
    """A second one would be a mistake, not a repair."""
    client, _ = await secured()
    with pytest.raises(LocalError):
        await client.do_handshake()


async def test_a_handshake_that_was_not_completed_leaves_no_stream() -> None:
    """Whether refused or cancelled by its deadline, nothing goes over it after."""
    client, _ = streams()
    with trio.move_on_after(0):
        await client.do_handshake()
    for call in (client.do_handshake, client.receive_some, lambda: client.send_all(b"x")):
        with pytest.raises(trio.BrokenResourceError):
            await call()
    await client.aclose()


async def test_a_name_is_sent_when_given() -> None:
    """The server sees it; that it decides nothing is what every other test shows."""
    near, far = memory_pair()
    client = TlsStream(near, client_context(), server_side=False, server_name="tools-1.example")
    server = TlsStream(far, server_context(), server_side=True)
    await both(client.do_handshake, server.do_handshake)
    assert server._tls.get_servername() == b"tools-1.example"


# Who is at the other end


def resuming_context(*, server_side: bool) -> SSL.Context:
    """What our own never are: pyOpenSSL's defaults, tickets included."""
    own = BOB if server_side else ALICE
    context = SSL.Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
    context.set_session_id(b"mesh")
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(X509.from_cryptography(ROOT.certificate))
    context.use_certificate(own.certificate)
    context.use_privatekey(own.key)
    context.add_extra_chain_cert(own.above[0])
    return context


async def resumed() -> tuple[TlsStream, TlsStream]:
    """A pair about to shake hands over the session of an earlier one."""
    client, server = resuming_context(server_side=False), resuming_context(server_side=True)
    near, far = await secured(client, server)
    await far.send_all(b"x")  # the tickets go out with it
    await near.receive_some()
    session = near._tls.get_session()
    assert session is not None
    await near.aclose()  # OpenSSL gives up the session of a connection that does not end well
    again = streams(client, server)
    again[0]._tls.set_session(session)
    return again


async def refusals(*pair: TlsStream) -> list[str]:
    """What each end raises in its handshake."""
    raised: list[str] = []

    async def shake(stream: TlsStream) -> None:
        try:
            await stream.do_handshake()
        except RemoteError as error:
            raised.append(str(error))

    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(shake, stream)
    return raised


async def test_a_resumed_session_is_refused_by_both_ends() -> None:
    """It shows no certificate: an expired or revoked peer would come back through it, whatever the context allows."""
    raised = await refusals(*await resumed())
    assert raised == ["TLS handshake: a resumed session shows no certificate, it is refused"] * 2


async def test_a_peer_without_verified_chain_is_refused_however_that_came_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second guard holds alone, even when the first does not see that a session was resumed."""
    monkeypatch.setattr(stream_module, "was_resumed", lambda _: False)
    raised = await refusals(*await resumed())
    assert raised == ["TLS handshake: the peer's certificate has no verified chain"] * 2


async def test_the_exporter_gives_both_ends_the_same_and_everyone_else_another() -> None:
    """A proof made over it is worth nothing on another connection, with another label, or for other ends."""
    client, server = await secured()
    other, _ = await secured()
    own = client.exporter(b"EXPORTER-test", b"context")
    assert own == server.exporter(b"EXPORTER-test", b"context")
    assert (
        len(
            {
                own,
                client.exporter(b"EXPORTER-test", b"other context"),
                client.exporter(b"EXPORTER-other", b"context"),
                other.exporter(b"EXPORTER-test", b"context"),
            }
        )
        == 4
    )
    assert len(own) == 32
    assert len(client.exporter(b"EXPORTER-test", b"", 64)) == 64
