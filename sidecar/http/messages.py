"""One side's messages: bytes in, the parts of messages out, and back. h11 parses and writes; nothing here waits.

An h11 connection serves one exchange. Bytes that follow a message stay here until its exchange is over, so that every
head is looked at (:mod:`sidecar.http.lexical`) before h11 sees it, and no state of an exchange lives on in the next.

What h11 itself leaves open is closed here:

- it merges equal Content-Lengths, prefers Transfer-Encoding over Content-Length, unfolds fields, takes bare LFs and
  control bytes, and any version of HTTP: refused before or after it parsed the head;
- it knows its cap on a head only while that is incomplete: the cap is checked here;
- trailers are dropped, as RFC 9110 section 6.5.1 lets an intermediary do: nobody decided on them. Chunk extensions
  are dropped by h11.
"""

from collections.abc import Callable
from typing import TypeAlias

import h11

from sidecar.http import lexical
from sidecar.http.seams import Fields, MalformedError

READ_BYTES = 65_536

Head: TypeAlias = h11.Request | h11.Response | h11.InformationalResponse
Part: TypeAlias = h11.Data | h11.EndOfMessage


class Messages:
    """What one side sends us and is sent. ``feed`` it, and ask for a head, then for parts to the message's end."""

    def __init__(self, role: type[h11.SERVER] | type[h11.CLIENT]) -> None:
        """``role`` is ours: SERVER towards the agent, CLIENT towards the tool."""
        self.ended = False
        """Whether the other side has sent all that it ever will."""
        self._role = role
        self._heads = b""
        self._searched = 0
        self._in_body = False
        self._head_only = False
        self._http = self._fresh()

    def feed(self, data: bytes) -> None:
        """What was read; empty at the end of the stream."""
        if not data:
            self.ended = True
        if self._in_body:
            self._http.receive_data(data)
        else:
            self._heads += data

    @property
    def is_idle(self) -> bool:
        """Whether nothing of another message has come yet."""
        return not self._heads and not self._in_body

    @property
    def waits_for_go_on(self) -> bool:
        """Whether the other side sends its body only after a 100, or when it is tired of waiting."""
        return self._http.they_are_waiting_for_100_continue

    @property
    def asks_for_head_only(self) -> bool:
        """Whether the request under way is a HEAD, so that its response has no body."""
        return self._head_only

    @property
    def is_complete(self) -> bool:
        """Whether the message that was begun has been read to its end."""
        return not self._in_body

    def head(self) -> Head | None:
        """The next head; None when more must be fed. Raises MalformedError, also at an end in the middle."""
        data, searched = self._heads, self._searched
        end = data.find(lexical.END, max(0, searched - len(lexical.END)))
        if self._role is h11.SERVER and not searched:
            lexical.check_start(data)
        # Each byte as it comes: who never ends a line must not have to time out.
        lexical.check_bytes(data, max(0, searched - 1), len(data) if end < 0 else end)
        self._searched = len(data)
        if end < 0:
            if self.ended:
                raise MalformedError("the connection ended in the middle of a head")
            return None
        end += len(lexical.END)
        raw, self._heads, self._searched = self._heads[:end], self._heads[end:], 0
        return self._parse(raw)

    def part(self) -> Part | None:
        """The next piece of the body, or its end; None when more must be fed. Raises MalformedError."""
        event = self._next_event()
        if isinstance(event, h11.EndOfMessage):
            self._reclaim()
        if isinstance(event, h11.Data | h11.EndOfMessage):
            return event
        if event is h11.NEED_DATA:
            return None
        raise MalformedError("something else than a body")

    def write(self, event: h11.Event) -> bytes:
        """The bytes of ``event``, a part of what we send."""
        return self._http.send(event) or b""

    def next_exchange(self) -> bool:
        """Make ready for another exchange; False if this connection cannot carry one."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or self._in_body:
            return False
        self._http = self._fresh()
        self._head_only = False
        return True

    def unread(self) -> bytes:
        """What came after the last message: of another protocol now."""
        rest, self._heads = self._heads, b""
        return rest

    def _fresh(self) -> h11.Connection:
        return h11.Connection(self._role, max_incomplete_event_size=lexical.MAX_HEAD_BYTES)

    def _parse(self, raw: bytes) -> Head:
        read_fields: Callable[[bytes], Fields] = (
            lexical.request_fields if self._role is h11.SERVER else lexical.response_fields
        )
        fields = read_fields(raw)
        lexical.check_framing(fields)
        self._http.receive_data(raw)
        event = self._next_event()
        # A whole head is a head, or h11 has raised.
        assert isinstance(event, h11.Request | h11.Response | h11.InformationalResponse)  # noqa: S101
        lexical.require_agreement(fields, event.headers)
        self._head_only = isinstance(event, h11.Request) and event.method == b"HEAD"
        if isinstance(event, h11.Response) and event.http_version < b"1.1":
            _check_old(fields)
        if not isinstance(event, h11.InformationalResponse):
            self._begin_body()
        return event

    def _begin_body(self) -> None:
        self._in_body = True
        rest, self._heads = self._heads, b""
        if rest:
            self._http.receive_data(rest)
        if self.ended:
            self._http.receive_data(b"")

    def _reclaim(self) -> None:
        """The message is over: what follows it is the next one's."""
        self._in_body = False
        self._heads = self._http.trailing_data[0]
        self._searched = 0

    def _next_event(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            # Its words hold what was sent.
            raise MalformedError("this is not valid HTTP", status=error.error_status_hint) from None


def _check_old(fields: Fields) -> None:
    if any(name == b"transfer-encoding" for name, _ in fields):
        raise MalformedError("an HTTP/1.0 message with a Transfer-Encoding")
