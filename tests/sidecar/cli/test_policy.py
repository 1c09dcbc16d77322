from pathlib import Path

import pytest

from pki.errors import ConfigError, Fault, RefusedError
from sidecar.exits import Exit
from tests.sidecar.ca.world import POLICY
from tests.sidecar.cli.operators import FakeCa, credential, fake_ca
from tests.sidecar.cli.world import FakeDaemon, lockgate

ID = "a" * 26
DIGEST = "ab" * 32
CONFIRMED = {"state": "confirmed", "since": 12_000, "cut": 2}
APPLIED = {"id": ID, "sequence": 3, "digest": DIGEST, "warnings": ["policy:9: warning: spare"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def ca(monkeypatch: pytest.MonkeyPatch) -> FakeCa:
    return fake_ca(monkeypatch)


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    return credential(tmp_path / "alice")


# Check


def test_offline_a_good_policy_has_one_warning(file: Path, tmp_path: Path) -> None:
    """Nobody knows the roster; the warning is about the whole file, so it has no line."""
    done = lockgate("--dir", tmp_path, "policy", "check", file)
    assert done.code == Exit.YES
    assert done.out.splitlines() == [
        f"{file}: warning: no roster at hand, so these nodes were not checked: agents-1, tools-1",
        f"{file}: good",
    ]


def test_strict_makes_a_warning_an_error(file: Path, tmp_path: Path) -> None:
    """For a pipeline that wants it so."""
    assert lockgate("--dir", tmp_path, "policy", "check", "--strict", file).code == Exit.NO


def test_every_fault_has_its_line_and_what_to_do(file: Path, tmp_path: Path) -> None:
    """All at once, in words and as an object."""
    file.write_text(POLICY.replace('"retrieval"', '"retrieva"').replace("listen = 15001", 'listen = "x"'))
    done = lockgate("--dir", tmp_path, "policy", "check", file)
    assert done.code == Exit.NO
    *faults, verdict = done.out.splitlines()
    assert verdict == f"{file}: refused"
    assert {fault.split(": ")[1] for fault in faults} == {"error"}
    assert [int(fault.removeprefix(f"{file}:").split()[0]) for fault in faults] == [2, 13]
    body = lockgate("--dir", tmp_path, "policy", "check", file, "--json").json
    assert (body["good"], body["file"], len(body["findings"])) == (False, str(file), 2)
    assert set(body["findings"][0]) == {"severity", "where", "what", "hint"}


def test_a_roster_at_hand_makes_an_unknown_node_an_error(file: Path, daemon: FakeDaemon) -> None:
    """The daemon of --dir knows who has joined."""
    daemon.says("GET /v1/status", nodes=["agents-1", "tools-2"], dev=False)
    done = daemon.run("policy", "check", file)
    assert done.code == Exit.NO
    assert done.out.splitlines()[0] == (
        f'{file}:1: error: service wiki: there is no node tools-1 in the roster (did you mean "tools-2"?)'
    )
    daemon.says("GET /v1/status", nodes=["agents-1", "tools-1"], dev=False)
    assert daemon.run("policy", "check", file).out == f"{file}: good\n"


@pytest.mark.parametrize(("dev", "code"), [(True, Exit.YES), (False, Exit.NO)])
def test_root_may_be_an_agent_in_a_dev_mesh_only(
    file: Path, daemon: FakeDaemon, dev: bool, code: Exit
) -> None:
    """The daemon of --dir knows what it is."""
    file.write_text(POLICY.replace("1001", "0"))
    daemon.says("GET /v1/status", nodes=["agents-1", "tools-1"], dev=dev)
    assert daemon.run("policy", "check", file).code == code


def test_offline_root_as_an_agent_is_a_warning(file: Path, tmp_path: Path) -> None:
    """Nobody knows for which mesh it is; the configuration of --dir does, where there is one."""
    file.write_text(POLICY.replace("1001", "0"))
    done = lockgate("--dir", tmp_path, "policy", "check", file)
    assert (done.code, "warning: agent researcher: root" in done.out) == (Exit.YES, True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "node.toml").write_text('name = "a"\n')
    assert lockgate("--dir", tmp_path, "policy", "check", file).code == Exit.NO


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """One line."""
    done = lockgate("--dir", tmp_path, "policy", "check", "/gone.toml")
    assert (done.code, done.err) == (Exit.NO, "lockgate: /gone.toml: No such file or directory\n")


# Apply


def test_apply_waits_and_says_where_it_is_in_force(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """Sequence, digest, node by node; warnings go to stderr with the file's own name."""
    ca.answer = APPLIED
    daemon.says(f"GET /v1/statements/{ID}", issued=2_000, nodes={"tools-1": CONFIRMED})
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert done.code == Exit.YES
    assert done.out.splitlines() == [
        f"policy 3 ({DIGEST[:12]}) applied",
        "  tools-1: in force after 10 ms, 2 streams cut",
    ]
    assert done.err == f"{file}:9: warning: spare\n"
    assert ca.asked == [("POST /v1/policy", {"text": POLICY})]
    body = daemon.run("--operator", alice, "policy", "apply", file, "--json").json
    assert (body["sequence"], body["nodes"]) == (3, {"tools-1": CONFIRMED})


def test_a_policy_that_is_refused_names_every_fault_in_the_file(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """The CA never saw the file's name; the operator reads it all the same."""
    ca.answer = ConfigError([Fault("policy:1", "bad"), Fault("policy:6 agents", "worse", "mend it")])
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert done.code == Exit.NO
    assert done.err == f"lockgate: {file}:1: bad\nlockgate: {file}:6 agents: worse (mend it)\n"


def test_an_operator_without_the_role_reads_so(
    file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """The CA's own words."""
    ca.answer = RefusedError("needs the role admin")
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert (done.code, done.err) == (Exit.NO, "lockgate: needs the role admin\n")


def test_with_the_ca_down_apply_is_one_line(file: Path, daemon: FakeDaemon, alice: Path) -> None:
    """Exit code 3: nothing was refused, and nothing applied."""
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert (done.code, done.out) == (Exit.UNCONFIRMED, "")
    assert done.err == "lockgate: CA 127.0.0.1:1: cannot connect; check that `lockgate ca serve` runs there\n"


def test_what_is_no_text_is_not_sent(file: Path, daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """The CA would have to guess."""
    file.write_bytes(b"\xff")
    done = daemon.run("--operator", alice, "policy", "apply", file)
    assert (done.code, done.err) == (Exit.NO, f"lockgate: {file}: not UTF-8 text\n")
    assert ca.asked == []


# Show


def test_show_prints_the_policy_in_force(daemon: FakeDaemon) -> None:
    """Exactly the file on stdout; what it is called on stderr."""
    daemon.says("GET /v1/policy", sequence=3, digest=DIGEST, text=POLICY)
    done = daemon.run("policy", "show")
    assert (done.code, done.out, done.err) == (Exit.YES, POLICY, f"policy 3, SHA-256 {DIGEST}\n")
    body = daemon.run("policy", "show", "--json").json
    assert (body["sequence"], body["digest"], body["text"]) == (3, DIGEST, POLICY)


def test_without_a_policy_show_says_no(daemon: FakeDaemon) -> None:
    """Exit code 1."""
    daemon.refuses("GET /v1/policy", "no policy is in force here")
    assert daemon.run("policy", "show").code == Exit.NO
