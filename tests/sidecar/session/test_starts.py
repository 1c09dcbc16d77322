import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import SECOND, Boot
from sidecar.session import starts
from sidecar.session.starts import BURST, MAX_LIVE, REFILL, Starts

START = Boot(1_000 * SECOND)


def test_a_user_starts_a_burst_and_then_one_at_a_time() -> None:
    """The refusal says when the next may be."""
    limits = Starts()
    for _ in range(BURST):
        assert limits.begin(1001, 0, START) == ""
        limits.finish(1001)
    assert "try again in 1 s" in limits.begin(1001, 0, START)
    assert limits.begin(1002, 0, START) == ""
    assert limits.begin(1001, 0, Boot(START + REFILL - 1))
    assert limits.begin(1001, 0, Boot(START + REFILL)) == ""
    assert limits.begin(1001, 0, Boot(START + REFILL))


def test_a_user_has_so_many_sessions_and_no_more() -> None:
    """Starts that are under way count: a hundred at once would each see room for one."""
    limits = Starts()
    assert "end some" in limits.begin(1001, MAX_LIVE, START)
    assert limits.begin(1001, MAX_LIVE - 1, START) == ""
    assert "end some" in limits.begin(1001, MAX_LIVE - 1, START)
    limits.finish(1001)
    assert limits.begin(1001, MAX_LIVE - 1, START) == ""


@given(st.lists(st.integers(0, 10 * SECOND), max_size=300))
def test_in_any_while_no_more_start_than_the_burst_and_what_time_adds(pauses: list[int]) -> None:
    """However the attempts are spread."""
    limits, now, started = Starts(), START, 0
    for pause in pauses:
        now = Boot(now + pause)
        if not limits.begin(1001, 0, now):
            started += 1
            limits.finish(1001)
    assert started <= BURST + (now - START) // REFILL + 1


def test_users_who_started_nothing_lately_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of uids may come by."""
    monkeypatch.setattr(starts, "BURST", 2)
    limits = Starts()
    for uid in range(100):
        assert limits.begin(uid, 0, START) == ""
        limits.finish(uid)
    assert limits.begin(7, 0, Boot(START + 10 * SECOND)) == ""
    assert len(limits._buckets) == 1
    assert not limits._pending.keys() - {7}
