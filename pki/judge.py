"""Whether a statement's signer is who it claims to be, and may say that (docs/wire.md, "Statements").

Pure: the bundle, the roster's word on operators and the time are arguments. Three rules carry the weight:

- a statement key counts because the root-signed bundle lists it, never because an issuer vouches for it;
- an operator's word counts only under the one key that the roster names. An issuing key that was stolen can
  mint ``/operator/alice``, but not with alice's key, so it mints no statements;
- a node's revocation reaches only sessions that are bound to that node, and a request asks for its signer alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pki.asking import ANSWER_LIFE, Answer, EscalationRequest, check_request
from pki.bundle import TrustBundle, key_of
from pki.clock import Wall
from pki.errors import RemoteError
from pki.spiffe import IdKind, SpiffeId
from pki.spki import spki_sha256
from pki.statement import KINDS, Lock, Operator, Revocation, Signer, Statement, signature_holds
from pki.verify import Identity, verify

ROLE_SIGNERS = {
    "admin": Signer.ADMIN,
    "responder": Signer.RESPONDER,
    "approver": Signer.APPROVER,
}


@dataclass(frozen=True, slots=True)
class Trust:
    """What a judgement rests on: the trust bundle, and the roster's entry of an operator, if any."""

    bundle: TrustBundle
    operator: Callable[[str], Operator | None]


@dataclass(frozen=True, slots=True)
class Word:
    """A statement whose signer was verified: in what capacities it speaks, and as whom (None: CA or root)."""

    statement: Statement
    signers: frozenset[Signer]
    by: SpiffeId | None
    not_after: Wall | None = None
    """When the signer's certificate ends; None for the CA and the root."""

    @property
    def author(self) -> str:
        return str(self.by) if self.by else next(iter(self.signers)).value


def judge(statement: Statement, trust: Trust, at: Wall) -> Word:
    """Who says this, verified; raises RemoteError when nobody who may. ``at`` is when it was first seen."""
    word = _signer(statement, trust, at)
    kind = KINDS.get(statement.kind)
    allowed = frozenset({Signer.CA}) if kind is None else kind.signers
    if not word.signers & allowed:
        who = ", ".join(sorted(allowed))
        raise RemoteError(f"statement {statement.kind}: {word.author} may not sign it, only {who}")
    if kind is not None and kind.body is None and Signer.CA not in word.signers:
        raise RemoteError(f"statement {statement.kind}: not applied by this version, and not the CA's")
    if isinstance(statement.body, Lock | Revocation):
        _check_reach(statement.body, word, trust)
    elif isinstance(statement.body, EscalationRequest | Answer):
        _check_asking(statement, statement.body, word)
    return word


def _signer(statement: Statement, trust: Trust, at: Wall) -> Word:
    leaf = statement.envelope.chain[0]
    for signer, listed in ((Signer.CA, trust.bundle.statement_keys), (Signer.ROOT, trust.bundle.roots)):
        if leaf in listed:
            if len(statement.envelope.chain) > 1:  # Junk that would travel along under the same id.
                raise RemoteError(f"statement {statement.kind}: more than its signer's own certificate")
            _check_signature(statement, leaf)
            if signer is Signer.CA and statement.payload.epoch != trust.bundle.epoch:
                raise RemoteError(f"statement {statement.kind}: of another epoch")
            return Word(statement, frozenset({signer}), None)
    identity = verify(statement.envelope.chain, trust.bundle, at)
    if not isinstance(identity, Identity):
        raise RemoteError(f"statement {statement.kind}: {identity}")
    if not identity.not_before <= statement.payload.issued < identity.not_after:
        raise RemoteError(f"statement {statement.kind}: issued outside its signer's validity")
    if statement.payload.number:
        raise RemoteError(f"statement {statement.kind}: only the CA numbers statements")
    _check_signature(statement, leaf)
    return Word(statement, _capacities(identity, trust), identity.id, identity.not_after)


def _check_signature(statement: Statement, certificate: bytes) -> None:
    if not signature_holds(statement, key_of(certificate)):
        raise RemoteError(f"statement {statement.kind}: bad signature")


def _capacities(identity: Identity, trust: Trust) -> frozenset[Signer]:
    if identity.id.kind is IdKind.NODE:
        return frozenset({Signer.NODE})
    if identity.id.kind is IdKind.AGENT:
        return frozenset({Signer.SESSION})
    entry = trust.operator(identity.id.name) if identity.id.kind is IdKind.OPERATOR else None
    if entry is None or bytes.fromhex(entry.key) != spki_sha256(key_of(identity.chain[0])):
        return frozenset()
    return frozenset(ROLE_SIGNERS[role] for role in entry.roles if role in ROLE_SIGNERS)


def _check_asking(statement: Statement, body: EscalationRequest | Answer, word: Word) -> None:
    issued, expires = statement.payload.issued, statement.payload.expires
    if isinstance(body, Answer):
        if word.by is not None and expires > issued + ANSWER_LIFE:
            raise RemoteError(f"statement {statement.kind}: lives longer than any request")
        return
    if body.session != str(word.by):  # A session could else have another one's rights widened, or tried.
        raise RemoteError("statement request: asks for another session than the one that signs it")
    check_request(body, issued, expires)


def _check_reach(body: Lock | Revocation, word: Word, trust: Trust) -> None:
    target = body.target
    if word.signers == {Signer.NODE}:
        # A node names the whole SPIFFE ID: by session id alone, it could end another node's session.
        owner = SpiffeId.parse(target.value) if target.kind == "id" else None
        if owner is None or word.by is None or owner.node != word.by.name:
            raise RemoteError("statement revocation: a node may end only sessions that are bound to it")
    elif Signer.CA not in word.signers and target.kind == "operator":
        # A stolen responder's key must not be able to remove those who could stop it.
        entry = trust.operator(target.value)
        if entry is not None and "admin" in entry.roles:
            raise RemoteError(f"statement {word.statement.kind}: an admin is stopped by the CA only")
