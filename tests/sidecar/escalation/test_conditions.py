from datetime import UTC, datetime

import pytest

from pki.clock import SECOND, Wall
from sidecar.escalation.ask import ask_of
from sidecar.escalation.conditions import day_of, fault_of, is_derived, untimely
from sidecar.policy.model import Hours, When
from tests.asking import asks, session
from tests.sidecar.escalation.world import PLAIN, rule
from tests.statements import Mint

BERLIN = Hours(days=frozenset(range(5)), start=8 * 60, end=18 * 60, timezone="Europe/Berlin")


def at(*when: int) -> Wall:
    return Wall(int(datetime(*when, tzinfo=UTC).timestamp()) * SECOND)  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("when", "inside"),
    [
        (at(2026, 12, 1, 7, 0), True),  # Tuesday 08:00 in Berlin
        (at(2026, 12, 1, 6, 59), False),
        (at(2026, 12, 1, 16, 59), True),
        (at(2026, 12, 1, 17, 0), False),
        (at(2026, 12, 5, 12, 0), False),  # Saturday
        (at(2026, 7, 1, 6, 0), True),  # summer: 08:00
    ],
)
def test_hours_are_those_of_their_place(when: Wall, inside: bool) -> None:
    """Daylight saving too; the end is no part of them."""
    assert (untimely(rule(when=When(BERLIN, None, require_reason=False)), when) == "") is inside


def test_a_zone_that_this_machine_does_not_know_is_no_time() -> None:
    """It must not guess."""
    nowhere = Hours(frozenset(range(7)), 0, 24 * 60, "Mars/Olympus")
    assert "unknown on this machine" in untimely(
        rule(when=When(nowhere, None, require_reason=False)), at(2026, 1, 1)
    )
    assert untimely(rule(), at(2026, 1, 1)) == ""


def test_a_day_is_from_midnight_to_midnight_there() -> None:
    """UTC where the rule names no place; 23 hours when the clocks go forward."""
    assert day_of(PLAIN, at(2026, 12, 1, 12, 0)) == (at(2026, 12, 1), at(2026, 12, 2))
    there = When(BERLIN, 1, require_reason=False)
    assert day_of(there, at(2026, 12, 1, 12, 0)) == (at(2026, 11, 30, 23), at(2026, 12, 1, 23))
    assert day_of(there, at(2026, 3, 29, 12, 0)) == (at(2026, 3, 28, 23), at(2026, 3, 29, 22))


@pytest.mark.parametrize(
    ("approvals", "most", "uses", "derived"),
    [(1, None, 0, True), (0, None, 0, False), (1, 5, 0, False), (1, None, 2, False)],
)
def test_nodes_derive_what_nobody_has_to_count(
    approvals: int, most: int | None, uses: int, derived: bool
) -> None:
    """Approvals alone; anything else takes the CA."""
    ask = ask_of(asks(session(Mint()), uses=uses, tool_node="tools-1" if uses else ""))
    assert is_derived(rule(approvals, When(None, most, require_reason=False)), ask) is derived


def test_a_rule_may_want_a_reason() -> None:
    """White space is none."""
    wanting = rule(when=When(None, None, require_reason=True))
    assert fault_of(ask_of(asks(session(Mint()))), wanting) == ""
    assert "wants a reason" in fault_of(ask_of(asks(session(Mint()), reason=" ")), wanting)
