"""The life of the sessions on this node: started with a certificate, renewed, ended here and everywhere."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.statement import Revocation, Target, Terms, sign
from pki.verify import Identity
from sidecar import defaults
from sidecar.audit import record
from sidecar.certificates import Certificates
from sidecar.certify import CaAccess, certify_session
from sidecar.gossip.member import Member
from sidecar.outbox import Outbox
from sidecar.proxy.carry import Carrier
from sidecar.reasons import Reason
from sidecar.renewal import Spawn
from sidecar.session.sessions import Session, Sessions
from sidecar.snapshot import Facts
from sidecar.traceparent import ROOT_ENTROPY, root

Certify = Callable[[SpiffeId, CaAccess], Awaitable[tuple[Identity, Key]]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the sessions of a node live in."""

    member: Member
    carrier: Carrier
    certificates: Certificates
    outbox: Outbox


class SessionLife:
    """Starts and ends sessions. ``certify`` asks the CA for a session's certificate."""

    def __init__(self, sessions: Sessions, around: Surroundings, certify: Certify = certify_session) -> None:
        self.sessions = sessions
        self.certify = certify
        self._member = around.member
        self._carrier = around.carrier
        self._certificates = around.certificates
        self._outbox = around.outbox

    async def start(self, agent: str, uid: int) -> Session:
        """A new session of ``agent`` for ``uid``; raises what :func:`certify_session` does."""
        node = self._certificates.credential.id
        name = new_id(secrets.token_bytes(ID_BYTES))
        wanted = SpiffeId.for_agent(node.trust_domain, agent, node.name, name)
        identity, key = await self.certify(wanted, self._certificates.ca_access())
        trace = root(secrets.token_bytes(ROOT_ENTROPY))
        session = Session(identity, key, uid, self._carrier.clock.wall(), trace)
        self._forget_ended()
        self.sessions.add(session)
        facts: record.Facts = {
            "uid": uid,
            "serial": identity.serial,
            "not_after": identity.not_after,
            "trace": trace,
        }
        self._note("started", session, facts)
        return session

    def live(self) -> list[Session]:
        """Those that can still do something. The others are kept until the next starts: refusals say what they were."""
        return [session for session in self.sessions if not self._is_over(session)]

    def take_up_session(self, session: Session, identity: Identity, key: Key, spawn: Spawn) -> None:
        """A session's next certificate. One that ended while the CA was asked stays ended."""
        held = self.sessions.find(session.id.session)
        if held is not None:
            renewed = replace(held, identity=identity, key=key)
            self.sessions.add(renewed)
            self._certificates.prove(renewed, identity, spawn)

    def end(self, session: Session) -> None:
        """End it here at once and everywhere soon: a revocation of it, which its own node may sign."""
        self.sessions.remove(session.id.session)
        self._note("ended", session, {})
        now = self._carrier.clock.wall()
        if session.identity.not_after <= now:
            return
        terms = Terms(self._member.bundle.epoch, now, session.identity.not_after + 5 * defaults.SKEW)
        body = Revocation(target=Target(kind="id", value=str(session.id)), message="session ended")
        credential = self._certificates.credential
        self._outbox.put([sign("revocation", body, terms, credential.key, credential.chain).raw])

    def cut_ended(self) -> None:
        """A session whose end could not be said to others (too many were) ends here all the same."""
        here = self._certificates.credential.id.name
        for live in list(self._carrier.table):
            session = live.request.session
            if session.node == here and self.sessions.find(session.session) is None:
                live.cut(Reason.REVOKED, "session ended")

    def _forget_ended(self) -> None:
        """Sessions that can do nothing any more must not make those of the same uid ambiguous."""
        for session in self.sessions:
            if self._is_over(session):
                self.sessions.remove(session.id.session)
                self._note("ended", session, {})

    def _is_over(self, session: Session) -> bool:
        facts = Facts(
            id=str(session.id),
            agent=session.id.name,
            session=session.id.session,
            nodes=(session.id.node,),
            serials=(session.identity.lineage, session.identity.serial),
        )
        revoked = self._member.snapshot.restrictions.revocation_of(facts)
        return revoked is not None or session.identity.not_after <= self._member.moment().now

    def _note(self, what: str, session: Session, facts: record.Facts) -> None:
        now = self._carrier.clock.wall()
        self._carrier.audit.append(record.session(now, what, session.id.session, session.id.name, facts))
