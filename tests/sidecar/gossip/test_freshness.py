from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import HOUR, MINUTE, SECOND, Boot, Wall
from pki.statement import Heartbeat
from sidecar.defaults import SKEW
from sidecar.gossip.freshness import Beat, Freshness, InForce
from sidecar.snapshot import Moment
from tests.authority import NOW
from tests.statements import Mint

MINT = Mint()
SET = "5" * 64
IN_FORCE = InForce(1, 0, "0" * 64, MINT.ca.bundle.sequence, MINT.ca.bundle.digest)
START = 100 * SECOND
"""Boot time when the tests begin."""


def beat(issued: int = NOW, received: int | None = START) -> Beat:
    statement = MINT.beats(SET, issued)
    assert isinstance(statement.body, Heartbeat)
    return Beat(statement, statement.body, None if received is None else Boot(received))


def complete(*beats: Beat) -> Freshness:
    """A node that was complete at each of these."""
    freshness = Freshness()
    for each in beats:
        assert freshness.observe(each, Wall(each.issued))
        assert freshness.confirm(IN_FORCE, SET)
    return freshness


def moment(freshness: Freshness, wall: int, boot: int) -> Moment:
    return freshness.moment(Wall(wall), Boot(boot))


def test_nothing_is_known_before_the_first_heartbeat() -> None:
    """No freshness, and a floor that ends no restriction."""
    freshness = Freshness()
    assert moment(freshness, NOW, START) == Moment(Wall(NOW), Wall(0), None)
    assert freshness.confirm(IN_FORCE, SET) is False


def test_a_complete_node_is_as_fresh_as_its_heartbeat() -> None:
    """As of the instant at which the CA said so, however much later that is read."""
    freshness = complete(beat())
    for passed in (0, SECOND, HOUR):
        now = Wall(NOW + passed)
        assert moment(freshness, now, START + passed) == Moment(now, now, Wall(NOW))


def test_a_heartbeat_alone_makes_nothing_fresh() -> None:
    """A peer may pass on every heartbeat and withhold one revocation: the set held is then another."""
    freshness = Freshness()
    freshness.observe(beat(), Wall(NOW))
    assert freshness.confirm(IN_FORCE, "6" * 64) is False
    assert moment(freshness, NOW, START).as_of is None


@pytest.mark.parametrize(
    "behind",
    [
        replace(IN_FORCE, epoch=2),
        replace(IN_FORCE, policy_sequence=1),
        replace(IN_FORCE, policy_digest="1" * 64),
        replace(IN_FORCE, bundle_sequence=0),
        replace(IN_FORCE, bundle_digest="1" * 64),
    ],
)
def test_a_node_with_another_policy_or_bundle_in_force_is_not_fresh(behind: InForce) -> None:
    """To hold the newest policy's statement is not to run the policy."""
    freshness = Freshness()
    freshness.observe(beat(), Wall(NOW))
    assert freshness.confirm(behind, SET) is False


def test_a_withheld_statement_ends_in_staleness() -> None:
    """Heartbeats go on and the floor with them; freshness stays where it was complete."""
    freshness = complete(beat())
    for second in range(1, 10):
        freshness.observe(beat(NOW + second * SECOND, START + second * SECOND), Wall(NOW + second * SECOND))
        assert freshness.confirm(IN_FORCE, "withheld") is False
    assert moment(freshness, NOW + 9 * SECOND, START + 9 * SECOND) == Moment(
        Wall(NOW + 9 * SECOND), Wall(NOW + 9 * SECOND), Wall(NOW)
    )


def test_a_heartbeat_not_newer_than_the_newest_changes_nothing() -> None:
    """Replayed or overtaken, it is nothing."""
    freshness = complete(beat(NOW + SECOND))
    newest = freshness.newest
    assert freshness.observe(beat(NOW + SECOND), Wall(NOW + SECOND)) is False
    assert freshness.observe(beat(NOW), Wall(NOW + SECOND)) is False
    assert freshness.newest is newest


def test_what_cannot_change_anything_is_known_before_its_signature_is_checked() -> None:
    """Sixty links bring the same heartbeat each second."""
    freshness = Freshness()
    assert freshness.is_old(beat().statement) is False
    freshness.observe(beat(NOW + SECOND), Wall(NOW + SECOND))
    assert freshness.is_old(beat(NOW + SECOND).statement) is True
    assert freshness.is_old(beat(NOW + 2 * SECOND).statement) is False
    assert freshness.is_old(MINT.policy(1)) is False


def test_a_heartbeat_from_the_future_is_refused() -> None:
    """A stolen statement key could push the floor ahead and end every lock."""
    freshness = Freshness()
    assert freshness.observe(beat(NOW + SKEW + 1), Wall(NOW)) is False
    assert freshness.floor(Boot(START)) == 0
    assert freshness.observe(beat(NOW + SKEW), Wall(NOW)) is True


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 30)), min_size=1, max_size=12))
def test_the_floor_never_goes_back(steps: list[tuple[int, int]]) -> None:
    """Whatever heartbeats come in whatever order and however late, the floor only rises, with the boot clock at least."""
    freshness = Freshness()
    boot, floor = START, 0
    for ahead, passed in steps:
        boot += passed * SECOND
        before = freshness.floor(Boot(boot))
        assert before >= floor + (passed * SECOND if floor else 0)
        freshness.observe(beat(NOW + boot - START + ahead * SECOND, boot), Wall(NOW + boot - START))
        floor = freshness.floor(Boot(boot))
        assert floor >= before


def test_a_heartbeat_that_was_held_up_is_as_old_as_it_is() -> None:
    """Delivered ten seconds late by a peer, it is newer than the newest and still ten seconds old."""
    freshness = complete(beat(), beat(NOW + 5 * SECOND, START + 15 * SECOND))
    assert freshness.floor(Boot(START + 15 * SECOND)) == NOW + 15 * SECOND
    # Even for a wall clock that was set back to hide it.
    assert moment(freshness, NOW + 5 * SECOND, START + 15 * SECOND).as_of == NOW + 5 * SECOND
    assert moment(freshness, NOW + 15 * SECOND, START + 15 * SECOND).as_of == NOW + 5 * SECOND


@pytest.mark.parametrize("jump", [-HOUR, -SKEW - 1, SKEW + 1, HOUR])
def test_a_wall_clock_that_jumps_ends_freshness(jump: int) -> None:
    """Either it or the mesh is wrong, and nobody here knows which; the floor does not move."""
    freshness = complete(beat())
    assert moment(freshness, NOW + jump, START) == Moment(Wall(NOW + jump), Wall(NOW), None)


@pytest.mark.parametrize("skew", [-SKEW, -SECOND, SECOND, SKEW])
def test_a_wall_clock_that_is_a_little_off_is_borne(skew: int) -> None:
    """Clocks of machines differ; age is then the greater of the two that are known."""
    seen = moment(complete(beat()), NOW + skew, START)
    assert seen.as_of == NOW
    assert seen.now == NOW + max(0, skew)


def test_a_jump_back_of_the_wall_clock_makes_nothing_younger() -> None:
    """Five minutes of boot time are five minutes, and the wall clock's minute is not believed."""
    freshness = complete(beat())
    assert moment(freshness, NOW + 4 * MINUTE + SECOND, START + 5 * MINUTE).as_of == NOW


def test_suspend_counts_as_time() -> None:
    """CLOCK_BOOTTIME goes on in sleep: what was fresh before is an hour old after."""
    seen = moment(complete(beat()), NOW + HOUR, START + HOUR)
    assert seen.as_of == NOW
    assert not seen.is_fresh(5 * MINUTE)


def test_after_a_reboot_a_heartbeat_is_as_old_as_the_wall_clock_says() -> None:
    """Nobody knows how long the machine was off, only that the boot took time."""
    restored = Freshness()
    restored.restore(beat(received=None), beat(received=None))
    assert moment(restored, NOW + 30 * SECOND, 20 * SECOND) == Moment(
        Wall(NOW + 30 * SECOND), Wall(NOW + 20 * SECOND), Wall(NOW)
    )


def test_after_a_reboot_with_the_wall_clock_set_back_the_boot_still_counts() -> None:
    """Age is at least the time since boot; off for longer than the skew, nothing is fresh until a heartbeat."""
    restored = Freshness()
    restored.restore(beat(received=None), beat(received=None))
    assert moment(restored, NOW, 40 * SECOND).as_of == NOW
    assert moment(restored, NOW, 40 * SECOND).now == NOW + 40 * SECOND
    assert moment(restored, NOW + HOUR, 40 * SECOND).as_of is None


def test_a_restart_in_the_same_boot_continues() -> None:
    """The kept heartbeats count as if the process had never been away."""
    first = complete(beat())
    first.observe(beat(NOW + SECOND, START + SECOND), Wall(NOW + SECOND))
    again = Freshness()
    assert first.newest is not None
    again.restore(first.newest, first.confirmed)
    at = (NOW + 7 * SECOND, START + 7 * SECOND)
    assert moment(again, *at) == moment(first, *at)
    assert again.observe(beat(NOW + SECOND), Wall(NOW + 7 * SECOND)) is False


def test_a_new_epoch_is_newer_whatever_its_time() -> None:
    """After a tainted key the CA begins anew, and the floor still does not go back."""
    old = beat(NOW + 30 * SECOND)
    new = beat(NOW)
    payload = replace_epoch(new, 2)
    freshness = complete(old)
    assert freshness.observe(payload, Wall(NOW)) is True
    assert freshness.floor(Boot(START)) == NOW + 30 * SECOND


def replace_epoch(one: Beat, epoch: int) -> Beat:
    """The same heartbeat as another epoch's."""
    payload = msgspec.structs.replace(one.statement.payload, epoch=epoch)
    return replace(one, statement=replace(one.statement, payload=payload))


def test_a_beat_of_before_the_boot_keeps_its_unknown_age_when_it_is_observed() -> None:
    """It is not adjusted to a floor that would make it look received."""
    freshness = complete(beat())
    assert freshness.observe(beat(NOW + SECOND, None), Wall(NOW)) is True
    assert freshness.newest is not None
    assert freshness.newest.received is None
