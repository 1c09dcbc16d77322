import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pki.clock import MINUTE, Wall
from sidecar.escalation.ask import ask_of
from sidecar.escalation.machine import (
    FINAL,
    IN_FORCE,
    OPEN,
    TRANSITIONS,
    Approved,
    End,
    Escalation,
    Event,
    Grant,
    IllegalEventError,
    Leased,
    Refused,
    State,
    Stopped,
    Ticked,
    Used,
    Voided,
)
from tests.asking import TTL, WAIT, asks, session
from tests.authority import NOW
from tests.statements import Mint

ASK = ask_of(asks(session(Mint())))
LIMITED = ask_of(asks(session(Mint()), uses=2, tool_node="tools-1"))
DOCUMENT = (Path(__file__).parents[3] / "docs" / "escalation.md").read_text()

EVENTS: dict[str, Event] = {
    "Approved": Approved("alice"),
    "Voided": Voided("alice"),
    "Refused": Refused("bob", "no"),
    "Leased": Leased(Wall(NOW + TTL), ("alice",)),
    "Used": Used(1),
    "Stopped": Stopped("the policy changed"),
    "Ticked": Ticked(),
}


def at(step: int) -> Wall:
    return Wall(NOW + step * MINUTE)


def escalation(needed: int = 1, *, derives: bool = True) -> Escalation:
    return Escalation(ASK, needed, derives)


def brought_to(state: State) -> Escalation:
    """One that is in ``state`` at minute 1, by what leads there."""
    ways: dict[State, list[Event]] = {
        State.REQUESTED: [],
        State.APPROVED: [Approved("zoe")],
        State.GRANTED: [Leased(Wall(NOW + TTL), ("alice", "zoe"))],
        State.USED_UP: [Leased(Wall(NOW + TTL), ("alice", "zoe")), Used(2)],
        State.REFUSED: [Refused("bob")],
        State.ENDED: [Stopped("over")],
    }
    found = Escalation(LIMITED, 2, derives=False)
    if state is State.EXPIRED:
        found.handle(Ticked(), Wall(LIMITED.decide_by))
    for event in ways.get(state, []):
        found.handle(event, at(1))
    assert found.state is state
    return found


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_each_event_in_each_state_leads_where_the_table_says(state: State, event: str) -> None:
    """And one that the table does not have raises and changes nothing."""
    found = brought_to(state)
    before = (found.state, dict(found.approvals), found.until, found.why, found.used)
    allowed = TRANSITIONS[state].get(event)
    if allowed is None:
        if state in FINAL:
            assert found.handle(EVENTS[event], at(2)) == []
        else:
            with pytest.raises(IllegalEventError, match=event):
                found.handle(EVENTS[event], at(2))
        assert (found.state, dict(found.approvals), found.until, found.why, found.used) == before
    else:
        effects = found.handle(EVENTS[event], at(2))
        assert found.state in allowed
        assert (effects != []) == (found.state is not state and found.state not in (*OPEN, State.USED_UP))


def test_the_table_in_the_document_is_that_of_the_code() -> None:
    """Whoever reads the page reads what runs."""
    rows = re.findall(r"^\| ([a-z-]+) \| ([A-Z][a-z]+) \| ([a-z, -]+) \|$", DOCUMENT, re.MULTILINE)
    documented = {(state, event, frozenset(to.split(", "))) for state, event, to in rows}
    assert documented == {
        (state.value, event, frozenset(one.value for one in to))
        for state, row in TRANSITIONS.items()
        for event, to in row.items()
    }


def test_the_last_approval_that_is_needed_grants_for_the_time_that_was_asked() -> None:
    """From that moment on; one more changes nothing."""
    found = escalation(needed=2)
    assert found.handle(Approved("alice"), at(1)) == []
    assert found.state is State.APPROVED
    assert found.handle(Approved("bob"), at(3)) == [Grant(Wall(at(3) + TTL))]
    assert found.handle(Approved("carol"), at(4)) == []
    assert (found.state, found.until) == (State.GRANTED, at(3) + TTL)


def test_twice_the_same_operator_is_once() -> None:
    """However often: it takes two people."""
    found = escalation(needed=2)
    for minute in (1, 2, 3):
        assert found.handle(Approved("alice"), at(minute)) == []
    assert found.state is State.APPROVED


def test_two_approvals_at_once_grant_once() -> None:
    """In whatever order; the second finds it granted, or both were needed."""
    for needed in (1, 2):
        for pair in (("alice", "bob"), ("bob", "alice")):
            found = escalation(needed)
            effects = [one for name in pair for one in found.handle(Approved(name), at(1))]
            assert effects == [Grant(Wall(at(1) + TTL))]


def test_an_approval_after_expiry_is_late() -> None:
    """In the very microsecond in which it expires, too; and one before is in time."""
    for late, state in ((0, State.EXPIRED), (1, State.EXPIRED), (-1, State.GRANTED)):
        found = escalation()
        found.handle(Approved("alice"), Wall(ASK.decide_by + late))
        assert found.state is state


def test_a_refusal_is_final() -> None:
    """Before or after the approval, and after the lease began, which it then ends."""
    early, late = escalation(), escalation()
    assert early.handle(Refused("bob", "no"), at(1)) == [End("refused by bob: no")]
    assert early.handle(Approved("alice"), at(2)) == []
    late.handle(Approved("alice"), at(1))
    assert late.handle(Refused("bob"), at(2)) == [End("refused by bob")]
    assert (early.state, late.state) == (State.REFUSED, State.REFUSED)
    assert (early.cut_short, late.cut_short) == (False, True)


def test_an_approval_of_who_is_revoked_is_none() -> None:
    """A waiting request waits on; a lease that rests on too few others has ended."""
    waiting, granted, spare = escalation(2), escalation(1), escalation(1)
    waiting.handle(Approved("alice"), at(1))
    granted.handle(Approved("alice"), at(1))
    spare.handle(Leased(Wall(NOW + TTL), ("alice", "bob")), at(1))
    for found in (waiting, granted, spare):
        found.handle(Voided("alice"), at(2))
        found.handle(Voided("mallory"), at(2))
    assert (waiting.state, granted.state, spare.state) == (State.REQUESTED, State.ENDED, State.GRANTED)
    assert granted.cut_short


def test_a_lease_ends_with_its_time_and_is_not_cut_short() -> None:
    """``next_deadline`` says when to look: at the end of waiting, then at the end of the lease, then never."""
    found = escalation()
    assert found.next_deadline == NOW + WAIT
    found.handle(Approved("alice"), at(1))
    end = Wall(at(1) + TTL)
    assert found.next_deadline == end
    assert found.handle(Ticked(), Wall(end - 1)) == []
    assert found.handle(Ticked(), end) == [End("its time is over")]
    assert (found.state, found.cut_short) == (State.ENDED, False)
    assert found.next_deadline is None


def test_without_the_ca_nothing_that_it_counts_is_granted() -> None:
    """All the approvals there are do not make a lease where it alone may."""
    found = escalation(1, derives=False)
    assert found.handle(Approved("alice"), at(1)) == []
    assert found.state is State.APPROVED
    assert found.handle(Leased(Wall(NOW + TTL), ("alice",)), at(2)) == [Grant(Wall(NOW + TTL))]


def test_so_many_uses_and_no_more() -> None:
    """What runs on the last one goes on: used up is not ended."""
    found = Escalation(LIMITED, 1, derives=False)
    found.handle(Leased(Wall(NOW + TTL), ("alice",)), at(1))
    found.handle(Used(1), at(2))
    assert found.state is State.GRANTED
    assert found.handle(Used(2), at(3)) == []
    assert (found.state, found.cut_short) == (State.USED_UP, False)


class AnyStory(RuleBasedStateMachine):
    """Events of any kind in any order, with time that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Escalation(LIMITED, 2, derives=True)
        self.now = Wall(NOW)
        self.refused = self.over = False
        self.names: set[str] = set()

    @rule(
        event=st.sampled_from([*EVENTS.values(), Approved("bob"), Voided("bob"), Used(2)]),
        minutes=st.integers(0, 4),
    )
    def happens(self, event: Event, minutes: int) -> None:
        self.now = Wall(self.now + minutes * MINUTE)
        before = self.found.state
        try:
            effects = self.found.handle(event, self.now)
        except IllegalEventError:
            assert self.found.state is before
            return
        if before in FINAL:
            assert (effects, self.found.state) == ([], before)
        assert sum(isinstance(one, Grant) for one in effects) <= (before in OPEN)

    @invariant()
    def nothing_outlives_its_end(self) -> None:
        found = self.found
        if found.state in IN_FORCE:
            assert found.until is not None
            assert len(found.approvals) >= 1
        deadline = found.next_deadline
        assert (deadline is None) == (found.state in FINAL)
        found.handle(Ticked(), self.now)
        assert found.next_deadline is None or found.next_deadline > self.now


TestAnyStory = AnyStory.TestCase


@given(st.permutations(["alice", "bob", "carol"]), st.integers(1, 3))
def test_the_order_of_approvals_at_one_time_does_not_matter(names: list[str], needed: int) -> None:
    """State and end are the same."""
    found = escalation(needed)
    for name in names:
        found.handle(Approved(name), at(1))
    assert (found.state, found.until) == (State.GRANTED, at(1) + TTL)
