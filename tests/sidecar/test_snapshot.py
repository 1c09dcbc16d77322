from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import MINUTE, SECOND, Wall
from sidecar.policy.load import load_policy
from sidecar.snapshot import (
    Facts,
    LeaseInForce,
    Leases,
    LockInForce,
    Moment,
    NodeMember,
    OperatorMember,
    Restrictions,
    RevocationInForce,
    Roster,
    Snapshot,
    Target,
    digest_of,
    nodes_of,
    stands_beside,
)

FACTS = Facts(
    id="spiffe://example.org/agent/researcher/agents-1/s",
    agent="researcher",
    session="s",
    children=("child", "grandchild"),
    nodes=("agents-1", "tools-1"),
    service="wiki",
    segment="retrieval",
    operator="alice",
    serials=("ab", "cd"),
)
HITTING = [
    Target("all"),
    Target("id", FACTS.id),
    Target("agent", "researcher"),
    Target("session", "s"),
    Target("session", "child"),
    Target("session", "grandchild"),
    Target("node", "agents-1"),
    Target("node", "tools-1"),
    Target("service", "wiki"),
    Target("segment", "retrieval"),
    Target("operator", "alice"),
    Target("serial", "ab"),
    Target("serial", "cd"),
]
MISSING = [Target(target.kind, f"{target.value}x") for target in HITTING] + [
    Target("agent", "wiki"),
    Target("service", "researcher"),
    Target("node", "s"),
    Target("session", ""),
]


def lock(name: str, target: Target, until: int = 10) -> LockInForce:
    return LockInForce(name, target, Wall(until), "alice", "")


def revocation(name: str, target: Target) -> RevocationInForce:
    return RevocationInForce(name, target, "alice")


@pytest.mark.parametrize(("wall", "floor", "now"), [(5, 3, 5), (3, 5, 5), (4, 4, 4)])
def test_now_is_the_later_of_wall_and_floor(wall: int, floor: int, now: int) -> None:
    """Setting the wall clock back revives nothing."""
    assert Moment(Wall(wall), Wall(floor), None).now == now


@pytest.mark.parametrize(
    ("as_of", "now", "fresh"),
    [(None, 0, False), (0, MINUTE - 1, True), (0, MINUTE, False), (SECOND, MINUTE, True)],
)
def test_a_segment_is_fresh_for_its_limit_and_not_a_moment_longer(
    as_of: int | None, now: int, fresh: bool
) -> None:
    """Fresh while now is before as_of + stale-after; never without a complete heartbeat."""
    moment = Moment(Wall(now), Wall(0), None if as_of is None else Wall(as_of))
    assert moment.is_fresh(MINUTE) is fresh
    assert moment.fresh_until(MINUTE) == (None if as_of is None else as_of + MINUTE)


@pytest.mark.parametrize("target", HITTING, ids=str)
def test_a_restriction_hits_what_it_names(target: Target) -> None:
    """Each kind of target finds the stream that has it, by either node and by any serial."""
    restrictions = Restrictions([lock("l", target)], [revocation("r", target)])
    assert restrictions.lock_on(FACTS) == lock("l", target)
    assert restrictions.revocation_of(FACTS) == revocation("r", target)


@pytest.mark.parametrize("target", MISSING, ids=repr)
def test_a_restriction_hits_nothing_else(target: Target) -> None:
    """Whole values of the same kind only; what is absent matches nothing."""
    restrictions = Restrictions([lock("l", target)], [revocation("r", target)])
    assert restrictions.lock_on(FACTS) is None
    assert restrictions.revocation_of(FACTS) is None
    assert Restrictions([lock("l", Target("session", ""))]).lock_on(Facts()) is None


def test_of_several_locks_the_longest_speaks() -> None:
    """Whether any lock holds is a question to one; of equal ones the lowest id is it."""
    locks = [
        lock("b", Target("all"), 20),
        lock("a", Target("all"), 10),
        lock("d", Target("agent", "researcher"), 30),
        lock("c", Target("agent", "researcher"), 30),
        lock("e", Target("agent", "another"), 40),
    ]
    for order in permutations(locks):
        found = Restrictions(order).lock_on(FACTS)
        assert found is not None
        assert found.id == "c"


def test_of_several_revocations_the_lowest_id_speaks() -> None:
    """Every node names the same one, whatever came first."""
    revocations = [
        revocation("b", Target("agent", "researcher")),
        revocation("c", Target("session", "s")),
        revocation("a", Target("agent", "researcher")),
        revocation("0", Target("agent", "another")),
    ]
    for order in permutations(revocations):
        found = Restrictions(revocations=order).revocation_of(FACTS)
        assert found is not None
        assert found.id == "a"


@pytest.mark.parametrize(
    ("target", "issued", "hit"),
    [
        (Target("agent", "researcher"), 9, True),
        (Target("agent", "researcher"), 10, False),
        (Target("agent", "researcher"), None, False),
        (Target("session", "s"), 9, True),
        (Target("node", "agents-1"), 9, True),
        (Target("node", "tools-1"), 9, False),
        (Target("operator", "alice"), 9, True),
        (Target("service", "wiki"), 9, False),
        (Target("agent", "another"), 9, False),
    ],
)
def test_a_cutoff_hits_certificates_that_were_issued_before_it(
    target: Target, issued: int | None, hit: bool
) -> None:
    """The session's own, by its names and its node; how old the tool's node's certificate is, its link says."""
    facts = replace(FACTS, issued=None if issued is None else Wall(issued))
    cutoffs = [RevocationInForce(name, target, "ca", Wall(at)) for name, at in (("a", 3), ("b", 10))]
    found = Restrictions(revocations=cutoffs).revocation_of(facts)
    assert (found is not None) is hit
    if found is not None:
        assert found.id == "b"
    assert not Restrictions(revocations=cutoffs).revokes(target.kind, target.value)


def test_one_target_can_be_asked_for() -> None:
    """Signers and peers are judged by name, without a stream."""
    restrictions = Restrictions(revocations=[revocation("r", Target("node", "tools-1"))])
    assert restrictions.revokes("node", "tools-1")
    assert not restrictions.revokes("node", "agents-1")
    assert not restrictions.revokes("operator", "tools-1")


def test_a_target_prints_as_the_command_line_takes_it() -> None:
    """`lock all`, `lock segment:retrieval`."""
    assert [str(Target("all")), str(Target("segment", "retrieval"))] == ["all", "segment:retrieval"]


NODES = {name: NodeMember(name, ("h:1",), "0.1", ("tcp", "x"), ("l",)) for name in ("a", "b")}
OPERATORS = {name: OperatorMember(name, "00", frozenset({"admin", "auditor"})) for name in ("alice", "bob")}
LOCKS = [lock("1", Target("all")), lock("2", Target("agent", "x"))]
REVOCATIONS = [revocation("3", Target("node", "x")), revocation("4", Target("serial", "ab"))]
POLICY = load_policy(b"", "policy.toml")
BASE = digest_of(POLICY, "b", Roster(NODES, OPERATORS), Restrictions(LOCKS, REVOCATIONS))


@given(st.permutations(LOCKS), st.permutations(REVOCATIONS), st.permutations(["a", "b"]))
def test_a_digest_does_not_depend_on_order(
    locks: list[LockInForce], revocations: list[RevocationInForce], names: list[str]
) -> None:
    """Two nodes with the same in force have the same digest."""
    roster = Roster({name: NODES[name] for name in names}, dict(reversed(OPERATORS.items())))
    assert digest_of(POLICY, "b", roster, Restrictions(locks, revocations)) == BASE


LEASE = LeaseInForce("l1", "s1", "up", frozenset({"wiki"}), ("GET /a",), Wall(5))


def test_leases_are_found_by_session() -> None:
    """Each session has its own, in whatever order they came."""
    other, more = replace(LEASE, id="l2", session="s2"), replace(LEASE, id="l3")
    leases = Leases([more, other, LEASE])
    assert (leases.of("s1"), leases.of("s2"), leases.of("s3")) == ((LEASE, more), (other,), ())
    assert leases.all == (LEASE, other, more)


def test_labels_name_the_nodes_that_carry_all_of_them() -> None:
    """Now: whoever joins with them is one, whoever left is none. Nodes that are named stay named."""
    text = b'[services.wiki]\nsegment = "action"\ntarget = "h:1"\n%s'
    roster = Roster(
        {
            name: NodeMember(name, (), "", (), tuple(labels))
            for name, labels in (("a", "xy"), ("b", "x"), ("c", "xyz"))
        },
        {},
    )
    labelled = load_policy(text % b'labels = ["x", "y"]', "p").services["wiki"]
    assert nodes_of(labelled, roster) == {"a", "c"}
    assert [stands_beside(labelled, name, roster) for name in "abcd"] == [True, False, True, False]
    named = load_policy(text % b'nodes = ["b", "d"]', "p").services["wiki"]
    assert nodes_of(named, roster) == {"b", "d"}
    assert [stands_beside(named, name, roster) for name in "abcd"] == [False, True, False, True]


def test_a_digest_depends_on_everything_in_force() -> None:
    """No two different snapshots share one."""
    roster, restrictions = Roster(NODES, OPERATORS), Restrictions(LOCKS, REVOCATIONS)
    other_node = {**NODES, "a": NodeMember("a", (), "0.1", ("tcp", "x"), ("l",))}
    other_operator = {**OPERATORS, "bob": OperatorMember("bob", "01", frozenset({"admin", "auditor"}))}
    later = [lock("1", Target("all"), 11), LOCKS[1]]
    digests = {
        BASE,
        digest_of(None, "b", roster, restrictions),
        digest_of(load_policy(b"#", "policy.toml"), "b", roster, restrictions),
        digest_of(POLICY, "c", roster, restrictions),
        digest_of(POLICY, "b", Roster(other_node, OPERATORS), restrictions),
        digest_of(POLICY, "b", Roster(NODES, other_operator), restrictions),
        digest_of(POLICY, "b", Roster(NODES, {}), restrictions),
        digest_of(POLICY, "b", roster, Restrictions(later, REVOCATIONS)),
        digest_of(POLICY, "b", roster, Restrictions(LOCKS, REVOCATIONS[1:])),
        digest_of(POLICY, "b", roster, restrictions, Leases([LEASE])),
        digest_of(POLICY, "b", roster, restrictions, Leases([replace(LEASE, until=Wall(6))])),
    }
    assert len(digests) == 11


def test_a_snapshot_carries_the_digest_of_its_parts() -> None:
    """The digest is computed where the snapshot is made."""
    roster, restrictions = Roster(NODES, OPERATORS), Restrictions(LOCKS, REVOCATIONS)
    snapshot = Snapshot.of(policy=POLICY, bundle_digest="b", roster=roster, restrictions=restrictions)
    assert snapshot == Snapshot(POLICY, "b", roster, restrictions, BASE)
