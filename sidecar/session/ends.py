"""When a session ends by itself. Pure.

A session has a longest life, counted from the first certificate of its line, and a longest time without a stream's
byte or a stream asked for, both by the policy in force. The CA keeps to the longest life, too: it issues no
certificate past it.
"""

from dataclasses import dataclass
from enum import StrEnum

from pki.clock import SECOND, Boot, Wall
from sidecar.reasons import Reason

LEAD = 2 * SECOND
"""A session ends this long before its last certificate, so that its streams are cut for the true reason."""


class Why(StrEnum):
    """Why a session ended, as its record says."""

    ASKED = "asked"
    """`session end`, or its command came to its end."""
    RELEASED = "released"
    """The connection that held it is gone, and it has no cgroup that could tell who is left."""
    EMPTY = "empty"
    """The last process left its cgroup."""
    LIFETIME = "lifetime"
    IDLE = "idle"
    REVOKED = "revoked"
    EXPIRED = "expired"

    @property
    def reason(self) -> Reason | None:
        """What its streams are cut for; None: they are cut by the revocation that goes with its end."""
        return {Why.LIFETIME: Reason.LIFETIME, Why.IDLE: Reason.IDLE}.get(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """Microseconds; None: no limit."""

    lifetime: int | None = None
    idle: int | None = None


@dataclass(frozen=True, slots=True)
class Age:
    """``began``: issue of its first certificate. ``used``: its last stream's last byte, or when one was asked for."""

    began: Wall
    used: Boot


def due(age: Age, limits: Limits, now: Wall, boot: Boot) -> Why | None:
    """Why a session is to end now; None: it may go on."""
    if limits.lifetime is not None and now >= age.began + limits.lifetime - min(LEAD, limits.lifetime // 2):
        return Why.LIFETIME
    if limits.idle is not None and boot - age.used >= limits.idle:
        return Why.IDLE
    return None
