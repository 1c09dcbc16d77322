"""200 members under one virtual clock: what is said reaches everybody, whatever the network loses."""

import math

import pytest

from pki.clock import MINUTE, SECOND
from sidecar.gossip.topology import RANDOM
from tests.authority import NOW
from tests.simulation import MILLISECOND, Simulation
from tests.statements import lock, revocation

SIZE = 200


def test_a_stop_reaches_everybody_in_a_few_hops() -> None:
    """Without loss it is the flood alone: as deep as the logarithm, in a fraction of a second."""
    mesh = Simulation(SIZE)
    said = mesh.mint.says("lock", lock())
    mesh.say("n00000", said)
    took = mesh.run_until(lambda: mesh.holds_all([said.id]), within=SECOND)
    hops = max(node.heard[said.id][1] for node in mesh.nodes.values())
    assert took < SECOND // 2
    assert hops <= math.ceil(math.log2(SIZE))
    assert hops >= math.floor(math.log(SIZE, 2 * RANDOM))


def test_ten_percent_loss_and_five_percent_churn_lose_nothing() -> None:
    """Every message may be lost and nodes come and go: digests repair what the flood did not bring."""
    mesh = Simulation(SIZE, loss=0.1)
    for turn, name in enumerate(mesh.random.sample(sorted(mesh.nodes), SIZE // 20)):
        mesh.at(turn * 100 * MILLISECOND, lambda name=name: mesh.down(name, 2 * SECOND))  # type: ignore[misc]  # mypy infers no lambda's default
    said = [mesh.mint.says("lock", lock("agent", f"a{n}")) for n in range(5)]
    for turn, one in enumerate(said):
        mesh.at(turn * 300 * MILLISECOND, lambda turn=turn, one=one: mesh.say(f"n{turn:05d}", one))  # type: ignore[misc]  # the same
    ids = [one.id for one in said]
    mesh.run_until(
        lambda: (
            mesh.now > 4 * SECOND and all(node.up for node in mesh.nodes.values()) and mesh.holds_all(ids)
        ),
        within=15 * SECOND,
    )
    for node in mesh.nodes.values():
        assert {one.statement.id for one in node.store.in_force(node.freshness.floor(0))} == set(ids)  # type: ignore[arg-type]  # a boot time
        assert node.received < 256 * 1024


def test_both_halves_of_a_partition_lock_and_have_the_union_two_seconds_after_it_heals() -> None:
    """Each side acts on what it hears; when the links return, each gets what the other said."""
    mesh = Simulation(SIZE)
    side = sorted(mesh.nodes)[: SIZE // 2]
    mesh.partition(side)
    here, there = (mesh.mint.says("lock", lock("agent", name)) for name in ("here", "there"))
    mesh.say(side[0], here)
    mesh.say("n00199", there)
    mesh.run_until(lambda: mesh.now > 2 * SECOND, within=3 * SECOND)
    for name, node in mesh.nodes.items():
        assert [one.id in node.store for one in (here, there)] == [name in side, name not in side]
    mesh.heal()
    mesh.run_until(lambda: mesh.holds_all([here.id, there.id]), within=2 * SECOND)


def test_clocks_that_are_off_by_less_than_the_skew_change_nothing() -> None:
    """Fifty seconds either way: heartbeats are taken, statements too, and everybody is fresh as of the CA's word."""
    mesh = Simulation(SIZE, skew=50 * SECOND)
    said = mesh.mint.says("revocation", revocation("agent", "a"))
    mesh.say("n00007", said)
    mesh.run_until(lambda: mesh.holds_all([said.id]), within=5 * SECOND)
    mesh.beat("n00000")
    mesh.run_until(
        lambda: all(node.freshness.confirmed is not None for node in mesh.nodes.values()), within=5 * SECOND
    )


@pytest.mark.parametrize("withholds", [True, False])
def test_a_peer_that_withholds_one_statement_and_relays_every_heartbeat_makes_nobody_fresh(
    withholds: bool,
) -> None:
    """Its only other side hears the CA's time each second, and is stale in time all the same."""
    mesh = Simulation(3)
    mesh.partition([])
    victim, liar, source = sorted(mesh.nodes)
    pair = frozenset((victim, source))
    mesh.cut.add(pair)
    mesh._part(victim, source)
    said = mesh.mint.says("revocation", revocation("agent", "a"))
    deliver = mesh._deliver

    def lying(own: str, peer: str, message: object) -> None:
        envelopes = getattr(message, "envelopes", ())
        is_hidden = (own, peer) == (liar, victim) and said.raw in envelopes
        if not (withholds and is_hidden):
            deliver(own, peer, message)  # type: ignore[arg-type]  # as it came

    mesh._deliver = lying  # type: ignore[method-assign, assignment]
    mesh.say(source, said)
    for second in range(1, 30):
        mesh.at(second * SECOND, lambda: mesh.beat(source))
    mesh.run_until(lambda: mesh.now > 30 * SECOND, within=31 * SECOND)
    node = mesh.nodes[victim]
    newest = node.freshness.newest
    assert newest is not None
    assert newest.issued >= NOW + 28 * SECOND
    fresh = mesh.nodes[liar].freshness.confirmed
    assert fresh is not None
    assert (node.freshness.confirmed is None) is withholds
    moment = node.freshness.moment(mesh._wall(node), mesh.now)  # type: ignore[arg-type]
    assert moment.is_fresh(MINUTE) is not withholds
