"""The seam between the path of a stream and where it comes from: a connection on a binding, or an OPEN of a node."""

from typing import Protocol

import trio

from sidecar.audit.record import Caller, Subject
from sidecar.identity import Credential
from sidecar.policy.decide import Decision, Request
from sidecar.proxy.splice import Gate
from sidecar.proxy.streams import Live
from sidecar.reasons import Reason
from sidecar.session.sessions import Session

_WORDS = frozenset(Reason)


class EndedError(Exception):
    """The stream could not be opened, or broke. Without a reason its caller just went away."""

    def __init__(
        self, reason: Reason | None, rule: str = "", hint: str = "", *, by_peer: bool = False
    ) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.rule = rule
        self.hint = hint
        self.by_peer = by_peer
        """The other node cut it."""


class Arrival(Protocol):
    """Where a stream comes from and goes to."""

    request: Request
    subject: Subject
    caller: Caller | None
    near_fault: Reason | None
    far_fault: Reason
    """What it means when an end breaks; None: nothing, the caller went away."""

    @property
    def near(self) -> trio.abc.HalfCloseableStream:
        """The end that the stream came from."""

    def current(self) -> Request:
        """The request with what is under the stream now: certificates are renewed while it lives."""

    async def show(self, renewed: Credential | Session) -> None:
        """A new certificate of this node, or of a session of it: prove it to whoever relies on the old one."""

    async def connect(self, live: Live) -> trio.abc.HalfCloseableStream:
        """The far end, connected; raises EndedError."""

    async def opened(self) -> None:
        """Tell the near end, before its first byte is taken."""

    async def converse(self, far: trio.abc.HalfCloseableStream, gate: Gate, live: Live) -> None:
        """Carry what the two ends say until both are done; raises Broken when one breaks."""

    async def refuse(self, decision: Decision) -> None:
        """The stream never opened: say why, as the protocol of the near end allows. Bounded in time."""

    async def finish(
        self, far: trio.abc.HalfCloseableStream | None, reason: Reason | None, *, clean: bool
    ) -> None:
        """Release both ends, after a refusal too. Bounded in time.

        Unless ``clean``, neither end may take it for the other's proper end: a truncated request is no request.
        ``reason`` is None also for a caller that just went away.
        """


def end_reason(word: str) -> Reason | None:
    """A peer's word for why it refused or cut; None when it says that its caller just went away."""
    if not word:
        return None
    return Reason(word) if word in _WORDS else Reason.BAD_REQUEST
