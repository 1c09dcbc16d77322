"""Every decision that was ever recorded, made again from its record and the bodies it names."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from pki.clock import Wall
from sidecar.audit import record
from sidecar.audit.record import Record, Requested, Role, Subject
from sidecar.audit.redecide import MAX_DIFFERENCES, Redecided, moment_of, request_of
from sidecar.audit.verify import verify_folder
from sidecar.audit.volume import open_volume
from sidecar.manifest import snapshot_of
from sidecar.objects import Objects
from sidecar.policy.decide import Request, decide
from sidecar.policy.model import Policy
from sidecar.policy.operation import Operation
from sidecar.proxy.carry import Sight
from sidecar.proxy.ruling import ENGINE, ruling, spelled
from sidecar.reasons import Reason
from sidecar.snapshot import (
    LeaseInForce,
    LockInForce,
    Moment,
    NodeMember,
    OperatorMember,
    PendingRequest,
    Restrictions,
    RevocationInForce,
    Snapshot,
    Target,
)
from tests.auditlog import FOLDER, NOON, site
from tests.faultdisk import FaultDisk
from tests.sidecar.policy.language import Draw, whole_policy_of

SUBJECT = Subject(stream="b" * 26, role=Role.TOOL)
WORLDS = 60
REQUESTS = 20


def made(asked: Request, snapshot: Snapshot, moment: Moment) -> Record:
    """The record of one decision, as the data path writes it."""
    decision = decide(asked, snapshot, moment)
    one = ruling(asked, decision, Sight(snapshot, moment))
    if asked.operation is None:
        return (record.admitted if decision.allowed else record.denied)(NOON, SUBJECT, one)
    what = Requested(request="d" * 26, operation=spelled(asked.operation))
    return (record.request if decision.allowed else record.request_denied)(NOON, SUBJECT, one, what)


@dataclass
class Bodies:
    """What a node keeps by digest."""

    held: dict[str, bytes] = field(default_factory=dict)

    def keep(self, *bodies: bytes) -> None:
        self.held |= {sha256(one).hexdigest(): one for one in bodies}


def policy_of(text: bytes, _: str) -> Policy:
    return whole_policy_of(text.decode())


def redecided(
    records: Iterable[Record], body: Callable[[str], bytes | None], change: dict[str, Any] | None = None
) -> Redecided:
    """What becomes of these, with ``change`` in the fields of each."""
    disk = FaultDisk()
    volume = open_volume(site(disk), NOON, []).volume
    volume.append([Record(one.kind, one.at, {**one.fields, **(change or {})}) for one in records])
    found = Redecided(body, policy_of)
    assert verify_folder(FOLDER, disk, [found]).first_bad is None
    return found


def world(seed: int, bodies: Bodies) -> list[Record]:
    """The records of decisions in a random mesh, whose bodies are kept."""
    draw = Draw(seed)
    drawn = draw.world()
    snapshot = drawn.snapshot()
    assert snapshot.policy is not None
    bodies.keep(drawn.text.encode(), *snapshot.bodies())
    asked = [draw.ask(drawn) for _ in range(REQUESTS)]
    return [made(one.request(snapshot.policy), snapshot, one.moment) for one in asked]


@pytest.fixture(scope="module")
def story() -> tuple[list[Record], Bodies]:
    bodies = Bodies()
    records = [one for seed in range(WORLDS) for one in world(seed, bodies)]
    return records, bodies


def test_every_decision_comes_out_as_it_was(story: tuple[list[Record], Bodies]) -> None:
    """Whatever policy, locks, leases, narrowing, clocks and request."""
    records, bodies = story
    found = redecided(records, bodies.held.get)
    assert (found.decisions, found.disagreements, found.missing) == (len(records), 0, 0)
    assert found.is_right
    verdicts = {one.fields["verdict"] for one in records}
    assert verdicts == {"allow", "deny", "would_deny"}


@pytest.mark.parametrize(
    "change",
    [{"verdict": "allow"}, {"verdict": "deny", "reason": "locked"}, {"rule": "made-up"}],
    ids=str,
)
def test_a_record_that_says_otherwise_is_a_disagreement(
    story: tuple[list[Record], Bodies], change: dict[str, Any]
) -> None:
    """Who forges a verdict would have to forge what it follows from."""
    records, bodies = story
    found = redecided(records, bodies.held.get, change)
    same = sum(1 for one in records if all(one.fields.get(key) == value for key, value in change.items()))
    assert found.disagreements == len(records) - same
    assert len(found.differences) == min(MAX_DIFFERENCES, found.disagreements)
    assert found.differences[0].line >= 2
    assert not found.is_right


def test_another_version_of_the_decision_is_not_comparable_and_no_fault(
    story: tuple[list[Record], Bodies],
) -> None:
    """It is counted, by version."""
    records, bodies = story
    found = redecided(records, bodies.held.get, {"engine": "0"})
    assert (found.decisions, found.not_comparable) == (0, len(records))
    assert found.engines == {"0": len(records)}
    assert found.is_right


def test_without_its_bodies_nothing_is_made_again(story: tuple[list[Record], Bodies]) -> None:
    """And that is no agreement."""
    records, bodies = story
    text = next(one for one in bodies.held.values() if one.startswith(b"[segments"))
    for body in (lambda _: None, lambda _: b"{}", lambda digest: bodies.held[digest] + b" "):
        found = redecided(records[:REQUESTS], body)
        assert (found.decisions, found.missing, found.is_right) == (0, REQUESTS, False)
    lacking = {digest: one for digest, one in bodies.held.items() if one != text}
    assert redecided(records[:REQUESTS], lacking.get).missing == REQUESTS


def test_a_manifest_of_another_form_is_not_guessed_at(story: tuple[list[Record], Bodies]) -> None:
    """A version that had more in force than this one reads is not judged by half of it."""
    records, _ = story
    bodies = Bodies()
    for body in (b"[]", b"not json", b"{}", b'{"policy":null}', b"[" * 100_000):
        bodies.keep(body)
        change = {"snapshot": sha256(body).hexdigest()}
        assert redecided(records[:1], bodies.held.get, change).missing == 1
    whole = json.dumps({"policy": None, "bundle": "", "new": 1}).encode()
    bodies.keep(whole)
    assert redecided(records[:1], bodies.held.get, {"snapshot": sha256(whole).hexdigest()}).missing == 1


@pytest.mark.parametrize(
    "change",
    [
        {"facts": {}},
        {"facts": {"id": "spiffe://x", "serials": 5, "not_after": "x"}},
        {"moment": {}},
        {"moment": {"wall": "x", "floor": None, "as_of": []}},
        {"decision": {}},
        {"operation": {"method": []}},
        {"snapshot": "../../etc/passwd"},
    ],
    ids=str,
)
def test_a_record_that_does_not_say_what_was_asked_is_missing(
    story: tuple[list[Record], Bodies], change: dict[str, Any], tmp_path: Path
) -> None:
    """Whoever wrote it, and whatever types it has."""
    records, bodies = story
    found = redecided(records[:1], bodies.held.get, change)
    assert found.missing == 1
    assert Objects(tmp_path).read(str(change.get("snapshot", "x"))) is None


def test_what_else_a_request_is_about_is_judged_too(story: tuple[list[Record], Bodies]) -> None:
    """One that was let through on the word of its first part is found."""
    records, bodies = story
    allowed = [one for one in records if one.kind is record.Kind.REQUEST and one.fields["verdict"] == "allow"]
    refused = [one for one in records if one.kind is record.Kind.DENIED and "operation" in one.fields]
    assert allowed
    same = redecided(allowed[:1], bodies.held.get, {"also": [allowed[0].fields["operation"]]})
    assert same.disagreements == 0
    other = redecided(allowed[:1], bodies.held.get, {"also": [{"method": "NONE", "name": "/never"}]})
    assert (other.disagreements, bool(refused)) == (1, True)
    assert "let NONE /never through beside it" in other.differences[0].what


def test_a_nodes_own_refusals_are_no_decisions(story: tuple[list[Record], Bodies]) -> None:
    """For want of room the policy has no word; before anybody is known nothing is decided."""
    records, bodies = story
    own = [
        Record(one.kind, one.at, {**one.fields, "decision": {"own": True}, "reason": "limit"})
        for one in records[:1]
    ]
    stranger = record.denied(NOON, SUBJECT, record.Ruling(verdict="deny", reason=Reason.WRONG_CALLER))
    found = redecided([*own, stranger, record.opened(NOON, SUBJECT)], bodies.held.get)
    assert (found.decisions, found.missing, found.is_right) == (0, 0, True)


def test_a_cutoff_and_what_it_cuts_off_come_back_as_they_were() -> None:
    """A certificate from before it is refused again, one from after it is not."""
    bodies, draw = Bodies(), Draw(2)
    drawn = draw.world()
    full = drawn.snapshot()
    assert full.policy is not None
    bodies.keep(drawn.text.encode())
    ask = draw.ask(drawn)
    target = Target("agent", ask.request(full.policy).session.name)
    cutoffs = Restrictions((), [RevocationInForce("r", target, "alice", Wall(100))])
    snapshot = Snapshot.of(
        policy=full.policy, bundle_digest="b", roster=full.roster, restrictions=cutoffs, leases=full.leases
    )
    bodies.keep(*snapshot.bodies())
    asked = [replace(ask.request(full.policy), issued=Wall(at)) for at in (99, 100)]
    records = [made(one, snapshot, ask.moment) for one in asked]
    found = redecided(records, bodies.held.get)
    assert (found.decisions, found.disagreements) == (2, 0)
    assert [one.fields.get("rule") == "r" for one in records] == [True, False]


def test_all_that_a_decision_reads_of_a_request_is_on_record() -> None:
    """A field that is added to requests is added to records, and read back."""
    bodies = Bodies()
    for seed in range(20):
        draw = Draw(seed)
        drawn = draw.world()
        snapshot = drawn.snapshot()
        assert snapshot.policy is not None
        bodies.keep(drawn.text.encode(), *snapshot.bodies())
        for n in range(REQUESTS):
            ask = draw.ask(drawn)
            asked = replace(ask.request(snapshot.policy), issued=Wall(n) if n % 2 else None)
            one = made(asked, snapshot, ask.moment)
            assert request_of(one.fields) == asked
            assert moment_of(one.fields) == ask.moment
        again = snapshot_of(snapshot.digest, bodies.held.get, policy_of)
        assert again.digest == snapshot.digest
        assert again.restrictions.locks == snapshot.restrictions.locks
        assert again.leases.all == snapshot.leases.all
    assert {one.name for one in fields(Request)} == {
        "session", "service", "tool_node", "serials", "not_after", "narrowing", "operation", "issued",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        (Snapshot, "policy bundle_digest roster restrictions digest leases"),
        (LockInForce, "id target until by message"),
        (RevocationInForce, "id target by before"),
        (LeaseInForce, "id session rule services operations until arguments uses tool_node cut_short"),
        (PendingRequest, "id session rule services until"),
        (Operation, "method name holds arguments"),
        (NodeMember, "name addresses version features labels"),
        (OperatorMember, "name key roles uids user"),
        (Moment, "wall floor as_of"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_all_that_is_in_force_is_in_the_bodies(kind: type, known: str) -> None:
    """Who adds a field here adds it to `snapshot._bodies` and to `manifest`: decisions could else not be made again."""
    assert [one.name for one in fields(kind)] == known.split()


def test_under_other_hash_seeds_it_is_the_same(story: tuple[list[Record], Bodies], tmp_path: Path) -> None:
    """Another process, on the files alone: nothing rests on the order of a set."""
    records, bodies = story
    objects = Objects(tmp_path / "objects")
    for body in bodies.held.values():
        objects.put(body)
    (tmp_path / "audit").mkdir()
    disk = FaultDisk()
    volume = open_volume(site(disk), NOON, []).volume
    volume.append(records)
    (tmp_path / "audit" / volume.head.volume).write_bytes(disk.content(FOLDER / volume.head.volume))
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.sidecar.audit.test_redecide import policy_of\n"
        "from sidecar.audit.redecide import Redecided\nfrom sidecar.audit.verify import verify_folder\n"
        "from sidecar.objects import Kept\n"
        "place = Path(sys.argv[1])\n"
        "found = Redecided(Kept(place / 'objects').read, policy_of)\n"
        "verify_folder(place / 'audit', None, [found])\n"
        "print(found.decisions, found.disagreements, found.missing)\n"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [str(len(records)), "0", "0"]


def test_a_snapshot_without_a_policy_is_one_too() -> None:
    """A node that has none yet refuses, on record."""
    bodies = Bodies()
    draw = Draw(1)
    drawn = draw.world()
    full = drawn.snapshot()
    assert full.policy is not None
    bare = Snapshot.of(
        policy=None, bundle_digest="", roster=full.roster, restrictions=full.restrictions, leases=full.leases
    )
    bodies.keep(*bare.bodies())
    ask = draw.ask(drawn)
    one = made(replace(ask.request(full.policy), operation=None), bare, ask.moment)
    assert redecided([one], bodies.held.get).decisions == 1
    assert one.fields["engine"] == ENGINE
    assert Wall(NOON) == one.at
