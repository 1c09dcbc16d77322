from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.clock import SECOND, Wall
from sidecar.audit import record
from sidecar.audit.folding import CAUSES, LIMIT, WINDOW, FoldedRefusals
from sidecar.audit.record import Caller, Kind, Record, Role, Ruling, Subject
from sidecar.reasons import Reason


def refusal(
    number: int, *, service: str = "wiki", reason: Reason = Reason.NO_GRANT, uid: int = 1000
) -> Record:
    """Refusals of one cause differ in stream and time only."""
    subject = Subject(stream=f"stream-{number}", role=Role.AGENT, agent="researcher", service=service)
    return record.denied(Wall(number), subject, Ruling(verdict="deny", reason=reason), Caller("uid", uid))


def counts(records: list[Record]) -> list[object]:
    return [one.fields.get("count", 1) for one in records]


def test_ten_a_second_pass_and_one_record_stands_for_the_rest() -> None:
    """When the window closes, the last of them is written with their number and the first one's time."""
    folded = FoldedRefusals()
    passed = [one for n in range(25) for one in folded.admit(refusal(n), now=0)]
    assert passed == [refusal(n) for n in range(LIMIT)]
    assert folded.due(WINDOW - 1) == []
    [last] = folded.due(WINDOW)
    assert last.fields == {**refusal(24).fields, "count": 15, "since": 10}
    assert folded.due(WINDOW) == []


def test_a_window_that_folded_nothing_leaves_nothing() -> None:
    """Ten refusals a second are ten records."""
    folded = FoldedRefusals()
    for n in range(LIMIT):
        folded.admit(refusal(n), now=0)
    assert folded.due(WINDOW) == []
    assert folded.next_deadline() is None


def test_the_next_window_begins_with_the_next_refusal() -> None:
    """A refusal after the window passes, behind the record of those that were folded in it."""
    folded = FoldedRefusals()
    for n in range(LIMIT + 2):
        folded.admit(refusal(n), now=0)
    assert counts(folded.admit(refusal(99), now=WINDOW)) == [2, 1]
    assert folded.next_deadline() == 2 * WINDOW


@pytest.mark.parametrize(
    "other",
    [
        lambda n: refusal(n, service="vault"),
        lambda n: refusal(n, reason=Reason.LOCKED),
        lambda n: refusal(n, uid=1001),
        lambda n: record.shed(Wall(n), Subject(stream="s", role=Role.AGENT), Reason.NO_GRANT),
        lambda n: Record(Kind.DENIED, Wall(n), {**refusal(n).fields, "session": "another"}),
        lambda n: Record(Kind.DENIED, Wall(n), {**refusal(n).fields, "rule": "another"}),
        lambda n: Record(
            Kind.DENIED, Wall(n), {**refusal(n).fields, "operation": {"method": "GET", "name": "/b"}}
        ),
    ],
    ids=["service", "reason", "uid", "kind", "session", "rule", "operation"],
)
def test_refusals_of_other_causes_do_not_share_the_limit(other: Callable[[int], Record]) -> None:
    """One agent's flood hides nobody else's refusal."""
    folded = FoldedRefusals()
    for n in range(100):
        folded.admit(refusal(n), now=0)
    assert folded.admit(other(5), now=1) == [other(5)]


def test_the_first_window_to_close_is_the_deadline() -> None:
    """The writer wakes for it."""
    folded = FoldedRefusals()
    assert folded.next_deadline() is None
    folded.admit(refusal(0, service="a"), now=5)
    folded.admit(refusal(0, service="b"), now=9)
    assert folded.next_deadline() == 5 + WINDOW
    folded.due(5 + WINDOW)
    assert folded.next_deadline() == 9 + WINDOW


def test_made_up_services_do_not_grow_memory_or_log() -> None:
    """An agent that varies what it asks for ends in one cause per reason."""
    folded = FoldedRefusals()
    passed = [one for n in range(3 * CAUSES) for one in folded.admit(refusal(n, service=f"s{n}"), now=0)]
    assert len(passed) == CAUSES + LIMIT
    assert folded.admit(refusal(1, service="s0"), now=0) == [refusal(1, service="s0")]
    assert counts(folded.due(WINDOW)) == [2 * CAUSES - LIMIT]


@given(st.lists(st.tuples(st.integers(0, SECOND // 2), st.sampled_from("abc"))))
def test_no_refusal_is_ever_left_uncounted(steps: list[tuple[int, str]]) -> None:
    """Whatever comes when, the records written stand for as many refusals as there were."""
    folded, now, written = FoldedRefusals(), 0, []
    for number, (pause, service) in enumerate(steps):
        now += pause
        written += folded.due(now)
        written += folded.admit(refusal(number, service=service), now)
    written += folded.flush()
    assert sum(count for count in counts(written) if isinstance(count, int)) == len(steps)
    assert folded.flush() == []
