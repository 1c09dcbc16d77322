"""The rules, one by one; everything else of a case is the same good caller."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.proxy.attribute import (
    CONNECTED,
    ESTABLISHED,
    Attribution,
    Candidate,
    Method,
    Refused,
    SocketOwner,
    attribute,
)
from sidecar.reasons import Reason

AGENT_UID = 1001
STRANGER_UID = 1002
OPEN_CGROUP = 7
OWN_CGROUP = 42
OTHER_CGROUP = 43

OUTSIDE = SocketOwner(ESTABLISHED, AGENT_UID, inode=9, cgroup_id=OPEN_CGROUP)
INSIDE = replace(OUTSIDE, cgroup_id=OWN_CGROUP)

BARE = Candidate("bare", AGENT_UID, None)
BARE_TOO = Candidate("bare-too", AGENT_UID, None)
CONFINED = Candidate("confined", AGENT_UID, OWN_CGROUP)
CONFINED_TOO = Candidate("confined-too", AGENT_UID, OTHER_CGROUP)


@pytest.mark.parametrize(
    "owner",
    [None, replace(OUTSIDE, inode=0), replace(OUTSIDE, inode=0, uid=0), replace(INSIDE, inode=0)],
    ids=["no-row", "no-inode", "dead-row-of-uid-0", "dead-in-its-cgroup"],
)
def test_a_socket_nobody_holds_is_refused_and_names_no_uid(owner: SocketOwner | None) -> None:
    """A dead caller's row says uid 0; it must neither pass nor be recorded as root."""
    assert attribute(owner, [BARE, CONFINED], AGENT_UID) == Refused(Reason.WRONG_CALLER, None)


def test_a_dead_row_is_nobody_even_where_the_agent_is_uid_0() -> None:
    """In a development mesh run by root the agent's uid is 0, which is also what a dead row shows."""
    dead = SocketOwner(ESTABLISHED, uid=0, inode=0, cgroup_id=OPEN_CGROUP)
    assert attribute(dead, [Candidate("bare", 0, None)], 0) == Refused(Reason.WRONG_CALLER, None)


@pytest.mark.parametrize("state", [0, 2, 3, *range(6, 14), 255])
def test_only_a_connected_caller_is_attributed(state: int) -> None:
    """Every other state may belong to a listener, a half-open stranger or a connection that is gone."""
    refused = Refused(Reason.WRONG_CALLER, AGENT_UID)
    assert attribute(replace(INSIDE, state=state), [CONFINED], AGENT_UID) == refused


@pytest.mark.parametrize("uid", [0, STRANGER_UID, 2**32 - 1])
def test_another_uid_is_refused_and_recorded(uid: int) -> None:
    """The port is no identity: not root, not a neighbour, not even from inside the session's cgroup."""
    for owner in (OUTSIDE, INSIDE):
        caller = replace(owner, uid=uid)
        assert attribute(caller, [BARE, CONFINED], AGENT_UID) == Refused(Reason.WRONG_CALLER, uid)


def test_a_cgroup_names_its_session_among_many() -> None:
    """Sessions of one uid are told apart by cgroup, whatever else lives."""
    found = attribute(INSIDE, [BARE, CONFINED_TOO, BARE_TOO, CONFINED], AGENT_UID)
    assert found == Attribution("confined", Method.CGROUP, AGENT_UID, OWN_CGROUP)


def test_a_session_in_the_cgroup_under_another_uid_is_refused() -> None:
    """A session started before a reload gave its agent another uid is not this caller's."""
    old = replace(CONFINED, uid=STRANGER_UID)
    assert attribute(INSIDE, [old, BARE], AGENT_UID) == Refused(Reason.WRONG_CALLER, AGENT_UID)


def test_one_cgroup_for_two_sessions_is_ambiguous() -> None:
    """Two sessions cannot share a cgroup; if they seem to, nobody is picked."""
    twin = replace(CONFINED, session="twin")
    assert attribute(INSIDE, [CONFINED, twin], AGENT_UID) == Refused(Reason.AMBIGUOUS_SESSION, AGENT_UID)


@pytest.mark.parametrize("cgroup_id", [None, OPEN_CGROUP])
def test_the_one_session_without_a_cgroup_is_found_by_uid(cgroup_id: int | None) -> None:
    """Where there is one, sessions with cgroups beside it do not matter; the caller's cgroup is recorded."""
    caller = replace(OUTSIDE, cgroup_id=cgroup_id)
    found = attribute(caller, [CONFINED, BARE, CONFINED_TOO], AGENT_UID)
    assert found == Attribution("bare", Method.UID, AGENT_UID, cgroup_id)


def test_several_sessions_without_a_cgroup_are_ambiguous() -> None:
    """Nobody guesses which of two sessions a process of their uid belongs to."""
    found = attribute(OUTSIDE, [BARE, BARE_TOO], AGENT_UID)
    assert found == Refused(Reason.AMBIGUOUS_SESSION, AGENT_UID)


@pytest.mark.parametrize(
    "candidates",
    [[], [CONFINED], [CONFINED, CONFINED_TOO], [replace(BARE, uid=STRANGER_UID)]],
    ids=["none-lives", "one-with-a-cgroup", "two-with-cgroups", "one-of-another-uid"],
)
@pytest.mark.parametrize("cgroup_id", [None, OPEN_CGROUP])
def test_a_session_with_a_cgroup_is_never_found_by_uid(
    candidates: list[Candidate], cgroup_id: int | None
) -> None:
    """Else any process of the agent's uid could walk into it from outside."""
    caller = replace(OUTSIDE, cgroup_id=cgroup_id)
    assert attribute(caller, candidates, AGENT_UID) == Refused(Reason.NO_SESSION, AGENT_UID)


def test_what_an_ended_session_left_behind_is_not_its_sibling() -> None:
    """A process in the cgroup of a session that is no candidate is nobody's, though its uid would match."""
    claimed = {OWN_CGROUP, OTHER_CGROUP}
    assert attribute(INSIDE, [BARE], AGENT_UID, claimed) == Refused(Reason.NO_SESSION, AGENT_UID)
    found = attribute(INSIDE, [BARE, CONFINED], AGENT_UID, claimed)
    assert found == Attribution("confined", Method.CGROUP, AGENT_UID, OWN_CGROUP)


_UIDS = st.sampled_from([0, AGENT_UID, STRANGER_UID])
_CGROUPS = st.sampled_from([None, OPEN_CGROUP, OWN_CGROUP, OTHER_CGROUP])
_OWNERS = st.none() | st.builds(SocketOwner, st.integers(0, 13), _UIDS, st.integers(0, 2), _CGROUPS)
_CANDIDATES = st.lists(
    st.builds(Candidate, st.uuids().map(str), _UIDS, _CGROUPS), max_size=5, unique_by=lambda one: one.session
)


@given(_OWNERS, _CANDIDATES, _UIDS, st.sets(st.sampled_from([OWN_CGROUP, OTHER_CGROUP])))
def test_whoever_is_attributed_held_an_open_socket_of_the_agents_uid(
    owner: SocketOwner | None, candidates: list[Candidate], agent_uid: int, claimed: set[int]
) -> None:
    """Whatever the input: an attribution needs the state, the inode, the uid and one fitting session."""
    found = attribute(owner, candidates, agent_uid, claimed)
    if isinstance(found, Refused):
        return
    assert owner is not None
    assert (owner.state in CONNECTED, owner.uid, owner.inode > 0) == (True, agent_uid, True)
    (session,) = [one for one in candidates if one.session == found.session]
    assert session.uid == agent_uid
    assert session.cgroup_id == (owner.cgroup_id if found.method is Method.CGROUP else None)
