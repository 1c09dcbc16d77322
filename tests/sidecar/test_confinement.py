import os
import subprocess
from pathlib import Path

import pytest

from sidecar.address import Address
from sidecar.confinement import AgentHere, NodeHere, nftables, systemd
from tests.mesh import has

RESEARCHER = AgentHere("researcher", 1001, (15002, 15001), ("/run/lockgate/wiki.sock",))
OFFLINE = AgentHere("offline", 1002, (), ("/run/lockgate/wiki.sock",))
ROOT, OWN, LOST = AgentHere("root", 0, (1,)), AgentHere("own", 997, (2,)), AgentHere("lost", None, (3,))
TARGETS = tuple(
    map(
        Address.parse,
        ("127.0.0.1:8080", "[::1]:8081", "localhost:8080", "10.0.0.5:443", "[2001:db8::5]:443", "tool:443"),
    )
)


def node(*agents: AgentHere, targets: tuple[Address, ...] = TARGETS) -> NodeHere:
    return NodeHere("tools-1", 997, 7, agents, targets)


def rules(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def test_targets_are_for_the_sidecars_user_alone() -> None:
    """On loopback by their port, whatever address they listen on; elsewhere by their address; never by a name."""
    said = rules(nftables(node()))
    assert 'oif "lo" tcp dport { 8080, 8081 } reject with tcp reset' in said
    assert "ip daddr 10.0.0.5 tcp dport 443 reject with tcp reset" in said
    assert "ip6 daddr 2001:db8::5 tcp dport 443 reject with tcp reset" in said
    assert "# tool:443: rules know no names. Add one for each of its addresses:" in said
    assert "meta skuid != 997 jump targets" in said
    assert 'iif != "lo" tcp dport { 8080, 8081 } reject' in said


def test_an_agent_reaches_its_bindings_and_nothing_else() -> None:
    """Its last rule refuses; it may still answer whoever dialled it."""
    said = rules(nftables(node(RESEARCHER, OFFLINE)))
    mine = [rule for rule in said if rule.startswith("meta skuid 1001")]
    assert mine == [
        "meta skuid 1001 ct direction reply accept",
        'meta skuid 1001 oif "lo" tcp dport { 15001, 15002 } accept',
        "meta skuid 1001 reject",
    ]
    assert [rule for rule in said if rule.startswith("meta skuid 1002")] == [
        "meta skuid 1002 ct direction reply accept",
        "meta skuid 1002 reject",
    ]


@pytest.mark.parametrize("agent", [ROOT, OWN, LOST], ids=lambda agent: str(agent.name))
def test_an_agent_that_cannot_be_told_apart_is_named(agent: AgentHere) -> None:
    """No rule against root, or against the daemon itself."""
    said = nftables(node(agent))
    assert f"# agent {agent.name} is not confined: " in said
    assert f"meta skuid {agent.uid} " not in said
    assert f"# agent {agent.name}: not confined, " in systemd(node(agent))


def test_an_agent_of_unix_sockets_needs_no_network() -> None:
    """Others get loopback."""
    assert "PrivateNetwork=yes" in rules(systemd(node(OFFLINE)))
    loopback = rules(systemd(node(RESEARCHER)))
    assert "PrivateNetwork=yes" not in loopback
    assert "IPAddressDeny=any" in loopback
    assert "IPAddressAllow=localhost" in loopback


def test_a_node_without_agents_has_no_drop_in() -> None:
    """And says so."""
    assert systemd(node()) == "# node tools-1 has no agents\n"


@pytest.mark.skipif(not has("nft") or os.geteuid() != 0, reason="needs nft and root")
@pytest.mark.parametrize(
    "text",
    [nftables(node(RESEARCHER, OFFLINE, ROOT, LOST)), nftables(node(targets=()))],
    ids=["everything", "nothing"],
)
def test_nft_takes_the_rules_and_takes_them_again(text: str) -> None:
    """In a network namespace of its own."""
    load = ["unshare", "--net", "sh", "-c", 'echo "$0" | nft -f - && echo "$0" | nft -f -', text]
    done = subprocess.run(load, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not has("systemd-analyze"), reason="needs systemd-analyze")
@pytest.mark.parametrize("agent", [RESEARCHER, OFFLINE], ids=lambda agent: str(agent.name))
def test_systemd_finds_no_fault_in_a_drop_in(agent: AgentHere, tmp_path: Path) -> None:
    """No unknown setting, no wrong value: systemd would ignore either and run without the protection."""
    unit = tmp_path / "agent.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    folder = tmp_path / "agent.service.d"
    folder.mkdir()
    (folder / "lockgate.conf").write_text(systemd(node(agent)))
    said = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")
