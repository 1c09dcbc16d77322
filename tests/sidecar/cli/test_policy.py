import hashlib
import json
from pathlib import Path

import pytest

from sidecar.exits import Exit
from tests.sidecar.ca.world import POLICY
from tests.sidecar.cli.operators import FakeCa, credential, fake_ca, kept
from tests.sidecar.cli.world import FakeDaemon, lockgate

DIGEST = hashlib.sha256(POLICY.encode()).hexdigest()
OTHER = POLICY.replace('segment = "retrieval"', 'segment = "action"')


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


def test_show_says_what_the_policy_permits(daemon: FakeDaemon) -> None:
    """Agent by service by operation, with class, segment and the rule with its line."""
    daemon.says("GET /v1/policy", sequence=3, digest=DIGEST, text=POLICY)
    done = daemon.run("policy", "show", "--permissions")
    assert done.out.splitlines() == [
        "AGENT       SERVICE  OPERATION  CLASS  SEGMENT    RULE",
        "researcher  wiki     any        read   retrieval  read-wiki:15",
    ]
    [row] = daemon.run("policy", "show", "--permissions", "--json").json["permissions"]
    assert (row["agent"], row["operation"], row["conditions"]) == ("researcher", "any", [])


def test_show_prints_an_old_version(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """The CA keeps them all; any operator may read them."""
    ca.answers["GET /v1/policies/1"] = kept(POLICY, 1)
    done = daemon.run("--operator", alice, "policy", "show", "--version", "1")
    assert (done.code, done.out, done.err) == (Exit.YES, POLICY, f"policy 1, SHA-256 {DIGEST}\n")


@pytest.mark.parametrize("spoilt", [{"digest": "0" * 63 + "1"}, {"packed": "!"}, {"packed": ""}])
def test_a_version_that_is_not_what_its_digest_says_is_not_shown(
    spoilt: dict[str, str], daemon: FakeDaemon, ca: FakeCa, alice: Path
) -> None:
    """Nor one that does not even inflate."""
    ca.answers["GET /v1/policies/1"] = {**kept(POLICY, 1), **spoilt}
    done = daemon.run("--operator", alice, "policy", "show", "--version", "1")
    assert (done.code, done.out) == (Exit.NO, "")


# Diff


def test_diff_says_what_agents_gain_and_lose(file: Path, tmp_path: Path, daemon: FakeDaemon) -> None:
    """From the policy in force here, or between any two; exit code 1 when anything differs."""
    other = tmp_path / "other.toml"
    other.write_text(OTHER)
    daemon.says("GET /v1/policy", sequence=3, digest=DIGEST, text=POLICY)
    done = daemon.run("policy", "diff", other)
    assert (done.code, done.err) == (Exit.NO, "")
    assert done.out.splitlines() == [
        "agent researcher",
        "  ~ wiki  any: mutate in action, by read-wiki",
        "      was: read in retrieval, by read-wiki",
        "service wiki: segment retrieval -> action",
        "in all: 1 changed, 1 of settings",
    ]
    assert daemon.run("policy", "diff", file, other).out == done.out
    assert daemon.run("policy", "diff", "active", file).code == Exit.YES


def test_diff_as_json_has_both_sides_whole(file: Path, tmp_path: Path) -> None:
    """For a pipeline that judges them itself."""
    other = tmp_path / "other.toml"
    other.write_text(OTHER)
    body = lockgate("policy", "diff", file, other, "--json").json
    [change] = body["changes"]
    assert (change["kind"], change["agent"], change["service"]) == ("changed", "researcher", "wiki")
    assert change["after"][0] == {
        "agent": "researcher",
        "service": "wiki",
        "operation": "any",
        "class": "mutate",
        "segment": "action",
        "rule": "read-wiki",
        "line": 15,
        "conditions": [],
    }
    [setting] = body["settings"]
    assert setting == {
        "table": "service wiki",
        "setting": "segment",
        "before": "retrieval",
        "after": "action",
    }


def test_diff_of_old_versions_asks_the_ca(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """A number is a version."""
    ca.answers = {"GET /v1/policies/1": kept(OTHER, 1), "GET /v1/policies/2": kept(POLICY, 2)}
    body = daemon.run("--operator", alice, "policy", "diff", "1", "2", "--json").json
    assert (body["before"], body["after"], len(body["changes"])) == ("policy 1", "policy 2", 1)


def test_a_long_difference_ends_with_how_much_there_is(file: Path, tmp_path: Path) -> None:
    """Nobody reads ten thousand lines on a terminal."""
    other = tmp_path / "other.toml"
    agents = "".join(f'[agents.a{n}]\nnodes = ["agents-1"]\nuid = {2000 + n}\n' for n in range(300))
    other.write_text(POLICY + agents)
    *_, more, total = lockgate("policy", "diff", file, other).out.splitlines()
    assert more == "... and 100 lines more; --json has all"
    assert total == "in all: 300 of settings"


# Versions


def test_ls_lists_versions_and_proposals(daemon: FakeDaemon, ca: FakeCa, alice: Path) -> None:
    """What is in force, what is a canary, who did it with whom, and what waits."""
    row = {"digest": DIGEST, "author": "spiffe://td/operator/alice", "approver": "", "nodes": [], "at": 0}
    both = {**row, "approver": "spiffe://td/operator/bob", "nodes": ["tools-1"]}
    ca.answer = {
        "sequence": 1,
        "digest": DIGEST,
        "approvals": 2,
        "canary": 2,
        "versions": [{**both, "sequence": 2}, {**row, "sequence": 1}],
        "proposals": [{**row, "expires": 3_600_000_000}],
    }
    done = daemon.run("--operator", alice, "policy", "ls")
    assert done.out.splitlines() == [
        "SEQUENCE    DIGEST        APPLIED                  BY     WITH  NODES",
        f"2 canary    {DIGEST[:12]}  1970-01-01 00:00:00 UTC  alice  bob   tools-1",
        f"1 in force  {DIGEST[:12]}  1970-01-01 00:00:00 UTC  alice        all",
        f"proposed by alice: {DIGEST[:12]}, until 1970-01-01 01:00:00 UTC",
    ]
    assert daemon.run("--operator", alice, "policy", "ls", "--json").json["canary"] == 2


# Test


TESTS = '[[tests]]\nagent = "researcher"\nservice = "wiki"\nexpect = "{}"\n'


def test_the_tests_of_a_policy_are_run_and_listed(file: Path, tmp_path: Path) -> None:
    """Exit code 1 when one fails, and what was answered instead."""
    file.write_text(POLICY + TESTS.format("allow") + TESTS.format("deny"))
    done = lockgate("policy", "test", file)
    assert (done.code, done.err) == (Exit.NO, "")
    assert done.out.splitlines() == [
        "LINE  TEST                              EXPECTED          WHY",
        "19    agent researcher to service wiki  allow     ok      grant read-wiki",
        "23    agent researcher to service wiki  deny      FAILED  grant read-wiki",
        f"{file}: 2 tests, 1 failed",
    ]
    body = lockgate("policy", "test", file, "--json").json
    assert (body["passed"], [one["passed"] for one in body["tests"]]) == (False, [True, False])


def test_a_policy_without_tests_passes_them(file: Path) -> None:
    """And says that there are none."""
    done = lockgate("policy", "test", file)
    assert (done.code, done.out) == (Exit.YES, f"{file}: 0 tests, 0 failed\n")


def test_a_junit_report_is_written_where_it_is_wanted(file: Path, tmp_path: Path) -> None:
    """Each run anew; a place that cannot be written is one line."""
    file.write_text(POLICY + TESTS.format("allow"))
    report = tmp_path / "report.xml"
    for _ in range(2):
        assert lockgate("policy", "test", file, "--junit", report).code == Exit.YES
    assert '<testcase classname="' in report.read_text()
    done = lockgate("policy", "test", file, "--junit", tmp_path)
    assert (done.code, done.err) == (Exit.NO, f"lockgate: {tmp_path}: Is a directory\n")


def test_a_file_with_faults_has_no_tests_to_run(file: Path) -> None:
    """Its faults are listed instead."""
    file.write_text(POLICY + "[oops]\n")
    done = lockgate("policy", "test", file)
    assert (done.code, done.out) == (Exit.NO, "")
    assert "oops: unknown key" in done.err


def test_the_schema_is_printed_for_editors() -> None:
    """The same as in the docs."""
    done = lockgate("policy", "schema")
    assert done.code == Exit.YES
    assert json.loads(done.out)["title"] == "Lockgate policy"
    assert lockgate("policy", "schema", "--json").json["properties"].keys() >= {"segments", "grants"}
