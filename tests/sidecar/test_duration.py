import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import DAY, HOUR, MINUTE, SECOND
from pki.errors import LocalError
from sidecar.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("0s", 0),
        ("200ms", SECOND // 5),
        ("30s", 30 * SECOND),
        ("5m", 5 * MINUTE),
        ("1h", HOUR),
        ("2d", 2 * DAY),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, duration: int) -> None:
    """Durations are integer microseconds inside and one number with one unit outside."""
    assert parse_duration(text) == duration
    assert format_duration(duration) == text


@pytest.mark.parametrize(
    "text", ["", "s", "5", "5 s", "-5s", "+5s", "1.5h", "1h30m", "5S", "5s\n", "٣s", "9999999999s", "5w"]
)
def test_anything_else_is_no_duration(text: str) -> None:
    """A duration that could be read in two ways is refused."""
    with pytest.raises(LocalError, match="not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(("duration", "text"), [(24 * HOUR, "1d"), (90 * SECOND, "90s"), (1_500, "1ms")])
def test_a_duration_prints_in_its_largest_whole_unit(duration: int, text: str) -> None:
    """90 seconds stay 90s; what is below a millisecond is dropped."""
    assert format_duration(duration) == text


@given(st.integers(0, 10**8))
def test_whole_milliseconds_survive_printing_and_reading(milliseconds: int) -> None:
    """Reading what was printed gives the same duration."""
    duration = milliseconds * SECOND // 1000
    assert parse_duration(format_duration(duration)) == duration
