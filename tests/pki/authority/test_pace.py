"""Who is turned away is told how long the line before them takes, as it has moved so far."""

import pytest

from pki.authority.pace import FIRST_GUESS, LONGEST, REMEMBERED, Pace
from pki.clock import SECOND


def paced(each: float, count: int = 10) -> Pace:
    pace = Pace()
    for number in range(count):
        pace.done(int(number * each * SECOND))
    return pace


def test_before_there_is_a_pace_it_is_a_guess() -> None:
    """One that is done says nothing about the next."""
    assert Pace().seconds(70) == FIRST_GUESS
    assert paced(1, 1).seconds(70) == FIRST_GUESS


@pytest.mark.parametrize(
    ("each", "waiting", "told"),
    [(0.02, 64, 2), (0.1, 64, 7), (1, 64, LONGEST), (0.5, 10, 6), (0.001, 0, 1), (0, 64, 1)],
)
def test_the_wait_is_the_line_by_its_pace(each: float, waiting: int, told: int) -> None:
    """At 50 a second 64 take less than 2 s; never less than one second, never more than a minute."""
    assert paced(each).seconds(waiting) == told


def test_only_what_was_done_lately_counts() -> None:
    """A slow morning is forgotten by noon."""
    pace = paced(10, REMEMBERED)
    for number in range(REMEMBERED):
        pace.done(int((1_000 + number * 0.02) * SECOND))
    assert pace.seconds(64) == 2
