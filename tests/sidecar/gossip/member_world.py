"""Members over an in-memory network, each with a real journal in a folder of its own and a disk that may fail."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from pki.errors import LocalError
from pki.fields import Wire
from pki.judge import Word
from pki.statement import Statement
from sidecar.gossip.journal import Journal
from sidecar.gossip.member import Member
from sidecar.gossip.store import Entry
from sidecar.objects import Objects
from sidecar.snapshot import Snapshot
from tests.clock import ManualClock
from tests.statements import Mint

BOOT_ID = "this boot"


class FaultJournal(Journal):
    """Set ``broken`` to why no write succeeds."""

    broken = ""

    def append(self, entries: Iterable[Entry]) -> None:
        self._check()
        super().append(entries)

    def delete(self, ids: Iterable[str]) -> None:
        self._check()
        super().delete(ids)

    def _check(self) -> None:
        if self.broken:
            raise LocalError(self.broken)


@dataclass
class FakeOutlet:
    """Remembers all that a member does; ``cuts`` is what its next snapshots will cut, by rule."""

    name: str = "own"
    sent: deque[tuple[str, str, Wire]] = field(default_factory=deque)
    applied: list[Snapshot] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)
    announced: list[tuple[str, str]] = field(default_factory=list)
    receipts: list[tuple[str, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    gate: trio.Event | None = None
    kept: list[str] = field(default_factory=list)
    keeps: bool = True
    """Whether its disk takes a trust bundle."""

    def send(self, peer: str, message: Wire) -> None:
        self.sent.append((self.name, peer, message))

    async def apply(self, snapshot: Snapshot) -> dict[str, int]:
        self.applied.append(snapshot)
        self.log.append("applied")
        if self.gate is not None:
            await self.gate.wait()
        cuts, self.cuts = self.cuts, {}
        return cuts

    async def merged(self, statement: Statement, word: Word) -> None:
        self.announced.append((statement.id, word.author))

    async def trusted(self, bundle: Statement) -> bool:
        if self.keeps:
            self.kept.append(bundle.id)
        return self.keeps

    def acknowledge(self, statements: list[Statement], cut: dict[str, int]) -> None:
        self.log.append("acknowledged")
        self.receipts += [(one.id, cut[one.id]) for one in statements]


@dataclass
class Home:
    """One member with all that is its own; :meth:`restart` is a new process over the same files."""

    folder: Path
    mint: Mint
    outlet: FakeOutlet = field(default_factory=FakeOutlet)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.objects = Objects(self.folder / "objects")
        self.journal = FaultJournal(self.folder / "statements.db", create=True)
        self.member = Member(self.journal, self.objects, self.mint.ca.bundle, self.clock, self.outlet)

    async def restart(self, boot_id: str = BOOT_ID) -> "Home":
        self.journal.close()
        again = Home(self.folder, self.mint, FakeOutlet(self.outlet.name), self.clock)
        await again.member.restore(boot_id)
        return again

    async def take(self, *statements: Statement, source: str | None = None) -> list[str]:
        return await self.member.take([statement.raw for statement in statements], source)

    def locks(self) -> list[str]:
        return [lock.id for lock in self.member.snapshot.restrictions.locks]

    def revocations(self) -> list[str]:
        return [revocation.id for revocation in self.member.snapshot.restrictions.revocations]


async def deliver(*homes: Home) -> None:
    """Pass messages on until nobody has any more to say."""
    by_name = {home.outlet.name: home for home in homes}
    while any(home.outlet.sent for home in homes):
        for home in homes:
            while home.outlet.sent:
                source, peer, message = home.outlet.sent.popleft()
                await by_name[peer].member.message(source, message)


async def connect(one: Home, other: Home) -> None:
    await one.member.link_changed(other.outlet.name, True)
    await other.member.link_changed(one.outlet.name, True)
