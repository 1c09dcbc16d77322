from pki.clock import HOUR, Wall
from pki.statement import Finding, Target, parse
from sidecar.audit import record
from sidecar.audit.record import Record, Role, Ruling, Subject
from sidecar.identity import Credential
from sidecar.invalidation.guard import Guard, sealed
from sidecar.policy.model import Policy
from sidecar.reasons import Reason
from tests.authority import NOW
from tests.clock import ManualClock
from tests.sidecar.policy.world import POLICY, policy_of, session
from tests.statements import Mint

RULES = """
[[invalidations]]
id = "probing"
on = "refusals"
agents = ["researcher"]
over = { count = 1, per = "1m" }
lock = "session"
[[invalidations]]
id = "drift"
on = "tool-drift"
lock = "service"
mode = "observe"
[[invalidations]]
id = "gap"
on = "audit-gap"
lock = "node"
"""


class Listener:
    """A guard with what it says."""

    def __init__(self, policy: Policy | None) -> None:
        self.said: list[tuple[Finding, int]] = []
        self.records: list[Record] = []
        self.guard = Guard(
            lambda: policy,
            lambda said, ttl: self.said.append((said, ttl)),
            self.records.append,
            ManualClock(),
        )


def refused() -> Record:
    subject = Subject(stream="s", role=Role.AGENT, agent="researcher", service="wiki")
    ruling = Ruling(verdict="deny", reason=Reason.DENIED, facts={"id": str(session())})
    return record.denied(Wall(1), subject, ruling)


def test_what_is_found_is_said_and_on_record() -> None:
    """With the rule, what it locks, how often, and the streams to look at."""
    here = Listener(policy_of(POLICY + RULES))
    for _ in range(3):
        here.guard.hear(refused(), "agents-1")
    [(said, ttl)] = here.said
    assert (said.rule, said.what, str(said.target)) == ("probing", "refusals", f"id:{session()}")
    assert (said.enforced, said.count, said.streams, ttl) == (True, 2, ["s", "s"], HOUR)
    [one] = here.records
    assert one.fields["what"] == "refusals"
    assert one.fields["target"] == f"id:{session()}"


def test_an_observed_rule_says_what_it_would_have_done() -> None:
    """A drifted tool, and once is enough."""
    here = Listener(policy_of(POLICY + RULES))
    here.guard.drifted("wiki", "tools-1")
    [(said, _)] = here.said
    assert (said.rule, said.enforced, str(said.target)) == ("drift", False, "service:wiki")


def test_records_that_are_lost_are_a_gap_when_there_are_more_than_before() -> None:
    """A log that lost nothing is none, and neither is one that lost no more."""
    here = Listener(policy_of(POLICY + RULES))
    for lost in (0, 3, 3):
        here.guard.audit_lost(lost, "tools-1")
    assert [str(said.target) for said, _ in here.said] == ["node:tools-1"]


def test_without_a_policy_nothing_is_looked_for() -> None:
    """Nor without a rule."""
    for policy in (None, policy_of(POLICY)):
        here = Listener(policy)
        here.guard.hear(refused(), "agents-1")
        here.guard.drifted("wiki", "tools-1")
        here.guard.audit_lost(1, "tools-1")
        assert here.said == []


def test_a_finding_is_under_the_nodes_own_key() -> None:
    """And lives as long as its lock."""
    node = Mint().node("tools-1")
    said = Finding(rule="r", what="refusals", target=Target(kind="agent", value="a"), enforced=True, count=1)
    raw = sealed(said, HOUR, Credential(node.id, node.chain, node.key), 1, NOW)
    statement = parse(raw)
    assert statement.body == said
    assert statement.payload.expires == NOW + HOUR
