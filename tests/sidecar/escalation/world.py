"""A rule, a roster and a policy that escalations of the tests are judged against."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

from pki.clock import MINUTE, Wall
from pki.statement import Statement
from sidecar.escalation.book import Ground, Held, files, stand
from sidecar.escalation.machine import Escalation
from sidecar.policy.model import Escalation as Rule
from sidecar.policy.model import Policy, When
from sidecar.snapshot import OperatorMember, Restrictions, Roster
from tests.asking import POLICY
from tests.authority import NOW
from tests.statements import Mint, Signatory

PLAIN = When(hours=None, max_per_day=None, require_reason=False)


def rule(approvals: int = 1, when: When = PLAIN, **other: Any) -> Rule:
    """The researcher may ask for tickets in action; alice and bob may agree."""
    said: dict[str, Any] = {
        "id": "ticket-writes",
        "agents": frozenset({"researcher"}),
        "from_segment": "retrieval",
        "to_segment": "action",
        "services": frozenset({"tickets"}),
        "max_ttl": 15 * MINUTE,
        "approvals": approvals,
        "approvers": frozenset({"role:approver"}),
        "when": when,
        "line": 1,
        **other,
    }
    return Rule(**said)


class World:
    """A mint, two operators who may agree, and the policy with one rule."""

    def __init__(
        self, one: Rule | None = None, uids: Mapping[str, int] = MappingProxyType({}), user: str = ""
    ) -> None:
        self.mint = Mint()
        self.alice, self.bob = self.mint.operator("alice"), self.mint.operator("bob")
        self.rule = one or rule()
        self.operators = {
            "alice": OperatorMember("alice", "", frozenset({"approver"}), uids, user),
            "bob": OperatorMember("bob", "", frozenset({"approver"})),
            "carol": OperatorMember("carol", "", frozenset({"admin"})),
        }
        self.restrictions = Restrictions()
        self.policy: str = POLICY

    @property
    def ground(self) -> Ground:
        class Has:
            digest = self.policy
            escalations: Mapping[str, Rule] = {self.rule.id: self.rule}

        return Ground(cast(Policy, Has), Roster({}, self.operators), self.restrictions)

    def stands(self, *held: Held, at: int = NOW + 2) -> Escalation:
        """Where the one request of these statements stands."""
        [file] = files(held).values()
        return stand(file, self.ground, Wall(at))


def held(statement: Statement, by: Signatory | str = "ca", seen: int | None = None) -> Held:
    author = by if isinstance(by, str) else str(by.id)
    return Held(statement, author, Wall(statement.payload.issued if seen is None else seen))
