"""Which statements are events, and how each stands on record."""

from pki.statement import Lift
from sidecar.audit.record import Kind
from sidecar.audit.statements import conflict_of, records_of
from sidecar.gossip.intake import Ground, admit
from tests.authority import NOW
from tests.sidecar.gossip.test_intake import ALICE, MINT, ground
from tests.statements import lock, revocation

GROUND: Ground = ground()


def test_what_comes_into_force_is_on_record_with_who_said_it() -> None:
    """A lock, a revocation and a policy are one record each, by their author."""
    for statement, kind in (
        (ALICE.says("lock", lock("agent", "a")), Kind.LOCK),
        (ALICE.says("revocation", revocation("agent", "a")), Kind.REVOCATION),
        (MINT.policy(1), Kind.POLICY),
    ):
        word = admit(statement, GROUND)
        [one] = records_of(statement, word, NOW)
        assert (one.kind, one.at, one.fields["by"]) == (kind, NOW, word.author)


def test_an_unlock_is_one_record_for_each_lock() -> None:
    """So that each lock's story has its end."""
    statement = MINT.lifts("unlock", "a" * 26, "b" * 25 + "a")
    assert isinstance(statement.body, Lift)
    records = records_of(statement, admit(statement, GROUND), NOW)
    assert [(one.fields["what"], one.fields["statement"]) for one in records] == [
        ("lifted", name) for name in statement.body.ids
    ]


def test_a_roster_entry_is_no_event() -> None:
    """Enrolment is on record at the CA, where it happens."""
    statement = MINT.enrols("tools-9")
    assert records_of(statement, admit(statement, GROUND), NOW) == []


def test_two_bodies_at_one_sequence_are_a_finding() -> None:
    """Named with each other: one of them nobody should have signed."""
    said = MINT.policy(7)
    assert conflict_of(said, [], NOW) == []
    [one] = conflict_of(said, ["other"], NOW)
    assert (one.kind, one.fields["what"]) == (Kind.FINDING, "conflict")
    assert (one.fields["statement"], one.fields["others"]) == (said.id, ["other"])
