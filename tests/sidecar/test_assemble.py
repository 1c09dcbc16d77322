from pki.clock import HOUR, Wall
from pki.statement import Cutoff, Member
from pki.statement import Target as StatementTarget
from sidecar import assemble
from sidecar.gossip.store import Entry
from sidecar.snapshot import LockInForce, NodeMember, OperatorMember, RevocationInForce, Target
from tests.authority import NOW
from tests.statements import Mint, lock, revocation

MINT = Mint()
ALICE = MINT.operator("alice")


def test_the_roster_holds_nodes_and_operators_by_name() -> None:
    """One name may be both."""
    members = [
        statement.body
        for statement in (
            MINT.enrols("alice", addresses=["192.0.2.7:7443"]),
            MINT.enlists(ALICE, ["admin", "responder"]),
        )
    ]
    assert all(isinstance(member, Member) for member in members)
    roster = assemble.roster(member for member in members if isinstance(member, Member))
    assert roster.nodes == {"alice": NodeMember("alice", ("192.0.2.7:7443",), "1", (), ())}
    [(name, operator)] = roster.operators.items()
    assert (name, operator.roles) == ("alice", frozenset({"admin", "responder"}))
    assert isinstance(operator, OperatorMember)
    assert len(operator.key) == 64


def test_an_empty_mesh_has_an_empty_roster() -> None:
    """And nothing in force."""
    assert dict(assemble.roster(()).nodes) == {}
    assert assemble.restrictions(()).locks == ()


def test_restrictions_keep_whom_they_stop_and_who_said_so() -> None:
    """A lock's end is the entry's, which an adoption may have set."""
    stop = ALICE.says("lock", lock("agent", "researcher", "stand still"))
    end = MINT.says("revocation", revocation("node", "rogue"))
    adopted = Entry(stop, "alice", Wall(NOW), (MINT.adopts(stop, 3 * HOUR),))
    found = assemble.restrictions([adopted, Entry(end, "ca", Wall(NOW))])
    until = Wall(NOW + 3 * HOUR)
    assert found.locks == (
        LockInForce(stop.id, Target("agent", "researcher"), until, "alice", "stand still"),
    )
    assert found.revocations == (RevocationInForce(end.id, Target("node", "rogue"), "ca"),)


def test_what_is_left_of_a_lifted_revocation_is_a_cutoff() -> None:
    """And so is the CA's own; both reach to an instant, and no further."""
    end = MINT.says("revocation", revocation("node", "rogue"))
    own = MINT.says("cutoff", Cutoff(target=StatementTarget(kind="agent", value="a"), before=NOW))
    entries = [(Entry(one, "ca", Wall(NOW)), Wall(NOW - 1)) for one in (end, own)]
    assert set(assemble.restrictions([], entries).revocations) == {
        RevocationInForce(end.id, Target("node", "rogue"), "ca", Wall(NOW - 1)),
        RevocationInForce(own.id, Target("agent", "a"), "ca", Wall(NOW - 1)),
    }
