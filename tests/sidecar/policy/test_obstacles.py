from dataclasses import replace

import pytest

from pki.clock import Wall
from sidecar.policy.features import LANGUAGE
from sidecar.policy.load import load_policy
from sidecar.policy.model import Policy
from sidecar.policy.obstacles import Terms, obstacles
from sidecar.snapshot import LockInForce, NodeMember, Roster, Target
from tests.sidecar.policy.world import NODES, POLICY, policy_of, roster

JOINED = roster(*NODES)
FREE = Terms()


def said(after: str, *locked: Target, before: str | None = POLICY) -> list[str]:
    """What stands in the way of ``after`` while these are locked."""
    locks = [LockInForce(f"lock-{n}", target, Wall(1), "bob", "") for n, target in enumerate(locked)]
    old = policy_of(before) if before else None
    return [one.what for one in obstacles(policy_of(after), old, JOINED, locks, FREE)]


def without(table: str) -> str:
    """The policy without one of its paragraphs, and without all that names it."""
    name = table.rpartition(".")[2].rstrip("]")
    return "\n\n".join(part for part in POLICY.split("\n\n") if name not in part)


@pytest.mark.parametrize(
    ("after", "locked", "found"),
    [
        (POLICY, Target("all"), []),
        (POLICY, Target("agent", "clerk"), []),
        (without("[agents.clerk]"), Target("agent", "clerk"), ["agent:clerk"]),
        (POLICY.replace('"wiki"', '"docs"').replace("services.wiki", "services.docs"), Target("service", "wiki"), ["x"]),
        (POLICY, Target("agent", "nobody"), []),
        (POLICY, Target("node", "tools-1"), []),
    ],
)  # fmt: skip
def test_what_is_locked_stays_in_the_policy(after: str, locked: Target, found: list[str]) -> None:
    """A name that goes, or is written otherwise from now on, would take its lock with it."""
    what = said(after, locked)
    assert len(what) == len(found)
    assert all(str(locked) in one and "is locked by bob" in one for one in what)


def test_a_segment_that_is_locked_keeps_its_name_and_its_services() -> None:
    """A service that moves to another segment is not under the lock any more; one that is gone needs none."""
    own = '[segments.own]\nclass = "read"\nstale-after = "5m"\n\n'
    mine = own + POLICY.replace('segment = "retrieval"', 'segment = "own"')
    locked = Target("segment", "own")
    assert said(mine, locked, before=mine) == []
    assert said(POLICY, locked, before=mine) == ["segment:own is locked by bob, and not in this policy"]
    moved = own + POLICY
    assert said(moved, locked, before=mine) == [
        "service wiki would leave segment:own, which is locked by bob"
    ]
    gone = own + without("[services.wiki]")
    assert said(gone, locked, before=mine) == []


def test_a_tools_operations_do_not_leave_a_locked_segment_either() -> None:
    """As little as whole services do."""
    operations = '[[services.crm.operations]]\ntools = ["delete_*"]\nsegment = "high-risk"\n'
    crm = '[services.crm]\nsegment = "action"\ntarget = "127.0.0.1:1"\nprotocol = "mcp"\n'
    before, after = (
        load_policy(text.encode(), "policy.toml", enforced=LANGUAGE)
        for text in (POLICY + crm + operations, POLICY + crm)
    )
    lock = LockInForce("x", Target("segment", "high-risk"), Wall(1), "bob", "")
    [found] = obstacles(after, before, JOINED, [lock], FREE)
    assert found.what == "service crm would leave segment:high-risk, which is locked by bob"


def test_the_first_policy_lifts_nothing() -> None:
    """There is none whose names it could drop."""
    assert said(POLICY, Target("agent", "nobody"), before=None) == []


def required(*features: str) -> Policy:
    return replace(policy_of(POLICY), requires=frozenset(features))


def with_features(**features: tuple[str, ...]) -> Roster:
    members = {name.replace("_", "-"): has for name, has in features.items()}
    return Roster({name: NodeMember(name, (), "", has, ()) for name, has in members.items()}, {})


def test_every_node_can_do_what_is_required() -> None:
    """One that cannot is named, with what to do; the one that is given up by name is not asked."""
    mesh = with_features(tools_1=("http", "tcp"), tools_2=("tcp",), agents_1=())
    found = obstacles(required("http", "tcp"), None, mesh, [], FREE)
    assert [(one.what, one.hint) for one in found] == [
        ("node agents-1 lacks http, tcp", "upgrade it, or give it up: --strand agents-1"),
        ("node tools-2 lacks http", "upgrade it, or give it up: --strand tools-2"),
    ]
    stranded = Terms(strand=frozenset({"agents-1", "tools-2"}))
    assert obstacles(required("http"), None, mesh, [], stranded) == []


def test_a_canary_asks_only_of_the_nodes_that_it_names() -> None:
    """The others keep the old policy."""
    mesh = with_features(tools_1=("http",), tools_2=())
    assert obstacles(required("http"), None, mesh, [], Terms(canary=frozenset({"tools-1"}))) == []
    assert obstacles(required("http"), None, mesh, [], Terms(canary=frozenset({"tools-2"}))) != []


def test_the_nodes_that_are_named_exist() -> None:
    """Both options, each by its name."""
    terms = Terms(canary=frozenset({"x"}), strand=frozenset({"y", "tools-1"}))
    assert [one.what for one in obstacles(policy_of(POLICY), None, JOINED, [], terms)] == [
        "--canary x: there is no such node in the roster",
        "--strand y: there is no such node in the roster",
    ]
