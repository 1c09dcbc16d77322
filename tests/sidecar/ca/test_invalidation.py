from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.clock import HOUR, MINUTE
from pki.errors import RefusedError
from pki.spiffe import SpiffeId
from pki.statement import Demand, Finding, Statement, Target
from tests.authority import NOW, SESSION
from tests.sidecar.ca.world import POLICY, Bureau

RULES = """
[[invalidations]]
id = "probing"
on = "refusals"
agents = ["researcher"]
over = { count = 20, per = "1m" }
lock = "session"
ttl = "30m"

[[invalidations]]
id = "busy"
on = "mutations"
agents = ["researcher"]
over = { count = 20, per = "1m" }
lock = "agent"

[[invalidations]]
id = "drift"
on = "tool-drift"
lock = "service"

[[invalidations]]
id = "gap"
on = "audit-gap"
lock = "node"

[[invalidations]]
id = "watched"
on = "audit-gap"
lock = "node"
mode = "observe"

[[invalidations]]
id = "copied"
on = "clone"
lock = "node"
"""


@pytest.fixture
def bureau(tmp_path: Path) -> Iterator[Bureau]:
    bureau = Bureau(tmp_path)
    yield bureau
    bureau.register.close()


@pytest.fixture
async def mesh(bureau: Bureau) -> Bureau:
    await bureau.enrol("agents-1", "tools-1")
    await bureau.apply(POLICY + RULES)
    return bureau


def finding(rule: str, what: str, kind: str, value: str, *, enforced: bool = True) -> Finding:
    target = Target(kind=kind, value=value)  # type: ignore[arg-type]  # of a test
    return Finding(rule=rule, what=what, target=target, enforced=enforced, count=21, streams=["s"])


def session(agent: str = "researcher", node: str = "agents-1") -> str:
    return str(SpiffeId.for_agent("example.org", agent, node, SESSION))


async def says(mesh: Bureau, node: str, said: Finding, ttl: int = HOUR) -> Statement:
    """A node's finding, and what the CA makes of it."""
    statement = mesh.mint.node(node).says("finding", said, ttl=ttl)
    assert await mesh.hears(statement) == []
    await mesh.office.adopt_due()
    return statement


def locked(mesh: Bureau) -> list[str]:
    return [str(one.target) for one in mesh.office.member.snapshot.restrictions.locks]


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("agents-1", finding("probing", "refusals", "id", session())),
        ("agents-1", finding("busy", "mutations", "agent", "researcher")),
        ("tools-1", finding("drift", "tool-drift", "service", "wiki")),
        ("tools-1", finding("gap", "audit-gap", "node", "tools-1")),
    ],
    ids=lambda one: one if isinstance(one, str) else one.rule,
)
async def test_a_finding_of_what_is_bound_to_its_node_is_locked_everywhere(
    mesh: Bureau, node: str, said: Finding
) -> None:
    """By a lock of the CA's that names the rule, the finding and who found it."""
    made = await says(mesh, node, said)
    assert locked(mesh) == [str(said.target)]
    [lock] = mesh.office.member.snapshot.restrictions.locks
    assert lock.by == "ca"
    for word in (said.rule, made.id, node):
        assert word in lock.message
    await mesh.office.adopt_due()
    assert len(locked(mesh)) == 1


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("tools-1", finding("probing", "refusals", "id", session())),
        ("agents-1", finding("probing", "refusals", "id", session("clerk"))),
        ("tools-1", finding("busy", "mutations", "agent", "researcher")),
        ("agents-1", finding("busy", "mutations", "agent", "nobody")),
        ("agents-1", finding("drift", "tool-drift", "service", "wiki")),
        ("agents-1", finding("gap", "audit-gap", "node", "tools-1")),
        ("agents-1", finding("probing", "refusals", "agent", "researcher")),
        ("agents-1", finding("busy", "refusals", "agent", "researcher")),
        ("agents-1", finding("none", "refusals", "id", session())),
        ("tools-1", finding("watched", "audit-gap", "node", "tools-1")),
        ("tools-1", finding("gap", "audit-gap", "node", "tools-1", enforced=False)),
    ],
    ids=[
        "session-of-another-node",
        "agent-not-of-the-rule",
        "agent-not-on-that-node",
        "no-such-agent",
        "service-not-beside-it",
        "another-node",
        "not-what-the-rule-locks",
        "not-what-the-rule-looks-for",
        "no-such-rule",
        "observed-by-the-policy",
        "observed-by-the-node",
    ],
)
async def test_a_rogue_node_has_nothing_of_others_locked(mesh: Bureau, node: str, said: Finding) -> None:
    """Its word counts at itself, and for what is bound to it where the policy says so."""
    await says(mesh, node, said)
    assert locked(mesh) == []


async def test_the_lock_lasts_as_long_as_the_rule_says(mesh: Bureau) -> None:
    """However long the finding says that it lives."""
    await says(mesh, "agents-1", finding("probing", "refusals", "id", session()), ttl=4 * HOUR)
    [lock] = mesh.office.member.snapshot.restrictions.locks
    assert lock.until == NOW + 30 * MINUTE


async def test_an_unlock_takes_the_finding_along_and_it_is_not_locked_again(mesh: Bureau) -> None:
    """Else the node that found it would go on refusing, and the CA would lock once more."""
    made = await says(mesh, "agents-1", finding("probing", "refusals", "id", session()))
    bob = await mesh.enlist("bob", "responder")
    [lock] = mesh.office.member.snapshot.restrictions.locks
    demand = bob.says("demand", Demand(action="unlock", ids=[lock.id]))
    await mesh.office.lift(demand.raw, mesh.identity(bob))
    assert mesh.office.member.store.is_lifted("finding", made.id)
    await mesh.office.adopt_due()
    assert locked(mesh) == []


async def test_a_finding_that_is_no_lock_yet_can_be_unlocked(mesh: Bureau) -> None:
    """A tool's node acts on a session of another node by itself; so an unlock reaches it by the finding's id, once."""
    made = await says(mesh, "tools-1", finding("probing", "refusals", "id", session()))
    bob = await mesh.enlist("bob", "responder")
    demand = bob.says("demand", Demand(action="unlock", ids=[made.id]))
    await mesh.office.lift(demand.raw, mesh.identity(bob))
    assert mesh.office.member.store.is_lifted("finding", made.id)
    with pytest.raises(RefusedError, match="no such lock"):
        await mesh.office.lift(demand.raw, mesh.identity(bob))


async def test_a_cloned_node_is_locked_once(mesh: Bureau) -> None:
    """The CA is the only one that sees it; a name that is no node's is nothing."""
    mesh.office.note_clone("agents-1")
    mesh.office.note_clone("nobody")
    await mesh.office.adopt_due()
    mesh.office.note_clone("agents-1")
    await mesh.office.adopt_due()
    assert locked(mesh) == ["node:agents-1"]


async def test_a_clone_without_a_rule_is_on_record_and_nothing_else(bureau: Bureau) -> None:
    """What is not asked for is not done."""
    await bureau.enrol("agents-1", "tools-1")
    await bureau.apply(POLICY)
    bureau.office.note_clone("agents-1")
    await bureau.office.adopt_due()
    assert locked(bureau) == []
