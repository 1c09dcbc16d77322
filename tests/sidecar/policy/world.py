"""A small mesh for tests of the policy: two agents' nodes, two tools' nodes, one policy."""

from dataclasses import replace

from pki.clock import MINUTE, Wall
from pki.ids import new_id
from pki.spiffe import SpiffeId
from sidecar.policy.decide import Request
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.snapshot import Moment, NodeMember, Restrictions, Roster, Snapshot

SESSION = new_id(bytes(16))
NODES = ("agents-1", "agents-2", "tools-1", "tools-2")
NOW = Wall(1_000_000_000_000)

POLICY = """\
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"

[services.tickets]
segment = "action"
nodes = ["tools-1", "tools-2"]
target = "127.0.0.1:8002"

[services.vault]
segment = "high-risk"
nodes = ["tools-2"]
target = "127.0.0.1:8003"

[agents.researcher]
nodes = ["agents-1"]
uid = 1001

[agents.clerk]
nodes = ["agents-1", "agents-2"]
uid = "clerk"

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[bindings]]
agent = "clerk"
service = "tickets"
listen = 15002

[[grants]]
id = "read-wiki"
agents = ["researcher"]
services = ["wiki"]

[[grants]]
id = "all-actions"
agents = ["researcher", "clerk"]
segments = ["action", "high-risk"]

[[denies]]
id = "no-vault"
agents = ["clerk"]
services = ["vault"]
"""


def policy_of(text: str) -> Policy:
    return load_policy(text.encode(), "policy.toml")


def session(agent: str = "researcher", node: str = "agents-1") -> SpiffeId:
    return SpiffeId.for_agent("example.org", agent, node, SESSION)


def request(service: str = "wiki", tool_node: str = "tools-1", agent: str = "researcher") -> Request:
    return Request(session(agent), service, tool_node, ("ab", "cd"), Wall(NOW + 60 * MINUTE))


def roster(*nodes: str) -> Roster:
    return Roster({name: NodeMember(name, (), "", (), ()) for name in nodes}, {})


def snapshot(policy: Policy | None, restrictions: Restrictions | None = None) -> Snapshot:
    return Snapshot.of(
        policy=policy,
        bundle_digest="",
        roster=roster(*NODES),
        restrictions=restrictions or Restrictions(),
    )


def fresh(now: int = NOW) -> Moment:
    """Wall and floor agree, and the last complete word has just come."""
    return Moment(Wall(now), Wall(now), Wall(now))


def later(moment: Moment, by: int) -> Moment:
    """The same clocks ``by`` microseconds on, without a new heartbeat."""
    return replace(moment, wall=Wall(moment.wall + by), floor=Wall(moment.floor + by))
