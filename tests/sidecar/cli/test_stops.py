import base64
from pathlib import Path

import click
import pytest

from pki.clock import DAY, HOUR, MINUTE
from pki.errors import RefusedError
from pki.ids import new_id
from pki.statement import Demand, Lock, Revocation, Statement, Target, parse
from sidecar.cli.stops import LOCKABLE, REVOCABLE, parse_target
from sidecar.exits import Exit
from tests.sidecar.cli.operators import FakeCa, credential, fake_ca
from tests.sidecar.cli.world import FakeDaemon

ID = "a" * 26
LOCK = new_id(b"another-16-bytes")
CONFIRMED = {"state": "confirmed", "since": 2_000, "cut": 0}


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    return fake_ca(monkeypatch)


@pytest.fixture
def alice(tmp_path: Path, daemon: FakeDaemon) -> Path:
    """And a daemon that takes what she signs."""
    daemon.says("POST /v1/statements", id=ID, kind="lock")
    daemon.says(f"GET /v1/statements/{ID}", issued=0, nodes={"tools-1": CONFIRMED})
    return credential(tmp_path / "alice")


def handed_in(daemon: FakeDaemon) -> Statement:
    [body] = [body for call, body in daemon.asked if call == "POST /v1/statements"]
    return parse(base64.b64decode(body["envelope"]))


def test_a_lock_is_signed_here_and_handed_to_the_daemon(daemon: FakeDaemon, alice: Path) -> None:
    """With its target, life and message; where it is in force is said."""
    done = daemon.run("--operator", alice, "lock", "agent:researcher", "--ttl", "5m", "--message", "fire")
    assert done.code == Exit.YES
    assert done.out.splitlines() == [
        f"locked agent:researcher ({ID})",
        "  tools-1: in force after 2 ms, 0 streams cut",
    ]
    said = handed_in(daemon)
    assert said.body == Lock(target=Target(kind="agent", value="researcher"), message="fire")
    assert said.payload.expires - said.payload.issued == 5 * MINUTE


def test_a_lock_lives_an_hour_unless_told_otherwise(daemon: FakeDaemon, alice: Path) -> None:
    """Long enough to be looked into, short enough to be forgotten."""
    daemon.run("--operator", alice, "lock", "all")
    said = handed_in(daemon)
    assert said.body == Lock(target=Target(kind="all"), message="")
    assert said.payload.expires - said.payload.issued == HOUR


def test_a_revocation_outlives_every_certificate_it_can_touch(daemon: FakeDaemon, alice: Path) -> None:
    """Seven days of a node, and seven of grace."""
    done = daemon.run("--operator", alice, "revoke", f"session:{ID}", "--json")
    assert done.json["nodes"] == {"tools-1": CONFIRMED}
    said = handed_in(daemon)
    assert said.body == Revocation(target=Target(kind="session", value=ID))
    assert said.payload.expires - said.payload.issued > 14 * DAY + 5 * MINUTE


def test_what_the_daemon_refuses_is_a_no(daemon: FakeDaemon, alice: Path) -> None:
    """In its words."""
    daemon.refuses("POST /v1/statements", "statement lock: alice may not sign it")
    done = daemon.run("--operator", alice, "lock", "all")
    assert (done.code, done.err) == (Exit.NO, "lockgate: statement lock: alice may not sign it\n")


@pytest.mark.parametrize(
    "words",
    [["lock", "all", "--ttl", "0s"], ["lock", "all", "--ttl", "5h"], ["lock", "all", "--message", "x" * 501]],
)
def test_what_every_node_would_refuse_is_a_misuse(daemon: FakeDaemon, alice: Path, words: list[str]) -> None:
    """Said before anything is signed."""
    done = daemon.run("--operator", alice, *words)
    assert done.code == Exit.USAGE
    assert "at most" in done.err
    assert daemon.asked == []


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("all", ("all", "")),
        ("segment:high-risk", ("segment", "high-risk")),
        ("service:wiki", ("service", "wiki")),
        ("agent:a", ("agent", "a")),
        (f"session:{ID}", ("session", ID)),
        ("node:tools-1", ("node", "tools-1")),
        ("operator:eve", ("operator", "eve")),
        ("serial:00:0A:ff", ("serial", "aff")),
    ],
)
def test_a_target_is_a_kind_and_a_name(text: str, target: tuple[str, str]) -> None:
    """A serial as any tool prints it."""
    assert parse_target(text, LOCKABLE) == target


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wiki",
        "all:x",
        "agent",
        "agent:",
        "agent:A b",
        "session:x",
        "serial:",
        "serial:0",
        "serial:xyz",
        f"serial:{'f' * 41}",
        "ca:main",
        "id:x",
    ],
)
def test_what_is_no_target_is_a_misuse(text: str) -> None:
    """The words say what could be meant."""
    with pytest.raises(click.UsageError, match="target"):
        parse_target(text, LOCKABLE)


@pytest.mark.parametrize("text", ["all", "segment:a", "service:a"])
def test_only_who_holds_a_certificate_is_revoked(text: str) -> None:
    """A revocation is for good: the kill switch is a lock."""
    with pytest.raises(click.UsageError, match=r"one of agent:\.\.\., session:"):
        parse_target(text, REVOCABLE)


def test_unlock_brings_a_demand_to_the_ca(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """Signed for now: it is worth nothing in a quarter of an hour."""
    ca.answer = {"id": ID, "lifted": [LOCK]}
    done = daemon.run("--operator", alice, "unlock", LOCK)
    assert (done.code, done.out.splitlines()[0]) == (Exit.YES, f"unlocked {LOCK}")
    [(call, body)] = ca.asked
    demand = parse(body["demand"])
    assert (call, demand.body) == ("POST /v1/lifts", Demand(action="unlock", ids=[LOCK]))
    assert demand.payload.expires - demand.payload.issued <= 15 * MINUTE


def test_an_unlock_that_is_refused_is_a_no(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """The CA's words say what to do."""
    ca.answer = RefusedError("another operator")
    assert daemon.run("--operator", alice, "unlock", LOCK).code == Exit.NO


def test_unlock_takes_an_id(daemon: FakeDaemon) -> None:
    """Not a target: two locks may be on one."""
    assert daemon.run("unlock", "agent:a").code == Exit.USAGE


def test_locks_and_revocations_are_listed(daemon: FakeDaemon) -> None:
    """With what their unlock needs, and no control characters of their authors."""
    daemon.says("GET /v1/status", locks=[], revocations=[])
    assert daemon.run("lock", "ls").out == "no locks in force\n"
    assert daemon.run("revoke", "ls").out == "no revocations in force\n"
    locks = [{"id": ID, "target": "all", "by": "alice", "until": 1_900_000_000_000_000, "message": "a\x1bb"}]
    revocations = [{"id": ID, "target": "node:a", "by": "bob"}]
    daemon.says("GET /v1/status", locks=locks, revocations=revocations)
    assert daemon.run("lock", "ls").out == f"{ID}  all  by alice  until 2030-03-17 17:46:40 UTC  a b\n"
    assert daemon.run("revoke", "ls").out == f"{ID}  node:a  by bob\n"
    assert daemon.run("lock", "ls", "--json").json == {"schema_version": 1, "locks": locks}
    assert daemon.run("revoke", "ls", "--json").json == {"schema_version": 1, "revocations": revocations}


@pytest.mark.parametrize("mistake", [False, True])
def test_unrevoke_brings_a_demand_to_the_ca(
    daemon: FakeDaemon, ca: FakeCa, alice: Path, mistake: bool
) -> None:
    """That it was a mistake is part of what is signed."""
    ca.answer = {"id": ID, "lifted": [LOCK]}
    done = daemon.run("--operator", alice, "unrevoke", LOCK, *(["--mistake"] if mistake else []))
    assert (done.code, done.out.splitlines()[0]) == (Exit.YES, f"unrevoked {LOCK}")
    [(call, body)] = ca.asked
    assert call == "POST /v1/lifts"
    assert parse(body["demand"]).body == Demand(action="unrevoke", ids=[LOCK], mistake=mistake)


def test_root_unrevokes_and_cuts_off_on_the_cas_host(daemon: FakeDaemon) -> None:
    """The CA signs; what was issued before is the CA's alone to revoke."""
    daemon.says("POST /v1/unrevokes", id=ID, lifted=[LOCK])
    daemon.says("POST /v1/orders", id=ID, kind="cutoff")
    daemon.says(f"GET /v1/statements/{ID}", issued=0, nodes={"tools-1": CONFIRMED})
    assert daemon.run("unrevoke", LOCK, "--as-ca").code == Exit.YES
    done = daemon.run("revoke", "node:a", "--issued-before", "1970-01-01T00:00:01Z", "--as-ca")
    assert done.code == Exit.YES
    asked = [(call, body) for call, body in daemon.asked if call.startswith("POST")]
    target = {"kind": "node", "value": "a"}
    assert asked == [
        ("POST /v1/unrevokes", {"id": LOCK, "mistake": False}),
        (
            "POST /v1/orders",
            {"kind": "cutoff", "target": target, "message": "", "life": 15 * DAY, "before": 1_000_000},
        ),
    ]


@pytest.mark.parametrize("words", [["node:a"], ["serial:ab", "--as-ca"], ["all", "--as-ca"]])
def test_a_cutoff_is_the_cas_and_of_what_has_several_certificates(
    daemon: FakeDaemon, words: list[str]
) -> None:
    """Said before anybody is asked."""
    done = daemon.run("revoke", *words, "--issued-before", "2027-01-01")
    assert (done.code, daemon.asked) == (Exit.USAGE, [])


def test_a_cutoff_is_listed_with_its_instant(daemon: FakeDaemon) -> None:
    """So that nobody takes it for the whole name."""
    left = {"id": ID, "target": "node:a", "by": "bob", "before": 1_900_000_000_000_000}
    daemon.says("GET /v1/status", locks=[], revocations=[left])
    assert daemon.run("revoke", "ls").out.endswith("by bob  as issued before 2030-03-17 17:46:40 UTC\n")
