"""Handshakes on a binding with `mtls` callers, and what becomes of those who prove something else."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pytest
import trio
from OpenSSL import SSL

from pki.clock import HOUR, MINUTE, Wall
from pki.errors import LocalError, LockgateError
from pki.spki import Key
from pki.tls.context import make_context
from pki.tls.stream import TlsStream
from pki.tls.threshold import Threshold
from sidecar.audit.record import Kind
from sidecar.policy.model import Binding, Callers
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy import local_tls
from sidecar.proxy.attribute import SocketOwner
from sidecar.proxy.callers import Over
from sidecar.proxy.local_certificate import Pin, Term, issue, new_issuer
from sidecar.proxy.local_tls import LocalTls
from sidecar.reasons import Reason
from tests.authority import new_key, new_serial
from tests.nodes import STARTED, InnerMesh, another, inner_mesh

BINDING = Binding("researcher", "wiki", 15001, 0, callers=Callers.MTLS)


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


@dataclass
class Client:
    """A caller's certificate and key, by default what its session was given for the wiki."""

    mesh: InnerMesh
    key: Key = field(default_factory=new_key)
    chain: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        self.chain = (self.tls.certify(self.pin, self.key.public_key(), self.until),)

    @property
    def tls(self) -> LocalTls:
        return self.mesh.agents.agent.local_tls

    @property
    def pin(self) -> Pin:
        return Pin("researcher", "wiki", self.mesh.session.id.session)

    @property
    def until(self) -> Wall:
        return self.mesh.session.identity.not_after

    async def call(self, binding: Binding = BINDING) -> TlsStream:
        """A connection to the binding, its handshake done as far as this side can tell."""
        stream = TlsStream(await self.transport(binding), self.context(), server_side=False)
        await stream.do_handshake()
        return stream

    async def transport(self, binding: Binding = BINDING) -> trio.SocketStream:
        return await self.mesh.call(binding.service, binding=binding)

    def context(self) -> SSL.Context:
        key = self.key if self.chain else None
        anchors = self.mesh.ca.bundle.roots
        return make_context(anchors=anchors, chain=self.chain, key=key, server_side=False)

    async def is_turned_away(self) -> None:
        """Whatever a handshake seems to say, no byte comes back."""
        with pytest.raises((trio.BrokenResourceError, LockgateError)):
            await self.ask()

    async def ask(self) -> bytes:
        """What the tool answers."""
        stream = await self.call()
        await stream.send_all(b"hello")
        return await stream.receive_some()


async def test_a_caller_with_the_bindings_certificate_is_its_session(mesh: InnerMesh) -> None:
    """Bytes pass both ways, and the record says how the caller was known."""
    stream = await Client(mesh).call()
    await stream.send_all(b"hello")
    await stream.send_eof()
    assert await stream.receive_some() == b"hello"
    assert await stream.receive_some() == b""
    await stream.aclose()
    [admitted] = mesh.agents.log.of(Kind.ADMITTED)
    assert admitted.fields["session"] == mesh.session.id.session
    assert admitted.fields["attribution"] == {"method": "mtls", "over": "ipv4"}


async def test_over_tcp_the_kernel_need_not_know_who_shows_a_certificate(mesh: InnerMesh) -> None:
    """That is what such a binding is for: callers of a uid that means nothing here, or of elsewhere."""
    mesh.agents.kernel.owner = None
    assert await Client(mesh).ask() == b"hello"


@pytest.mark.parametrize(
    ("over", "owner", "error"),
    [
        (Over.UNIX, None, None),
        (Over.IPV4, SocketOwner(state=4, uid=0, inode=0, cgroup_id=None), None),
        (Over.IPV4, None, LocalError("no netlink")),
    ],
    ids=["unix-and-gone", "orphaned", "no-answer"],
)
async def test_a_caller_who_may_be_a_child_is_turned_away(
    mesh: InnerMesh,
    monkeypatch: pytest.MonkeyPatch,
    over: Over,
    owner: SocketOwner | None,
    error: LocalError | None,
) -> None:
    """It could pass its connection on and die, or make the kernel's answer fail, and be let in as its parent."""
    monkeypatch.setattr(Over, "of", lambda _: over)
    mesh.agents.kernel.owner, mesh.agents.kernel.error = owner, error
    await Client(mesh).is_turned_away()
    [denied] = mesh.agents.log.of(Kind.DENIED)
    assert (denied.fields["reason"], "cannot be told" in str(denied.fields["hint"])) == (
        Reason.WRONG_CALLER,
        True,
    )


@pytest.mark.parametrize("ended", [False, True])
async def test_inside_a_child_its_sessions_certificate_is_worth_nothing(mesh: InnerMesh, ended: bool) -> None:
    """It lies in a file that the child may read. Nor has what is left of the child any use for it."""
    child = mesh.start_child(Narrowing(frozenset({"wiki"}), None, Wall(mesh.clock.wall() + HOUR)))
    if ended and child.child is not None:
        mesh.agents.sessions.remove_child(child.child)
    await Client(mesh).is_turned_away()
    [denied] = mesh.agents.log.of(Kind.DENIED)
    assert (denied.fields["reason"], "another session's" in str(denied.fields["hint"])) == (
        Reason.WRONG_CALLER,
        True,
    )


async def test_inside_a_child_its_own_certificate_is_good(mesh: InnerMesh) -> None:
    """And its stream is the child's."""
    child = mesh.start_child(Narrowing(frozenset({"wiki"}), None, Wall(mesh.clock.wall() + HOUR)))
    client = Client(mesh)
    pin = replace(client.pin, session=child.name)
    client.chain = (client.tls.certify(pin, client.key.public_key(), client.until),)
    assert await client.ask() == b"hello"
    assert mesh.agents.log.of(Kind.ADMITTED)[0].fields["session"] == child.name


async def test_a_local_tool_is_reached_the_same_way(mesh: InnerMesh) -> None:
    """Without a node between."""
    client = Client(mesh)
    client.chain = (
        client.tls.certify(replace(client.pin, service="notes"), client.key.public_key(), client.until),
    )
    stream = await client.call(replace(BINDING, service="notes"))
    await stream.send_all(b"hello")
    assert await stream.receive_some() == b"hello"


async def test_a_lock_cuts_it_short_of_a_clean_end(mesh: InnerMesh) -> None:
    """No close_notify, and a reset: a truncated answer is no answer."""
    stream = await Client(mesh).call()
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"
    [live] = mesh.agents.carrier.table
    live.cut(Reason.LOCKED)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


# -- Who is turned away


def of_another_agent(client: Client) -> None:
    client.chain = (
        client.tls.certify(replace(client.pin, agent="stranger"), client.key.public_key(), client.until),
    )


def of_another_binding(client: Client) -> None:
    client.chain = (
        client.tls.certify(replace(client.pin, service="vault"), client.key.public_key(), client.until),
    )


def of_an_ended_session(client: Client) -> None:
    client.mesh.agents.sessions.remove(client.mesh.session.id.session)


def of_no_session(client: Client) -> None:
    pin = replace(client.pin, session=another(9))
    client.chain = (client.tls.certify(pin, client.key.public_key(), client.until),)


def expired(client: Client) -> None:
    term = Term(new_serial(), Wall(STARTED - 2 * HOUR), Wall(STARTED - MINUTE))
    client.chain = (issue(client.pin, client.key.public_key(), term, client.tls.issuer),)


def expired_by_the_floor(client: Client) -> None:
    client.mesh.clock.ahead += 2 * HOUR


def self_made(client: Client) -> None:
    issuer = new_issuer("agents-1", new_key(), new_serial(), STARTED)
    term = Term(new_serial(), STARTED, client.until)
    client.chain = (issue(client.pin, client.key.public_key(), term, issuer), issuer.certificate)


def under_the_issuers_name(client: Client) -> None:
    """The same name and serial, another key."""
    real = client.tls.issuer
    issuer = replace(real, key=new_key())
    client.chain = (issue(client.pin, client.key.public_key(), Term(9, STARTED, client.until), issuer),)


def of_another_node(client: Client) -> None:
    tls = client.mesh.tools.agent.local_tls
    client.chain = (tls.certify(client.pin, client.key.public_key(), client.until), tls.issuer.certificate)


def of_the_run_before(client: Client) -> None:
    tls = LocalTls(client.mesh.agents)
    client.chain = (tls.certify(client.pin, client.key.public_key(), client.until), tls.issuer.certificate)


def the_sessions_own_svid(client: Client) -> None:
    session = client.mesh.session
    client.key, client.chain = session.key, session.identity.chain


def a_nodes_svid(client: Client) -> None:
    credential = client.mesh.agents.credential
    client.key, client.chain = credential.key, credential.chain


def the_issuer_itself(client: Client) -> None:
    """Its key never leaves the daemon; if it did, it would still not be a client's."""
    client.key, client.chain = client.tls.issuer.key, (client.tls.issuer.certificate,)


def none(client: Client) -> None:
    client.chain = ()


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (of_another_agent, Reason.WRONG_CALLER),
        (of_another_binding, Reason.WRONG_CALLER),
        (of_an_ended_session, Reason.NO_SESSION),
        (of_no_session, Reason.NO_SESSION),
        (expired, Reason.BAD_PROOF),
        (expired_by_the_floor, Reason.BAD_PROOF),
        (self_made, Reason.BAD_PROOF),
        (under_the_issuers_name, Reason.BAD_PROOF),
        (of_another_node, Reason.BAD_PROOF),
        (of_the_run_before, Reason.BAD_PROOF),
        (the_sessions_own_svid, Reason.BAD_PROOF),
        (a_nodes_svid, Reason.BAD_PROOF),
        (the_issuer_itself, Reason.BAD_PROOF),
        (none, Reason.BAD_PROOF),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_a_caller_without_the_bindings_certificate_is_refused(
    prepare: Callable[[Client], None], reason: Reason, mesh: InnerMesh
) -> None:
    """One denied record that says why, and nothing reaches another node."""
    client = Client(mesh)
    prepare(client)
    await client.is_turned_away()
    denied = await recorded(mesh)
    assert (denied["reason"], denied["attribution"]) == (reason, {"method": "mtls", "over": "ipv4"})
    assert denied["hint"]
    assert mesh.tools.connections == []


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b""], ids=["plain text", "nothing"])
async def test_a_caller_that_speaks_no_tls_is_refused(said: bytes, mesh: InnerMesh) -> None:
    """The uid that would do on a binding of the other kind is not asked about."""
    async with await Client(mesh).transport() as client:
        with suppress(trio.BrokenResourceError):  # It may have hung up already.
            await client.send_all(said)
            await client.send_eof()
        denied = await recorded(mesh)
    assert denied["reason"] == Reason.BAD_PROOF


async def test_a_handshake_has_a_deadline(mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that only connects holds nothing for long."""
    monkeypatch.setattr(local_tls, "HANDSHAKE_SECONDS", 0.05)
    async with await Client(mesh).transport():
        denied = await recorded(mesh)
    assert denied["hint"] == "TLS handshake: not completed within 0 s"


async def test_handshakes_of_one_binding_leave_room_for_the_others(
    mesh: InnerMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that stall give way to whoever comes after them."""
    tls = mesh.agents.agent.local_tls
    monkeypatch.setattr(tls, "_threshold", Threshold(2, 1))
    client = Client(mesh)
    async with await client.transport(), await client.transport():
        assert await client.ask() == b"hello"
    denied = await recorded(mesh)
    assert "the longest gave way" in str(denied["hint"])


async def test_a_renewed_node_shows_its_new_certificate(mesh: InnerMesh) -> None:
    """From the next handshake on."""
    client = Client(mesh)
    first = await client.call()
    await mesh.renew_node(mesh.agents, 2 * HOUR)
    second = await client.call()
    assert first.peer_chain()[0] != second.peer_chain()[0] == mesh.agents.credential.chain[0]


async def recorded(mesh: InnerMesh) -> dict[str, object]:
    """The fields of the first denied record, once it is there."""
    while not (found := mesh.agents.log.of(Kind.DENIED)):
        await trio.lowlevel.checkpoint()
    return dict(found[0].fields)
