"""Certificates for members: who gets one, for how long, and that it is written down first.

Blocking: it waits for the register. Called from a thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pki import svid
from pki.authority.entries import Issuance
from pki.authority.id_token import SKEW, OnBehalfOf
from pki.authority.keystore import Authority, Entropy
from pki.authority.refusal import Refusal, RefusalError
from pki.authority.register import Register
from pki.certificate import read
from pki.clock import DAY, HOUR, Wall
from pki.errors import LocalError
from pki.spiffe import IdKind, SpiffeId
from pki.spki import PublicKey, spki_sha256
from pki.svid import SERIAL_ENTROPY_BYTES, LeafPlan
from pki.verify import Identity

Chain = tuple[bytes, ...]
"""DER, leaf first, without the root."""

OPERATOR_LINE = 7 * DAY
"""How long one token carries an operator, over all renewals (us). Whoever stole a credential has it no longer."""

MayIssue = Callable[[str, str], bool]
"""Whether the node of the first name may hold sessions of the agent of the second. May be asked from any thread."""


@dataclass(frozen=True, slots=True)
class WantedSession:
    """A certificate that a node asks for, for a session of its own.

    ``renews``: the serial of the one before, empty for the first. ``longest``: how long the policy lets a session
    live in all (us); None: as long as it is renewed.
    """

    id: SpiffeId
    key: PublicKey
    renews: str = ""
    longest: int | None = None
    user: OnBehalfOf | None = None
    """Whom a new session runs for. A renewal keeps whom the register names: its node has no say in it."""


@dataclass(frozen=True, slots=True)
class _Second:
    """A renewal of a certificate that was renewed before."""

    id: SpiffeId
    serial: str
    key: PublicKey
    at: Wall


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long a certificate holds, from its issue, in microseconds."""

    node: int = DAY
    session: int = HOUR
    operator: int = 12 * HOUR

    def of(self, kind: IdKind) -> int:
        return {IdKind.AGENT: self.session, IdKind.NODE: self.node, IdKind.OPERATOR: self.operator}[kind]


@dataclass(frozen=True, slots=True)
class Issuer:
    """Issues, after it has asked the register whether it may. Raises RefusalError where it may not."""

    authority: Authority
    register: Register
    entropy: Entropy
    lifetimes: Lifetimes = field(default_factory=Lifetimes)

    def admit(self, member: SpiffeId, key: PublicKey, at: Wall, token: str) -> Chain:
        """The first certificate of a new line for a node or an operator that came with the token of this id."""
        self.refuse_banned(member)
        return self._issue(self._plan(member, key, at), f"token {token}")

    def renew(self, holder: Identity, key: PublicKey, at: Wall) -> Chain:
        """A node's next certificate, of the same line, for a key of its choice."""
        if holder.id.kind is not IdKind.NODE:
            what = f"renewal: {holder.id} is not a node; run: lockgate join with a new token"
            raise RefusalError(Refusal.NOT_ALLOWED, what)
        self.refuse_banned(holder.id, holder.lineage, holder.issued)
        followed = self.register.renewal_of(holder.serial)
        if followed is not None:
            return self._again(_Second(holder.id, holder.serial, key, at), followed)
        plan = replace(self._plan(holder.id, key, at), lineage=holder.lineage)
        return self._follow(plan, "renewal", _Second(holder.id, holder.serial, key, at))

    def renew_operator(self, holder: Identity, key: PublicKey, at: Wall) -> Chain:
        """An operator's next certificate: the same line and key, and no end later than OPERATOR_LINE allows.

        Two who hold one key cannot be told apart, so there is no alarm: both are given the same certificate.
        """
        if spki_sha256(key) != holder.spki_sha256:
            what = f"renewal: {holder.id} keeps its key, since the roster names it"
            raise RefusalError(Refusal.NOT_ALLOWED, f"{what}; for another key, join with a new token")
        self.refuse_banned(holder.id, holder.lineage, holder.issued)
        ends = self._end_of_line(holder)
        if holder.not_after >= ends or at >= ends:
            what = f"renewal: one token carries {holder.id} for 7 days, and they are used up"
            how = f"let an admin run lockgate token create operator:{holder.id.name} --role ..., then join with it"
            raise RefusalError(Refusal.NOT_ALLOWED, f"{what}; {how}")
        followed = self.register.renewal_of(holder.serial)
        if followed is not None:
            return self._with_issuer(followed[1])
        plan = self._plan(holder.id, key, at)
        plan = replace(plan, lineage=holder.lineage, lifetime=min(plan.lifetime, ends - at))
        return self._issue(plan, "renewal", renewed=holder.serial)

    def session(self, wanted: WantedSession, at: Wall, may_issue: MayIssue) -> Chain:
        """The first or next certificate of an agent's session, asked for by the node in its SPIFFE ID.

        A certificate is followed by one other: a second renewal with another key is a copy of it at work.
        """
        session = wanted.id
        self.refuse_banned(session)
        if not may_issue(session.node, session.name):
            what = (
                f"session: no policy in force lets node {session.node} hold sessions of agent {session.name}"
            )
            raise RefusalError(
                Refusal.NOT_LISTED, f"{what}; list the node under the agent and apply the policy"
            )
        basis = f"session of {session.node}"
        if wanted.renews:
            return self._renew_session(wanted, at, basis)
        user = wanted.user.user if wanted.user else ""
        plan = replace(self._plan(session, wanted.key, at), on_behalf_of=user)
        if self.register.claim_session(session, f"{plan.serial:x}", user) != f"{plan.serial:x}":
            what = "session: its id belongs to another session; choose a new one"
            raise RefusalError(Refusal.SESSION_TAKEN, what)
        self._spend(wanted.user, at)
        return self._issue(_shortened(plan, at, wanted.longest), basis)

    def refuse_banned(self, identity: SpiffeId, lineage: str = "", issued: Wall | None = None) -> None:
        """Raise RefusalError for an identity, a line of certificates, or one issued then, that was revoked."""
        if self.register.is_banned(identity, lineage):
            raise RefusalError(Refusal.BANNED, f"{identity}: revoked, which is for good; use another name")
        if issued is not None and self.register.is_banned(identity, lineage, issued):
            what = f"{identity}: its certificates of before are revoked; join with a new token, or start anew"
            raise RefusalError(Refusal.BANNED, what)

    def _renew_session(self, wanted: WantedSession, at: Wall, basis: str) -> Chain:
        before = self.register.issuance_of(wanted.renews)
        if before is None or before.id != str(wanted.id):
            what = f"renewal: certificate {wanted.renews} is not of this session, or of another node's"
            raise RefusalError(Refusal.SESSION_TAKEN, what)
        self.refuse_banned(wanted.id, before.lineage, before.issued)
        followed = self.register.renewal_of(wanted.renews)
        if followed is not None:
            return self._again(_Second(wanted.id, wanted.renews, wanted.key, at), followed)
        if at >= before.not_after:
            raise RefusalError(
                Refusal.NOT_ALLOWED, f"renewal: {wanted.id} ended with its certificate; start another"
            )
        began = self.register.began(before.lineage) or Wall(0)
        left = None if wanted.longest is None else began + svid.BACKDATE + wanted.longest - at
        if left is not None and left <= 0:
            raise RefusalError(
                Refusal.NOT_ALLOWED, f"renewal: the longest life of {wanted.id} is over; start another"
            )
        plan = self._plan(wanted.id, wanted.key, at)
        plan = replace(plan, lineage=before.lineage, on_behalf_of=self.register.user_of(wanted.id))
        second = _Second(wanted.id, wanted.renews, wanted.key, at)
        return self._follow(_shortened(plan, at, left), basis, second)

    def _follow(self, plan: LeafPlan, basis: str, second: _Second) -> Chain:
        """The certificate after another. Of two who ask at once the register takes one, and the other is judged by that."""
        try:
            return self._issue(plan, basis, renewed=second.serial)
        except LocalError:
            followed = self.register.renewal_of(second.serial)
            if followed is None:
                raise
            return self._again(second, followed)

    def _spend(self, user: OnBehalfOf | None, at: Wall) -> None:
        """A token that was overheard, or kept, starts no second session; one for a session that is refused is not used up."""
        if user is not None and not self.register.spend_id_token(user.digest, Wall(user.expires + SKEW), at):
            raise RefusalError(Refusal.ID_TOKEN, "ID token: used before; log in again")

    def _end_of_line(self, holder: Identity) -> Wall:
        """When an operator's token carries no further; the distant past for a line that was never written down."""
        began = self.register.began(holder.lineage)
        return Wall(0) if began is None else Wall(began + svid.BACKDATE + OPERATOR_LINE)

    def _again(self, second: _Second, followed: tuple[bytes, bytes]) -> Chain:
        """The same answer for the same key: the first may have been lost on the way. For another key, an alarm."""
        spki, der = followed
        if spki != spki_sha256(second.key):
            self.register.note_clone(second.serial, spki_sha256(second.key), second.at)
            what = (
                f"renewal: certificate {second.serial} of {second.id} was renewed already, with another key"
            )
            is_node = second.id.kind is IdKind.NODE
            help_ = "revoke this node and re-join" if is_node else "revoke this session"
            raise RefusalError(Refusal.CLONE, f"{what}; somebody has a copy of it: {help_}")
        return self._with_issuer(der)

    def _with_issuer(self, der: bytes) -> Chain:
        """A chain that was given before. It may hang on the issuer of before a rollover."""
        signer = read(der).authority_key_id
        issuers = (self.authority.issuer.certificate, *self.authority.bundle.issuers)
        return der, next((one for one in issuers if read(one).subject_key_id == signer), issuers[0])

    def _plan(self, identity: SpiffeId, key: PublicKey, at: Wall) -> LeafPlan:
        return LeafPlan(
            id=identity,
            key=key,
            serial=svid.serial_of(self.entropy(SERIAL_ENTROPY_BYTES)),
            at=at,
            lifetime=self.lifetimes.of(identity.kind),
        )

    def _issue(self, plan: LeafPlan, basis: str, renewed: str | None = None) -> Chain:
        signer = self.authority.issuer
        leaf = svid.leaf(plan, signer)
        made, serial = read(leaf), f"{plan.serial:x}"
        issuance = Issuance(
            serial=serial,
            lineage=plan.lineage or serial,
            id=plan.id,
            spki_sha256=spki_sha256(plan.key),
            not_before=made.not_before,
            not_after=made.not_after,
            basis=basis,
            renewed=renewed,
            der=leaf if renewed else None,
            issuer=made.authority_key_id.hex(),
        )
        self.register.add_certificate(issuance)
        return leaf, signer.certificate


def _shortened(plan: LeafPlan, at: Wall, left: int | None) -> LeafPlan:
    """No longer than there is ``left``; None: any time."""
    return plan if left is None else replace(plan, at=at, lifetime=min(plan.lifetime, left))
