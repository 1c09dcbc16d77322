import xml.etree.ElementTree as ET
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.blast import Blast, Reach
from sidecar.policy.graph import MAX_BOXES, svg
from sidecar.policy.model import Risk
from sidecar.snapshot import Target

SPACE = "{http://www.w3.org/2000/svg}"
REACH = Reach(
    agent="clerk",
    service="crm",
    operation="any",
    operation_class="mutate",
    segment="action",
    risk=Risk.MEDIUM,
    labels=("customers",),
    rule="crm",
    escalated=False,
    conditions=(),
)
SUBJECT = Target("agent", "clerk")


def drawn(*reaches: Reach) -> ET.Element:
    return ET.fromstring(svg(Blast(SUBJECT, reaches)))  # noqa: S314 - our own


def texts(picture: ET.Element) -> list[str]:
    return [one.text or "" for one in picture.iter(f"{SPACE}text")]


def lines(picture: ET.Element) -> list[bool]:
    """For each line whether it is dashed."""
    return ["stroke-dasharray" in one.attrib for one in picture.iter(f"{SPACE}line")]


def test_a_reach_is_a_path_from_the_subject_to_what_is_at_stake() -> None:
    """Four boxes, three lines."""
    picture = drawn(REACH)
    assert texts(picture) == ["agent:clerk", "agent clerk", "crm", "customers"]
    assert lines(picture) == [False, False, False]


def test_what_takes_an_approval_is_dashed_unless_it_is_within_reach_anyway() -> None:
    """One line for both."""
    asked = replace(REACH, escalated=True, rule="more")
    assert lines(drawn(asked)) == [True, True, True]
    assert lines(drawn(REACH, asked)) == [False, False, False]
    other = replace(asked, operation="tools delete_*", labels=())
    assert sorted(lines(drawn(REACH, other))) == [False, False, False, True]


def test_the_node_itself_reaches_without_an_agent() -> None:
    """Straight from the subject."""
    picture = drawn(replace(REACH, agent=""))
    assert texts(picture) == ["agent:clerk", "crm", "customers"]
    assert lines(picture) == [False, False]


def test_a_column_too_long_ends_with_how_many_more_there_are() -> None:
    """A picture of ten thousand boxes is none."""
    many = [replace(REACH, service=f"s{n:03}") for n in range(MAX_BOXES + 5)]
    picture = drawn(*many)
    assert "and 5 more" in texts(picture)
    assert len(lines(picture)) == 1 + 2 * MAX_BOXES


def test_nothing_within_reach_is_a_picture_too() -> None:
    """Of the subject alone."""
    assert texts(drawn()) == ["agent:clerk"]


@given(st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_any_text_is_well_formed_and_the_picture_the_same_each_time(
    agent: str, operation: str, labels: list[str]
) -> None:
    """Escaped, shortened, without control characters: a tool's name draws nothing of its own."""
    one = replace(REACH, agent=agent, operation=operation, labels=tuple(labels))
    assert len(lines(drawn(one))) == (2 if agent else 1) + len(set(labels))
    assert svg(Blast(SUBJECT, (one,))) == svg(Blast(SUBJECT, (one,)))
    picture = drawn(replace(REACH, operation="<script>&\x00" + "x" * 100))
    [*_, thing, _] = texts(picture)
    assert (len(thing), thing.startswith("crm <script>& ")) == (30, True)
