"""The phases of a rollover, as a table, and who stands in the way of each step."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.authority.rollover import (
    TRANSITIONS,
    USUAL,
    Ack,
    Broken,
    Holder,
    Phase,
    Situation,
    Step,
    after,
    broken,
)
from pki.clock import Wall
from pki.errors import LocalError

END = Wall(1_000)
OLD, NEW = frozenset({"0a"}), frozenset({"0b"})
ALL_WELL = Situation(Phase.PREPARED, 1, 5, {"a": Ack(5, "0a"), "b": Ack(5, "0a")}, (), OLD, NEW)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("step", Step)
def test_a_step_leads_where_the_table_says_or_nowhere(phase: Phase, step: Step) -> None:
    """A step that leads nowhere is refused, and its refusal names those that do."""
    if (phase, step) in TRANSITIONS:
        assert after(phase, step) is TRANSITIONS[phase, step]
        return
    with pytest.raises(LocalError, match=f"no {step} while {phase}; possible now: .*{USUAL[phase]}"):
        after(phase, step)
    with pytest.raises(LocalError, match=f"no {step} while {phase}"):
        broken(replace(ALL_WELL, phase=phase), step)


def test_every_phase_leads_on_and_the_usual_way_is_a_circle() -> None:
    """No phase is a dead end."""
    phase = Phase.IDLE
    for _ in Phase:
        phase = after(phase, USUAL[phase])
    assert phase is Phase.IDLE


SILENT = "has not the trust bundle 5; it has none that it has told of"
LATE = "has not the trust bundle 5; it has 4"
OF_OLD = "its certificate is of the key that would go; it has not renewed yet"
HOLDS = "holds something of the key that would go"
ALICE = Holder("operator:alice", "0a", END)

Case = tuple[Phase, Step, dict[str, Ack | None], tuple[Holder, ...], tuple[Broken, ...]]

CASES: dict[str, Case] = {
    "prepare breaks nobody": (Phase.IDLE, Step.PREPARE, {"a": None}, (ALICE,), ()),
    "all know the new key": (Phase.PREPARED, Step.ACTIVATE, {"a": Ack(5, "0a")}, (ALICE,), ()),
    "one has said nothing": (Phase.PREPARED, Step.ACTIVATE, {"a": None}, (), (Broken("node:a", SILENT),)),
    "one is late": (Phase.PREPARED, Step.ACTIVATE, {"a": Ack(4, "0a")}, (), (Broken("node:a", LATE),)),
    "one is ahead": (Phase.PREPARED, Step.ACTIVATE, {"a": Ack(6, "0a")}, (), ()),
    "all have renewed": (Phase.ACTIVATED, Step.RETIRE, {"a": Ack(5, "0b")}, (), ()),
    "one has not renewed": (
        Phase.ACTIVATED,
        Step.RETIRE,
        {"a": Ack(5, "0a")},
        (),
        (Broken("node:a", OF_OLD),),
    ),
    "one is late with both": (
        Phase.ACTIVATED,
        Step.RETIRE,
        {"a": Ack(4, "0a")},
        (),
        (Broken("node:a", LATE),),
    ),
    "an operator has not": (
        Phase.ACTIVATED,
        Step.RETIRE,
        {},
        (ALICE,),
        (Broken("operator:alice", HOLDS, END),),
    ),
    "an operator has": (Phase.ACTIVATED, Step.RETIRE, {}, (replace(ALICE, key="0b"),), ()),
    "back before anybody used it": (Phase.PREPARED, Step.ROLLBACK, {"a": Ack(5, "0a")}, (ALICE,), ()),
    "back while some still use it": (
        Phase.PREPARED,
        Step.ROLLBACK,
        {"a": Ack(5, "0b")},
        (replace(ALICE, key="0b"),),
        (Broken("node:a", OF_OLD), Broken("operator:alice", HOLDS, END)),
    ),
    "back to both breaks nobody": (Phase.ACTIVATED, Step.ROLLBACK, {"a": None}, (ALICE,), ()),
}


@pytest.mark.parametrize("case", CASES)
def test_who_stands_in_the_way_is_named_with_the_reason(case: str) -> None:
    """Those who do not know a key that comes, and those who rely on one that goes."""
    phase, step, nodes, holders, expected = CASES[case]
    situation = Situation(phase, 1, 5, nodes, holders, OLD, NEW)
    assert broken(situation, step) == expected


def test_a_key_that_stays_breaks_nobody() -> None:
    """Where only the statement key gets a successor, no certificate is of a key that goes."""
    situation = Situation(Phase.ACTIVATED, 1, 5, {"a": Ack(5, "0a")}, (ALICE,), OLD, OLD)
    assert broken(situation, Step.RETIRE) == ()


acks = st.none() | st.builds(Ack, st.integers(0, 9), st.sampled_from(["0a", "0b"]))


@given(st.dictionaries(st.sampled_from("abcd"), acks), st.integers(0, 9))
def test_no_key_goes_while_a_node_relies_on_it_or_lacks_its_successor(
    nodes: dict[str, Ack | None], sequence: int
) -> None:
    """Whoever is not named holds the bundle of now, and a certificate that it will still verify."""
    situation = Situation(Phase.ACTIVATED, 1, sequence, nodes, (), OLD, NEW)
    named = {one.who.removeprefix("node:") for one in broken(situation, Step.RETIRE)}
    for name in nodes.keys() - named:
        ack = nodes[name]
        assert ack is not None
        assert ack.sequence >= sequence
        assert ack.issuer == "0b"
