from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pki.clock import HOUR, MINUTE, SECOND, Boot, Wall
from pki.errors import LocalError
from sidecar.ca.steady import SETTLE, Steadiness
from sidecar.defaults import SKEW
from tests.authority import NOW
from tests.sidecar.ca.world import Bureau
from tests.statements import lock

BEHIND = rf"{HOUR // SECOND} s behind"
AHEAD = rf"jumped {HOUR // SECOND} s ahead"


@pytest.fixture
def bureau(tmp_path: Path) -> Iterator[Bureau]:
    bureau = Bureau(tmp_path)
    with capture_logs():
        yield bureau
    bureau.register.close()


def fault(steadiness: Steadiness, ahead: int, boot: int = 0) -> str:
    return steadiness.fault(Wall(NOW + ahead), Wall(NOW), Boot(boot))


@pytest.mark.parametrize("ahead", [-SKEW, 0, SKEW])
def test_within_the_skew_all_is_well(ahead: int) -> None:
    """Clocks are never quite the same."""
    assert fault(Steadiness(), ahead) == ""


def test_a_clock_ahead_is_believed_once_it_has_stayed_there() -> None:
    """A machine that was paused finds itself there, and nobody comes to tell it so."""
    steadiness = Steadiness()
    assert "ahead" in fault(steadiness, SKEW + 1)
    assert "ahead" in fault(steadiness, SKEW + 1, SETTLE - 1)
    assert fault(steadiness, SKEW + 1, SETTLE) == ""


def test_a_clock_that_came_back_begins_anew() -> None:
    """Being wrong twice for a minute is not being right."""
    steadiness = Steadiness()
    for boot in (0, SETTLE - 1):
        assert "ahead" in fault(steadiness, HOUR, boot)
        assert fault(steadiness, 0, boot) == ""
    assert "ahead" in fault(steadiness, HOUR, SETTLE)


@given(boots=st.lists(st.integers(0, 10 * HOUR)), behind=st.integers(SKEW + 1, 10 * HOUR))
def test_a_clock_behind_is_never_believed(boots: list[int], behind: int) -> None:
    """What expired since would be good again."""
    steadiness = Steadiness()
    assert all("behind" in fault(steadiness, -behind, boot) for boot in sorted(boots))


async def test_a_new_ca_believes_its_clock(bureau: Bureau) -> None:
    """There is nothing yet to hold it against."""
    assert bureau.office.clock.wall() == bureau.clock.wall()


@pytest.mark.parametrize(("jump", "why"), [(HOUR, AHEAD), (-HOUR, BEHIND)], ids=["ahead", "behind"])
async def test_in_doubt_the_ca_signs_nothing_and_recovers_with_its_clock(
    bureau: Bureau, jump: int, why: str
) -> None:
    """No heartbeat, which makes every node stale, and no certificate; afterwards the next beat follows the last."""
    office = bureau.office
    await office.beat_once()
    bureau.clock.wall_time += jump
    bureau.clock.pass_time(SECOND)
    await office.beat_once()
    assert office.member.freshness.newest is not None
    assert office.member.freshness.newest.issued == NOW
    with pytest.raises(LocalError, match=why):
        office.clock.wall()
    bureau.clock.wall_time -= jump
    await office.beat_once()
    assert office.member.freshness.newest.issued == office.clock.wall() == NOW + SECOND


async def test_a_stop_waits_for_no_clock(bureau: Bureau) -> None:
    """Root on the CA's host locks by the floor, which the nodes' time agrees with."""
    await bureau.office.beat_once()
    bureau.clock.wall_time += HOUR
    body = lock("agent", "a")
    assert (await bureau.office.order(body, MINUTE)).payload.issued == NOW
    assert bureau.locks() != []


async def test_after_a_reboot_a_clock_ahead_is_believed_and_one_behind_is_not(bureau: Bureau) -> None:
    """Nobody knows how long the machine was off, but it was not off for less than no time."""
    await bureau.office.beat_once()
    await bureau.office.member.keep_time("the boot before")
    bureau.clock.boot_time = 0
    bureau.clock.wall_time += 24 * HOUR
    again = await bureau.restarted()
    assert again.office.clock.wall() == bureau.clock.wall()
    bureau.clock.wall_time -= 25 * HOUR
    with pytest.raises(LocalError, match="behind"):
        again.office.clock.wall()
    again.register.close()
