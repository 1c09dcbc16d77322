"""Certificates are renewed here before they end: the node's own, and those of its sessions.

    due -> new key, on disk before it is used (node) -> ask the CA -> judge the answer -> take it up -> prove it on live streams

A session's next key is kept in memory until the answer is here, so that asking again is asking for the same.
A credential that is still valid is never deleted: until the new chain is on disk the old pair stays, and a crash in
between finds one pair that belongs together. A session whose certificate has ended is over; a node's may come back
in grace (:mod:`pki.renewal`). A refusal of the CA is final for a session, and for a node worth a try each pause: an
admin may lift it.
"""

import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

import structlog
import trio

from pki import keys
from pki.bundle import TrustBundle
from pki.certificate import read
from pki.clock import SECOND, Clock, Wall
from pki.errors import LockgateError
from pki.renewal import Renewal
from pki.spiffe import IdKind
from pki.spki import Key
from pki.svid import BACKDATE
from pki.verify import Identity
from sidecar.certify import CaAccess, renew_node, renew_session
from sidecar.identity import Credential, NextKey
from sidecar.session.sessions import Session

LONGEST_SLEEP = 1.0
ATTEMPT_SECONDS = 15.0

log = structlog.get_logger(__name__)


class Spawn(Protocol):
    """Starts a task (trio.Nursery.start_soon): a peer that does not read must not hold up the others' proofs."""

    def __call__(self, work: Callable[..., Awaitable[None]], /, *args: object) -> None: ...


class OwnCertificate(Protocol):
    """The node's certificate (:class:`sidecar.certificates.Certificates`)."""

    @property
    def identity(self) -> Identity: ...
    @property
    def bundle(self) -> TrustBundle: ...
    def ca_access(self) -> CaAccess: ...
    def take_up_node(self, credential: Credential, identity: Identity, spawn: Spawn) -> None: ...


class LiveSessions(Protocol):
    """The sessions' (:class:`sidecar.session.life.SessionLife`)."""

    def renewable(self) -> Iterable[Session]: ...
    def take_up_session(self, session: Session, identity: Identity, key: Key, spawn: Spawn) -> None: ...


class Renewals:
    """Knows when each certificate is due, and asks."""

    def __init__(self, own: OwnCertificate, sessions: LiveSessions, next_key: NextKey, clock: Clock) -> None:
        self._own = own
        self._sessions = sessions
        self._next_key = next_key
        self._clock = clock
        self._plans: dict[str, Renewal] = {}
        self._keys: dict[str, Key] = {}
        """The next keys of sessions, by the serial that they follow, from the first asking to the answer."""
        self._hurried: dict[str, str] = {}
        """By SPIFFE ID, the digest of the trust bundle for whose sake it was renewed early: once, and no more."""
        self.trouble = ""
        """Why the node's own certificate could not be renewed; empty while it could."""

    async def run(self) -> None:
        """Renew until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self.renew_due(nursery.start_soon)
                now = self._clock.wall()
                next_due = min((plan.next_deadline for plan in self._plans.values()), default=now)
                await trio.sleep(min(LONGEST_SLEEP, max(0.02, (next_due - now) / SECOND)))

    async def renew_due(self, spawn: Spawn) -> None:
        """Renew what is due now: the node first, since a session is asked for in its name."""
        now = self._clock.wall()
        own = self._own.identity
        plans = {own.serial: await self._follow(own, now, partial(self._renew_node, spawn))}
        for session in self._sessions.renewable():
            identity = session.identity
            if now < identity.not_after:
                renew = partial(self._renew_session, session, spawn)
                plans[identity.serial] = await self._follow(identity, now, renew)
        self._plans = plans
        self._keys = {serial: key for serial, key in self._keys.items() if serial in plans}

    async def _follow(self, identity: Identity, now: Wall, renew: Callable[[], Awaitable[None]]) -> Renewal:
        """The plan of one certificate after now: the same, or one more failure on it."""
        plan = self._plans.get(identity.serial)
        if plan is None:
            plan = Renewal(Wall(identity.not_before + BACKDATE), identity.not_after, secrets.randbits(8))
        if plan.superseded is None and self._is_superseded(identity):
            plan = replace(plan, superseded=now)
        if plan.next_deadline > now:
            return plan
        try:
            with trio.fail_after(ATTEMPT_SECONDS):
                await renew()
        except (LockgateError, trio.TooSlowError) as error:
            if (
                plan.failures & (plan.failures + 1) == 0
            ):  # The 1st, 2nd, 4th, 8th ...: an outage must not fill the log.
                why = str(error) or "the CA did not answer in time"
                log.warning("renewal failed", id=str(identity.id), why=why, failures=plan.failures + 1)
            if identity.id.kind is IdKind.NODE:
                self.trouble = str(error) or "the CA did not answer in time"
            return plan.failed(now)
        self._hurried[str(identity.id)] = self._own.bundle.digest
        return plan

    def _is_superseded(self, identity: Identity) -> bool:
        """Whether the CA issues under another key by now: the first of the trust bundle."""
        bundle = self._own.bundle
        is_done = self._hurried.get(str(identity.id)) == bundle.digest
        return not is_done and read(bundle.issuers[0]).subject_key_id != identity.issuer

    async def _renew_node(self, spawn: Spawn) -> None:
        access = self._own.ca_access()
        key = await trio.to_thread.run_sync(self._next_key.load)
        identity = await renew_node(key, access)
        credential = Credential(identity.id, identity.chain, key)
        await trio.to_thread.run_sync(self._next_key.take_up, credential)
        self._own.take_up_node(credential, identity, spawn)
        self.trouble = ""

    async def _renew_session(self, session: Session, spawn: Spawn) -> None:
        own = session.identity
        if own.serial not in self._keys:
            self._keys[own.serial] = await trio.to_thread.run_sync(keys.generate)
        key = self._keys[own.serial]
        identity = await renew_session(own, key, self._own.ca_access())
        self._sessions.take_up_session(session, identity, key, spawn)
