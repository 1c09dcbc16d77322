from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pki.ids import new_id
from pki.verify import Identity, verify
from sidecar.proxy.attribute import Candidate
from sidecar.session.cgroup import TREE, SessionCgroup, SessionCgroups
from sidecar.session.sessions import Session, Sessions
from tests.authority import NOW, SESSION, new_key, tiny_ca

CA = tiny_ca()
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
OTHER = new_id(b"another-session!")
PID = 4242


def session(name: str = SESSION, agent: str = "researcher") -> Session:
    key = new_key()
    found = verify(CA.issue(CA.agent(agent, session=name), key), CA.bundle, NOW)
    assert isinstance(found, Identity)
    return Session(found, key, 1001, NOW, TRACE)


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionCgroups]:
    """A plain directory in place of the mount. Processes enter by a file that the kernel would have made."""

    def enter(cgroup: SessionCgroup, pid: int) -> None:
        assert pid == PID
        assert cgroup.path.exists()

    monkeypatch.setattr(SessionCgroup, "enter", enter)
    with capture_logs():
        yield SessionCgroups(tmp_path, owner=tmp_path.stat().st_uid)


def stands(cgroups: SessionCgroups, name: str) -> bool:
    return (cgroups.mount or Path()).joinpath(TREE, name).exists()


def test_a_session_is_found_by_its_id_until_it_is_removed() -> None:
    """One entry for each session."""
    sessions, one = Sessions(), session()
    sessions.add(one)
    assert (sessions.find(SESSION), len(sessions), list(sessions)) == (one, 1, [one])
    assert sessions.remove(SESSION) is one
    assert sessions.find(SESSION) is None
    assert sessions.remove(SESSION) is None


def test_candidates_are_the_sessions_of_one_agent() -> None:
    """A caller is attributed among these alone."""
    sessions = Sessions()
    sessions.add(session())
    sessions.add(session(OTHER, "clerk"))
    assert sessions.of_agent("clerk") == [Candidate(OTHER, 1001, None)]


def test_without_cgroups_a_session_is_known_by_its_uid() -> None:
    """An ordinary user's daemon, or a machine without cgroup v2."""
    sessions, one = Sessions(), session()
    sessions.add(one)
    assert sessions.confine(one, PID) is one
    sessions.sweep()
    sessions.tidy()
    assert sessions.claimed == frozenset()


def test_a_confined_session_is_known_by_its_cgroup(cgroups: SessionCgroups) -> None:
    """And claims it at once: nobody else is found by it."""
    sessions, one = Sessions(cgroups), session()
    sessions.add(one)
    confined = sessions.confine(one, PID)
    assert confined.cgroup is not None
    assert sessions.of_agent("researcher") == [Candidate(SESSION, 1001, confined.cgroup.id)]
    assert sessions.claimed == {confined.cgroup.id}


def test_a_process_that_cannot_enter_leaves_its_session_to_the_uid(tmp_path: Path) -> None:
    """The cgroup is taken away again; the session works all the same."""
    cgroups = SessionCgroups(tmp_path, owner=tmp_path.stat().st_uid)
    sessions, one = Sessions(cgroups), session()
    sessions.add(one)
    assert sessions.confine(one, PID) is one  # A plain directory has no cgroup.procs to write to.
    assert not stands(cgroups, SESSION)


def test_what_an_ended_session_left_is_claimed_until_it_is_empty(cgroups: SessionCgroups) -> None:
    """Its processes must not pass for a sibling that is known by uid."""
    sessions, one = Sessions(cgroups), session()
    confined = sessions.confine(one, PID)
    assert confined.cgroup is not None
    (confined.cgroup.path / "still").mkdir()  # as a live process does, it keeps the directory
    sessions.remove(SESSION)
    sessions.tidy()
    assert sessions.claimed == {confined.cgroup.id}
    (confined.cgroup.path / "still").rmdir()
    sessions.tidy()
    assert sessions.claimed == frozenset()
    assert not stands(cgroups, SESSION)


def test_a_new_daemon_clears_away_what_a_killed_one_left(cgroups: SessionCgroups) -> None:
    """Names are used once, so what stands at the start is an ended session's, or another daemon's."""
    cgroups.create(SESSION)
    busy = cgroups.create(OTHER)
    assert busy is not None
    (busy.path / "cgroup.events").write_text("populated 1\n")
    sessions = Sessions(cgroups)
    sessions.sweep()
    assert not stands(cgroups, SESSION)
    assert sessions.claimed == {busy.id}


def test_the_cgroup_of_another_daemons_session_is_claimed(cgroups: SessionCgroups) -> None:
    """Two daemons on a machine share the tree: neither takes the other's callers for its own."""
    sessions = Sessions(cgroups)
    foreign = cgroups.create(OTHER)
    assert foreign is not None
    sessions.tidy()
    assert sessions.claimed == {foreign.id}
    assert stands(cgroups, OTHER)
