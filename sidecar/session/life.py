"""The life of the sessions on this node: started with a certificate, renewed, ended here and everywhere.

A session ends when it is asked to, when whoever holds it is gone (:mod:`sidecar.session.hold`), when the last process
has left its cgroup, when its longest life or its longest idle time is over (:mod:`sidecar.session.ends`), or with its
certificate. Whichever comes first takes it out of the table, so that no caller is attributed to it any more, writes
why on record, and says so to every node by a revocation.
"""

import secrets
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field, replace

import trio

from pki import chain as chains
from pki import keys
from pki.clock import Boot, Wall
from pki.errors import LocalError, RefusedError
from pki.ids import ID_BYTES, new_id
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.statement import Revocation, Target, Terms, sign
from pki.svid import BACKDATE
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
from sidecar.session import ends
from sidecar.session.cgroup import SessionCgroup
from sidecar.session.ends import Age, Limits, Why
from sidecar.session.hold import Hold
from sidecar.session.sessions import Session, Sessions
from sidecar.snapshot import Facts
from sidecar.traceparent import ROOT_ENTROPY, root

LOOK_SECONDS = 1.0

Certify = Callable[[SpiffeId, str, CaAccess], Awaitable[tuple[Identity, Key]]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the sessions of a node live in."""

    member: Member
    carrier: Carrier
    certificates: Certificates
    outbox: Outbox


@dataclass(frozen=True, slots=True)
class Wish:
    """How a session is to be: known by a cgroup that the process of ``pidfd`` enters, held by a connection, exported.

    ``made``: the id that root chose for it, and made a cgroup for. ``confirm``: raises RefusedError where who asked may not
    have it any more, now that the CA has answered.
    """

    pidfd: int | None = None
    hold: Hold | None = None
    export: bool = False
    id_token: str = field(default="", repr=False)
    """Of the user on whose behalf it runs; empty: nobody's."""
    made: str = ""
    confirm: Callable[[], None] = lambda: None


PLAIN = Wish()


class SessionLife:
    """Starts and ends sessions. ``certify`` asks the CA for a session's certificate."""

    def __init__(self, sessions: Sessions, around: Surroundings, certify: Certify = certify_session) -> None:
        self.sessions = sessions
        self.certify = certify
        self._member = around.member
        self._carrier = around.carrier
        self._certificates = around.certificates
        self._outbox = around.outbox
        self._thread = trio.CapacityLimiter(1)
        self.on_start: Callable[[], None] = lambda: None
        """Told after each start."""
        self.on_empty: Callable[[Container[str]], None] = lambda _: None
        """Told once a second which sessions and children have no process any more."""
        self._holds: dict[str, Hold] = {}
        self._to_say: list[bytes] = []
        """Revocations that wait for the next :meth:`watch`."""

    async def start(self, agent: str, uid: int, wish: Wish = PLAIN) -> Session:
        """A new session of ``agent`` for ``uid``; raises what :func:`certify_session` does."""
        node = self._certificates.credential.id
        name = wish.made or new_id(secrets.token_bytes(ID_BYTES))
        wanted = SpiffeId.for_agent(node.trust_domain, agent, node.name, name)
        identity, key = await self.certify(wanted, wish.id_token, self._certificates.ca_access())
        wish.confirm()
        session = Session(
            identity=identity,
            key=key,
            uid=uid,
            started=Wall(identity.not_before + BACKDATE),
            trace=root(secrets.token_bytes(ROOT_ENTROPY)),
            cgroup=self._cgroup(name, wish),
            exported=wish.export,
        )
        self._forget_ended()
        self.sessions.add(session)
        self.sessions.used(name, self._carrier.clock.boot())
        if wish.hold is not None:
            self._holds[name] = wish.hold
        self._note_start(session)
        self.on_start()
        return session

    def live(self) -> list[Session]:
        """Those that can still do something. The others are kept until the next starts: refusals say what they were."""
        return [session for session in self.sessions if self.over(session) is None]

    def over(self, session: Session) -> Why | None:
        """Why a session can do nothing any more, whether or not it is in the table; None: it can."""
        facts = Facts(
            id=str(session.id),
            agent=session.id.name,
            session=session.id.session,
            nodes=(session.id.node,),
            serials=(session.identity.lineage, session.identity.serial),
            issued=session.identity.issued,
        )
        if self._member.snapshot.restrictions.revocation_of(facts) is not None:
            return Why.REVOKED
        return Why.EXPIRED if session.identity.not_after <= self._member.moment().now else None

    def renewable(self) -> list[Session]:
        """Those whose next certificate may end later than the one that they have."""
        return [one for one in self.live() if one.identity.not_after < self._longest(one)]

    def take_up_session(self, session: Session, identity: Identity, key: Key, spawn: Spawn) -> None:
        """A session's next certificate. One that ended while the CA was asked stays ended."""
        name = session.id.session
        held = self.sessions.find(name)
        if held is not None:
            renewed = replace(held, identity=identity, key=key)
            self.sessions.add(renewed)
            self._certificates.prove(renewed, identity, spawn)
            if renewed.exported and name in self._holds:
                self._holds[name].tell(self.exported(renewed))

    def exported(self, session: Session) -> dict[str, object]:
        """What the holder of an exported session gets, as PEM. Raises LocalError for any other session."""
        if not session.exported:
            raise LocalError(f"session {session.id.session}: its key stays here")
        roots = self._member.bundle.roots
        return {
            "svid": chains.to_pem(session.identity.chain).decode(),
            "key": keys.to_pem(session.key).decode(),
            "bundle": chains.to_pem(roots).decode(),
            "not_after": session.identity.not_after,
        }

    def sweep(self) -> None:
        """As the daemon starts: what sessions of a killed one left behind. Processes are told of, not ended."""
        self.sessions.sweep()
        now = self._carrier.clock.wall()
        for name, count in self.sessions.orphans.items():
            self._carrier.audit.append(record.finding(now, "orphans", {"session": name, "processes": count}))

    # -- the end of a session

    def watch(self, now: Boot) -> None:
        """End what is due. Once a second."""
        self._outbox.put(self._to_say)
        self._to_say = []
        wall = self._member.moment().now
        latest = self._last_bytes()
        for session in self.sessions:
            name = session.id.session
            used = Boot(max(latest.get(name, 0), self.sessions.last_used(name) or 0))
            age = Age(session.started, used)
            if why := ends.due(age, self._limits(session), wall, now):
                self.end(session, why)

    async def run(self) -> None:
        """End what the last process has left, and tidy up after it, until cancelled."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.end_empty()

    async def end_empty(self) -> None:
        """Files are read for each session, so it is done in a thread: hundreds would hold up the streams."""
        seen = await trio.to_thread.run_sync(self.sessions.look, limiter=self._thread)
        self.sessions.settle(seen)
        for session in self.sessions:
            if session.name in seen.empty:
                self.end(session, Why.EMPTY)
        self.on_empty(seen.empty)

    def let_go(self, session: Session) -> None:
        """Nobody holds it any more. A cgroup with somebody in it keeps it alive; else it ends."""
        held = self.sessions.find(session.id.session)
        self._holds.pop(session.id.session, None)
        if held is None:
            return
        if held.cgroup is None:
            self.end(held, Why.RELEASED)
        elif self.sessions.is_empty(held):
            self.end(held, Why.EMPTY)

    def end(self, session: Session, why: Why = Why.ASKED) -> None:
        """End it here at once and everywhere soon: a revocation of it, which its own node may sign."""
        name = session.id.session
        self._take_out(session, why)
        if why.reason is not None:
            for live in list(self._carrier.table):
                if live.request.session.session == name:
                    live.cut(why.reason)
        now = self._carrier.clock.wall()
        if session.identity.not_after <= now:
            return
        terms = Terms(self._member.bundle.epoch, now, session.identity.not_after + 5 * defaults.SKEW)
        body = Revocation(target=Target(kind="id", value=str(session.id)), message="session ended")
        credential = self._certificates.credential
        raw = sign("revocation", body, terms, credential.key, credential.chain).raw
        if why.reason is None:
            self._outbox.put([raw])
        else:  # Peers hear the reason of the cut streams first; a revocation would take its place.
            self._to_say.append(raw)

    def cut_ended(self) -> None:
        """A session whose end could not be said to others (too many were) ends here all the same."""
        here = self._certificates.credential.id.name
        for live in list(self._carrier.table):
            session = live.request.session
            if session.node == here and self.sessions.find(session.session) is None:
                live.cut(Reason.REVOKED, "session ended")

    # -- inside

    def _cgroup(self, name: str, wish: Wish) -> SessionCgroup | None:
        if not wish.made:
            return None if wish.pidfd is None else self._confine(name, wish.pidfd)
        cgroup = self.sessions.adopt(name)
        if cgroup is None or self.sessions.find(name) is not None:
            raise RefusedError(
                f"session {name}: no cgroup of that name that is root's, and no other session's"
            )
        return cgroup

    def _confine(self, name: str, pidfd: int) -> SessionCgroup | None:
        """None: this daemon makes none. A caller that died would leave a session that its uid alone tells: refused."""
        try:
            return self.sessions.confine(name, pidfd)
        except LocalError as error:
            raise RefusedError(f"session: {error}") from None

    def _take_out(self, session: Session, why: Why) -> None:
        name = session.id.session
        self.sessions.remove(name)
        hold = self._holds.pop(name, None)
        if hold is not None:
            hold.tell({"ended": why})
            hold.close()
        self._note("ended", session, {"why": why})

    def _forget_ended(self) -> None:
        """Sessions that can do nothing any more must not make those of the same uid ambiguous."""
        for session in self.sessions:
            if why := self.over(session):
                self._take_out(session, why)

    def _limits(self, session: Session) -> Limits:
        policy = self._member.snapshot.policy
        agent = policy.agents.get(session.id.name) if policy else None
        return Limits(agent.session_lifetime, agent.session_idle) if agent else Limits()

    def _longest(self, session: Session) -> Wall:
        """When its longest life is over."""
        lifetime = self._limits(session).lifetime
        return Wall(2**62) if lifetime is None else Wall(session.started + lifetime)

    def _last_bytes(self) -> dict[str, int]:
        """When the newest byte of each session here passed, as far as its stream lives (boot time)."""
        here = self._certificates.credential.id.name
        latest: dict[str, int] = {}
        for live in self._carrier.table:
            session = live.request.session
            if session.node == here:
                latest[session.session] = max(latest.get(session.session, 0), live.active)
        return latest

    def _note_start(self, session: Session) -> None:
        facts: record.Facts = {
            "uid": session.uid,
            "serial": session.identity.serial,
            "not_after": session.identity.not_after,
            "trace": session.trace,
            "attribution": "cgroup" if session.cgroup else "uid",
            "exported": session.exported,
            **({"on_behalf_of": session.on_behalf_of} if session.on_behalf_of else {}),
        }
        self._note("started", session, facts)

    def _note(self, what: str, session: Session, facts: record.Facts) -> None:
        now = self._carrier.clock.wall()
        self._carrier.audit.append(record.session(now, what, session.id.session, session.id.name, facts))
