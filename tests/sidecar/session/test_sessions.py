import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pki.clock import Boot
from pki.errors import LocalError
from pki.ids import new_id
from pki.verify import Identity, verify
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.attribute import Candidate
from sidecar.session.cgroup import TREE, SessionCgroup, SessionCgroups
from sidecar.session.sessions import Child, Session, Sessions
from tests.authority import NOW, SESSION, new_key, tiny_ca

CA = tiny_ca()
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
OTHER = new_id(b"another-session!")
PIDFD = 42


def session(name: str = SESSION, agent: str = "researcher") -> Session:
    key = new_key()
    found = verify(CA.issue(CA.agent(agent, session=name), key), CA.bundle, NOW)
    assert isinstance(found, Identity)
    return Session(found, key, 1001, NOW, TRACE)


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionCgroups]:
    """A plain directory in place of the mount. Processes enter by a file that the kernel would have made."""

    def take_in(cgroup: SessionCgroup, pidfd: int) -> None:
        assert pidfd == PIDFD
        assert cgroup.path.exists()

    monkeypatch.setattr(SessionCgroup, "take_in", take_in)
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
    sessions = Sessions()
    assert sessions.confine(SESSION, PIDFD) is None
    assert not sessions.is_empty(session())
    sessions.sweep()
    sessions.settle(sessions.look())
    assert sessions.claimed == frozenset()


def test_a_confined_session_is_known_by_its_cgroup(cgroups: SessionCgroups) -> None:
    """And claims it at once: nobody else is found by it."""
    sessions = Sessions(cgroups)
    cgroup = sessions.confine(SESSION, PIDFD)
    assert cgroup is not None
    sessions.add(replace(session(), cgroup=cgroup))
    assert sessions.of_agent("researcher") == [Candidate(SESSION, 1001, cgroup.id)]
    assert sessions.claimed == {cgroup.id}


@pytest.mark.parametrize("populated", ["own", "child", ""])
def test_a_session_is_empty_when_its_last_process_is_gone(cgroups: SessionCgroups, populated: str) -> None:
    """A child's process keeps it alive, too: the child's end would come with it."""
    sessions = Sessions(cgroups)
    own, childs = sessions.confine(SESSION, PIDFD), sessions.prepare(OTHER)
    assert own is not None
    assert childs is not None
    narrowing = Narrowing(children=(OTHER,), services=frozenset(), operations=None, not_after=NOW)
    sessions.add_child(Child(SESSION, (), narrowing, NOW, TRACE, childs))
    for name, one in (("own", own), ("child", childs)):
        (one.path / "cgroup.events").write_text(f"populated {int(name == populated)}\n")
    assert sessions.is_empty(replace(session(), cgroup=own)) is (not populated)
    (own.path / "cgroup.events").unlink()
    (own.path / "cgroup.events").mkdir()
    assert not sessions.is_empty(replace(session(), cgroup=own))  # It cannot be told, so nothing is ended.


def test_when_a_session_was_used_is_known_while_it_lives() -> None:
    """For its idle time; nothing is kept of one that ended."""
    sessions = Sessions()
    sessions.add(session())
    sessions.used(SESSION, Boot(7))
    assert sessions.last_used(SESSION) == 7
    sessions.remove(SESSION)
    assert sessions.last_used(SESSION) is None


def test_a_process_that_cannot_enter_gets_no_session_by_its_uid(tmp_path: Path) -> None:
    """The cgroup is taken away again: known by the uid alone, it would be every process of its user."""
    cgroups = SessionCgroups(tmp_path, owner=tmp_path.stat().st_uid)
    sessions = Sessions(cgroups)
    with pytest.raises(
        LocalError, match="cannot enter"
    ):  # A plain directory has no cgroup.procs to write to.
        sessions.confine(SESSION, os.pidfd_open(os.getpid()))
    assert not stands(cgroups, SESSION)


def test_who_is_in_a_cgroup_whose_caller_died_is_nobody(
    cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child's process that asks for a child and dies at the right moment puts nobody out of his session."""
    sessions = Sessions(cgroups)
    cgroup = sessions.prepare(SESSION)
    assert cgroup is not None

    def died(entered: SessionCgroup, pidfd: int) -> None:
        (entered.path / f"process-{pidfd}").mkdir()
        raise LocalError("gone")

    monkeypatch.setattr(SessionCgroup, "take_in", died)
    with pytest.raises(LocalError):
        sessions.take_in(cgroup, 7)
    assert sessions.claimed == {cgroup.id}
    sessions.settle(sessions.look())
    assert sessions.claimed == {cgroup.id}
    (cgroup.path / "process-7").rmdir()
    sessions.settle(sessions.look())
    assert not stands(cgroups, SESSION)


def test_cgroups_that_cannot_be_seen_stay_claimed(
    cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, what ended sessions left would else be free to start anew."""
    sessions = Sessions(cgroups)
    cgroup = sessions.prepare(SESSION)
    assert cgroup is not None

    def exhausted(_: SessionCgroups) -> list[SessionCgroup]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(SessionCgroups, "standing", exhausted)
    sessions.settle(sessions.look())
    assert sessions.claimed == {cgroup.id}


def test_a_cgroup_made_while_the_others_were_looked_at_is_claimed(cgroups: SessionCgroups) -> None:
    """The look is in a thread, and the table goes on meanwhile."""
    sessions = Sessions(cgroups)
    seen = sessions.look()
    cgroup = sessions.prepare(SESSION)
    assert cgroup is not None
    sessions.settle(seen)
    assert sessions.claimed == {cgroup.id}


def test_what_an_ended_session_left_is_claimed_until_it_is_empty(cgroups: SessionCgroups) -> None:
    """Its processes must not pass for a sibling that is known by uid."""
    sessions = Sessions(cgroups)
    cgroup = sessions.confine(SESSION, PIDFD)
    assert cgroup is not None
    sessions.add(replace(session(), cgroup=cgroup))
    (cgroup.path / "still").mkdir()  # as a live process does, it keeps the directory
    sessions.remove(SESSION)
    sessions.settle(sessions.look())
    assert sessions.claimed == {cgroup.id}
    (cgroup.path / "still").rmdir()
    sessions.settle(sessions.look())
    assert sessions.claimed == frozenset()
    assert not stands(cgroups, SESSION)


def test_a_new_daemon_clears_away_what_a_killed_one_left(cgroups: SessionCgroups) -> None:
    """What still runs there is named, and reaches nothing."""
    empty, busy = cgroups.create(SESSION), cgroups.create(OTHER)
    for one, populated in ((empty, 0), (busy, 1)):
        assert one is not None
        assert one.claim is not None
        one.claim.release()
        (one.path / "cgroup.events").write_text(f"populated {populated}\n")
    assert empty is not None
    assert busy is not None
    (busy.path / "cgroup.procs").write_text("7\n8\n")
    (empty.path / "cgroup.events").unlink()
    sessions = Sessions(cgroups)
    sessions.sweep()
    assert not stands(cgroups, SESSION)
    assert sessions.claimed == {busy.id}
    assert sessions.orphans == {OTHER: 2}


def test_the_cgroup_of_another_daemons_session_is_claimed(cgroups: SessionCgroups) -> None:
    """Two daemons on a machine share the tree: neither takes the other's callers for its own."""
    sessions = Sessions(cgroups)
    foreign = cgroups.create(OTHER)
    assert foreign is not None
    sessions.settle(sessions.look())
    assert sessions.claimed == {foreign.id}
    assert stands(cgroups, OTHER)
