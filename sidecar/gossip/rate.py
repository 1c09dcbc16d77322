"""How much of one peer a member takes in a second: what is above that waits on the peer's own link. Pure.

Replaying what is held costs a look-up, a forgery two signature checks; so one that is refused counts as many. A peer
that sends more is read more slowly, which costs nobody else anything; nothing is dropped.
"""

from pki.fields import Wire
from sidecar.wire import Statements

PER_SECOND = 10_000
BURST = 16_384
REFUSED = 20
"""What a refused statement counts as."""


class Rate:
    """Of one peer. A bucket that fills with PER_SECOND."""

    def __init__(self, now: float) -> None:
        self._left = float(BURST)
        self._at = now

    def spend(self, message: Wire, refused: int, now: float) -> float:
        """Count a message that was taken, ``refused`` statements of it not; seconds to wait before the next."""
        envelopes = len(message.envelopes) if isinstance(message, Statements) else 1
        filled = min(float(BURST), self._left + (now - self._at) * PER_SECOND)
        self._left, self._at = filled - envelopes - REFUSED * refused, now
        return max(0.0, -self._left / PER_SECOND)
