import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import click
import pytest

from pki.errors import ConfigError, Fault, RefusedError
from sidecar.exits import Exit
from sidecar.packed import unpack
from tests.sidecar.ca.world import POLICY
from tests.sidecar.cli.operators import NONE_YET, FakeCa, credential, fake_ca, kept
from tests.sidecar.cli.world import FakeDaemon

ID = "a" * 26
OTHER = POLICY.replace('segment = "retrieval"', 'segment = "action"')
STATUS = "GET /v1/status"
ACTIVE = "GET /v1/policies/active"
CONFIRMED = {"state": "confirmed", "since": 12_000, "cut": 2}
DIGEST = kept(POLICY)["digest"]
APPLIED = {
    "state": "applied",
    "id": ID,
    "sequence": 3,
    "digest": DIGEST,
    "warnings": ["policy:9: warning: spare"],
}
PROPOSED = {
    "digest": DIGEST,
    "base": "0" * 64,
    "author": "spiffe://td/operator/ada",
    "nodes": ["tools-1"],
    "strand": [],
    "at": 0,
    "expires": 3_600_000_000,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    fake = fake_ca(monkeypatch)
    fake.answers |= {ACTIVE: NONE_YET, STATUS: {"you": {"roles": ["admin"]}}}
    return fake


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    return credential(tmp_path / "alice")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody at a terminal, who gives these answers; what they were asked is left in it."""
    answers = ["y"]

    def confirm(question: str, err: bool) -> bool:
        answers.append(question)
        return answers[0] == "y"

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(click, "confirm", confirm)
    return answers


def sent(ca: FakeCa) -> dict[str, Any]:
    """The last body that reached the CA."""
    _, body = ca.asked[-1]
    return dict(body)


def test_apply_shows_the_difference_waits_and_says_where_it_is_in_force(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """The difference and warnings go to stderr, the latter with the file's own name; then node by node."""
    ca.answer = APPLIED
    daemon.says(f"GET /v1/statements/{ID}", issued=2_000, nodes={"tools-1": CONFIRMED})
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert done.code == Exit.YES
    assert done.out.splitlines() == [
        f"policy 3 ({DIGEST[:12]}) applied",
        "  tools-1: in force after 10 ms, 2 streams cut",
    ]
    lines = done.err.splitlines()
    assert lines[:2] == ["agent researcher", "  + wiki  any: read in retrieval, by read-wiki"]
    assert lines[-1] == f"{file}:9: warning: spare"
    body = sent(ca)
    assert unpack(b64decode(body.pop("packed")), 10_000).decode() == POLICY
    assert body == {"base": "0" * 64, "canary": [], "strand": [], "large": False}
    answer = daemon.run("--operator", alice, "policy", "apply", file, "--yes", "--json").json
    assert (answer["sequence"], answer["nodes"]) == (3, {"tools-1": CONFIRMED})
    assert answer["difference"]["changes"][0]["kind"] == "gained"


def test_apply_names_what_it_was_compared_with_and_on_what_terms(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """So that the CA refuses it when another came into force, and knows for which nodes it is."""
    ca.answers[ACTIVE] = kept(OTHER)
    ca.answer = APPLIED
    daemon.run("--operator", alice, "policy", "apply", file, "--yes", "--canary", "tools-1", "--strand", "x")
    body = sent(ca)
    assert (body["base"], body["canary"], body["strand"]) == (kept(OTHER)["digest"], ["tools-1"], ["x"])


@pytest.mark.parametrize("says", ["y", "n"])
def test_on_a_terminal_apply_asks(
    says: str, daemon: FakeDaemon, ca: FakeCa, alice: Path, terminal: list[str]
) -> None:
    """No is exit code 1, and nothing was sent."""
    file = alice.parent / "policy.toml"
    file.write_text(POLICY)
    terminal[0], ca.answer = says, APPLIED
    done = daemon.run("--operator", alice, "policy", "apply", file, "--wait", "0s")
    # 3: no daemon here tells where it is in force.
    assert done.code == (Exit.UNCONFIRMED if says == "y" else Exit.NO)
    assert terminal[1:] == [f"Apply {file}?"]
    assert [call for call, _ in ca.asked] == [STATUS, ACTIVE, *(["POST /v1/policy"] if says == "y" else [])]


def test_without_a_terminal_apply_wants_yes(file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """The difference is shown all the same; nothing is sent."""
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert done.code == Exit.NO
    *_, total, refusal = done.err.splitlines()
    assert total.startswith("in all: 1 gained")
    assert refusal == "lockgate: no terminal to ask on: read the difference, then say it with --yes"
    assert [call for call, _ in ca.asked] == [STATUS, ACTIVE]


def test_a_policy_that_is_refused_names_every_fault_in_the_file(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """The CA never saw the file's name; the operator reads it all the same."""
    ca.answer = ConfigError([Fault("policy:1", "bad"), Fault("policy:6 agents", "worse", "mend it")])
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert done.code == Exit.NO
    assert done.err.splitlines()[-2:] == [
        f"lockgate: {file}:1: bad",
        f"lockgate: {file}:6 agents: worse (mend it)",
    ]


def test_a_file_with_faults_is_not_sent(file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """Nor one that is no text, nor a huge one that nobody said a program wrote."""
    file.write_text(POLICY + "[oops]\n")
    assert f"{file}:19 oops: unknown key" in daemon.run("--operator", alice, "policy", "apply", file).err
    file.write_bytes(b"\xff")
    assert f"{file}:1: not UTF-8" in daemon.run("--operator", alice, "policy", "apply", file).err
    file.write_text(POLICY + "#" * 2**20)
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert (
        done.err
        == f"lockgate: {file}: a policy has at most 1048576 bytes; --large takes what a program wrote\n"
    )
    assert [call for call, _ in ca.asked if call not in (ACTIVE, STATUS)] == []
    ca.answer = APPLIED
    daemon.run("--operator", alice, "policy", "apply", file, "--yes", "--large", "--wait", "0s")
    assert sent(ca)["large"] is True


def test_very_many_warnings_are_counted(file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """A generated policy may have one for each rule."""
    ca.answer = {**APPLIED, "warnings": [f"policy:{n}: warning: spare" for n in range(60)]}
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes", "--wait", "0s")
    assert done.err.splitlines()[-1] == "... and 10 warnings more; lockgate policy check has all"


def test_an_operator_without_the_role_reads_so(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """Before any difference; and the CA's own words, should it think otherwise in the end."""
    ca.answer = RefusedError("needs the role admin")
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert (done.code, done.err.splitlines()[-1]) == (Exit.NO, "lockgate: needs the role admin")
    ca.answers[STATUS] = {"you": {"roles": ["approver", "responder"]}}
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert done.err == "lockgate: spiffe://example.org/operator/alice: needs the role admin\n"
    ca.answers[STATUS] = {"you": {"roles": ["responder"]}}
    done = daemon.run("--operator", alice, "policy", "approve", DIGEST)
    assert done.err == "lockgate: spiffe://example.org/operator/alice: needs the role approver or admin\n"


def test_with_the_ca_down_apply_is_one_line(file: Path, daemon: FakeDaemon, alice: Path) -> None:
    """Exit code 3: nothing was refused, and nothing applied."""
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert (done.code, done.out) == (Exit.UNCONFIRMED, "")
    assert done.err == "lockgate: CA 127.0.0.1:1: cannot connect; check that `lockgate ca serve` runs there\n"


def test_where_it_takes_two_apply_says_what_the_other_does(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """Exit code 3: it is not in force."""
    ca.answer = {"state": "proposed", "warnings": [], **PROPOSED}
    done = daemon.run("--operator", alice, "policy", "apply", file, "--yes")
    assert done.code == Exit.UNCONFIRMED
    assert done.out == (
        "proposed: until 1970-01-01 01:00:00 UTC, another admin or approver may run:"
        f" lockgate policy approve {DIGEST[:12]}\n"
    )


# Approve


def test_approve_shows_what_is_approved_and_confirms_exactly_that(
    daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """By the beginning of its digest; its author, its terms and the difference come first."""
    ca.answers["GET /v1/policies"] = {"proposals": [PROPOSED]}
    ca.answers[f"GET /v1/policies/{DIGEST}"] = kept(POLICY, 0)
    ca.answer = APPLIED
    done = daemon.run("--operator", alice, "policy", "approve", DIGEST[:12], "--yes", "--wait", "0s")
    lines = done.err.splitlines()
    assert lines[0] == ("proposed by spiffe://td/operator/ada at 1970-01-01 00:00:00 UTC, on tools-1 only")
    assert lines[2] == "  + wiki  any: read in retrieval, by read-wiki"
    assert done.out.startswith(f"policy 3 ({DIGEST[:12]}) applied")
    assert sent(ca) == {"digest": DIGEST, "base": "0" * 64, "canary": ["tools-1"], "strand": []}


@pytest.mark.parametrize(("proposals", "says"), [([], "no proposal"), ([PROPOSED] * 2, "several proposals")])
def test_approve_needs_one_proposal(
    proposals: list[Any], says: str, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """A digest that is too short names several, a wrong one none."""
    ca.answers["GET /v1/policies"] = {"proposals": proposals}
    done = daemon.run("--operator", alice, "policy", "approve", "", "--yes")
    assert (done.code, says in done.err) == (Exit.NO, True)


# Rollback


def test_rollback_applies_an_old_version_anew(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """With the same difference and the same question: it is a policy like any other."""
    ca.answers |= {ACTIVE: kept(OTHER, 2), "GET /v1/policies/1": kept(POLICY, 1)}
    ca.answer = APPLIED
    refused = daemon.run("--operator", alice, "policy", "rollback", "1")
    assert (refused.code, "no terminal" in refused.err) == (Exit.NO, True)
    done = daemon.run("--operator", alice, "policy", "rollback", "1", "--yes", "--wait", "0s")
    assert "  ~ wiki  any: read in retrieval, by read-wiki" in done.err
    body = sent(ca)
    assert (unpack(b64decode(body["packed"]), 10_000).decode(), body["base"]) == (
        POLICY,
        kept(OTHER)["digest"],
    )
