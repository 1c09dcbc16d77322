from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.held import MAX_VALUES, PARSED, VALUE_BYTES, Budget


def test_what_has_no_room_changes_nothing() -> None:
    """And what is given back is room again; more than once is nothing."""
    budget = Budget(PARSED * 100 + VALUE_BYTES * 50)
    first, second = budget.share(), budget.share()
    assert first.hold(100)
    assert not second.hold(1)
    assert first.hold(40)
    assert second.hold(60)
    taken = budget.taken
    assert not second.hold(61)
    assert budget.taken == taken
    for one in (first, first, second):
        one.release()
    assert budget.taken == 0


def test_a_long_text_costs_no_more_values_than_a_document_may_have() -> None:
    """Beyond that only its characters count."""
    budget = Budget(10**12)
    budget.share().hold(10**8)
    assert budget.taken == PARSED * 10**8 + VALUE_BYTES * MAX_VALUES


def test_holding_less_always_has_room() -> None:
    """Also when the limit was lowered meanwhile."""
    budget = Budget()
    held = budget.share()
    held.hold(100)
    budget.most = 1
    assert held.hold(99)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10_000))))
def test_the_sum_is_that_of_the_shares(steps: list[tuple[int, int]]) -> None:
    """Never over the limit, and nothing is left at the end."""
    budget = Budget(5_000_000)
    shares = [budget.share() for _ in range(4)]
    for which, size in steps:
        shares[which].hold(size)
        assert 0 <= budget.taken <= budget.most
    for share in shares:
        share.release()
    assert budget.taken == 0
