"""The CA's desk for escalations: it counts who agreed and how often, and signs leases and refusals.

What it owes is read off the store, as all that the CA owes: a crash only puts it off. Nothing waits for a human here.
"""

import structlog
import trio

from pki.asking import Answer, Lease
from pki.authority.signer import Span, StatementSigner
from pki.clock import Wall
from pki.errors import LockgateError
from pki.statement import Statement
from sidecar.ca.office import Office
from sidecar.escalation.ask import Ask
from sidecar.escalation.book import File
from sidecar.escalation.conditions import day_of
from sidecar.escalation.granting import Granted, Owed, owed
from sidecar.gossip.escalations import held_files
from sidecar.policy.model import Escalation as Rule
from sidecar.snapshot import Snapshot

RETRY_SECONDS = 1.0

log = structlog.get_logger(__name__)


class LeaseDesk:
    """Grants and withholds, for one CA."""

    def __init__(self, office: Office, signer: StatementSigner) -> None:
        self._office = office
        self._signer = signer
        self._put_off: set[str] = set()

    async def run(self) -> None:
        """Whenever something was said, and once a second for what failed, until cancelled."""
        while True:
            news = self._office.news
            await self.answer_due()
            with trio.move_on_after(RETRY_SECONDS):
                await news.wait()

    async def answer_due(self) -> None:
        """Say all that is owed now. Nothing while the time is in doubt: a lease is a length of time."""
        if self._office.clock.fault():
            return
        member = self._office.member
        for name, found in member.escalations().items():
            file = held_files(member.store)[name]
            rule = _rule(member.snapshot, file.ask)
            now = self._office.clock.wall()
            answer = owed(file, found, rule, self._given(rule, now), now) if rule else None
            if answer is not None and not file.refusals and rule is not None:
                await self._say(file, rule, answer)

    async def _say(self, file: File, rule: Rule, answer: Owed) -> None:
        ask = file.ask
        try:
            statement = await self._office.in_thread(self._signed, file, rule, answer)
            await self._office.publish(statement)
        except LockgateError as error:
            if ask.id not in self._put_off:
                log.error("an escalation is not answered yet", request=ask.id, why=str(error))
            self._put_off.add(ask.id)
        else:
            self._put_off.discard(ask.id)

    def _signed(self, file: File, rule: Rule, answer: Owed) -> Statement:
        now = self._office.clock.wall()
        if isinstance(answer, Granted):
            # Kept until its day is over, or nobody could count it.
            _, midnight = day_of(rule.when, now)
            body = Lease(request=file.request.raw, until=answer.until, approvers=list(answer.approvers))
            return self._signer.lease(body, Span(now, Wall(max(answer.until, midnight))))
        ends = Wall(file.ask.decide_by + file.ask.ttl)
        return self._signer.refusal(Answer(request=file.ask.digest, message=answer.why), Span(now, ends))

    def _given(self, rule: Rule | None, now: Wall) -> int:
        """How many leases of a rule its day has seen so far."""
        if rule is None or rule.when.max_per_day is None:
            return 0
        begins, ends = day_of(rule.when, now)
        files = held_files(self._office.member.store).values()
        issued = [one.lease.payload.issued for one in files if one.lease and one.ask.rule == rule.id]
        return sum(begins <= at < ends for at in issued)


def _rule(snapshot: Snapshot, ask: Ask) -> Rule | None:
    return snapshot.policy.escalations.get(ask.rule) if snapshot.policy else None
