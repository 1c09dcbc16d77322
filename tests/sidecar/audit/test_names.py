import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import SECOND, Wall
from sidecar.audit.names import begun, name_of, order_of, ordinal_of


@given(st.integers(0, 2**40), st.integers(0, 4_000_000_000))
def test_a_name_says_what_it_was_made_of(ordinal: int, at: int) -> None:
    """To the second."""
    name = name_of(ordinal, Wall(at * SECOND))
    assert (ordinal_of(name), begun(name)) == (ordinal, at * SECOND)


def test_the_ordinal_orders_whatever_the_clock_did() -> None:
    """Strangers come last."""
    first, second = name_of(9, Wall(5 * SECOND)), name_of(10, Wall(0))
    assert sorted(["notes.jsonl", second, first], key=order_of) == [first, second, "notes.jsonl"]


@pytest.mark.parametrize("name", ["notes.jsonl", "20261301T000000Z-00000000.jsonl", "", "x-00000000.jsonl"])
def test_other_names_say_nothing(name: str) -> None:
    """A month of 13 is no time either."""
    assert begun(name) is None
    assert ordinal_of(f"{name_of(7, Wall(0))}.torn") == 7
