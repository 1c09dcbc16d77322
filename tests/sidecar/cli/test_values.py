import click
import pytest

from pki.clock import MINUTE
from sidecar.address import Address
from sidecar.cli.values import ADDRESS, DURATION, ID, NAME, TRUST_DOMAIN, Parsed, clock_time, printable


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (DURATION, "5m", 5 * MINUTE),
        (ADDRESS, "[::1]:80", Address("::1", 80)),
        (NAME, "tools-1", "tools-1"),
        (TRUST_DOMAIN, "mesh.example.org", "mesh.example.org"),
        (ID, "a" * 26, "a" * 26),
    ],
)
def test_a_value_is_parsed_once(kind: Parsed, text: str, value: object) -> None:
    """What is a value already stays one: click converts defaults too."""
    assert kind.convert(text, None, None) == value
    assert kind.convert(value, None, None) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (DURATION, "5"),
        (DURATION, ""),
        (ADDRESS, "80"),
        (ADDRESS, "a:0"),
        (NAME, "Tools"),
        (NAME, 'x"\ndev = true'),
        (TRUST_DOMAIN, "mesh/example"),
        (ID, "a" * 25),
        (ID, "A" * 26),
        (ID, "../../../../../../../../../"),
    ],
)
def test_what_is_no_such_value_is_a_misuse(kind: Parsed, text: str) -> None:
    """The words say what it should have been."""
    with pytest.raises(click.BadParameter, match="is not"):
        kind.convert(text, None, None)


def test_times_are_written_in_utc() -> None:
    """Whoever compares two nodes compares one clock."""
    assert clock_time(1_900_000_000_000_000) == "2030-03-17 17:46:40 UTC"
    assert clock_time(None) == "never"


def test_somebody_elses_text_moves_no_cursor() -> None:
    """A lock's message must not be able to rewrite the screen that shows it."""
    assert printable("stop\x1b[2J\r\nall is well") == "stop [2J  all is well"
