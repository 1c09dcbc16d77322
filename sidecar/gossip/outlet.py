"""What a member has done for it: the seam to the rest of a node, or of the CA."""

from typing import Protocol

from pki.fields import Wire
from pki.judge import Word
from pki.statement import Statement
from sidecar.snapshot import Snapshot


class Outlet(Protocol):
    """What the rest of the process does for a member."""

    def send(self, peer: str, message: Wire) -> None:
        """Queue a message on a control link."""

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        """Let decisions read ``snapshot``, and cut what it ends; how many streams that are, by rule.

        The next statement waits for this, so it does not wait for those streams to be dead.
        """

    async def merged(self, statement: Statement, word: Word) -> None:
        """A statement was taken in, durable by now."""

    async def trusted(self, bundle: Statement) -> bool:
        """Keep a trust bundle for the next start, before it is in force; whether it is durable."""

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        """These are in force here, durably: give receipts once what was cut so far is dead."""
