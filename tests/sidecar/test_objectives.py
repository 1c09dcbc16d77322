import pytest

from pki.clock import MINUTE, SECOND, Boot
from sidecar.objectives import DAY, FAST, Objectives
from sidecar.policy.model import Objective

SLO = Objective(p99=20_000, objective=99.0)
START = Boot(10**12)


def at(minutes: float) -> Boot:
    return Boot(START + round(minutes * MINUTE))


def noted(*latencies: int | None, minutes: float = 0, into: Objectives | None = None) -> Objectives:
    found = into or Objectives()
    for latency in latencies:
        found.note("retrieval", SLO, latency, at(minutes))
    return found


def test_what_is_within_the_time_keeps_to_it() -> None:
    """The limit is no part of what misses it; what could not be served at all is."""
    report = noted(0, 20_000, 20_001, None).report("retrieval", SLO, at(0))
    assert (report.total, report.missed) == (4, 2)


def test_nothing_measured_leaves_the_whole_budget() -> None:
    """Of a segment that nobody uses, or of another than was used."""
    for found in (Objectives(), noted(None)):
        report = found.report("action", SLO, at(0))
        assert (report.total, report.budget, report.burn, report.fast) == (0, 1.0, 0.0, False)


def test_the_budget_is_what_may_miss_in_a_day() -> None:
    """One of a hundred is all of it, two are twice that; after a day it is forgotten."""
    found = noted(*[0] * 99, None)
    assert found.report("retrieval", SLO, at(0)).budget == pytest.approx(0)
    assert noted(*[0] * 98, None, None).report("retrieval", SLO, at(0)).budget == pytest.approx(-1)
    assert found.report("retrieval", SLO, at(DAY - 1)).total == 100
    assert found.report("retrieval", SLO, at(DAY)).total == 0


@pytest.mark.parametrize(
    ("old", "new", "fast"),
    [
        ((None,) * 20, (0,) * 10, False),
        ((0,) * 2000, (None,) * 10, False),
        ((None,) * 20, (None,) * 10, True),
        ((0,) * 40, (0,) * 10, False),
    ],
    ids=["it-is-over", "it-only-began", "it-goes-on", "all-is-well"],
)
def test_a_burn_is_fast_when_it_began_a_while_ago_and_goes_on(
    old: tuple[int | None, ...], new: tuple[int | None, ...], fast: bool
) -> None:
    """Both windows say so: else every hiccup would wake somebody, or nothing would until the day is lost."""
    found = noted(*new, minutes=30, into=noted(*old))
    report = found.report("retrieval", SLO, Boot(at(30) + SECOND))
    assert report.fast is fast
    assert (report.burn >= FAST) is (None in old or fast)
