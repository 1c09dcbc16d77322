"""The CA's API over HTTP (docs/wire.md, "CA API"). Who calls is in ``scope["lockgate.peer"]``, put there at accept.

| path | who | what |
|---|---|---|
| GET /v1/bundle | anyone | the trust bundle, proven by its own signature |
| GET /v1/bundles | anyone | the trust bundles after `?epoch=E&sequence=N`, in their order |
| POST /v1/enrol | whoever holds a token | a node's or operator's first certificate, and its entry in the roster |
| POST /v1/sessions | node | a certificate for a session of an agent on that node, first or next |
| POST /v1/renew | node, operator | its next certificate; an operator's for the same key, at most 7 days from its token |
| POST /v1/grace | the holder of a node's ended certificate | the same, at most 7 days after its end |
| POST /v1/policy | operator, admin | apply a policy, or propose it where that takes two |
| POST /v1/approvals | operator, admin or approver | confirm what another operator proposed |
| GET /v1/policies | operator | every version of the policy, and what is proposed |
| GET /v1/policies/{name} | operator | one of them: a sequence, a digest, or `active` |
| POST /v1/lifts | operator, responder or admin | lift a lock or revocation |
| GET /v1/certificates/{serial} | operator | whose certificate it is |
| GET /v1/status | node, operator | what is in force at the CA, and who it takes you for |

Rules:

1. All names in a certificate are the CA's: from the token, or from the verified peer. A request adds an agent's
   name and a session id, nothing else (CVE-2022-40716).
2. A body is decoded by a schema that names every field. What it does not name is refused.
3. The register blocks, so it is asked in threads, under limiters of their own.
4. Each certificate and each refusal is noted. A secret is in neither: notes are built from what was decided.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki import codec, renewal, svid
from pki.authority.enrol import ROLES, Admission, Enrolment
from pki.authority.id_token import MAX_TOKEN_CHARS, OnBehalfOf
from pki.authority.issuer import Chain, Issuer, MayIssue, WantedSession
from pki.authority.pace import Pace
from pki.authority.policies import Answer, Approval, Policies, Wish
from pki.authority.refusal import Refusal, RefusalError
from pki.authority.retired import with_retired
from pki.authority.signer import StatementSigner
from pki.certificate import read
from pki.chain import MAX_CHAIN_CERTIFICATES
from pki.clock import Clock
from pki.errors import ConfigError, LocalError, RefusedError, RemoteError
from pki.fields import Der, Wire
from pki.http.accept import serve
from pki.http.server import error_body
from pki.spiffe import IdKind, SpiffeId
from pki.statement import MAX_STATEMENT_BYTES, Node, Operator, Statement
from pki.token import SECRET_BYTES, HostPort
from pki.verify import Identity, verify

__all__ = ["Hooks", "application", "serve"]

REGISTER_THREADS = 4
ENROLMENTS = 8
ENROLMENTS_WAITING = 64
MAX_FAULTS = 1_000

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(max_length=63)]
Csr = Annotated[bytes, msgspec.Meta(max_length=svid.MAX_CSR_BYTES)]
Word = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,64}\Z")]


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the CA needs of policy, roster, gossip and log. All but ``may_issue`` are called on the Trio thread."""

    may_issue: MayIssue
    longest_session: Callable[[str], int | None]
    """How long the policy lets a session of this agent live in all (us)."""
    publish: Callable[[Statement], Awaitable[None]]
    """Take a statement into the CA's store, durably, and spread it."""
    roles_of: Callable[[Identity], frozenset[str]]
    """The roles of an operator, if the roster names exactly the key of this identity; none otherwise."""
    policies: Policies
    lift: Callable[[bytes, Identity], Awaitable[Answer]]
    """Judge an operator's demand (envelope) and publish the unlock or unrevoke. Raises RemoteError, RefusedError."""
    check_id_token: Callable[[str], Awaitable[OnBehalfOf]]
    """On whose behalf whoever brings this ID token acts. Raises RefusalError, or LocalError without the issuer's keys."""
    control_address: str
    """``host:port`` where the CA takes control links."""
    clock: Clock
    note: Callable[[dict[str, object]], None]
    """Write an event down."""


def application(issuer: Issuer, hooks: Hooks) -> Starlette:
    """The API of the CA that ``issuer`` issues for."""
    api = _Api(issuer, hooks)
    routes = [
        Route("/v1/bundle", api.bundle, methods=["GET"]),
        Route("/v1/bundles", api.bundles, methods=["GET"]),
        Route("/v1/enrol", api.enrol, methods=["POST"]),
        Route("/v1/sessions", api.sessions, methods=["POST"]),
        Route("/v1/renew", api.renew, methods=["POST"]),
        Route("/v1/grace", api.grace, methods=["POST"]),
        Route("/v1/policy", api.policy, methods=["POST"]),
        Route("/v1/approvals", api.approvals, methods=["POST"]),
        Route("/v1/policies", api.policies, methods=["GET"]),
        Route("/v1/policies/{name}", api.policy_text, methods=["GET"]),
        Route("/v1/lifts", api.lifts, methods=["POST"]),
        Route("/v1/certificates/{serial}", api.certificate, methods=["GET"]),
        Route("/v1/status", api.status, methods=["GET"]),
    ]
    failures = (RefusedError, RemoteError, ConfigError, LocalError, HTTPException)
    return Starlette(routes=routes, exception_handlers=dict.fromkeys(failures, api.failed))


class _Enrol(Wire, frozen=True):
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]
    csr: Csr
    addresses: Annotated[list[HostPort], msgspec.Meta(max_length=8)]
    version: Word
    features: Annotated[list[Word], msgspec.Meta(max_length=64)]
    trust_domain: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    """The token's, so that a token of another CA is told from a mistyped one."""


class _Session(Wire, frozen=True):
    csr: Csr
    agent: Name
    session: Name
    renews: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{0,40}\Z")] = ""
    """The serial of the certificate before; empty for a new session."""
    id_token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN_CHARS)] = ""
    """Of the user whom a new session runs for; empty: of nobody."""


class _Renewal(Wire, frozen=True):
    csr: Csr


class _Grace(Wire, frozen=True):
    csr: Csr
    chain: Annotated[list[Der], msgspec.Meta(min_length=1, max_length=MAX_CHAIN_CERTIFICATES)]
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]


class _Lift(Wire, frozen=True):
    demand: Annotated[bytes, msgspec.Meta(max_length=MAX_STATEMENT_BYTES)]


@dataclass(slots=True)
class _Api:
    issuer: Issuer
    hooks: Hooks
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(REGISTER_THREADS))
    _enrolments: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(ENROLMENTS))
    _pace: Pace = field(default_factory=Pace)

    async def bundle(self, _: Request) -> Response:
        return _json({"bundle": self.issuer.authority.bundle_statement.raw})

    async def bundles(self, request: Request) -> Response:
        """For a member that slept through a rollover: each is proven by a root of the one before."""
        try:
            after = int(request.query_params["epoch"]), int(request.query_params["sequence"])
        except (KeyError, ValueError):
            raise RemoteError("bundles: name the epoch and the sequence of the one that you have") from None
        if not all(0 <= number < 2**53 for number in after):
            raise RemoteError("bundles: no such epoch or sequence")
        return _json({"bundles": await self._in_thread(lambda: self.issuer.register.bundles(*after))})

    async def enrol(self, request: Request) -> Response:
        asked = await _body(request, _Enrol)
        line = self._enrolments.statistics()
        if line.tasks_waiting >= ENROLMENTS_WAITING:
            wait = self._pace.seconds(line.tasks_waiting + line.borrowed_tokens)
            raise HTTPException(503, f"too many join at once; come back in {wait} s")
        async with self._enrolments:
            admission, entry = await self._in_thread(lambda: self._redeem(asked))
            await self.hooks.publish(entry)
            self._pace.done(self.hooks.clock.boot())
        self._note_issued("enrolled", admission.id, admission.chain)
        return _json(
            {
                "chain": admission.chain,
                "bundle": self.issuer.authority.bundle_statement.raw,
                "control": self.hooks.control_address,
                "name": admission.id.name,
                "kind": admission.id.kind.value,
                "spiffe_id": str(admission.id),
            }
        )

    async def sessions(self, request: Request) -> Response:
        peer = await self._peer(request, IdKind.NODE)
        asked = await _body(request, _Session)
        session = SpiffeId.for_agent(peer.id.trust_domain, asked.agent, peer.id.name, asked.session)
        key = svid.public_key_of_csr(asked.csr)
        now, may_issue = self.hooks.clock.wall(), self.hooks.may_issue
        if asked.id_token and asked.renews:
            raise RemoteError("session: a renewal keeps its user; an ID token starts another session")
        user = await self.hooks.check_id_token(asked.id_token) if asked.id_token else None
        wanted = WantedSession(session, key, asked.renews, self.hooks.longest_session(asked.agent), user)
        chain = await self._in_thread(lambda: self.issuer.session(wanted, now, may_issue))
        self._note_issued("session renewed" if asked.renews else "session issued", session, chain)
        return _json({"chain": chain, "spiffe_id": str(session)})

    async def renew(self, request: Request) -> Response:
        peer = await self._peer(request, IdKind.NODE, IdKind.OPERATOR)
        is_operator = peer.id.kind is IdKind.OPERATOR
        if is_operator and not self.hooks.roles_of(peer):
            # Who joined again has another key in the roster: the old one must not live on beside it.
            what = f"renewal: the roster does not name {peer.id} under this key; join with a new token"
            raise RefusalError(Refusal.NOT_ALLOWED, what)
        key = svid.public_key_of_csr((await _body(request, _Renewal)).csr)
        now = self.hooks.clock.wall()
        renew = self.issuer.renew_operator if is_operator else self.issuer.renew
        chain = await self._in_thread(lambda: renew(peer, key, now))
        self._note_issued("renewed", peer.id, chain)
        return _json({"chain": chain, "spiffe_id": str(peer.id)})

    async def grace(self, request: Request) -> Response:
        """Renewal after the end: the connection carries no certificate, the old key signs for it."""
        asked = await _body(request, _Grace)
        key = svid.public_key_of_csr(asked.csr)
        now = self.hooks.clock.wall()
        ended = read(asked.chain[0]).not_after
        # Under a key that was retired in the meantime, but in this epoch: one that was tainted proves nothing.
        bundle = await self._in_thread(lambda: with_retired(self.issuer))
        holder = verify(asked.chain, bundle, min(ended, now))
        if not isinstance(holder, Identity):
            raise RefusalError(Refusal.NO_IDENTITY, f"renewal: {holder}; join again with a new token")
        if now > ended and not renewal.in_grace(ended, now):
            raise RefusalError(
                Refusal.NO_IDENTITY, "renewal: ended over 7 days ago; join again with a new token"
            )
        exporter = request.scope["lockgate.exporter"]
        proof = exporter(renewal.EXPORTER_LABEL, renewal.exporter_context(asked.csr))
        if not renewal.grace_holds(asked.signature, holder.public_key, proof):
            raise RefusalError(Refusal.NO_IDENTITY, "renewal: not signed by the old key on this connection")
        chain = await self._in_thread(lambda: self.issuer.renew(holder, key, now))
        self._note_issued("renewed in grace", holder.id, chain)
        return _json({"chain": chain, "spiffe_id": str(holder.id)})

    async def policy(self, request: Request) -> Response:
        peer = await self._operator(request, "admin")
        asked = await _body(request, Wish)
        return _json(await self.hooks.policies.apply(asked, str(peer.id)))

    async def approvals(self, request: Request) -> Response:
        peer = await self._operator(request, "admin", "approver")
        asked = await _body(request, Approval)
        return _json(await self.hooks.policies.approve(asked, str(peer.id)))

    async def policies(self, request: Request) -> Response:
        await self._operator(request, *ROLES)
        return _json(await self.hooks.policies.listing())

    async def policy_text(self, request: Request) -> Response:
        await self._operator(request, *ROLES)
        return _json(await self.hooks.policies.text(request.path_params["name"]))

    async def lifts(self, request: Request) -> Response:
        peer = await self._operator(request, "responder", "admin")
        asked = await _body(request, _Lift)
        return _json(await self.hooks.lift(asked.demand, peer))

    async def certificate(self, request: Request) -> Response:
        await self._operator(request, *ROLES)
        serial = request.path_params["serial"].lower()
        found = await self._in_thread(lambda: self.issuer.register.issuance_of(serial))
        if found is None:
            raise RefusedError(f"serial {serial[:64]!a}: this CA issued no such certificate")
        return _json({"spiffe_id": str(found.id), "lineage": found.lineage, "not_after": found.not_after})

    async def status(self, request: Request) -> Response:
        peer = await self._peer(request, IdKind.NODE, IdKind.OPERATOR)
        authority = self.issuer.authority
        return _json(
            {
                "schema_version": 1,
                "ca": str(authority.id),
                "epoch": authority.bundle.epoch,
                "bundle": {"sequence": authority.bundle.sequence, "digest": authority.bundle.digest},
                "number": await self._in_thread(self.issuer.register.last_number),
                "you": {
                    "spiffe_id": str(peer.id),
                    "serial": peer.serial,
                    "not_after": peer.not_after,
                    "roles": sorted(self.hooks.roles_of(peer)) if peer.id.kind is IdKind.OPERATOR else [],
                },
            }
        )

    async def failed(self, request: Request, error: Exception) -> Response:
        """Every failure as JSON. What is our own fault is told to the log, not to the client."""
        status, reason, message = _failure(error)
        peer: Identity | None = request.scope["lockgate.peer"]
        event = {"event": "refused", "path": request.scope["path"], "reason": reason, "message": str(error)}
        self.hooks.note({**event, "peer": str(peer.id) if peer else ""})
        if isinstance(error, ConfigError):
            faults = error.faults[:MAX_FAULTS]
            content = msgspec.json.encode({"error": {"reason": reason, "message": message, "faults": faults}})
        else:
            content = error_body(reason, message)
        return Response(content, status, media_type="application/json")

    async def _peer(self, request: Request, *kinds: IdKind) -> Identity:
        """The verified caller, of one of these kinds, neither expired since accept nor revoked."""
        peer: Identity | None = request.scope["lockgate.peer"]
        if peer is None or self.hooks.clock.wall() > peer.not_after:
            raise RefusalError(Refusal.NO_IDENTITY, "this needs a valid certificate of this mesh; join first")
        if peer.id.kind not in kinds:
            wanted = " or ".join(f"/{kind}/" for kind in kinds)
            raise RefusalError(Refusal.NOT_ALLOWED, f"{peer.id}: this is for {wanted} identities")
        await self._in_thread(lambda: self.issuer.refuse_banned(peer.id, peer.lineage, peer.issued))
        return peer

    async def _operator(self, request: Request, *roles: str) -> Identity:
        peer = await self._peer(request, IdKind.OPERATOR)
        if not self.hooks.roles_of(peer) & set(roles):
            what = f"{peer.id}: needs the role {' or '.join(roles)} in the roster, under this very key"
            raise RefusalError(Refusal.NOT_ALLOWED, what)
        return peer

    def _redeem(self, asked: _Enrol) -> tuple[Admission, Statement]:
        authority, now = self.issuer.authority, self.hooks.clock.wall()
        domain = authority.bundle.trust_domain if asked.trust_domain is None else asked.trust_domain
        key = svid.public_key_of_csr(asked.csr)
        admission = Enrolment(self.issuer).redeem(asked.secret, domain, key, now)
        signer = StatementSigner(authority, self.issuer.register)
        return admission, signer.member(_entry(admission, asked), now)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _note_issued(self, event: str, identity: SpiffeId, chain: Chain) -> None:
        leaf = read(chain[0])
        serial = f"{leaf.serial:x}"
        self.hooks.note(
            {"event": event, "spiffe_id": str(identity), "serial": serial, "not_after": leaf.not_after}
        )


def _entry(admission: Admission, asked: _Enrol) -> Node | Operator:
    """The roster's entry of who came in. Its sequence is the signer's to set."""
    if admission.id.kind is IdKind.OPERATOR:
        return Operator(
            sequence=0, name=admission.id.name, key=admission.key.hex(), roles=list(admission.roles)
        )
    return Node(
        sequence=0,
        name=admission.id.name,
        addresses=asked.addresses,
        version=asked.version,
        features=asked.features,
        labels=[],
    )


def _failure(error: Exception) -> tuple[int, str, str]:
    """HTTP status, reason and message for the client."""
    match error:
        case RefusalError(reason=Refusal.NO_IDENTITY):
            return 401, error.reason, str(error)
        case RefusalError():
            return 403, error.reason, str(error)
        case RefusedError():
            return 403, "refused", str(error)
        case ConfigError():
            return 422, "faults", f"{len(error.faults)} faults"
        case RemoteError():
            return 400, "bad_request", str(error)
        case HTTPException():
            return error.status_code, "limit" if error.status_code == 503 else "bad_request", error.detail
        case _:
            return 503, "unavailable", "the CA cannot do this now; see its log"


async def _body(request: Request, schema: type[T]) -> T:
    try:
        value = msgspec.json.decode(await request.body())
    except (msgspec.DecodeError, RecursionError):
        raise RemoteError("request: the body is not JSON") from None
    return codec.convert(value, schema, what="request")


def _json(fields: Answer) -> Response:
    return Response(msgspec.json.encode(fields), media_type="application/json")
