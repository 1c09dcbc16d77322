"""Statements: the signed facts that the members of a mesh share (docs/wire.md, "Statements").

Rules:

1. What is signed is a prefix that names the kind, then the payload's exact bytes. No re-encoding is ever
   verified, and a signature for one kind is worthless for another.
2. A statement's id is the first 128 bits of SHA-256 over its payload. It is never carried inside.
3. Who may sign which kind stands in ``KINDS`` and nowhere else.
4. This module takes bytes apart and checks what needs no context. Whether the signer is who it claims to be is
   judged by :mod:`pki.judge` against a bundle and a roster.
"""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, cast

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki import codec
from pki.asking import Answer, EscalationRequest, Lease
from pki.chain import MAX_CHAIN_CERTIFICATES
from pki.errors import RemoteError
from pki.fields import MAX_ITEMS, Certificates, Der, Id, Ids, KindName, Sequence, Sha256Hex, Text, Texts, Wire
from pki.ids import digest_id, is_id
from pki.spiffe import IdKind, SpiffeId, is_name
from pki.spki import Key, PublicKey

MAX_STATEMENT_BYTES = 65_536

CUTOFF_KINDS = frozenset({"agent", "node", "operator", "session", "id"})
"""Names that have one certificate after the other."""
FOUND_KINDS = frozenset({"id", "agent", "service", "node"})
"""What a finding may be about."""


class Target(Wire, frozen=True):
    """What a lock or revocation stops: ``all``, or a kind and a name, a session's id, a serial in hex.

    ``id`` is the whole SPIFFE ID of a session, the one kind of target that a node may sign for.
    """

    kind: Literal["all", "segment", "service", "agent", "session", "node", "operator", "serial", "id"]
    value: Text = ""

    def __str__(self) -> str:
        return self.kind if self.kind == "all" else f"{self.kind}:{self.value}"


class Bundle(Wire, frozen=True):
    """The trust bundle: whom a mesh trusts. Certificates as DER. The epoch stands in the statement itself."""

    trust_domain: Text
    sequence: Sequence
    roots: Certificates
    issuers: Certificates
    statement_keys: Certificates


class Edition(Wire, frozen=True):
    """One version of the policy. The text travels by its digest (SHA-256 of its ``size`` bytes)."""

    sequence: Sequence
    digest: Sha256Hex
    size: Sequence
    author: Text
    approver: Text = ""
    """The second operator, where the policy before it asked for one."""


class Policy(Edition, frozen=True):
    """Which policy is to be in force."""


class Canary(Edition, frozen=True, kw_only=True):
    """The same for some nodes only, until a policy of a higher sequence."""

    nodes: Texts


class Node(Wire, frozen=True, tag_field="type", tag="node"):
    """A roster entry: addresses are ``host:port`` of the overlay listener, empty for one that only dials out."""

    sequence: Sequence
    name: Text
    addresses: Texts
    version: Text
    features: Texts
    labels: Texts


class Operator(Wire, frozen=True, tag_field="type", tag="operator"):
    """A roster entry: ``key`` is the hex SHA-256 of the operator's SPKI, the one key whose word counts."""

    sequence: Sequence
    name: Text
    key: Sha256Hex
    roles: Texts
    uids: Annotated[dict[Text, Sequence], msgspec.Meta(max_length=MAX_ITEMS)] = msgspec.field(
        default_factory=dict
    )
    """By node, the operator's own uid there: nobody approves what he started himself."""
    user: Text = ""
    """The claim by which an identity provider knows the operator."""


class Member(Wire, frozen=True):
    """The newest entry by (epoch, sequence) for a name is the one in the roster."""

    member: Node | Operator


class Lock(Wire, frozen=True, omit_defaults=True):
    """A temporary stop; it ends when the statement expires, or is unlocked."""

    target: Target
    message: Text = ""
    evidence: Id | None = None
    """The finding that the CA made it of."""


class Revocation(Wire, frozen=True):
    """A stop for good."""

    target: Target
    message: Text = ""


class Finding(Wire, frozen=True):
    """A node's word that something looks wrong: ``count`` of ``what``, by ``rule`` of the policy.

    ``enforced``: the node has locked ``target`` at itself. ``streams`` are the newest that it saw it in.
    """

    rule: Text
    what: Text
    target: Target
    enforced: bool
    count: Sequence
    streams: Texts = msgspec.field(default_factory=list)


class Demand(Wire, frozen=True):
    """An operator's signed wish that the CA lift the named statements. Only ever inside unlock and unrevoke."""

    action: Literal["unlock", "unrevoke"]
    ids: Ids
    message: Text = ""
    mistake: bool = False
    """Of an unrevoke: lift it whole, and leave no cutoff."""


class Lift(Wire, frozen=True):
    """Unlock and unrevoke: the named statements are no longer in force. ``demand`` is an operator's envelope."""

    ids: Ids
    demand: bytes = b""
    before: Sequence = 0
    """Of an unrevoke: certificates of those names that were issued before this instant stay revoked; 0: none."""


class Cutoff(Wire, frozen=True):
    """Certificates of ``target`` that were issued before ``before`` (wall, us) are revoked."""

    target: Target
    before: Sequence
    message: Text = ""


class Heartbeat(Wire, frozen=True):
    """All that the CA has said up to ``number``, in one digest (:func:`sidecar.gossip.digest.of_set`)."""

    number: Sequence
    policy_sequence: Sequence
    policy_digest: Sha256Hex
    bundle_sequence: Sequence
    bundle_digest: Sha256Hex
    digest: Sha256Hex


class Adoption(Wire, frozen=True):
    """The CA takes an operator's or node's restriction as its own. The original keeps its id."""

    original: bytes


class Applied(Wire, frozen=True):
    """One line of a receipt: in force here since ``since`` (wall, us), ``cut`` streams ended by it."""

    id: Id
    since: Sequence
    cut: Sequence


class Receipt(Wire, frozen=True):
    """A node's word on what is in force at it."""

    applied: Annotated[list[Applied], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]


class RolloverAck(Wire, frozen=True):
    """The trust bundle that a node has in force, durably, and the key identifier of its own certificate's signer."""

    sequence: Sequence
    digest: Sha256Hex
    issuer: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{2,64}\Z")]


class AuditHead(Wire, frozen=True):
    """How far a node's audit log went at ``at``: a signed note (:mod:`sidecar.audit.checkpoint`). The newest counts."""

    volume: Text
    count: Sequence
    head: Sha256Hex
    at: Sequence
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]


class Signer(StrEnum):
    """In what capacity a statement is signed."""

    ROOT = "root"
    CA = "ca"
    RESPONDER = "responder"
    ADMIN = "admin"
    APPROVER = "approver"
    NODE = "node"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the registry. ``body`` is None while this version keeps the kind but does not apply it."""

    name: str
    signers: frozenset[Signer]
    body: type[Wire] | None = None
    restriction: bool = False
    acknowledged: bool = False
    """Nodes answer it with a receipt."""


def _kind(name: str, *signers: Signer, **rest: Any) -> tuple[str, Kind]:
    return name, Kind(name, frozenset(signers), **rest)


KINDS: dict[str, Kind] = dict(
    [
        _kind("bundle", Signer.ROOT, body=Bundle, acknowledged=True),
        _kind("policy", Signer.CA, body=Policy, acknowledged=True),
        _kind("canary", Signer.CA, body=Canary, acknowledged=True),
        _kind("member", Signer.CA, body=Member),
        _kind("heartbeat", Signer.CA, body=Heartbeat),
        _kind("adoption", Signer.CA, body=Adoption),
        _kind("unlock", Signer.CA, body=Lift, acknowledged=True),
        _kind("unrevoke", Signer.CA, body=Lift, acknowledged=True),
        _kind("lock", Signer.CA, Signer.RESPONDER, body=Lock, restriction=True, acknowledged=True),
        _kind(
            "revocation",
            Signer.CA,
            Signer.RESPONDER,
            Signer.NODE,
            body=Revocation,
            restriction=True,
            acknowledged=True,
        ),
        _kind("demand", Signer.RESPONDER, Signer.ADMIN, body=Demand),
        _kind("receipt", Signer.NODE, body=Receipt),
        _kind("cutoff", Signer.CA, body=Cutoff, restriction=True, acknowledged=True),
        _kind("lease", Signer.CA, body=Lease),
        _kind("approval", Signer.APPROVER, body=Answer),
        _kind("refusal", Signer.CA, Signer.APPROVER, body=Answer, restriction=True, acknowledged=True),
        _kind("audit-head", Signer.NODE, body=AuditHead),
        _kind("rollover-ack", Signer.NODE, body=RolloverAck),
        _kind("finding", Signer.NODE, body=Finding, restriction=True),
        _kind("request", Signer.SESSION, body=EscalationRequest),
    ]
)


class Payload(Wire, frozen=True):
    """The signed bytes, decoded. Times are wall time in integer microseconds; ``number`` is 0 unless the CA's."""

    kind: KindName
    epoch: Sequence
    number: Sequence
    issued: Sequence
    expires: Sequence
    body: dict[str, Any]


class Envelope(Wire, frozen=True):
    """A statement as it travels. ``chain`` is the signer's, leaf first, DER."""

    payload: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]
    chain: Annotated[list[Der], msgspec.Meta(min_length=1, max_length=MAX_CHAIN_CERTIFICATES)]


@dataclass(frozen=True, slots=True)
class Statement:
    """An envelope taken apart: the same bytes, and what they say. Its signer is not judged yet."""

    raw: bytes
    envelope: Envelope
    payload: Payload
    body: Wire | None

    @property
    def kind(self) -> str:
        return self.payload.kind

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload, 32 bytes."""
        return hashlib.sha256(self.envelope.payload).digest()

    @property
    def id(self) -> str:
        return digest_id(self.digest)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a new statement says beside its body."""

    epoch: int
    issued: int
    expires: int
    number: int = 0


def sign(kind: str, body: Wire, terms: Terms, key: Key, chain: tuple[bytes, ...]) -> Statement:
    """A new statement of ``kind`` under ``key``, whose certificate chain is ``chain``."""
    payload = codec.encode(
        Payload(
            kind=kind,
            epoch=terms.epoch,
            number=terms.number,
            issued=terms.issued,
            expires=terms.expires,
            body=cast("dict[str, Any]", msgspec.to_builtins(body, builtin_types=(bytes,))),
        )
    )
    signature = key.sign(_prefix(kind) + payload, ec.ECDSA(hashes.SHA256()))
    return parse(codec.encode(Envelope(payload=payload, signature=signature, chain=list(chain))))


def parse(raw: bytes) -> Statement:
    """The statement in ``raw``; raises RemoteError for anything out of shape. Nothing is trusted yet."""
    envelope = codec.decode(raw, Envelope, limit=MAX_STATEMENT_BYTES, what="statement")
    payload = codec.decode(envelope.payload, Payload, limit=MAX_STATEMENT_BYTES, what="statement payload")
    if payload.expires <= payload.issued:
        raise RemoteError("statement: expires before it is issued")
    kind = KINDS.get(payload.kind)
    if kind is None or kind.body is None:
        return Statement(raw, envelope, payload, None)
    body = codec.convert_packed(payload.body, kind.body, what=f"statement {payload.kind}")
    _check_target(body)
    return Statement(raw, envelope, payload, body)


def signature_holds(statement: Statement, key: PublicKey) -> bool:
    """Whether ``key`` signed these exact bytes as this kind."""
    message = _prefix(statement.kind) + statement.envelope.payload
    try:
        key.verify(statement.envelope.signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _prefix(kind: str) -> bytes:
    return b"lockgate/statement/" + kind.encode() + b"/v1\0"


def _check_target(body: Wire) -> None:
    if not isinstance(body, Lock | Revocation | Cutoff | Finding):
        return
    kind, value = body.target.kind, body.target.value
    if (isinstance(body, Cutoff) and kind not in CUTOFF_KINDS) or (
        isinstance(body, Finding) and kind not in FOUND_KINDS
    ):
        good = False
    elif kind == "all":
        good = value == "" and isinstance(body, Lock)
    elif kind == "session":
        good = is_id(value)
    elif kind == "id":
        good = SpiffeId.parse(value).kind is IdKind.AGENT
    elif kind == "serial":
        good = 0 < len(value) <= 40 and set(value) <= set("0123456789abcdef")  # RFC 5280 4.1.2.2: 20 octets
    else:
        good = is_name(value)
    if not good:
        raise RemoteError(f"statement: not a target: {kind}")
