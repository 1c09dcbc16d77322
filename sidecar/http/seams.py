"""What the relay knows of the world: who decides (:class:`Judge`), and who reads calls from messages (:class:`Dialect`).

The relay carries messages and keeps their framing; it knows no policy and no JSON. For a service with
``protocol = "http"`` the dialect is :class:`sidecar.http.plain.PlainHttp`, for ``"mcp"`` that of :mod:`sidecar.mcp`.

For each request, in this order:

    Dialect.read     what is asked? May read the body before anything is forwarded.
    Judge.admit      decided, counted, recorded (durably where the segment requires it), in force until `ended`
    Dialect.refusal  the answer to a refused one, in words that the agent understands
    Dialect.filter   may look into the response's body, and change it, before the agent sees it
    Judge.ended      what became of it
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from pki.errors import RemoteError
from sidecar.policy.decide import Decision
from sidecar.policy.operation import HttpCall, McpCall
from sidecar.reasons import Reason

Call: TypeAlias = HttpCall | McpCall

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Header fields in their order, names in lower case."""


class MalformedError(RemoteError):
    """A message that is not passed on. ``status`` is the answer to a request of that kind."""

    def __init__(self, hint: str, status: int = 400, reason: Reason = Reason.BAD_REQUEST) -> None:
        super().__init__(hint)
        self.hint = hint
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head in its normal form: exactly what is decided on, and forwarded.

    ``target`` is path and query, ``host`` the one that was asked for, ``fields`` all the fields as received. The
    method of ``call`` is WEBSOCKET where the connection is to become one.
    """

    call: HttpCall
    method: bytes
    target: bytes
    host: bytes
    fields: Fields
    upgrades: bool = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.fields if known == name]


class Body(Protocol):
    """A request's body that the agent may not even have sent yet."""

    async def whole(self, limit: int) -> bytes:
        """All of it, once; a waiting agent is told to go on (100).

        Raises MalformedError over ``limit`` bytes, when it does not come in time, and when the node holds too much.
        """


@dataclass(frozen=True, slots=True)
class Asked:
    """A call, and the body that is forwarded with it; None: the agent's own, as it comes. Dialects may add to it.

    ``also``: what it is about besides; it may pass if all may.
    """

    call: Call
    body: bytes | None = None
    also: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request was not carried out. ``request`` is its id, ``retry_after`` in seconds where waiting may help."""

    request: str
    reason: Reason
    rule: str = ""
    hint: str = ""
    retry_after: int | None = None
    status: int | None = None
    """Of HTTP; None: what the reason stands for (:mod:`sidecar.http.refusal`)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response of ours."""

    status: int
    fields: Fields
    body: bytes


class Filter(Protocol):
    """Sees a response's body before the agent does. Raises RemoteError for one that must not be passed on."""

    holds_head: bool
    """Whether the response's head waits for the first byte that comes out: a filter that gives nothing before
    :meth:`end` can then still have the whole response refused. A stream of events cannot wait for its first."""

    @property
    def held(self) -> int:
        """How many bytes it has that are neither passed on nor dropped."""

    async def feed(self, data: bytes) -> bytes:
        """The next piece of the body; what to pass on now."""

    async def end(self) -> bytes:
        """The body ended; the rest."""


class Dialect(Protocol):
    """How calls are read from HTTP messages. One for a stream; requests come one after the other."""

    inspects: bool
    """Whether responses must be readable: the tool is then asked for no content coding."""

    async def read(self, head: Head, body: Body) -> Asked:
        """What is asked; raises MalformedError for what cannot be read."""

    def refusal(self, refusal: Refusal, asked: Asked | None) -> Answer:
        """``asked`` is None where the request could not be read."""

    def filter(self, asked: Asked, status: int, fields: Fields) -> Filter | None:
        """For the response to ``asked`` with this final status and these fields; None: pass it as it comes.

        Raises RemoteError for one that must not be passed on.
        """


@dataclass(frozen=True, slots=True)
class Admission:
    """The decision on one request. ``retry_after`` in seconds where waiting may help."""

    request: str
    decision: Decision
    traceparent: str = ""
    retry_after: int | None = None

    def refusal(self) -> Refusal:
        decision = self.decision
        reason = decision.reason or Reason.NO_GRANT
        return Refusal(self.request, reason, decision.rule, decision.hint, self.retry_after)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an admitted request. ``status`` is the one that the agent got, 0 for none.

    Bytes are those of the bodies: ``bytes_in`` to the tool, ``bytes_out`` to the agent. ``reason`` says why it has no
    proper end.
    """

    status: int
    bytes_in: int
    bytes_out: int
    reason: Reason | None = None
    hint: str = ""


class Judge(Protocol):
    """Decides on the requests of one stream, one at a time."""

    def could(self, call: McpCall) -> bool:
        """Whether it would be allowed now with some arguments; ``call`` has none. To filter lists with."""

    async def admit(self, calls: Sequence[Call], traceparent: bytes) -> Admission:
        """Decide on one request. Unless refused, it is in force until :meth:`ended`, and cut with its stream.

        ``calls`` is all that it is about: it is as one that would be refused, or as the first. ``traceparent`` is the
        caller's own, empty for none.
        """

    def reject(self, why: MalformedError) -> Admission:
        """A request that could not be read: recorded as refused."""

    def ended(self, outcome: Outcome) -> None:
        """The admitted request is over; its outcome is recorded."""
