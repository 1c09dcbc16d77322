"""Which SVID a program gets (SPIFFE Workload API, sections 4 and 6): a session of its own, as long as it lives.

A program asks without a name. The kernel says which user it runs as, and the policy which agent that user is; where
that is not exactly one agent, the answer is PERMISSION_DENIED. The session is started for the *process* that connected,
known by its pidfd: whatever it asks again is answered from the same session, and when the process is gone, the session
ends. One whose session was revoked, or ended otherwise than with its certificate, gets no other; nor does one that has
become a child of a session. Its key leaves the daemon, and its records say so (`exported`).

A new answer follows on an open call when the certificate was renewed or the trust bundle has changed. JWT-SVIDs are
not issued; those methods are UNIMPLEMENTED.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import structlog
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.errors import LocalError, LockgateError, RefusedError, UnreachableError
from sidecar.control.local_api import asker_at
from sidecar.control.starting import counted, entitled_uid
from sidecar.control.unix import Slot, serve_callers
from sidecar.node import Node
from sidecar.peercred import PeerCred
from sidecar.pidfd import peer_pidfd, pid_of
from sidecar.proxy.sockdiag import Connection
from sidecar.session.ends import Why
from sidecar.session.life import Wish
from sidecar.session.sessions import Session
from sidecar.workload.grpc import Call, GrpcError, Method, Status, serve_grpc
from sidecar.workload.messages import X509Svid, x509_bundles_response, x509_svid_response

SERVICE = "/SpiffeWorkloadAPI/"
SECURITY_HEADER = "workload.spiffe.io"
LOOK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """The process at the other end, and the connection that tells which it is."""

    connection: Connection
    caller: PeerCred

    @property
    def key(self) -> tuple[int, int]:
        return self.caller.pid, self.caller.uid


@dataclass(frozen=True, slots=True)
class _Given:
    """The session that a process has, as it was when it started."""

    session: Session
    pidfd: int

    def is_of(self, pid: int) -> bool:
        """Whether ``pid`` is that process still: its number is no other's before it is reaped."""
        try:
            return pid_of(self.pidfd) == pid
        except ProcessLookupError:
            return False


@dataclass(slots=True)
class _Turn:
    """Whose turn it is among the calls of one process, and how many want it."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    wanted: int = 0


async def serve_workload_api(listener: trio.SocketListener, node: Node) -> None:
    """Serve the Workload API of ``node`` until cancelled."""
    async with trio.open_nursery() as tasks:
        api = WorkloadApi(node, tasks)

        async def serve(stream: trio.SocketStream, caller: PeerCred, _: Slot) -> None:
            await serve_grpc(stream, api.methods(Program(stream.socket, caller)))

        await serve_callers(listener, serve)


class WorkloadApi:
    """Gives out sessions on one node. ``tasks`` outlives the connections: it watches the programs."""

    def __init__(self, node: Node, tasks: trio.Nursery) -> None:
        self._node = node
        self._tasks = tasks
        self._given: dict[tuple[int, int], _Given] = {}
        """By number and uid of the process: one that has changed its user is another agent."""
        self._turns: dict[tuple[int, int], _Turn] = {}

    def methods(self, program: Program) -> Mapping[str, Method]:
        """What ``program`` may call, by path."""

        async def svids(call: Call) -> None:
            _require_header(call)
            session = await self._session_of(program)
            await self._follow(call, session)

        async def bundles(call: Call) -> None:
            _require_header(call)
            self._agent_of(program)
            await self._follow_bundle(call)

        return {f"{SERVICE}FetchX509SVID": svids, f"{SERVICE}FetchX509Bundles": bundles}

    async def _follow(self, call: Call, session: Session) -> None:
        name, sent = session.name, None
        while (held := self._live(session)) is not None:
            current = (held.identity.serial, self._node.member.bundle.roots)
            if current != sent:
                await call.send(x509_svid_response([_svid(held, self._bundle())]))
                sent = current
            await trio.sleep(LOOK_SECONDS)
        raise GrpcError(Status.UNAVAILABLE, f"session {name} has ended")

    async def _follow_bundle(self, call: Call) -> None:
        sent = None
        while True:
            if (current := self._bundle()) != sent:
                domain = f"spiffe://{self._node.trust_domain}"
                await call.send(x509_bundles_response({domain: current}))
                sent = current
            await trio.sleep(LOOK_SECONDS)

    async def _session_of(self, program: Program) -> Session:
        """The session that this process has, or a new one; raises GrpcError."""
        async with self._turn(program):
            self._require_free(program)
            if (held := self._held(program)) is not None:
                return held
            agent = self._agent_of(program)
            pidfd = _pidfd(program)
            try:
                session = await self._start(agent, program)
            except BaseException:
                os.close(pidfd)
                raise
            given = _Given(session, pidfd)
            self._given[program.key] = given
            self._tasks.start_soon(self._watch, program.key, given)
            return session

    def _held(self, program: Program) -> Session | None:
        """The session that this process was given; raises GrpcError when that was ended or revoked."""
        given = self._given.get(program.key)
        if given is None or not given.is_of(program.caller.pid):
            return None
        if (held := self._live(given.session)) is not None:
            return held
        if self._node.life.over(given.session) is Why.REVOKED:
            raise GrpcError(Status.PERMISSION_DENIED, "the session of your process was ended; start it anew")
        return None

    def _live(self, session: Session) -> Session | None:
        """As it is now; None when it can do nothing any more."""
        held = self._node.sessions.find(session.name)
        return held if held is not None and self._node.life.over(held) is None else None

    @asynccontextmanager
    async def _turn(self, program: Program) -> AsyncIterator[None]:
        """One process asks on several connections at once; it does not hold up the others."""
        turn = self._turns.setdefault(program.key, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[program.key]

    def _require_free(self, program: Program) -> None:
        try:
            asker_at(self._node, program.connection, program.caller).require_free()
        except RefusedError as error:
            raise GrpcError(Status.PERMISSION_DENIED, str(error)) from None

    async def _start(self, agent: str, program: Program) -> Session:
        try:
            await self._node.users.learn()
            uid = entitled_uid(self._node, agent, program.caller)
            confirm = partial(self._require_free, program)
            with counted(self._node, uid):
                return await self._node.life.start(agent, uid, Wish(export=True, confirm=confirm))
        except GrpcError:
            raise
        except RefusedError as error:
            raise GrpcError(Status.PERMISSION_DENIED, str(error)) from None
        except UnreachableError as error:
            raise GrpcError(Status.UNAVAILABLE, str(error)) from None
        except LockgateError as error:
            _log.error("session of a program not started", why=str(error))
            raise GrpcError(
                Status.UNAVAILABLE, "no session could be started; the sidecar's log says why"
            ) from None

    async def _watch(self, key: tuple[int, int], given: "_Given") -> None:
        """End the session with its process, however that ends (pidfd_open(2): readable once it has)."""
        try:
            await trio.lowlevel.wait_readable(given.pidfd)
            if (held := self._node.sessions.find(given.session.name)) is not None:
                self._node.life.end(held, Why.RELEASED)
        finally:
            if self._given.get(key) is given:
                del self._given[key]
            os.close(given.pidfd)

    def _agent_of(self, program: Program) -> str:
        """The one agent of this node that runs as the caller's user; raises GrpcError."""
        node, uid = self._node, program.caller.uid
        policy = node.member.snapshot.policy
        here = [one.name for one in policy.agents.values() if node.name in one.nodes] if policy else []
        agents = [name for name in here if node.uid_of(name) == uid]
        if len(agents) != 1:
            which = "no agent" if not agents else "more than one agent"
            raise GrpcError(Status.PERMISSION_DENIED, f"{which} of this node runs as uid {uid}")
        return agents[0]

    def _bundle(self) -> bytes:
        return b"".join(self._node.member.bundle.roots)


def _pidfd(program: Program) -> int:
    """A handle on the process, to be closed by the caller; raises GrpcError."""
    if program.caller.pid == 0:
        raise GrpcError(Status.PERMISSION_DENIED, "your process is in another pid namespace")
    try:
        pidfd = peer_pidfd(program.connection, program.caller.pid)
    except LocalError as error:
        raise GrpcError(Status.UNAVAILABLE, str(error)) from None
    if pidfd is None:
        raise GrpcError(Status.PERMISSION_DENIED, "your process is gone")
    return pidfd


def _require_header(call: Call) -> None:
    """A browser or a proxy that was talked into a request cannot set it (Workload API, section 4.1)."""
    if call.headers.get(SECURITY_HEADER) != "true":
        raise GrpcError(Status.INVALID_ARGUMENT, f"the header {SECURITY_HEADER}: true is missing")


def _svid(session: Session, bundle: bytes) -> X509Svid:
    key = session.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return X509Svid(str(session.id), b"".join(session.identity.chain), key, bundle)
