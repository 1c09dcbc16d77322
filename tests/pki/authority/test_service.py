import base64
import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from pki import renewal, statement, svid
from pki.authority import keystore, service
from pki.authority.enrol import Enrolment
from pki.authority.entries import Invitation
from pki.authority.id_token import OnBehalfOf
from pki.authority.issuer import Chain, Issuer
from pki.authority.keystore import Authority
from pki.authority.policies import Approval, Wish
from pki.authority.register import Register
from pki.authority.service import Hooks, application
from pki.clock import DAY, HOUR, MINUTE, Boot, SystemClock, Wall
from pki.errors import ConfigError, Fault, LocalError, LockgateError, RefusedError, RemoteError
from pki.http.client import HttpClient, connect_ca, fetch_bundle
from pki.http.server import serve_connection
from pki.ids import new_id
from pki.spiffe import IdKind, SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import Member, Node, Operator, Statement, Target
from pki.tls.context import ClientCertificate, make_context
from pki.verify import Identity, verify
from tests.authority import NOW, SESSION, TinyCa, new_key

NODE = Invitation(IdKind.NODE, "agents-1", (), Wall(NOW + 10 * MINUTE))
OPERATOR = Invitation(IdKind.OPERATOR, "alice", ("admin", "auditor"), Wall(NOW + 10 * MINUTE))
ADDRESSES = ("127.0.0.1:7444",)


@dataclass
class Desk:
    """A CA's API with everything around it played by this object, on which tests turn the knobs."""

    issuer: Issuer
    at: Wall = NOW
    roles: dict[str, frozenset[str]] = field(default_factory=dict)
    listed: set[tuple[str, str]] = field(default_factory=lambda: {("agents-1", "researcher")})
    published: list[Statement] = field(default_factory=list)
    notes: list[dict[str, object]] = field(default_factory=list)
    policies: list[tuple[bytes, str]] = field(default_factory=list)
    demands: list[tuple[bytes, str]] = field(default_factory=list)
    failure: Exception | None = None
    looks: int = 0

    def wall(self) -> Wall:
        return self.at

    def boot(self) -> Boot:
        """A millisecond passes with each look."""
        self.looks += 1
        return Boot(self.looks * 1_000)

    @property
    def hooks(self) -> Hooks:
        return Hooks(
            may_issue=lambda node, agent: (node, agent) in self.listed,
            longest_session=lambda _: None,
            publish=self.publish,
            roles_of=lambda identity: self.roles.get(identity.id.name, frozenset()),
            policies=self,
            lift=self.lift,
            check_id_token=self.check_id_token,
            control_address="127.0.0.1:7446",
            clock=self,
            note=self.notes.append,
        )

    async def check_id_token(self, token: str) -> OnBehalfOf:
        """Here a token is its user's name."""
        return OnBehalfOf(token, hashlib.sha256(token.encode()).digest(), Wall(NOW + HOUR))

    async def publish(self, published: Statement) -> None:
        self.fail()
        self.published.append(published)

    async def apply(self, wish: Wish, author: str) -> Mapping[str, Any]:
        self.fail()
        self.policies.append((wish.packed, author))
        return {"sequence": 1}

    async def approve(self, approval: Approval, approver: str) -> Mapping[str, Any]:
        self.fail()
        self.policies.append((approval.digest.encode(), approver))
        return {"sequence": 2}

    async def listing(self) -> Mapping[str, Any]:
        return {"versions": []}

    async def text(self, reference: str) -> Mapping[str, Any]:
        return {"reference": reference}

    async def lift(self, demand: bytes, identity: Identity) -> Mapping[str, Any]:
        self.fail()
        self.demands.append((demand, identity.id.name))
        return {"id": SESSION}

    def fail(self) -> None:
        if self.failure:
            raise self.failure

    async def ask(self, peer: Identity | None, method: str, path: str, body: object = None) -> Any:
        """The answer on a connection whose other end was proven to be ``peer``."""
        ours, theirs = trio.testing.memory_stream_pair()
        app = application(self.issuer, self.hooks)
        async with trio.open_nursery() as nursery, HttpClient(ours, name="ca") as client:
            nursery.start_soon(
                lambda: serve_connection(
                    theirs, app, extra={"lockgate.peer": peer, "lockgate.exporter": exporter}
                )
            )
            outcome = await outcome_of(client, method, path, body)
        if isinstance(outcome, LockgateError):
            raise outcome
        return outcome

    async def refused(
        self, peer: Identity | None, method: str, path: str, body: object = None
    ) -> dict[str, object]:
        """The note of a refusal."""
        with pytest.raises(RefusedError):
            await self.ask(peer, method, path, body)
        return self.notes[-1]


def exporter(label: bytes, context: bytes) -> bytes:
    """Keying material of the one connection that there is."""
    return hashlib.sha256(label + context).digest()


async def outcome_of(client: HttpClient, method: str, path: str, body: object) -> Any:
    """What the client was answered, or the failure: inside a nursery, it would come out wrapped."""
    try:
        return (await client.request(method, path, json=body)).json
    except LockgateError as error:
        return error


@pytest.fixture
def desk(issuer: Issuer) -> Desk:
    return Desk(issuer)


def member(ca: TinyCa, spiffe_id: SpiffeId, key: Key | None = None) -> Identity:
    judgement = verify(ca.issue(spiffe_id, key or new_key()), ca.bundle, NOW)
    assert isinstance(judgement, Identity)
    return judgement


def enrol_body(desk: Desk, invitation: Invitation, **changes: object) -> dict[str, object]:
    token = Enrolment(desk.issuer).create(invitation, ADDRESSES, NOW)
    fields: dict[str, object] = {
        "secret": token.secret,
        "csr": svid.request(new_key()),
        "addresses": ["10.0.0.1:7443"],
        "version": "0.1.0",
        "features": ["statements-1"],
    }
    return {**fields, **changes}


def session_body(**changes: object) -> dict[str, object]:
    return {"csr": svid.request(new_key()), "agent": "researcher", "session": SESSION, **changes}


def chain_in(answer: Any) -> Chain:
    return tuple(map(base64.b64decode, answer["chain"]))


async def test_the_bundle_is_for_everyone(ca: TinyCa, desk: Desk) -> None:
    """It is how trust begins, and proven by its own signature."""
    answer = await desk.ask(None, "GET", "/v1/bundle")
    assert base64.b64decode(answer["bundle"]) == ca.bundle_statement.raw


async def test_a_node_joins(ca: TinyCa, desk: Desk) -> None:
    """It gets its certificate, the bundle and the control address, and stands in the roster."""
    answer = await desk.ask(None, "POST", "/v1/enrol", enrol_body(desk, NODE))
    joined = verify(chain_in(answer), ca.bundle, NOW)
    assert isinstance(joined, Identity)
    assert str(joined.id) == answer["spiffe_id"] == "spiffe://example.org/node/agents-1"
    assert (answer["kind"], answer["name"], answer["control"]) == ("node", "agents-1", "127.0.0.1:7446")
    assert base64.b64decode(answer["bundle"]) == ca.bundle_statement.raw
    [published] = desk.published
    assert published.body == Member(
        member=Node(
            sequence=1,
            name="agents-1",
            addresses=["10.0.0.1:7443"],
            version="0.1.0",
            features=["statements-1"],
            labels=[],
        )
    )
    assert desk.notes == [
        {
            "event": "enrolled",
            "spiffe_id": answer["spiffe_id"],
            "serial": joined.serial,
            "not_after": joined.not_after,
        }
    ]


async def test_an_operator_joins_with_the_key_and_roles_of_the_roster(desk: Desk) -> None:
    """The roles are the token's; the key that counts is the one that redeemed it."""
    key = new_key()
    body = enrol_body(desk, OPERATOR, csr=svid.request(key), addresses=[])
    answer = await desk.ask(None, "POST", "/v1/enrol", body)
    assert answer["kind"] == "operator"
    assert desk.published[0].body == Member(
        member=Operator(
            sequence=1,
            name="alice",
            key=spki_sha256(key.public_key()).hex(),
            roles=["admin", "auditor"],
        )
    )


async def test_a_repeat_by_the_same_key_gets_the_same_certificate(desk: Desk) -> None:
    """And its newest addresses go to the roster."""
    body = enrol_body(desk, NODE)
    first = await desk.ask(None, "POST", "/v1/enrol", body)
    second = await desk.ask(None, "POST", "/v1/enrol", {**body, "addresses": ["10.0.0.2:7443"]})
    assert first["chain"] == second["chain"]
    bodies = [each.body for each in desk.published]
    nodes = [body.member for body in bodies if isinstance(body, Member) and isinstance(body.member, Node)]
    assert [(node.sequence, node.addresses) for node in nodes] == [
        (1, ["10.0.0.1:7443"]),
        (2, ["10.0.0.2:7443"]),
    ]


async def test_a_newcomer_whose_roster_entry_was_not_published_asks_again(desk: Desk) -> None:
    """No answer before the mesh can know it; the token stays with the same key."""
    body = enrol_body(desk, NODE)
    desk.failure = LocalError("disk full")
    with pytest.raises(RefusedError, match="the CA cannot do this now; see its log"):
        await desk.ask(None, "POST", "/v1/enrol", body)
    desk.failure = None
    await desk.ask(None, "POST", "/v1/enrol", body)
    assert len(desk.published) == 1


async def test_bad_tokens_are_told_apart(desk: Desk) -> None:
    """Wrong, used, expired, foreign: the reason is noted, and the newcomer gets one line."""
    used = enrol_body(desk, NODE)
    await desk.ask(None, "POST", "/v1/enrol", used)
    late, foreign = enrol_body(desk, NODE), enrol_body(desk, NODE, trust_domain="elsewhere.org")
    asked = {
        "token_unknown": {**used, "secret": b"w" * 16},
        "token_used": {**used, "csr": svid.request(new_key())},
        "token_foreign": foreign,
    }
    for reason, body in asked.items():
        assert (await desk.refused(None, "POST", "/v1/enrol", body))["reason"] == reason
    desk.at = Wall(NODE.expires + 1)
    assert (await desk.refused(None, "POST", "/v1/enrol", late))["reason"] == "token_expired"


async def test_no_secret_is_in_a_note_a_log_or_an_error(desk: Desk) -> None:
    """Neither of a good token nor of one that is refused or malformed."""
    good = enrol_body(desk, NODE)
    secret = good["secret"]
    assert isinstance(secret, bytes)
    errors = []
    with capture_logs() as logs:
        for body in (
            good,
            {**good, "csr": svid.request(new_key())},
            {**good, "csr": b"x"},
            {**good, "more": 1},
        ):
            try:
                await desk.ask(None, "POST", "/v1/enrol", body)
            except (RefusedError, RemoteError) as error:
                errors.append(str(error))
    assert len(errors) == 3
    said = repr((errors, logs, desk.notes))
    for spelling in (repr(secret)[2:-1], secret.hex(), base64.b64encode(secret).decode()):
        assert spelling not in said


async def test_a_session_runs_for_the_user_of_its_id_token(ca: TinyCa, desk: Desk) -> None:
    """Whom it names is in the certificate; a renewal brings no token, and another session another one."""
    node = member(ca, ca.node())
    first = await desk.ask(node, "POST", "/v1/sessions", session_body(id_token="alice"))
    began = verify(chain_in(first), ca.bundle, NOW)
    assert isinstance(began, Identity)
    assert began.on_behalf_of == "alice"
    with pytest.raises(RefusedError, match="a renewal keeps its user"):
        await desk.ask(node, "POST", "/v1/sessions", session_body(renews=began.serial, id_token="bob"))
    other = session_body(session=new_id(b"another-16-bytes"), id_token="alice")
    assert (await desk.refused(node, "POST", "/v1/sessions", other))["reason"] == "id_token"


async def test_a_node_gets_certificates_for_its_sessions(ca: TinyCa, desk: Desk) -> None:
    """The SPIFFE ID is built from the verified node: with the serial of the one before, the line goes on."""
    node = member(ca, ca.node())
    first = await desk.ask(node, "POST", "/v1/sessions", session_body())
    assert first["spiffe_id"] == str(ca.agent())
    began = verify(chain_in(first), ca.bundle, NOW)
    assert isinstance(began, Identity)
    second = await desk.ask(node, "POST", "/v1/sessions", session_body(renews=began.serial))
    went_on = verify(chain_in(second), ca.bundle, NOW)
    assert isinstance(went_on, Identity)
    assert (began.id, went_on.lineage) == (ca.agent(), began.lineage)
    assert [note["event"] for note in desk.notes] == ["session issued", "session renewed"]
    refusal = await desk.refused(node, "POST", "/v1/sessions", session_body(renews=began.serial))
    assert refusal["reason"] == "clone"


async def test_a_node_speaks_for_no_other_node(ca: TinyCa, desk: Desk) -> None:
    """There is no field to name one: the session is of whoever asks, and its id is taken."""
    await desk.ask(member(ca, ca.node()), "POST", "/v1/sessions", session_body())
    desk.listed.add(("agents-2", "researcher"))
    other = member(ca, ca.node("agents-2"))
    answer = await desk.ask(other, "POST", "/v1/sessions", session_body(session=new_id(b"another-16-bytes")))
    assert "/agent/researcher/agents-2/" in answer["spiffe_id"]
    assert (await desk.refused(other, "POST", "/v1/sessions", session_body()))["reason"] == "session_taken"
    with pytest.raises(RefusedError, match="unknown field"):
        await desk.ask(other, "POST", "/v1/sessions", session_body(node="agents-1"))


async def test_a_session_of_an_agent_that_is_not_listed_there_is_refused(ca: TinyCa, desk: Desk) -> None:
    """The policy in force says which nodes may hold sessions of which agents."""
    note = await desk.refused(member(ca, ca.node()), "POST", "/v1/sessions", session_body(agent="other"))
    assert (note["reason"], note["peer"]) == ("not_listed", str(ca.node()))


def grace_body(holder: Identity, key: Key, signer: Key) -> dict[str, object]:
    csr = svid.request(key)
    proof = renewal.sign_grace(signer, exporter(renewal.EXPORTER_LABEL, renewal.exporter_context(csr)))
    return {"csr": csr, "chain": list(holder.chain), "signature": proof}


async def test_a_node_whose_certificate_ended_renews_in_grace(ca: TinyCa, desk: Desk) -> None:
    """On a connection without a certificate, by the old key's signature: the same name and line."""
    old, new = new_key(), new_key()
    node = member(ca, ca.node(), old)
    desk.at = Wall(node.not_after + DAY)
    answer = await desk.ask(None, "POST", "/v1/grace", grace_body(node, new, old))
    renewed = verify(chain_in(answer), ca.bundle, desk.at)
    assert isinstance(renewed, Identity)
    assert (renewed.id, renewed.lineage, renewed.public_key) == (node.id, node.lineage, new.public_key())


async def test_grace_ends_after_a_week(ca: TinyCa, desk: Desk) -> None:
    """Who was away longer joins again, which an admin sees."""
    old = new_key()
    node = member(ca, ca.node(), old)
    desk.at = Wall(node.not_after + renewal.GRACE + MINUTE)
    assert "7 days" in str(
        (await desk.refused(None, "POST", "/v1/grace", grace_body(node, new_key(), old)))["message"]
    )


async def test_grace_takes_the_old_key_only(ca: TinyCa, desk: Desk) -> None:
    """A chain is public: it proves nothing without its key."""
    node = member(ca, ca.node(), new_key())
    desk.at = Wall(node.not_after + DAY)
    thief = new_key()
    await desk.refused(None, "POST", "/v1/grace", grace_body(node, thief, thief))


async def test_grace_is_for_nodes_that_are_not_revoked(ca: TinyCa, desk: Desk) -> None:
    """A ban holds whatever the way back in; sessions and operators have no grace."""
    old = new_key()
    node, operator = member(ca, ca.node(), old), member(ca, ca.operator(), old)
    desk.at = Wall(node.not_after + DAY)
    assert (await desk.refused(None, "POST", "/v1/grace", grace_body(operator, new_key(), old)))[
        "reason"
    ] == "not_allowed"
    desk.issuer.register.ban(Target(kind="node", value=node.id.name), SESSION, NOW)
    assert (await desk.refused(None, "POST", "/v1/grace", grace_body(node, new_key(), old)))[
        "reason"
    ] == "banned"


async def test_a_node_renews_itself(ca: TinyCa, desk: Desk) -> None:
    """A new key, the same name and line."""
    node, key = member(ca, ca.node()), new_key()
    answer = await desk.ask(node, "POST", "/v1/renew", {"csr": svid.request(key)})
    renewed = verify(chain_in(answer), ca.bundle, NOW)
    assert isinstance(renewed, Identity)
    assert (renewed.id, renewed.lineage, renewed.public_key) == (node.id, node.lineage, key.public_key())


async def test_what_a_request_asks_to_be_called_is_not_read(ca: TinyCa, desk: Desk) -> None:
    """CVE-2022-40716: names in a CSR."""
    wish = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(ca.operator()))])
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(wish, critical=True)
    )
    csr = builder.sign(new_key(), hashes.SHA256()).public_bytes(Encoding.DER)
    answer = await desk.ask(member(ca, ca.node()), "POST", "/v1/renew", {"csr": csr})
    renewed = verify(chain_in(answer), ca.bundle, NOW)
    assert isinstance(renewed, Identity)
    assert renewed.id == ca.node()


@pytest.mark.parametrize(
    ("roles", "reason"),
    [({"auditor"}, "not_allowed"), (set(), "not_allowed")],
    ids=["unknown line", "other key"],
)
async def test_an_operator_is_renewed_only_as_the_roster_knows_it(
    ca: TinyCa, desk: Desk, roles: set[str], reason: str
) -> None:
    """Any role will do; a key that the roster does not name any more, or a line without a beginning, will not."""
    key = new_key()
    body = {"csr": svid.request(key)}
    desk.roles["alice"] = frozenset(roles)
    assert (await desk.refused(member(ca, ca.operator(), key), "POST", "/v1/renew", body))["reason"] == reason
    first = verify(desk.issuer.admit(ca.operator(), key.public_key(), NOW, "t"), ca.bundle, NOW)
    assert isinstance(first, Identity)
    if roles:
        renewed = verify(chain_in(await desk.ask(first, "POST", "/v1/renew", body)), ca.bundle, NOW)
        assert isinstance(renewed, Identity)
        assert (renewed.lineage, renewed.public_key) == (first.lineage, first.public_key)
    else:
        await desk.refused(first, "POST", "/v1/renew", body)


DIGEST = "ab" * 32
WISH = {"packed": b"[agents]\n", "base": DIGEST, "canary": [], "strand": [], "large": False}
APPROVAL = {"digest": DIGEST, "base": DIGEST, "canary": [], "strand": []}
CALLS = {
    "/v1/sessions": ("POST", session_body()),
    "/v1/renew": ("POST", {"csr": svid.request(new_key())}),
    "/v1/policy": ("POST", WISH),
    "/v1/approvals": ("POST", APPROVAL),
    "/v1/policies": ("GET", None),
    "/v1/policies/active": ("GET", None),
    "/v1/certificates/abc": ("GET", None),
    "/v1/lifts": ("POST", {"demand": b"x"}),
    "/v1/status": ("GET", None),
}


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize("who", ["nobody", "expired", "banned", "ca", "session"])
async def test_every_call_that_needs_an_identity_refuses_without_one(
    ca: TinyCa, desk: Desk, path: str, who: str
) -> None:
    """No certificate, one that expired on an open connection, a revoked one, one of the wrong kind."""
    wanted = ca.node() if path in ("/v1/sessions", "/v1/renew", "/v1/status") else ca.operator()
    desk.roles["alice"] = frozenset({"admin"})
    peer: Identity | None = member(
        ca, {"ca": SpiffeId.for_ca("example.org", "x"), "session": ca.agent()}.get(who, wanted)
    )
    if who == "nobody":
        peer = None
    if who == "expired":
        desk.at = Wall(NOW + 2 * HOUR)
    if who == "banned":
        for target in (Target(kind="node", value=wanted.name), Target(kind="operator", value=wanted.name)):
            desk.issuer.register.ban(target, str(target), NOW)
    method, body = CALLS[path]
    note = await desk.refused(peer, method, path, body)
    expected = {"nobody": "no_identity", "expired": "no_identity", "banned": "banned"}.get(who, "not_allowed")
    assert note["reason"] == expected
    assert (desk.policies, desk.demands, desk.published) == ([], [], [])


@pytest.mark.parametrize(
    ("path", "roles", "allowed"),
    [
        ("/v1/policy", {"admin"}, True),
        ("/v1/policy", {"responder", "approver", "auditor"}, False),
        ("/v1/policy", set(), False),
        ("/v1/approvals", {"admin"}, True),
        ("/v1/approvals", {"approver"}, True),
        ("/v1/approvals", {"responder", "auditor"}, False),
        ("/v1/lifts", {"admin"}, True),
        ("/v1/lifts", {"responder"}, True),
        ("/v1/lifts", {"approver", "auditor"}, False),
        ("/v1/lifts", set(), False),
    ],
)
async def test_an_operator_does_what_its_roles_allow(
    ca: TinyCa, desk: Desk, path: str, roles: set[str], allowed: bool
) -> None:
    """The roster says the roles, none for a key that it does not name."""
    desk.roles["alice"] = frozenset(roles)
    alice, (method, body) = member(ca, ca.operator()), CALLS[path]
    if allowed:
        assert await desk.ask(alice, method, path, body)
    else:
        assert (await desk.refused(alice, method, path, body))["reason"] == "not_allowed"
    assert len(desk.policies) + len(desk.demands) == allowed


@pytest.mark.parametrize("role", ["admin", "approver", "responder", "auditor"])
async def test_every_operator_may_read_what_was_in_force(ca: TinyCa, desk: Desk, role: str) -> None:
    """Whoever has a role; every node has the policy anyway. And whose a certificate is."""
    desk.roles["alice"] = frozenset({role})
    alice = member(ca, ca.operator())
    assert await desk.ask(alice, "GET", "/v1/policies") == {"versions": []}
    assert await desk.ask(alice, "GET", "/v1/policies/3") == {"reference": "3"}
    chain = desk.issuer.admit(ca.node(), new_key().public_key(), NOW, "t")
    first = verify(chain, ca.bundle, NOW)
    assert isinstance(first, Identity)
    issued = await desk.ask(alice, "GET", f"/v1/certificates/{first.serial.upper()}")
    assert issued == {
        "spiffe_id": str(ca.node()),
        "lineage": first.lineage,
        "not_after": first.not_after,
    }
    with pytest.raises(RefusedError, match="issued no such certificate"):
        await desk.ask(alice, "GET", "/v1/certificates/abc")
    desk.roles["alice"] = frozenset()
    assert (await desk.refused(alice, "GET", "/v1/policies"))["reason"] == "not_allowed"


async def test_policy_and_demand_are_handed_on_with_their_author(ca: TinyCa, desk: Desk) -> None:
    """Byte for byte, under the verified name."""
    desk.roles["alice"] = frozenset({"admin"})
    alice = member(ca, ca.operator())
    assert await desk.ask(alice, "POST", "/v1/policy", WISH) == {"sequence": 1}
    assert await desk.ask(alice, "POST", "/v1/approvals", APPROVAL) == {"sequence": 2}
    assert await desk.ask(alice, "POST", "/v1/lifts", {"demand": b"\x00\xff"}) == {"id": SESSION}
    assert desk.policies == [(one, str(ca.operator())) for one in (b"[agents]\n", DIGEST.encode())]
    assert desk.demands == [(b"\x00\xff", "alice")]


async def test_all_faults_of_a_policy_reach_its_author(ca: TinyCa, desk: Desk) -> None:
    """Each with its place."""
    desk.roles["alice"], desk.failure = (
        frozenset({"admin"}),
        ConfigError([Fault("p:1", "a"), Fault("p:2", "b", "c")]),
    )
    with pytest.raises(ConfigError) as caught:
        await desk.ask(member(ca, ca.operator()), "POST", "/v1/policy", WISH)
    assert caught.value.faults == (Fault("p:1", "a"), Fault("p:2", "b", "c"))


async def test_a_refusal_by_policy_or_roster_is_passed_on(ca: TinyCa, desk: Desk) -> None:
    """Such as a demand that its own locker signed."""
    desk.roles["alice"], desk.failure = (
        frozenset({"admin"}),
        RefusedError("unlock all: needs another operator"),
    )
    with pytest.raises(RefusedError, match=r"^unlock all: needs another operator$"):
        await desk.ask(member(ca, ca.operator()), "POST", "/v1/lifts", {"demand": b"x"})


async def test_what_is_the_fault_of_the_ca_is_told_to_its_log_only(ca: TinyCa, desk: Desk) -> None:
    """Paths and disks are nobody else's business."""
    desk.roles["alice"], desk.failure = frozenset({"admin"}), LocalError("/var/lib/secret-place: disk full")
    note = await desk.refused(member(ca, ca.operator()), "POST", "/v1/policy", WISH)
    assert note["message"] == "/var/lib/secret-place: disk full"
    with pytest.raises(RefusedError, match=r"^the CA cannot do this now; see its log$"):
        await desk.ask(member(ca, ca.operator()), "POST", "/v1/policy", WISH)


@pytest.mark.parametrize("kind", ["node", "operator"])
async def test_status_says_who_the_ca_takes_you_for(ca: TinyCa, desk: Desk, kind: str) -> None:
    """The self-test of a join: certificate, bundle and register all work."""
    desk.roles["alice"] = frozenset({"responder", "admin"})
    peer = member(ca, ca.node() if kind == "node" else ca.operator())
    answer = await desk.ask(peer, "GET", "/v1/status")
    assert answer == {
        "schema_version": 1,
        "ca": "spiffe://example.org/ca/ca-1",
        "epoch": 1,
        "bundle": {"sequence": 1, "digest": ca.bundle.digest},
        "number": 0,
        "you": {
            "spiffe_id": str(peer.id),
            "serial": peer.serial,
            "not_after": peer.not_after,
            "roles": [] if kind == "node" else ["admin", "responder"],
        },
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"secret": b"short"}, id="short secret"),
        pytest.param({"secret": 7}, id="secret no text"),
        pytest.param({"csr": b"x"}, id="no csr"),
        pytest.param({"csr": b"x" * 9000}, id="long csr"),
        pytest.param({"addresses": "10.0.0.1:7443"}, id="no list"),
        pytest.param({"addresses": ["a:1"] * 9}, id="many addresses"),
        pytest.param({"addresses": ["a b:1"]}, id="odd address"),
        pytest.param({"version": "x" * 65}, id="long version"),
        pytest.param({"features": ["\n"]}, id="odd feature"),
        pytest.param({"name": "tools-1"}, id="a name of its choice"),
        pytest.param({"roles": ["admin"]}, id="roles of its choice"),
    ],
)
async def test_a_request_out_of_shape_is_refused_and_spends_nothing(
    desk: Desk, change: dict[str, object]
) -> None:
    """Every field is named by a schema, with its cap."""
    good = enrol_body(desk, NODE)
    note = await desk.refused(None, "POST", "/v1/enrol", {**good, **change})
    assert note["reason"] == "bad_request"
    assert (await desk.ask(None, "POST", "/v1/enrol", good))["kind"] == "node"


@pytest.mark.parametrize("change", [{"agent": "No Name"}, {"agent": "a/../b"}, {"session": "short"}])
async def test_a_session_with_a_bad_name_is_refused(
    ca: TinyCa, desk: Desk, change: dict[str, object]
) -> None:
    """What cannot be a SPIFFE ID never becomes one."""
    note = await desk.refused(member(ca, ca.node()), "POST", "/v1/sessions", session_body(**change))
    assert note["reason"] == "bad_request"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 50_000, b"\xff", b"null"])
async def test_a_body_that_is_no_json_object_is_refused(desk: Desk, body: bytes) -> None:
    """Whatever its bytes."""
    ours, theirs = trio.testing.memory_stream_pair()
    app = application(desk.issuer, desk.hooks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(theirs, app, extra={"lockgate.peer": None}))
        head = f"POST /v1/enrol HTTP/1.1\r\nHost: ca\r\nContent-Length: {len(body)}\r\n\r\n"
        await ours.send_all(head.encode() + body)
        said = bytes(await ours.receive_some())
        assert said.startswith(b"HTTP/1.1 400")
        assert json.loads(said.partition(b"\r\n\r\n")[2])["error"]["reason"] == "bad_request"
        await ours.aclose()


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("GET", "/v1/enrol"), ("POST", "/v1/bundle")])
async def test_unknown_paths_and_methods_are_json_errors_too(desk: Desk, method: str, path: str) -> None:
    """A client of another version gets a line that it can show."""
    with pytest.raises(RefusedError, match="Not"):
        await desk.ask(None, method, path)


async def test_newcomers_beyond_the_queue_are_told_to_come_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd costs a bounded number of threads and waiters."""
    monkeypatch.setattr(service, "ENROLMENTS_WAITING", 0)
    with pytest.raises(RefusedError, match="come back in 5 s"):
        await desk.ask(None, "POST", "/v1/enrol", enrol_body(desk, NODE))


async def test_a_crowd_joins_in_two_goes_and_nobody_is_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the queue hear when to come back, with their token unspent: coming back, they join."""
    monkeypatch.setattr(service, "ENROLMENTS_WAITING", 8)
    app = application(desk.issuer, desk.hooks)
    names = [f"n{number}" for number in range(40)]
    bodies = [enrol_body(desk, replace(NODE, name=name)) for name in names]
    told: list[str] = []
    late: list[dict[str, object]] = []

    async def join(body: dict[str, object]) -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery, HttpClient(ours, name="ca") as client:
            extra = {"lockgate.peer": None, "lockgate.exporter": exporter}
            nursery.start_soon(lambda: serve_connection(theirs, app, extra=extra))
            outcome = await outcome_of(client, "POST", "/v1/enrol", body)
        if isinstance(outcome, LockgateError):
            told.append(str(outcome))
            late.append(body)

    waiting = bodies
    while waiting:
        late = []
        async with trio.open_nursery() as nursery:
            for body in waiting:
                nursery.start_soon(join, body)
        assert len(late) < len(waiting)
        waiting = late
    assert told
    assert all(re.search(r"come back in \d+ s", one) for one in told)
    assert "come back in 5 s" not in told[-1]  # By then there is a pace, and it is quicker than the guess.
    assert len(desk.published) == len(names)


async def test_of_twenty_newcomers_with_one_token_one_joins(desk: Desk) -> None:
    """Through the API as in the register."""
    body = enrol_body(desk, NODE)

    async def join() -> None:
        with suppress(RefusedError):
            await desk.ask(None, "POST", "/v1/enrol", {**body, "csr": svid.request(new_key())})

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(join)
    assert [note.get("reason", note["event"]) for note in desk.notes].count("token_used") == 19
    assert len(desk.published) == 1


# The whole way over TLS on loopback, with a CA made on disk


@dataclass
class RealCa:
    address: str
    authority: Authority
    desk: Desk


@asynccontextmanager
async def real_ca(folder: Path) -> AsyncIterator[RealCa]:
    clock = SystemClock()
    keystore.create(folder, SpiffeId.for_ca("example.org", "ca-1"), None, clock.wall(), os.urandom)
    authority = keystore.open_online(folder)
    context = make_context(
        anchors=authority.bundle.roots,
        chain=(authority.tls.certificate,),
        key=authority.tls.key,
        server_side=True,
        client_certificate=ClientCertificate.OPTIONAL,
    )
    with Register.open(folder / keystore.REGISTER_FILE) as register:
        desk = Desk(Issuer(authority, register, os.urandom), at=clock.wall())
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        app = application(desk.issuer, desk.hooks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                service.serve, listeners, app, lambda: context, lambda: authority.bundle, clock
            )
            yield RealCa(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", authority, desk)
            nursery.cancel_scope.cancel()


async def test_join_session_and_refusals_over_tls(tmp_path: Path) -> None:
    """A newcomer with a token and nothing else ends up with a session; a stranger and a banned node do not."""
    async with real_ca(tmp_path / "authority") as ca:
        invitation = Invitation(IdKind.NODE, "agents-1", (), Wall(ca.desk.at + DAY))
        token = Enrolment(ca.desk.issuer).create(invitation, (ca.address,), ca.desk.at)

        carried, bundle = await fetch_bundle(ca.address, token.pins)
        key, agent_key = new_key(), new_key()
        async with await connect_ca(ca.address, bundle, (), None, SystemClock()) as stranger:
            body = {
                "secret": token.secret,
                "csr": svid.request(key),
                "addresses": [],
                "version": "0.1.0",
                "features": [],
                "trust_domain": token.member.trust_domain,
            }
            answer = (await stranger.request("POST", "/v1/enrol", body)).json
            with pytest.raises(RefusedError, match="needs a valid certificate"):
                await stranger.request("POST", "/v1/sessions", session_body())
        assert statement.parse(base64.b64decode(answer["bundle"])).digest == carried.digest

        async with await connect_ca(ca.address, bundle, chain_in(answer), key, SystemClock()) as node:
            status = (await node.request("GET", "/v1/status")).json
            assert status["you"]["spiffe_id"] == "spiffe://example.org/node/agents-1"
            session = (
                await node.request("POST", "/v1/sessions", session_body(csr=svid.request(agent_key)))
            ).json
            judgement = verify(chain_in(session), bundle, ca.desk.at)
            assert isinstance(judgement, Identity)
            assert str(judgement.id) == session["spiffe_id"]
            with pytest.raises(RefusedError, match="this is for /operator/"):
                await node.request("POST", "/v1/policy", WISH)

            ca.desk.issuer.register.ban(Target(kind="node", value="agents-1"), "statement", ca.desk.at)
            with pytest.raises(RefusedError, match="revoked"):
                await node.request("POST", "/v1/renew", {"csr": svid.request(new_key())})

        async with await connect_ca(ca.address, bundle, chain_in(session), agent_key, SystemClock()) as agent:
            with pytest.raises(RefusedError, match="this is for /node/"):
                await agent.request("POST", "/v1/sessions", session_body())
