from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pki.clock import HOUR, MINUTE, Wall
from pki.errors import LocalError, RefusedError, RemoteError
from pki.ids import new_id
from pki.verify import Identity, verify
from sidecar.audit.record import Kind
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.carry import Carrier
from sidecar.proxy.streams import FOREVER, Limits, Live
from sidecar.reasons import Reason
from sidecar.session import starts
from sidecar.session.cgroup import SessionCgroup, SessionCgroups
from sidecar.session.children import ChildLife
from sidecar.session.sessions import Session, Sessions
from tests.authority import NOW, SESSION, new_key, tiny_ca
from tests.datapath import LogBook, Scene, carrier, request

CA = tiny_ca()
TRACE = f"00-{'ab' * 16}-{'cd' * 8}-01"
PIDFD = 42
LEFT = Narrowing(frozenset({"wiki"}), ("GET /api/**",), Wall(NOW + MINUTE))


def session(name: str = SESSION) -> Session:
    key = new_key()
    found = verify(CA.issue(CA.agent(session=name), key), CA.bundle, NOW)
    assert isinstance(found, Identity)
    return Session(found, key, 1001, NOW, TRACE)


@dataclass
class Family:
    """A session and the means to give it children."""

    sessions: Sessions
    log: LogBook
    carrier: Carrier
    life: ChildLife
    parent: Session
    taken_in: list[str]

    def start(self, parent: Session | None = None, left: Narrowing = LEFT) -> Session:
        child = self.life.start(parent or self.parent, left, PIDFD)
        assert child.cgroup is not None
        (child.cgroup.path / "cgroup.events").write_text("populated 1\n")
        return child

    def stream(self, of: Session) -> Live:
        """A live one of this session or child, entered in the table."""
        asked = replace(request(), narrowing=of.narrowing)
        stream = new_id(bytes([len(self.carrier.table)]) * 16)
        live = Live(stream, asked, Limits(), self.carrier.clock.boot(), lambda: None, FOREVER, FOREVER)
        assert self.carrier.table.admit(live)
        return live

    def notes(self, what: str) -> list[dict[str, object]]:
        return [dict(one.fields) for one in self.log.of(Kind.SESSION) if one.fields["what"] == what]


@pytest.fixture
def taken_in(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom the kernel would have moved: processes enter by a file that it would have made."""
    found: list[str] = []

    def take_in(cgroup: SessionCgroup, pidfd: int) -> None:
        assert (pidfd, cgroup.path.exists()) == (PIDFD, True)
        found.append(cgroup.session)

    monkeypatch.setattr(SessionCgroup, "take_in", take_in)
    return found


@pytest.fixture
def cgroups(tmp_path: Path) -> SessionCgroups:
    """A plain directory in place of the mount."""
    return SessionCgroups(tmp_path, owner=tmp_path.stat().st_uid)


@pytest.fixture
async def family(cgroups: SessionCgroups, taken_in: list[str]) -> AsyncIterator[Family]:
    sessions = Sessions(cgroups)
    parent, log = session(), LogBook()
    sessions.add(parent)
    carries = carrier(Scene(), log)
    with capture_logs():
        yield Family(sessions, log, carries, ChildLife(sessions, carries), parent, taken_in)


async def test_a_child_is_its_parent_with_fewer_rights(family: Family) -> None:
    """The same certificate and user; an id, a cgroup and a span of its own."""
    child = family.start()
    assert (child.identity, child.key, child.uid) == (
        family.parent.identity,
        family.parent.key,
        family.parent.uid,
    )
    assert child.parents == (SESSION,)
    assert child.narrowing == replace(LEFT, children=(child.name,))
    assert child.trace.split("-")[1] == TRACE.split("-")[1]
    assert child.trace != TRACE
    assert family.taken_in == [child.name]


async def test_a_child_is_found_by_its_id_and_by_its_cgroup(family: Family) -> None:
    """As a session is, beside its parent."""
    child = family.start()
    assert family.sessions.find(child.name) == child
    assert child.candidate in family.sessions.of_agent("researcher")
    assert family.parent.candidate in family.sessions.of_agent("researcher")
    assert child.candidate.cgroup_id in family.sessions.claimed


async def test_the_start_of_a_child_is_on_record_with_what_it_has_left(family: Family) -> None:
    """And with those above it."""
    child = family.start()
    grandchild = family.start(child, replace(LEFT, operations=("GET /api/pages",)))
    first, second = family.notes("started")
    assert (first["session"], first["parents"]) == (child.name, [SESSION])
    assert (first["services"], first["operations"]) == (["wiki"], ["GET /api/**"])
    assert (second["session"], second["parents"]) == (grandchild.name, [SESSION, child.name])
    assert (second["agent"], second["uid"]) == ("researcher", 1001)


async def test_a_childs_child_has_no_more_than_it(family: Family) -> None:
    """Whoever asks."""
    child = family.start()
    with pytest.raises(RemoteError, match="service vault is not its parent's"):
        family.start(child, replace(LEFT, services=frozenset({"wiki", "vault"})))
    assert len(family.sessions.children) == 1


async def test_children_are_so_deep_and_no_deeper(family: Family) -> None:
    """The proof of the last would be refused."""
    parent = family.parent
    for _ in range(4):
        parent = family.start(parent)
    with pytest.raises(RefusedError, match="4 below a session"):
        family.start(parent)


async def test_a_user_has_so_many_children_and_no_more(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a cgroup; those that ended do not count."""
    monkeypatch.setattr(starts, "MAX_LIVE", 1)
    child = family.start()
    with pytest.raises(RefusedError, match="child: uid 1001: has 1 sessions on this node already; end some"):
        family.start()
    assert child.child is not None
    family.life.end(child.child)
    family.start()


async def test_a_user_starts_so_many_children_in_a_while(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes two records: a loop of them would flood the log."""
    monkeypatch.setattr(starts, "BURST", 2)
    for _ in range(2):
        child = family.start()
        assert child.child is not None
        family.life.end(child.child)
    with pytest.raises(RefusedError, match="started 2 sessions in a short time; try again in 1 s"):
        family.start()


async def test_a_step_that_no_proof_could_carry_is_refused_at_once(family: Family) -> None:
    """Not when its first stream is opened."""
    with pytest.raises(RefusedError, match="name fewer"):
        family.start(left=replace(LEFT, operations=("GET /" + "x" * 195,) * 30))
    assert family.taken_in == []


async def test_without_a_cgroup_there_is_no_child(family: Family) -> None:
    """It could not be told from its parent, and a narrowing that holds nobody misleads."""
    bare = ChildLife(Sessions(), family.carrier)
    with pytest.raises(RefusedError, match="has to run as root, on a machine with cgroup v2"):
        bare.start(family.parent, LEFT, PIDFD)


async def test_a_caller_that_died_becomes_nobody(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's; nothing of the child is left."""

    def gone(cgroup: SessionCgroup, pidfd: int) -> None:
        raise LocalError("the process that asked is gone")

    monkeypatch.setattr(SessionCgroup, "take_in", gone)
    with pytest.raises(RefusedError, match="the process that asked is gone"):
        family.start()
    assert family.sessions.children == []
    assert family.notes("started") == []


async def test_a_childs_end_cuts_its_streams_and_no_others(family: Family) -> None:
    """Those of its own children too; the parent goes on."""
    child = family.start()
    grandchild = family.start(child)
    sibling = family.start()
    streams = [family.stream(of) for of in (family.parent, sibling, child, grandchild)]
    assert child.child is not None
    family.life.end(child.child)
    assert [live.reason for live in streams] == [None, None, Reason.REVOKED, Reason.REVOKED]
    assert family.sessions.find(child.name) is None
    assert family.sessions.find(grandchild.name) is None
    assert [one["session"] for one in family.notes("ended")] == [child.name, grandchild.name]


async def test_the_end_of_a_session_is_the_end_of_its_children(family: Family) -> None:
    """At once for new streams, and on record by the next look."""
    child = family.start()
    family.sessions.remove(SESSION)
    assert family.sessions.find(child.name) is None
    assert family.sessions.of_agent("researcher") == []
    family.life.tidy(NOW)
    assert family.sessions.children == []
    [ended] = family.notes("ended")
    assert (ended["why"], ended["agent"], ended["parents"]) == ("its session ended", "researcher", [SESSION])


@pytest.mark.parametrize("at", [NOW + MINUTE - 1, NOW + MINUTE])
async def test_a_child_ends_with_its_time(family: Family, at: Wall) -> None:
    """Not earlier."""
    family.start()
    family.life.tidy(at)
    assert len(family.sessions.children) == (at < LEFT.not_after)


async def test_a_child_ends_with_its_last_process(family: Family) -> None:
    """Nobody has to say so."""
    child = family.start()
    assert child.cgroup is not None
    (child.cgroup.path / "cgroup.events").write_text("populated 0\n")
    family.life.end_empty(family.sessions.look().empty)
    assert [one["why"] for one in family.notes("ended")] == ["its last process is gone"]


async def test_a_cgroup_that_does_not_answer_ends_no_child(
    family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time does, later."""
    family.start()

    def unreadable(cgroup: SessionCgroup) -> bool:
        raise LocalError("cannot tell")

    monkeypatch.setattr(SessionCgroup, "populated", unreadable)
    family.life.end_empty(family.sessions.look().empty)
    assert len(family.sessions.children) == 1
    family.life.tidy(Wall(NOW + HOUR))
    assert family.sessions.children == []


async def test_a_renewed_session_has_the_same_children(family: Family) -> None:
    """With its new certificate and key."""
    child = family.start()
    renewed = session()
    family.sessions.add(renewed)
    found = family.sessions.find(child.name)
    assert found is not None
    assert (found.identity, found.child) == (renewed.identity, child.child)
