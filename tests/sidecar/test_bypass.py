import pytest

from sidecar.bypass import Finding, State, Way, cure, judge, ways
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.snapshot import NodeMember, Roster

HERE, THERE = "tools-1", "tools-2"
ROSTER = Roster(
    {
        HERE: NodeMember(HERE, ("10.0.0.1:7443",), "", (), ()),
        THERE: NodeMember(THERE, ("10.0.0.2:7443", "[2001:db8::2]:7443", "junk"), "", (), ("rack-b",)),
    },
    {},
)


def policy(target: str, *nodes: str, key: str = "nodes") -> Policy:
    named = ", ".join(f'"{node}"' for node in nodes)
    text = f'[services.wiki]\nsegment = "retrieval"\n{key} = [{named}]\ntarget = "{target}"\n'
    if target.startswith("tls:"):
        text += 'ca = "/etc/ca.pem"\nserver-name = "tool.internal"\n'
    return load_policy(text.encode(), "policy.toml")


@pytest.mark.parametrize(
    ("target", "node", "places"),
    [
        ("127.0.0.1:80", HERE, ["127.0.0.1:80"]),
        ("unix:/run/wiki", HERE, ["unix:/run/wiki"]),
        ("10.9.9.9:80", HERE, ["10.9.9.9:80"]),
        ("tls://tool.internal:443", HERE, ["tool.internal:443"]),
        ("127.0.0.1:80", THERE, ["10.0.0.2:80", "[2001:db8::2]:80"]),
        ("localhost:80", THERE, ["10.0.0.2:80", "[2001:db8::2]:80"]),
        ("unix:/run/wiki", THERE, []),
        ("10.9.9.9:80", THERE, ["10.9.9.9:80"]),
        ("127.0.0.1:80", "unjoined", []),
    ],
)
def test_what_a_user_of_a_node_might_dial(target: str, node: str, places: list[str]) -> None:
    """A target on another node's loopback is tried where that node is reached, with the tool's port."""
    assert ways(policy(target, node), ROSTER, HERE) == [Way("wiki", place, node) for place in places]


def test_a_service_with_labels_is_dialled_where_nodes_carry_them() -> None:
    """As streams to it are."""
    found = ways(policy("127.0.0.1:80", "rack-b", key="labels"), ROSTER, HERE)
    assert {way.node for way in found} == {THERE}


def test_a_service_of_several_nodes_is_dialled_at_each() -> None:
    """One of them may be open."""
    found = ways(policy("127.0.0.1:80", HERE, THERE), ROSTER, HERE)
    assert [way.place for way in found] == ["127.0.0.1:80", "10.0.0.2:80", "[2001:db8::2]:80"]


BESIDE, ELSEWHERE = Way("wiki", "127.0.0.1:80", HERE), Way("crm", "10.0.0.2:80", THERE)


@pytest.mark.parametrize(
    ("way", "agent", "nobody", "sidecar", "state", "users"),
    [
        (BESIDE, True, False, True, State.OPEN, ("agent",)),
        (BESIDE, False, True, True, State.OPEN, ("nobody",)),
        (BESIDE, True, True, True, State.OPEN, ("agent", "nobody")),
        (BESIDE, False, False, True, State.CLOSED, ()),
        (BESIDE, False, False, False, State.UNPROVEN, ()),
        (BESIDE, True, False, False, State.OPEN, ("agent",)),
        (ELSEWHERE, False, False, False, State.CLOSED, ()),
        (ELSEWHERE, False, True, False, State.OPEN, ("nobody",)),
    ],
)
def test_what_the_answers_mean(  # noqa: PLR0917 - a row of a table
    way: Way, agent: bool, nobody: bool, sidecar: bool, state: State, users: tuple[str, ...]
) -> None:
    """A tool beside this node that is down proves nothing by its silence."""

    def places(answered: bool) -> frozenset[str]:
        return frozenset({way.place} if answered else ())

    reached = {"agent": places(agent), "nobody": places(nobody)}
    assert judge([way], reached, places(sidecar), HERE) == [Finding(way, state, users)]


@pytest.mark.parametrize(
    ("way", "words"),
    [
        (Way("wiki", "unix:/run/wiki", HERE), "chmod 0660 /run/wiki"),
        (Way("wiki", "127.0.0.1:80", HERE), "let only the sidecar dial it"),
        (Way("wiki", "10.9.9.9:80", HERE), "its own firewall"),
        (Way("wiki", "10.0.0.2:80", THERE), "on node tools-2: bind the tool to 127.0.0.1"),
    ],
)
def test_each_open_way_has_its_cure(way: Way, words: str) -> None:
    """By what is dialled and where it is."""
    assert words in cure(way, HERE)
