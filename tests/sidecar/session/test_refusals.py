import pytest

from pki.clock import Wall
from pki.ids import new_id
from sidecar.audit import record
from sidecar.audit.record import Caller, Ending, Record, Role, Ruling, Subject, Traffic
from sidecar.reasons import Reason
from sidecar.session import refusals
from sidecar.session.refusals import KEPT, REMEDIES, Refusal, RefusalRing, Viewer, remedy

PARENT, CHILD, OTHER = (new_id(bytes([number]) * 16) for number in range(3))
UID = 1001
OUTSIDE = Viewer(UID)
NOTHING = Traffic(0, 0)


def subject(session: str = PARENT, role: Role = Role.AGENT, parents: tuple[str, ...] = ()) -> Subject:
    return Subject(stream=new_id(bytes(16)), role=role, session=session, parents=parents, service="wiki")


def denied(at: int, of: Subject, uid: int = UID, cgroup: int | None = None) -> Record:
    ruling = Ruling(verdict="deny", reason=Reason.NO_GRANT, rule="r", hint="h")
    return record.denied(Wall(at), of, ruling, Caller("cgroup", uid, cgroup))


def admitted(of: Subject, cgroup: int, uid: int = UID) -> Record:
    return record.admitted(Wall(0), of, Ruling(verdict="allow"), Caller("cgroup", uid, cgroup))


def ring(*records: Record) -> RefusalRing:
    made = RefusalRing()
    for one in records:
        made.note(one)
    return made


def times(found: list[Refusal]) -> list[int]:
    return [one.at for one in found]


def test_a_refusal_is_kept_as_it_was_recorded() -> None:
    """Reason, rule and hint, of which stream to which service."""
    [found] = ring(denied(1, subject())).seen_by(OUTSIDE)
    assert (found.session, found.service, found.reason, found.rule, found.hint) == (
        PARENT,
        "wiki",
        "no_grant",
        "r",
        "h",
    )


def test_cuts_and_sheds_are_refusals_too() -> None:
    """And what was let through is none."""
    of = subject()
    kept = ring(
        denied(1, of),
        record.cut(Wall(2), of, Ending(Reason.REVOKED), NOTHING),
        record.shed(Wall(3), of, Reason.LIMIT),
        record.opened(Wall(4), of),
        record.closed(Wall(5), of, NOTHING),
    )
    assert [one.reason for one in kept.seen_by(OUTSIDE)] == ["limit", "revoked", "no_grant"]


def test_what_concerns_another_nodes_agent_is_not_kept() -> None:
    """On the tool's node: its agent is asked for on its own."""
    everything = Viewer(0, is_root=True)
    assert ring(denied(1, subject(role=Role.TOOL))).seen_by(everything) == []
    assert times(ring(denied(1, subject(role=Role.BOTH))).seen_by(OUTSIDE)) == [1]


def test_a_user_sees_its_own_and_nobody_elses() -> None:
    """From outside of all sessions; root sees all."""
    kept = ring(denied(1, subject()), denied(2, subject(OTHER), uid=1002))
    assert times(kept.seen_by(OUTSIDE)) == [1]
    assert times(kept.seen_by(Viewer(1002))) == [2]
    assert times(kept.seen_by(Viewer(7))) == []
    assert times(kept.seen_by(Viewer(0, is_root=True))) == [2, 1]


def test_inside_a_session_only_it_and_its_children_are_seen() -> None:
    """By the cgroup that its streams came from, so that what is left of an ended session learns why."""
    kept = ring(
        denied(1, subject(PARENT), cgroup=10),
        denied(2, subject(CHILD, parents=(PARENT,)), cgroup=11),
        denied(3, subject(OTHER), cgroup=12),
    )
    assert times(kept.seen_by(Viewer(UID, 10))) == [2, 1]
    assert times(kept.seen_by(Viewer(UID, 11))) == [2]
    assert times(kept.seen_by(Viewer(UID, 12))) == [3]
    assert times(kept.seen_by(Viewer(UID, 13))) == []


def test_a_session_that_asked_for_nothing_yet_sees_its_childrens() -> None:
    """It is live, which says enough."""
    kept = ring(denied(1, subject(CHILD, parents=(PARENT,)), cgroup=11))
    assert times(kept.seen_by(Viewer(UID, 10))) == []
    assert times(kept.seen_by(Viewer(UID, 10, (PARENT,)))) == [1]


def test_a_live_session_is_seen_by_its_name() -> None:
    """Where no record tells its cgroup or uid: a caller that showed a certificate."""
    by_certificate = record.denied(
        Wall(1), subject(), Ruling(verdict="deny", reason=Reason.LOCKED), Caller("mtls", None)
    )
    assert times(ring(by_certificate).seen_by(OUTSIDE)) == []
    assert times(ring(by_certificate).seen_by(Viewer(UID, sessions=(PARENT,)))) == [1]


def test_a_session_is_known_again_by_what_was_recorded_of_it_before() -> None:
    """A cut says nothing of the caller; the admission did."""
    of = subject()
    kept = ring(admitted(of, 10), record.cut(Wall(1), of, Ending(Reason.REVOKED), NOTHING))
    assert times(kept.seen_by(Viewer(UID, 10))) == [1]


def test_a_caller_that_was_no_session_is_told_by_its_uid() -> None:
    """Inside or outside: it is the user's own process that was not known."""
    nobody = Subject(stream=new_id(bytes(16)), role=Role.AGENT, service="wiki")
    kept = ring(denied(1, nobody), record.shed(Wall(2), nobody, Reason.LIMIT))
    assert times(kept.seen_by(OUTSIDE)) == times(kept.seen_by(Viewer(UID, 10))) == [1]
    assert times(kept.seen_by(Viewer(1002))) == []


def test_one_session_may_be_asked_for_by_name() -> None:
    """Of those that are seen anyway."""
    kept = ring(denied(1, subject()), denied(2, subject(OTHER), uid=1002))
    assert times(kept.seen_by(OUTSIDE, PARENT)) == [1]
    assert times(kept.seen_by(OUTSIDE, OTHER)) == []


def test_the_newest_are_kept_and_so_many() -> None:
    """A loop of refusals pushes out its own oldest, and nobody else's."""
    kept = ring(denied(0, subject(OTHER), uid=1002), *(denied(at, subject()) for at in range(1, 100)))
    assert times(kept.seen_by(OUTSIDE)) == list(range(99, 99 - KEPT, -1))
    assert times(kept.seen_by(Viewer(1002))) == [0]


def test_the_sessions_that_were_heard_of_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there were since the daemon started."""
    monkeypatch.setattr(refusals, "OWNERS", 2)
    kept = ring(
        denied(1, subject(PARENT)),
        denied(2, subject(OTHER)),
        denied(3, subject(PARENT)),
        denied(4, subject(CHILD)),
    )
    assert times(kept.seen_by(OUTSIDE)) == [4, 3, 1]


def test_every_reason_says_what_would_help() -> None:
    """To the agent that reads it: who can do what."""
    assert list(REMEDIES) == list(Reason)
    [found] = ring(denied(1, subject())).seen_by(OUTSIDE)
    assert remedy(found) == REMEDIES[Reason.NO_GRANT]


def test_a_newer_versions_reason_has_a_remedy_too() -> None:
    """The other node may speak another version."""
    [found] = ring(denied(1, subject())).seen_by(OUTSIDE)
    unknown = Refusal(found.at, found.stream, found.session, "wiki", "moonphase", "", "")
    assert "audit logs" in remedy(unknown)
