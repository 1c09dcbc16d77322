"""A node's part in a rollover of the CA's keys: its word on the trust bundle that it has in force.

Said at start and after each change of the bundle or of its own certificate. The CA waits for it before it uses a key
that this node might not know, or drops one that it still relies on (docs/ca.md).
"""

from collections.abc import Callable
from typing import Protocol

import trio

from pki.bundle import TrustBundle
from pki.clock import Clock
from pki.statement import RolloverAck, Terms, sign
from pki.verify import Identity
from sidecar.identity import Credential

PAUSE_SECONDS = 0.5


class Own(Protocol):
    """The node's certificate (:class:`sidecar.certificates.Certificates`)."""

    @property
    def credential(self) -> Credential: ...
    @property
    def identity(self) -> Identity: ...


class Acknowledger:
    """``bundle`` is the one in force; ``put`` publishes envelopes."""

    def __init__(
        self, own: Own, bundle: Callable[[], TrustBundle], put: Callable[[list[bytes]], None], clock: Clock
    ) -> None:
        self._own = own
        self._bundle = bundle
        self._put = put
        self._clock = clock
        self._said = ("", "")

    async def run(self) -> None:
        """Say it whenever it has changed, until cancelled."""
        while True:
            self.say()
            await trio.sleep(PAUSE_SECONDS)

    def say(self) -> None:
        """Say what is not said yet."""
        bundle, identity, credential = self._bundle(), self._own.identity, self._own.credential
        now, due = self._clock.wall(), (bundle.digest, identity.serial)
        if due == self._said or not identity.not_before <= now < identity.not_after:
            return
        body = RolloverAck(sequence=bundle.sequence, digest=bundle.digest, issuer=identity.issuer.hex())
        terms = Terms(bundle.epoch, now, identity.not_after)
        self._put([sign("rollover-ack", body, terms, credential.key, credential.chain).raw])
        self._said = due
