import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import HOUR, MINUTE, SECOND, Boot, Wall
from sidecar.reasons import Reason
from sidecar.session.ends import LEAD, Age, Limits, Why, due

BEGAN, USED = Wall(10 * HOUR), Boot(5 * HOUR)
AGE = Age(BEGAN, USED)


@pytest.mark.parametrize(
    ("limits", "old", "unused", "why"),
    [
        (Limits(), 1000 * HOUR, 1000 * HOUR, None),
        (Limits(lifetime=HOUR), HOUR - LEAD - 1, 0, None),
        (Limits(lifetime=HOUR), HOUR - LEAD, 0, Why.LIFETIME),
        (Limits(lifetime=SECOND), SECOND // 2 - 1, 0, None),
        (Limits(lifetime=SECOND), SECOND // 2, 0, Why.LIFETIME),
        (Limits(idle=MINUTE), 1000 * HOUR, MINUTE - 1, None),
        (Limits(idle=MINUTE), 0, MINUTE, Why.IDLE),
        (Limits(lifetime=HOUR, idle=MINUTE), HOUR, MINUTE, Why.LIFETIME),
    ],
)
def test_a_session_ends_at_its_limits_and_not_before(
    limits: Limits, old: int, unused: int, why: Why | None
) -> None:
    """A moment before its last certificate, so that its streams are cut as `lifetime` and not as `expired`."""
    assert due(AGE, limits, Wall(BEGAN + old), Boot(USED + unused)) == why


@given(st.integers(1, 2**50), st.integers(0, 2**50))
def test_a_session_that_is_over_its_life_stays_so(lifetime: int, more: int) -> None:
    """Time alone brings nothing back."""
    now = Wall(BEGAN + lifetime + more)
    assert due(AGE, Limits(lifetime=lifetime), now, USED) is Why.LIFETIME


def test_streams_are_cut_for_what_ended_their_session() -> None:
    """Its limits have reasons of their own; any other end is a revocation."""
    assert {why: why.reason for why in Why if why.reason} == {
        Why.LIFETIME: Reason.LIFETIME,
        Why.IDLE: Reason.IDLE,
    }
