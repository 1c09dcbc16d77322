"""Enrolment: a token is made for one name, and redeemed once.

    admin ──create──> token ──out of band──> newcomer ──secret, public key──> redeem ──> certificate

Rules:

1. The register keeps SHA-256 of the secret, never the secret: whoever reads the register cannot join.
2. Spending is one step with its test, bound to the newcomer's key. The same key may ask again until the token
   expires, and is answered the same: an answer that was lost on the way costs nothing. Any other key is too late.
3. The name, the kind and the roles come from the token. A newcomer asks for none of them.
4. A name that was revoked is not let in again by a new token; lifting the revocation is a step of its own.

Blocking: it waits for the register. Called from a thread.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated

import msgspec

from pki import codec
from pki.authority.entries import Invitation
from pki.authority.issuer import Chain, Issuer
from pki.authority.refusal import Refusal, RefusalError
from pki.certificate import lineage_of, read
from pki.clock import DAY, Wall
from pki.errors import LocalError
from pki.spiffe import IdKind, SpiffeId, is_name
from pki.spki import PublicKey, spki_sha256
from pki.svid import BACKDATE
from pki.token import SECRET_BYTES, Token

MAX_TTL = 7 * DAY
MAX_ANSWER_BYTES = 65_536

ROLES = frozenset({"admin", "approver", "responder", "auditor"})


@dataclass(frozen=True, slots=True)
class Admission:
    """Who came in, as what, and the chain that proves it. ``key`` is SHA-256 of the SPKI."""

    id: SpiffeId
    roles: tuple[str, ...]
    key: bytes
    chain: Chain


@dataclass(frozen=True, slots=True)
class Enrolment:
    """Makes tokens and redeems them."""

    issuer: Issuer

    def create(self, invitation: Invitation, addresses: tuple[str, ...], at: Wall) -> Token:
        """A new token; ``addresses`` is where the CA's API is reached. Raises LocalError for what makes no sense."""
        member = self._member(invitation)
        if not at < invitation.expires <= at + MAX_TTL:
            raise LocalError("token: its life is more than nothing and at most 7 days")
        if self.issuer.register.is_banned(member):
            raise LocalError(f"token: {member} was revoked, which is for good; choose another name")
        secret = self.issuer.entropy(SECRET_BYTES)
        self.issuer.register.add_token(_hash(secret), invitation, at)
        return Token(member, addresses, self.issuer.authority.pins, secret)

    def redeem(self, secret: bytes, trust_domain: str, key: PublicKey, at: Wall) -> Admission:
        """Let in whoever holds this secret, of a token for ``trust_domain``, and ``key``; raises RefusalError."""
        if trust_domain != self.issuer.authority.bundle.trust_domain:
            raise RefusalError(
                Refusal.TOKEN_FOREIGN, f"token: made by the CA of another trust domain; {_ASK}"
            )
        spki = spki_sha256(key)
        spending = self.issuer.register.spend_token(_hash(secret), spki, at)
        if spending is None:
            raise RefusalError(Refusal.TOKEN_UNKNOWN, f"token: this CA never made it; {_ASK}")
        if spending.spent_by not in (None, spki):
            raise RefusalError(Refusal.TOKEN_USED, f"token: already used, with another key; {_ASK}")
        if spending.invitation.expires <= at:
            raise RefusalError(Refusal.TOKEN_EXPIRED, f"token: expired; {_ASK}")
        member = self._member(spending.invitation)
        chain = self._answered(member, spending.answer) or self._answer(member, secret, key, at)
        return Admission(member, spending.invitation.roles, spki, chain)

    def _answered(self, member: SpiffeId, answer: bytes | None) -> Chain:
        if answer is None:
            return ()
        chain = tuple(codec.decode(answer, _Answer, limit=MAX_ANSWER_BYTES, what="kept answer"))
        leaf = read(chain[0])
        self.issuer.refuse_banned(member, f"{lineage_of(leaf):x}", Wall(leaf.not_before + BACKDATE))
        return chain

    def _answer(self, member: SpiffeId, secret: bytes, key: PublicKey, at: Wall) -> Chain:
        chain = self.issuer.admit(member, key, at, token_id(secret))
        self.issuer.register.keep_answer(_hash(secret), codec.encode(list(chain)))
        return chain

    def _member(self, invitation: Invitation) -> SpiffeId:
        kind, name, roles = invitation.kind, invitation.name, set(invitation.roles)
        if kind not in (IdKind.NODE, IdKind.OPERATOR) or not is_name(name):
            raise LocalError("token: is for node:NAME or operator:NAME, NAME of a-z, 0-9 and inner hyphens")
        if not roles <= ROLES or (kind is IdKind.NODE and roles) or (kind is IdKind.OPERATOR and not roles):
            raise LocalError(
                f"token: an operator has one or more roles of {', '.join(sorted(ROLES))}; a node none"
            )
        return SpiffeId(self.issuer.authority.bundle.trust_domain, (kind, name))


_ASK = "ask an admin for a new one: `lockgate token create`"

_Answer = list[Annotated[bytes, msgspec.Meta(max_length=16_384)]]


def token_id(secret: bytes) -> str:
    """What a token is called where its secret must not stand: 16 hex digits."""
    return _hash(secret).hex()[:16]


def _hash(secret: bytes) -> bytes:
    """128 random bits need no slow hash: there is nothing to guess from."""
    return hashlib.sha256(secret).digest()
