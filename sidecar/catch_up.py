"""A node that slept through a rollover: it can verify neither its peers nor the CA, and is given what it missed.

Gossip carries the newest trust bundle only. Signed by a root that this node has never heard of, it is refused; so
while the node is not fresh, it asks the CA for all those in between.
"""

from collections.abc import Awaitable, Callable

import structlog
import trio

from pki.bundle import TrustBundle
from pki.errors import LockgateError
from pki.http.client import fetch_bundles
from pki.statement import Statement
from sidecar.address import Address
from sidecar.gossip.member import Member

PAUSE_SECONDS = 5.0
ATTEMPT_SECONDS = 15.0

Fetch = Callable[[str, TrustBundle], Awaitable[list[Statement]]]

log = structlog.get_logger(__name__)


class CatchUp:
    """``address`` is where the CA's API is reached now; ``is_fresh`` whether nothing is missing here."""

    def __init__(
        self,
        member: Member,
        address: Callable[[], Address],
        is_fresh: Callable[[], bool],
        fetch: Fetch = fetch_bundles,
    ) -> None:
        self._member = member
        self._address = address
        self._is_fresh = is_fresh
        self._fetch = fetch

    async def run(self) -> None:
        """Ask once in a while, until cancelled."""
        while True:
            await trio.sleep(PAUSE_SECONDS)
            if not self._is_fresh():
                await self.ask()

    async def ask(self) -> int:
        """How many trust bundles were missing, and are here now."""
        try:
            with trio.fail_after(ATTEMPT_SECONDS):
                missed = await self._fetch(str(self._address()), self._member.bundle)
        except (LockgateError, trio.TooSlowError):
            return (
                0  # An outage, which is told elsewhere; or a stranger in the CA's place, who proves nothing.
            )
        for statement in missed:
            for refusal in await self._member.take([statement.raw], None):
                log.error("a trust bundle that was missed is refused", why=refusal)
                return 0
        if missed:
            log.info("caught up on a rollover", bundles=len(missed))
        return len(missed)
