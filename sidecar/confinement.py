"""What keeps agents from going around the mesh, as text for the machine's own means: nftables and systemd. Pure.

nftables: on this node nobody but the sidecar's user dials a target, nobody from outside reaches one that should be on
loopback, and an agent's user dials his own bindings and nothing else. What counts is the user that made a socket, as
for attribution; root can lift it.

systemd: drop-ins for the units that agents run in. They cannot squat a binding's port, and reach loopback at most.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from sidecar.address import Address

NFT = """\
# Made by `lockgate check --print-confinement nftables` on node {node}, for the policy with sequence {sequence}.
# Make it anew when services, agents or bindings change. Load it: nft -f FILE
table inet lockgate
delete table inet lockgate
table inet lockgate {{
    chain targets {{
        # What the sidecar alone may dial: its user is {uid}.
{targets}
    }}
    chain agents {{
        # Agents reach their bindings, and answer whoever dialled them. What else they need goes above the last rule
        # of each, such as the address of a model's API.
{agents}
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        meta skuid != {uid} jump targets
        jump agents
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        # Targets on loopback, should one of them listen on more than that.
{outside}
    }}
}}
"""

UNIT = """\
# Made by `lockgate check --print-confinement systemd` on node {node}.
# For the unit that runs agent {agent}: /etc/systemd/system/UNIT.service.d/lockgate.conf
[Service]
User={uid}
NoNewPrivileges=yes
# No port of a binding can be squatted while the sidecar is down.
SocketBindDeny=any
{network}
"""

NO_NETWORK = """\
# All its bindings are Unix sockets: it needs no network.
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX"""

LOOPBACK_ONLY = """\
# Loopback alone. Of targets on loopback beside this agent, only nftables (or bindings on Unix sockets, and then
# PrivateNetwork=yes) can keep it away.
IPAddressDeny=any
IPAddressAllow=localhost
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"""


@dataclass(frozen=True, slots=True)
class AgentHere:
    """An agent of this node: its user's number (None: no such user) and its bindings."""

    name: str
    uid: int | None
    ports: tuple[int, ...] = ()
    sockets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeHere:
    """A node as its confinement needs it. ``targets``: of the services beside it, over TCP."""

    name: str
    uid: int
    """The daemon's."""
    sequence: int
    agents: tuple[AgentHere, ...]
    targets: tuple[Address, ...]

    def unconfined(self, agent: AgentHere) -> str:
        """Why an agent cannot be held apart here; empty: it can."""
        if agent.uid is None:
            return "its user is unknown on this machine"
        if agent.uid in (0, self.uid):
            return "it runs as root, or as the daemon's own user"
        return ""


def nftables(node: NodeHere) -> str:
    """A ruleset for ``nft -f``; loaded again, it takes the place of the one before."""
    loopback = sorted({target.port for target in node.targets if target.is_loopback})
    return NFT.format(
        node=node.name,
        sequence=node.sequence,
        uid=node.uid,
        targets=_lines(_targets(loopback, node.targets)),
        agents=_lines(rule for agent in node.agents for rule in _agent(agent, node.unconfined(agent))),
        outside=_lines([f'iif != "lo" tcp dport {_set(loopback)} reject'] if loopback else []),
    )


def systemd(node: NodeHere) -> str:
    """A drop-in for each agent of the node."""
    return "\n".join(_unit(node, agent) for agent in node.agents) or f"# node {node.name} has no agents\n"


def _targets(loopback: Sequence[int], targets: Iterable[Address]) -> Iterable[str]:
    if loopback:
        yield f'oif "lo" tcp dport {_set(loopback)} reject with tcp reset'
    for target in sorted({target for target in targets if not target.is_loopback}):
        family = _family(target)
        if family:
            yield f"{family} daddr {target.host} tcp dport {target.port} reject with tcp reset"
        else:
            yield f"# {target}: rules know no names. Add one for each of its addresses:"
            yield f"# ip daddr ADDRESS tcp dport {target.port} reject with tcp reset"


def _agent(agent: AgentHere, unconfined: str) -> Iterable[str]:
    if unconfined:
        yield f"# agent {agent.name} is not confined: {unconfined}"
        return
    yield f"# agent {agent.name}"
    yield f"meta skuid {agent.uid} ct direction reply accept"
    if agent.ports:
        yield f'meta skuid {agent.uid} oif "lo" tcp dport {_set(agent.ports)} accept'
    yield f"meta skuid {agent.uid} reject"


def _unit(node: NodeHere, agent: AgentHere) -> str:
    if unconfined := node.unconfined(agent):
        return f"# agent {agent.name}: not confined, {unconfined}\n"
    network = LOOPBACK_ONLY if agent.ports else NO_NETWORK
    return UNIT.format(node=node.name, agent=agent.name, uid=agent.uid, network=network)


def _family(target: Address) -> str:
    """Empty for a name."""
    try:
        return "ip" if ip_address(target.host).version == 4 else "ip6"
    except ValueError:
        return ""


def _set(ports: Iterable[int]) -> str:
    return f"{{ {', '.join(map(str, sorted(set(ports))))} }}"


def _lines(rules: Iterable[str]) -> str:
    return "\n".join(f"        {rule}" for rule in rules) or "        # none"
