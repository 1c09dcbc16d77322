"""The way of a policy from its statement into force: its text is fetched by digest, kept, compiled off the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from pki.errors import ConfigError, LocalError
from pki.fields import Wire
from pki.statement import Edition
from sidecar.compiling import load_aside
from sidecar.defaults import POLICY_BYTES
from sidecar.gossip.editions import NO_POLICY
from sidecar.gossip.texts import PART_BYTES, Ask, Fetching, Whole, part_of
from sidecar.objects import MAX_OBJECT_BYTES, Objects
from sidecar.packed import pack
from sidecar.policy.features import ENFORCED
from sidecar.policy.model import Policy
from sidecar.wire import Fetch, Object

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The policy in force: its statement's sequence, its digest, and its compiled form."""

    sequence: int = 0
    digest: str = NO_POLICY
    policy: Policy | None = None
    fault: str = ""
    """Why a newer policy is not in force, if there is one."""


class Policies:
    """Brings texts here, serves them to peers, compiles them. ``send`` queues a message for a peer."""

    def __init__(self, objects: Objects, send: Callable[[str, Wire], None]) -> None:
        self._objects = objects
        self._send = send
        self._fetching = Fetching(MAX_OBJECT_BYTES)
        self._refused: Edition | None = None
        self._offered: Policy | None = None
        self._last: tuple[str, bytes | None] = "", None
        # Of its own: a policy that takes seconds to compile must not keep a revocation from the disk.
        self._threads = trio.CapacityLimiter(2)

    def is_due(self, named: Edition, current: Loaded) -> bool:
        """Whether there is anything to do about the policy that the newest statement names."""
        in_force = (named.sequence, named.digest) == (current.sequence, current.digest)
        return not in_force and named != self._refused and self._fetching.digest != named.digest

    async def prepare(self, named: Edition, current: Loaded, peers: Sequence[str]) -> Loaded | None:
        """What to put in force for ``named``: the new policy, or the current one and why; None: not here yet."""
        if named.digest == current.digest:
            return Loaded(named.sequence, named.digest, current.policy)
        try:
            text = await trio.to_thread.run_sync(self._objects.read, named.digest, limiter=self._threads)
            if text is None:
                self._fetching.want(named.digest, named.size)
                self.ask(peers)
                return None
            self._fetching.stop()
            name = f"policy {named.sequence}"
            policy = self._take_offer(named.digest)
            if policy is None:
                policy = await trio.to_thread.run_sync(
                    load_aside, text, name, POLICY_BYTES, limiter=self._threads
                )
            if missing := sorted(policy.requires - ENFORCED):
                raise LocalError(f"it requires {', '.join(missing)}, which this version has not")
        except (ConfigError, LocalError) as error:
            return self._refuse(named, current, str(error).partition("\n")[0])
        return Loaded(named.sequence, named.digest, policy)

    def offer(self, policy: Policy) -> None:
        """Compiled already, by who is about to publish it: it need not be read again. The next one takes its place."""
        self._offered = policy

    async def check(self, named: Edition) -> None:
        """At start: raises LocalError when the text was here and is damaged."""
        await trio.to_thread.run_sync(self._objects.read, named.digest, limiter=self._threads)

    def ask(self, peers: Sequence[str]) -> None:
        """Once a second, and when a link came up: ask for the text that is wanted, if any."""
        self._pass(self._fetching.tick(peers))

    async def serve(self, peer: str, wanted: Fetch) -> None:
        """Send a peer its part, or that the text is not held."""
        try:
            packed = await trio.to_thread.run_sync(self._packed, wanted.digest, limiter=self._threads)
        except LocalError as error:
            log.error("a policy text cannot be served", why=str(error))
            packed = None
        self._send(peer, part_of(packed, wanted))

    async def receive(self, peer: str, part: Object, peers: Sequence[str]) -> bool:
        """A part came; whether the text is whole and kept now. Raises RemoteError when the peer made it up."""
        outcome = self._fetching.take(peer, part, peers)
        if not isinstance(outcome, Whole):
            self._pass(outcome)
            return False
        text = await trio.to_thread.run_sync(outcome.text, limiter=self._threads)
        self._fetching.stop(outcome.digest)
        try:
            await trio.to_thread.run_sync(self._objects.put, text, limiter=self._threads)
        except LocalError as error:
            log.error("a policy text cannot be kept", why=str(error))
            return False
        return True

    def _take_offer(self, digest: str) -> Policy | None:
        offered, self._offered = self._offered, None
        return offered if offered and offered.digest == digest else None

    def _packed(self, digest: str) -> bytes | None:
        """The deflated text, if it is held; in a thread. A large one is kept as long as peers fetch its parts."""
        held, packed = self._last
        if held == digest:
            return packed
        text = self._objects.read(digest)
        packed = None if text is None else pack(text)
        if packed is not None and len(packed) > PART_BYTES:
            self._last = digest, packed
        return packed

    def _pass(self, ask: Ask | None) -> None:
        if ask is not None:
            self._send(ask.peer, ask.message)

    def _refuse(self, named: Edition, current: Loaded, why: str) -> Loaded:
        """The old one stays, and says why. The same statement is not tried again, a newer one is."""
        self._refused = named
        log.error("policy refused, the old one stays", sequence=named.sequence, why=why)
        return replace(current, fault=f"policy {named.sequence}: {why}")
