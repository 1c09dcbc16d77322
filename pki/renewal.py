r"""Renewal of a leaf: when it is due, and how a node proves itself once its certificate has ended. Pure.

A leaf is renewed at half life, give or take a tenth, so that a fleet that joined together does not renew together.
A renewal that fails is tried again after a pause that doubles, from a twentieth of the life on, and never so long
that fewer than a few tries are left before the end.

**Grace.** A node whose certificate ended at most GRACE ago (the machine slept, the CA was away) may still renew: on
a connection without a client certificate it signs, by the old key,

    "lockgate/renew/v1\0" || TLS-Exporter("EXPORTER-lockgate-renew-v1", SHA-256(CSR), 32)

so the signature is worthless on another connection and for another key. The old chain is judged at its notAfter.
"""

import hashlib
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from pki.clock import DAY, SECOND, Wall
from pki.spki import Key, PublicKey

GRACE = 7 * DAY
EXPORTER_LABEL = b"EXPORTER-lockgate-renew-v1"
PREFIX = b"lockgate/renew/v1\0"

JITTER_PERCENT = 10
PAUSES_IN_LIFE = 20
HURRY_IN_LIFE = 1_000
"""Under an old key of the CA, leaves are renewed within this fraction of their life."""
LONGEST_PAUSE = 300 * SECOND

_NEVER = Wall(0)


@dataclass(frozen=True, slots=True)
class Renewal:
    """When one leaf is renewed next. ``jitter`` is a random number from 0 to 255, drawn once for each leaf."""

    issued: Wall
    not_after: Wall
    jitter: int
    failures: int = 0
    failed_at: Wall = _NEVER
    superseded: Wall | None = None
    """Since when the key that signed it has a successor; None: it is the newest."""

    @property
    def life(self) -> int:
        return self.not_after - self.issued

    @property
    def next_deadline(self) -> Wall:
        """When to ask (wall, us)."""
        if self.failures:
            pause = (self.life // PAUSES_IN_LIFE) << min(self.failures - 1, 16)
            left = max(0, self.not_after - self.failed_at)
            longest = min(LONGEST_PAUSE, max(left // 4, self.life // PAUSES_IN_LIFE))
            return Wall(self.failed_at + min(pause, longest))
        spread = self.life * JITTER_PERCENT // 100
        usual = Wall(self.issued + self.life // 2 - spread // 2 + spread * (self.jitter % 256) // 256)
        if self.superseded is None:
            return usual
        # A rollover waits for it; but not all of a fleet at once.
        return min(usual, Wall(self.superseded + self.life * (self.jitter % 256) // (256 * HURRY_IN_LIFE)))

    def failed(self, now: Wall) -> "Renewal":
        """The same leaf after one more try that failed."""
        return replace(self, failures=self.failures + 1, failed_at=now)


def in_grace(not_after: Wall, now: Wall) -> bool:
    """Whether a node's certificate that ended at ``not_after`` may still be renewed."""
    return not_after < now <= not_after + GRACE


def exporter_context(csr: bytes) -> bytes:
    """The context of the exporter for a CSR (DER)."""
    return hashlib.sha256(csr).digest()


def sign_grace(key: Key, exporter: bytes) -> bytes:
    """The proof that the holder of an ended certificate gives on this connection."""
    return key.sign(PREFIX + exporter, ec.ECDSA(hashes.SHA256()))


def grace_holds(signature: bytes, key: PublicKey, exporter: bytes) -> bool:
    """Whether the holder of ``key`` signed on this very connection."""
    try:
        key.verify(signature, PREFIX + exporter, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
