import pytest

from pki.clock import Wall
from sidecar.policy.blast import BESIDE, Blast, Stake, blast
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy, Risk
from sidecar.snapshot import NodeMember, Roster, Target
from tests.sidecar.policy.world import NOW, roster

TEXT = """\
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:1"
blast-radius = ["knowledge-base"]
[services.crm]
segment = "action"
labels = ["rack-a"]
target = "127.0.0.1:2"
protocol = "mcp"
blast-radius = ["customers"]
[[services.crm.operations]]
tools = ["delete_*"]
segment = "high-risk"
blast-radius = ["customers", "contracts"]
[services.vault]
segment = "high-risk"
nodes = ["tools-2"]
target = "127.0.0.1:3"
risk = "high"
blast-radius = ["credentials"]
[agents.researcher]
nodes = ["agents-1"]
uid = 1
[agents.clerk]
nodes = ["agents-1", "agents-2"]
uid = 2
[[grants]]
id = "read"
agents = ["researcher", "clerk"]
services = ["wiki"]
[[grants]]
id = "crm"
agents = ["clerk"]
services = ["crm"]
mcp = [{ tools = ["get_*"] }]
[[escalations]]
id = "clean-up"
agents = ["clerk"]
from = "action"
to = "high-risk"
services = ["crm", "vault"]
max-ttl = "15m"
approvals = 1
approvers = ["role:approver"]
when = { hours = "Mon-Fri 08:00-18:00", timezone = "UTC", require-reason = true }
[[escalations]]
id = "by-itself"
agents = ["researcher"]
from = "retrieval"
to = "action"
services = ["crm"]
max-ttl = "1h"
approvals = 0
when = { max-per-day = 3 }
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(TEXT.encode(), "policy.toml", enforced=LANGUAGE)


MESH = roster("agents-1", "agents-2", "tools-2")
RACK = NodeMember("tools-1", (), "", (), ("rack-a",))
ROSTER = Roster({**MESH.nodes, "tools-1": RACK}, {})


def reach(policy: Policy, subject: str, now: Wall = NOW) -> Blast:
    kind, _, value = subject.partition(":")
    return blast(policy, Target(kind, value), ROSTER, now)


def rows(found: Blast) -> list[str]:
    return [
        f"{one.risk} {one.agent or '-'} {one.service} {one.operation} {'~' if one.escalated else ''}{one.rule}"
        for one in found.reaches
    ]


def test_an_agent_reaches_what_it_may_do_and_what_it_may_ask_for(policy: Policy) -> None:
    """The worst first, what takes an approval last."""
    found = reach(policy, "agent:clerk")
    assert rows(found) == [
        "medium clerk crm tools get_* crm",
        "low clerk wiki any read",
        "high clerk crm tools delete_* ~clean-up",
        "high clerk vault any ~clean-up",
    ]
    assert found.reaches[2].conditions == (
        "for 15m",
        "approved by 1 of role:approver",
        "in its hours",
        "with a reason",
    )
    assert reach(policy, "agent:researcher").reaches[-1].conditions == ("for 1h", "3 a day")


def test_what_is_at_stake_is_named_once_at_its_worst(policy: Policy) -> None:
    """Now is worse than after an approval, whatever the risk."""
    assert reach(policy, "agent:clerk").stakes == (
        Stake("customers", Risk.MEDIUM, False),
        Stake("knowledge-base", Risk.LOW, False),
        Stake("contracts", Risk.HIGH, True),
        Stake("credentials", Risk.HIGH, True),
    )
    assert reach(policy, "agent:clerk").worst is Risk.HIGH
    assert reach(policy, "agent:nobody").worst is None


def test_a_node_reaches_what_its_agents_do_and_the_tools_beside_it(policy: Policy) -> None:
    """Past every rule: the tool's node is where rules are enforced. Services by label stand where the roster says."""
    assert rows(reach(policy, "node:tools-1")) == [
        f"high - crm tools delete_* {BESIDE}",
        f"medium - crm any {BESIDE}",
        f"low - wiki any {BESIDE}",
    ]
    assert {one.agent for one in reach(policy, "node:agents-1").reaches} == {"clerk", "researcher"}
    assert {one.agent for one in reach(policy, "node:agents-2").reaches} == {"clerk"}
    assert reach(policy, "node:elsewhere").reaches == ()


def test_a_service_or_segment_is_reached_by_these(policy: Policy) -> None:
    """Whoever talks to it, and in which part."""
    assert rows(reach(policy, "service:wiki")) == [
        "low clerk wiki any read",
        "low researcher wiki any read",
    ]
    assert rows(reach(policy, "segment:high-risk")) == [
        "high clerk crm tools delete_* ~clean-up",
        "high clerk vault any ~clean-up",
    ]


def test_what_has_ended_is_out_of_reach(policy: Policy) -> None:
    """A grant, as in decisions."""
    ended = load_policy(
        TEXT.replace('id = "crm"', 'id = "crm"\nexpires = 1970-01-02').encode(), "p", enforced=LANGUAGE
    )
    assert "medium clerk crm tools get_* crm" not in rows(reach(ended, "agent:clerk"))
