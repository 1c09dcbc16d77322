import pytest

from sidecar.gossip.rate import BURST, PER_SECOND, REFUSED, Rate
from sidecar.wire import Statements, Summary

ONE = Statements(envelopes=[b"x"])
MANY = Statements(envelopes=[b"x"] * 4_096)


def test_a_burst_passes_and_then_the_rate_counts() -> None:
    """A joiner gets thousands at once; who goes on like that is read at so many in a second."""
    rate = Rate(0.0)
    waits = [rate.spend(MANY, 0, 0.0) for _ in range(6)]
    assert waits[:4] == [0.0] * 4
    assert waits[4:] == pytest.approx([4_096 / PER_SECOND, 2 * 4_096 / PER_SECOND])


def test_who_waits_is_let_go_on() -> None:
    """After exactly the time that it was told, and a quiet peer saves up no more than a burst."""
    rate = Rate(0.0)
    wait = [rate.spend(MANY, 0, 0.0) for _ in range(5)][-1]
    assert rate.spend(ONE, 0, wait) == pytest.approx(1 / PER_SECOND)
    idle = Rate(0.0)
    idle.spend(ONE, 0, 3_600.0)
    assert [idle.spend(MANY, 0, 3_600.0) > 0 for _ in range(4)] == [False, False, False, True]


def test_a_forgery_counts_as_much_as_it_costs() -> None:
    """Each takes two signature checks, where what is held already takes a look-up."""
    rate = Rate(0.0)
    assert rate.spend(ONE, 1, 0.0) == 0
    forged = BURST // (1 + REFUSED)
    waits = [rate.spend(ONE, 1, 0.0) for _ in range(forged)]
    assert waits[-1] > 0


def test_other_messages_count_as_one() -> None:
    """They are cheap, and limited by their own rules."""
    rate = Rate(0.0)
    assert [rate.spend(Summary(digest="0" * 64), 0, 0.0) for _ in range(BURST)][-1] == 0
    assert rate.spend(Summary(digest="0" * 64), 0, 0.0) > 0
