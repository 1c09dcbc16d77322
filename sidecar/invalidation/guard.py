"""A node's own eye: it counts what the node records, and says what it found as a statement, which acts here at once."""

from collections.abc import Callable

from pki.clock import Boot, Clock
from pki.statement import Finding, Terms, sign
from pki.statement import Target as Named
from sidecar.audit import record
from sidecar.audit.record import Record
from sidecar.identity import Credential
from sidecar.invalidation.watch import Found, Sign, Watch, sign_of
from sidecar.policy.model import Mode, Policy, Suspicion


class Guard:
    """``publish`` takes a signed finding soon, ``append`` its audit record; ``losses`` counts records that were lost."""

    def __init__(
        self,
        policy: Callable[[], Policy | None],
        seal: Callable[[Finding, int], None],
        append: Callable[[Record], None],
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._seal = seal
        self._append = append
        self._clock = clock
        self._watch = Watch()
        self._lost = 0

    def hear(self, one: Record, node: str) -> None:
        """A record of the data path."""
        policy = self._policy()
        if policy is not None and policy.invalidations and (seen := sign_of(one, policy, node)):
            self._note(seen, policy)

    def drifted(self, service: str, node: str) -> None:
        """A tool of ``service`` is not what the policy pins."""
        self._suspect(Sign(Suspicion.TOOL_DRIFT, service=service, node=node))

    def audit_lost(self, lost: int, node: str) -> None:
        """So many records were lost since the daemon started; more than before is a gap."""
        is_more, self._lost = lost > self._lost, lost
        if is_more:
            self._suspect(Sign(Suspicion.AUDIT_GAP, node=node))

    def _suspect(self, seen: Sign) -> None:
        policy = self._policy()
        if policy is not None:
            self._note(seen, policy)

    def _note(self, seen: Sign, policy: Policy) -> None:
        for found in self._watch.note(seen, policy.invalidations.values(), Boot(self._clock.boot())):
            said = _finding(found)
            facts: record.Facts = {
                "rule": said.rule,
                "target": str(said.target),
                "count": said.count,
                "enforced": said.enforced,
                "streams": list[record.Value](said.streams),
            }
            self._append(record.finding(self._clock.wall(), said.what, facts))
            self._seal(said, found.rule.ttl)


def sealed(said: Finding, ttl: int, credential: Credential, epoch: int, now: int) -> bytes:
    """The envelope of a finding, under the node's key."""
    terms = Terms(epoch, now, now + ttl)
    return sign("finding", said, terms, credential.key, credential.chain).raw


def _finding(found: Found) -> Finding:
    rule, target = found.rule, found.target
    return Finding(
        rule=rule.id,
        what=rule.on,
        target=Named(kind=target.kind, value=target.value),  # type: ignore[arg-type]  # of Scope
        enforced=rule.mode is Mode.ENFORCE,
        count=found.count,
        streams=list(found.streams),
    )
