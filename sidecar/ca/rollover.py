"""The daemon's side of a rollover: it says who stands in the way, and takes up the keys that the command line made.

    keys on disk (lockgate ca rotate) -> taken up -> trust bundle published -> said again under the new statement key

Taking up is done again at each start: a daemon that was down, or died in between, catches up by itself.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import structlog
import trio

from pki.asking import Lease
from pki.authority.ages import ages_of
from pki.authority.keystore import Birth, Entropy, open_online, read_standing
from pki.authority.rollover import USUAL, Ack, Broken, Holder, Part, Phase, Situation, Step, broken
from pki.authority.signer import Span, StatementSigner
from pki.authority.succession import RootAccess, Successor, keys_of
from pki.certificate import read
from pki.clock import Wall
from pki.errors import LocalError
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Statement
from sidecar.audit import record
from sidecar.ca.office import Office
from sidecar.gossip.store import Entry, is_restriction
from sidecar.snapshot import Facts

PAUSE_SECONDS = 60.0

T = TypeVar("T")

log = structlog.get_logger(__name__)


class RolloverDesk:
    """Steps of a rollover, for the CA whose keys are in ``folder``."""

    def __init__(self, office: Office, signer: StatementSigner, folder: Path, entropy: Entropy) -> None:
        self._office = office
        self._entropy = entropy
        self._signer = signer
        self._folder = folder
        self._turn = trio.Lock()

    async def situation(self) -> Situation:
        """What the next step is judged by."""
        bundle, now = self._office.member.bundle, self._office.clock.wall()
        standing = await self._in_thread(read_standing, self._folder)
        old, new = await self._in_thread(keys_of, self._folder, standing)
        holders = () if standing.phase is Phase.IDLE else await self._in_thread(self._holders, old, now)
        return Situation(
            phase=standing.phase,
            epoch=bundle.epoch,
            sequence=bundle.sequence,
            nodes=self._nodes(),
            holders=(*holders, *self._leases()),
            old=old,
            new=new,
        )

    async def plan(self, step: Step) -> tuple[Broken, ...]:
        """Whom ``step`` would cut off now; raises LocalError where it leads nowhere."""
        return broken(await self.situation(), step)

    async def take_up(self, what: str = "") -> Statement:
        """Hold the keys that are on disk, and let everybody know; raises LocalError."""
        async with self._turn:
            authority = self._signer.authority
            authority.take_up(await self._in_thread(open_online, self._folder))
            bundle, statement = authority.bundle, authority.bundle_statement
            register = self._signer.register
            await self._in_thread(register.keep_bundle, bundle.epoch, bundle.sequence, statement.raw)
            if bundle.sequence > 1:
                await self._office.publish(statement)
            await self._say_again()
            if what:
                facts: record.Facts = {"bundle": bundle.digest, "epoch": bundle.epoch}
                self._office.record(record.rollover(self._office.clock.wall(), what, bundle.sequence, facts))
                log.info("rollover", step=what, epoch=bundle.epoch, bundle=bundle.sequence)
            return statement

    async def run(self) -> None:
        """Give the online keys successors from half of their life on, by what the root has signed beforehand."""
        while True:
            await trio.sleep(PAUSE_SECONDS)
            try:
                await self.go_on()
            except LocalError as error:
                log.error("a rollover does not go on", why=str(error))

    async def go_on(self) -> Step | None:
        """The step that was taken: one is due, its keys are here, and it cuts nobody off."""
        standing = await self._in_thread(read_standing, self._folder)
        step, outgoing = USUAL[standing.phase], standing.other if standing.phase is Phase.ACTIVATED else None
        now = self._office.clock.wall()
        ages = await self._in_thread(ages_of, self._folder, outgoing or standing.active)
        successor = Successor(
            self._folder, Birth(self._signer.authority.id, now, self._entropy), RootAccess(None)
        )
        if not any(one.is_due(now) for one in ages if one.part != Part.ROOT):
            return None
        if await self._in_thread(successor.ready, step) is None or await self.plan(step):
            return None
        await self._in_thread(successor.take, step)
        await self.take_up(step.value)
        return step

    async def _say_again(self) -> None:
        """Everything that lives on must be under the statement key in use before another one goes."""
        for entry in sorted(self._office.member.store.of_the_ca(), key=_first_number):
            if not self._is_current(entry) and _end_of(entry) > self._office.clock.wall():
                await self._office.publish(await self._in_thread(self._again, entry))

    def _is_current(self, entry: Entry) -> bool:
        authority = self._signer.authority
        key, epoch = authority.statement.certificate, authority.bundle.epoch
        is_lease = isinstance(
            entry.statement.body, Lease
        )  # Its id is what was agreed to; it is short, and awaited.
        return is_lease or any(
            one.envelope.chain[0] == key and one.payload.epoch == epoch for one in entry.numbered
        )

    def _again(self, entry: Entry) -> Statement:
        """A stop keeps its id, since that is what an unlock names; what permits is simply said again."""
        now = self._office.clock.wall()
        if is_restriction(entry.statement):
            return self._signer.adoption(entry.statement, Span(now, Wall(_end_of(entry))))
        return self._signer.again(entry.statement, now)

    def _nodes(self) -> dict[str, Ack | None]:
        snapshot, said = self._office.member.snapshot, self._office.member.store.acknowledgements()
        acks = {SpiffeId.parse(author).name: Ack(one.sequence, one.issuer) for author, one in said.items()}
        revoked = snapshot.restrictions.revocation_of
        return {
            name: acks.get(name) for name in snapshot.roster.nodes if revoked(Facts(nodes=(name,))) is None
        }

    def _holders(self, old: frozenset[str], now: Wall) -> tuple[Holder, ...]:
        """Nodes speak for themselves: what one of them has left behind by joining again is nobody's."""
        held = [(SpiffeId.parse(one.id), one) for one in self._signer.register.holders(now)]
        before = min(old, default="")  # Of certificates from before the register knew their issuers.
        return tuple(
            Holder(_called(who), one.issuer or before, one.not_after)
            for who, one in held
            if who.kind is not IdKind.NODE
        )

    def _leases(self) -> Iterator[Holder]:
        for entry in self._office.member.store.of_the_ca():
            body = entry.statement.body
            if isinstance(body, Lease) and body.until > self._office.clock.wall():
                key = read(entry.statement.envelope.chain[0]).subject_key_id.hex()
                yield Holder(f"lease:{entry.statement.id}", key, Wall(body.until))

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        return await self._office.in_thread(work, *args)


def _called(who: SpiffeId) -> str:
    return f"session:{who.session}" if who.kind is IdKind.AGENT else f"{who.kind}:{who.name}"


def _end_of(entry: Entry) -> int:
    return max(entry.ends, entry.statement.payload.expires if not is_restriction(entry.statement) else 0)


def _first_number(entry: Entry) -> int:
    return min(one.payload.number for one in entry.numbered)
