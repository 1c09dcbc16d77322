"""What a stranger, a compromised node and the thief of a CA key have in their hands, and how they knock.

Everything goes over real sockets to the overlay port of a running node (the victim). The keys are those of the mesh
under test, read from its folders: a rogue node is made by speaking for a real one.
"""

import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import trio
from cryptography import x509
from OpenSSL import SSL

from pki import codec, svid
from pki.authority.keystore import Authority, open_online
from pki.bundle import TrustBundle
from pki.clock import HOUR, SystemClock, Wall
from pki.errors import LockgateError
from pki.fields import Wire
from pki.framing import Frame
from pki.http.client import connect_ca
from pki.ids import new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.statement import Terms, sign
from pki.tls.context import make_context
from pki.tls.frames import FrameStream
from pki.tls.stream import TlsStream
from sidecar import wire
from sidecar.address import Address
from sidecar.config import load_node_config
from sidecar.control.client import call
from sidecar.identity import Credential
from sidecar.net import dial_tcp
from sidecar.operator import OperatorCredential
from sidecar.overlay import Connection, Overlay, Role, Standing
from sidecar.proxy import proof
from sidecar.wire import FrameType
from tests.authority import new_key, new_serial
from tests.mesh import Mesh

VICTIM = "tools-1"
AGENTS = "agents-1"
ROGUE = "rogue-1"
"""A node of the roster without a daemon: its links are ours."""
REVOKED = "gone-1"

PATIENCE = 30.0
"""Far longer than any deadline of the victim's, on a busy machine too: whoever waits so long has failed."""

GONE = "gone"
"""What is seen of a victim that hangs up without a word."""

HANDSHAKE, PROTOCOL, BAD_PROOF, STATEMENT, NOTHING = "handshake", "protocol", "bad_proof", "statement", ""
"""Where a refusal is counted: counters of the victim's status, or none for what is not to be refused."""

TROUBLE = (LockgateError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


@dataclass(frozen=True)
class Case:
    """An attack, what its maker sees, and where the victim counts it: a counter, or an audit record's kind:reason."""

    name: str
    attack: Callable[["Rogue"], Awaitable[str]]
    counted: str
    seen: str = GONE


@dataclass
class Rogue:
    """All that the attacks draw on."""

    mesh: Mesh
    authority: Authority
    victim: Address
    ca: Address
    members: dict[str, Credential]
    alice: OperatorCredential
    session: Credential
    """A session whose key the rogue holds."""

    @classmethod
    def of(cls, mesh: Mesh, names: Sequence[str] = (AGENTS, ROGUE, REVOKED)) -> "Rogue":
        """The keys of ``mesh``, those of the nodes ``names`` among them, and a session of its own on the agents' node."""
        authority = open_online(mesh.member("ca") / "lib" / "authority")
        configs = {
            name: load_node_config((mesh.member(name) / "etc" / "node.toml").read_bytes(), name)
            for name in (VICTIM, AGENTS)
        }
        members = {name: Credential.load(mesh.member(name) / "lib" / "identity") for name in names}
        session = trio.run(_enrolled, str(configs[AGENTS].ca), members[AGENTS], authority.bundle)
        return cls(
            mesh=mesh,
            authority=authority,
            victim=configs[VICTIM].listen[0],
            ca=configs[AGENTS].ca,
            members=members,
            alice=OperatorCredential.load(mesh.root / "operators" / "alice"),
            session=session,
        )

    # -- what the victim says of itself

    def status(self) -> dict[str, Any]:
        return call(self.mesh.member(VICTIM) / "run" / "admin.sock", "GET", "/v1/status")

    def holds(self, statement: str) -> bool:
        """Whether the victim took a statement in."""
        try:
            call(self.mesh.member(VICTIM) / "run" / "admin.sock", "GET", f"/v1/statements/{statement}")
        except LockgateError:
            return False
        return True

    # -- identities that the CA would not give

    @property
    def trust_domain(self) -> str:
        return self.authority.bundle.trust_domain

    def now(self) -> Wall:
        return SystemClock().wall()

    def node_id(self, name: str) -> SpiffeId:
        return SpiffeId.for_node(self.trust_domain, name)

    def agent_id(self, node: str = AGENTS, session: str = "") -> SpiffeId:
        return SpiffeId.for_agent(self.trust_domain, "researcher", node, session or a_name())

    def mint(self, who: SpiffeId, at: Wall | None = None, lifetime: int = HOUR) -> Credential:
        """A certificate under the stolen issuing key."""
        key = new_key()
        issued = self.now() if at is None else at
        plan = svid.LeafPlan(who, key.public_key(), new_serial(), issued, lifetime)
        leaf = svid.leaf(plan, self.authority.issuer)
        return Credential(who, (leaf, self.authority.issuer.certificate), key)

    # -- ways in

    @asynccontextmanager
    async def tcp(self) -> AsyncIterator[trio.SocketStream]:
        """A bare connection."""
        stream = await trio.open_tcp_stream(self.victim.host, self.victim.port)
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)

    def context(self, credential: Credential | None) -> SSL.Context:
        """A well-behaved client's context."""
        return make_context(
            anchors=self.authority.bundle.roots,
            chain=credential.chain if credential else (),
            key=credential.key if credential else None,
            server_side=False,
        )

    @asynccontextmanager
    async def tls(self, context: SSL.Context) -> AsyncIterator[TlsStream]:
        """A TLS connection, which this side believes to be through."""
        async with self.tcp() as transport:
            stream = TlsStream(transport, context, server_side=False)
            await stream.do_handshake()
            yield stream

    @asynccontextmanager
    async def frames(self, name: str = AGENTS) -> AsyncIterator[FrameStream]:
        """A member's connection before its HELLO, with no limits on what may come back."""
        async with self.tls(self.context(self.members[name])) as stream:
            yield FrameStream(stream, ANYTHING)

    @asynccontextmanager
    async def connection(
        self, role: Role = "stream", name: str = AGENTS, *, opens: bool = True
    ) -> AsyncIterator[Connection]:
        """A member's connection after both HELLOs."""
        overlay = Overlay(lambda: self._standing(name), dial_tcp)
        connection = await overlay.dial(self.victim, self.node_id(VICTIM), role, opens=opens)
        connection.frames.limits = ANYTHING
        try:
            yield connection
        finally:
            await connection.aclose()

    def _standing(self, name: str) -> Standing:
        return Standing(self.members[name], self.authority.bundle, self.now(), lambda _: True)

    # -- proofs, opens and statements

    def proof(
        self,
        connection: Connection,
        who: Credential | None = None,
        role: Literal["session", "node"] = "session",
    ) -> wire.Prove:
        """A PROVE that holds together, of the rogue's session or of ``who``."""
        who = who or self.session
        return proof.prove(who.key, who.chain, connection.exporter(proof.EXPORTER_LABEL), role)

    def opening(self, ordinal: int = 0, **changes: Any) -> bytes:
        """The body of an OPEN of the echo tool, with other or further fields."""
        fields = {
            "ordinal": ordinal,
            "stream": a_name(),
            "session": self.session.id.session,
            "service": "echo",
        }
        return codec.encode({**fields, **changes})

    def said_by(
        self, credential: Credential, kind: str, body: Wire, *, issued: int = 0, life: int = HOUR, **rest: int
    ) -> bytes:
        """The envelope of a statement that ``credential`` signed; ``issued`` is relative to now (us)."""
        at = self.now() + issued
        terms = Terms(
            epoch=rest.pop("epoch", self.authority.bundle.epoch), issued=at, expires=at + life, **rest
        )
        return sign(kind, body, terms, credential.key, credential.chain).raw

    def said_by_ca(self, kind: str, body: Wire, **terms: int) -> bytes:
        """The same under the stolen statement key."""
        pair = self.authority.statement
        return self.said_by(Credential(self.authority.id, (pair.certificate,), pair.key), kind, body, **terms)


ANYTHING = dict.fromkeys(range(256), 2**24)


async def _enrolled(ca: str, node: Credential, bundle: TrustBundle) -> Credential:
    """A session of the agent, asked of the CA as its node does."""
    key, name = new_key(), a_name()
    body = {"csr": base64.b64encode(svid.request(key)).decode(), "agent": "researcher", "session": name}
    async with await connect_ca(ca, bundle, node.chain, node.key, SystemClock()) as client:
        answer = await client.request("POST", "/v1/sessions", json=body)
    chain = tuple(map(base64.b64decode, answer.json["chain"]))
    return Credential(SpiffeId.for_agent(bundle.trust_domain, "researcher", AGENTS, name), chain, key)


def a_name() -> str:
    """A session's or stream's id that nobody has."""
    return new_id(new_serial().to_bytes(20)[-16:])


def presenting(rogue: Rogue, leaf: bytes, key: Key, above: Sequence[bytes] = ()) -> SSL.Context:
    """A client context that presents whatever it is given."""
    context = rogue.context(None)
    context.use_certificate(x509.load_der_x509_certificate(leaf))
    context.use_privatekey(key)
    for each in above:
        context.add_extra_chain_cert(x509.load_der_x509_certificate(each))
    return context


async def answer(frames: FrameStream) -> Frame | None:
    """The victim's next frame; None when it hangs up."""
    with trio.fail_after(PATIENCE):
        try:
            return await frames.receive()
        except TROUBLE:
            return None


async def seen(frames: FrameStream) -> str:
    """The victim's next word: the reason of its REFUSED or RESET, the name of another frame, or GONE."""
    frame = await answer(frames)
    if frame is None:
        return GONE
    kind = FrameType(frame.type)
    if kind in (FrameType.REFUSED, FrameType.RESET):
        said = wire.decode(frame.type, frame.body)
        assert isinstance(said, wire.Refused | wire.Reset)
        return said.reason
    return kind.name


async def hangs_up(stream: trio.abc.ReceiveStream) -> str:
    """GONE once the victim has ended the connection; what it sent before is ignored."""
    with trio.fail_after(PATIENCE):
        try:
            while await stream.receive_some(65_536):
                pass
        except TROUBLE:
            pass
    return GONE


def soon(condition: Callable[[], object], what: str) -> None:
    """Return once ``condition`` holds; fails when it does not before PATIENCE is over."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(0.01)  # noqa: TID251 - polls another process, which tells nobody
