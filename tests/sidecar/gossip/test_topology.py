from collections import deque

import pytest

from sidecar.gossip.topology import FULL_MESH, RANDOM, neighbours, picked
from sidecar.snapshot import NodeMember, Restrictions, Roster, Snapshot
from tests.sidecar.policy.world import POLICY, policy_of


def snapshot(*names: str, dial_only: frozenset[str] = frozenset(), policy: bool = True) -> Snapshot:
    nodes = {name: NodeMember(name, () if name in dial_only else ("h:1",), "", (), ()) for name in names}
    text = policy_of(POLICY) if policy else None
    return Snapshot.of(policy=text, bundle_digest="", roster=Roster(nodes, {}), restrictions=Restrictions())


NAMES = tuple(f"n{n:04d}" for n in range(500))


def test_a_small_mesh_is_full() -> None:
    """Up to the limit everybody dials everybody, and nobody itself."""
    names = NAMES[:FULL_MESH]
    assert neighbours(names[0], snapshot(*names)) == frozenset(names[1:])


def test_a_large_mesh_has_a_bounded_degree_and_hangs_together() -> None:
    """Each dials a few, and from anybody everybody is reached over links."""
    whole = snapshot(*NAMES, policy=False)
    links: dict[str, set[str]] = {name: set() for name in NAMES}
    for name in NAMES:
        dialled = neighbours(name, whole)
        assert len(dialled) == RANDOM
        assert name not in dialled
        for other in dialled:
            links[name].add(other)
            links[other].add(name)
    seen, waiting = {NAMES[0]}, deque([NAMES[0]])
    while waiting:
        for other in links[waiting.popleft()] - seen:
            seen.add(other)
            waiting.append(other)
    assert seen == set(NAMES)
    assert max(map(len, links.values())) < 64


@pytest.mark.parametrize(
    ("own", "shared"),
    [
        ("agents-1", {"tools-1", "tools-2"}),
        ("agents-2", {"tools-1", "tools-2"}),
        ("tools-2", {"agents-1", "agents-2"}),
    ],
)
def test_the_other_ends_of_ones_bindings_are_always_linked(own: str, shared: set[str]) -> None:
    """A stop must reach those first whom it cuts off from each other."""
    whole = snapshot("agents-1", "agents-2", "tools-1", "tools-2", *NAMES[:100])
    assert shared <= neighbours(own, whole)


def test_who_only_dials_out_is_not_picked_and_picks_others() -> None:
    """Dialling it would lead nowhere."""
    quiet = frozenset(NAMES[:250])
    whole = snapshot(*NAMES, dial_only=quiet, policy=False)
    for name in NAMES[:20]:
        assert not neighbours(name, whole) & quiet
        assert len(neighbours(name, whole)) == RANDOM


def test_few_are_all_picked() -> None:
    """There is nothing to choose from."""
    assert picked("n", NAMES[:RANDOM]) == frozenset(NAMES[:RANDOM])


def test_a_node_that_joins_moves_few_links() -> None:
    """Else the whole mesh would dial anew with each newcomer."""
    before = {name: picked(name, NAMES[:-1]) for name in NAMES[:-1]}
    moved = sum(before[name] != picked(name, NAMES) for name in NAMES[:-1])
    assert moved < len(NAMES) // 10
