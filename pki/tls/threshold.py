"""Who may be in the middle of a handshake, when more strangers knock than there is room for.

A handshake costs its opener a SYN and us memory until it ends. Refusing newcomers at a cap would hand the door to
whoever holds a few dozen of them open: every good peer behind the same address (a NAT, this very machine) would be
kept out for as long as they like. Rules:

1. At most ``total`` handshakes are under way, and ``each`` of one address. A newcomer waits for its turn.
2. One that has been under way for STALL_SECONDS gives way to whoever waits: an honest one takes a few round trips. Of
   the same address if that is what is full, else of the address that has most.
3. The newest waiter goes first. Under a flood all cannot be served; first come, first served would make everybody
   wait behind the flood and then serve those who have given up.
4. At most ``total`` wait, and none longer than WAIT_SECONDS. Beyond, the one that has waited longest is turned out.

A burst of honest peers is younger than STALL_SECONDS: it waits its turns out and loses nobody.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from pki.errors import RefusedError

STALL_SECONDS = 0.5
LOOK_SECONDS = STALL_SECONDS / 4
WAIT_SECONDS = 5.0


@dataclass(eq=False, slots=True)
class _Knock:
    address: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    admitted: trio.Event = field(default_factory=trio.Event)
    since: float = 0.0
    """When it was admitted."""


class Threshold:
    """The handshakes under way of one server."""

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._waiting: dict[_Knock, None] = {}
        self._inside: dict[str, dict[_Knock, None]] = {}
        self._count = 0

    @asynccontextmanager
    async def crossing(self, address: str) -> AsyncIterator[None]:
        """Around a handshake with ``address``; raises RefusedError when it had to give way to others."""
        knock = _Knock(address)
        with knock.scope:
            try:
                await self._enter(knock)
                yield
            finally:
                self._leave(knock)
        if knock.scope.cancelled_caught:
            raise RefusedError("too many handshakes under way: the longest gave way")

    async def _enter(self, knock: _Knock) -> None:
        knock.scope.deadline = trio.current_time() + WAIT_SECONDS
        self._waiting[knock] = None
        if len(self._waiting) > self._total:
            next(iter(self._waiting)).scope.cancel()
        self._admit()
        while not knock.admitted.is_set():
            with trio.move_on_after(LOOK_SECONDS):
                await knock.admitted.wait()
            self._admit()

    def _leave(self, knock: _Knock) -> None:
        self._waiting.pop(knock, None)
        self._take_out(knock)
        self._admit()

    def _admit(self) -> None:
        """Let in whom there is room for, the newest first."""
        full: set[str] = set()
        for knock in reversed(list(self._waiting)):
            if knock.scope.cancel_called or knock.address in full:
                continue
            if self._has_room(knock.address):
                self._put_in(knock)
            elif self._count >= self._total:
                return
            else:
                full.add(knock.address)

    def _has_room(self, address: str) -> bool:
        """Whether one more of ``address`` fits, if need be in the place of one that has stalled."""
        own = self._inside.get(address, {})
        if len(own) < self._each and self._count < self._total:
            return True
        crowd = own if len(own) >= self._each else max(self._inside.values(), key=len)
        oldest = next(iter(crowd))
        if trio.current_time() - oldest.since < STALL_SECONDS:
            return False
        oldest.scope.cancel()
        self._take_out(oldest)
        return True

    def _put_in(self, knock: _Knock) -> None:
        del self._waiting[knock]
        self._inside.setdefault(knock.address, {})[knock] = None
        self._count += 1
        knock.since, knock.scope.deadline = trio.current_time(), math.inf
        knock.admitted.set()

    def _take_out(self, knock: _Knock) -> None:
        own = self._inside.get(knock.address, {})
        if knock in own:
            del own[knock]
            self._count -= 1
        if not own:
            self._inside.pop(knock.address, None)
