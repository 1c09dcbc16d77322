"""A policy's whole life on a real mesh: looked at, tried on one node, proposed and approved, rolled back, explained."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.exits import Exit
from tests.mesh import Done, Mesh, dev_mesh, until


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with dev_mesh(tmp_path_factory.mktemp("policies") / "mesh") as mesh:
        yield mesh


def alice(mesh: Mesh, *words: str) -> Done:
    return mesh.cli("policy", *words, operator="alice")


def bob(mesh: Mesh, *words: str) -> Done:
    return mesh.cli("policy", *words, operator="bob")


def sequences(mesh: Mesh) -> dict[str, int]:
    """The policy in force at each node."""
    return {name: mesh.status(name)["policy"]["sequence"] for name in ("agents-1", "tools-1")}


def are_fresh(mesh: Mesh) -> bool:
    statuses = [mesh.status(name) for name in ("agents-1", "tools-1")]
    return all(one["wall"] - one["fresh_as_of"] < 5_000_000 for one in statuses)


def policy(mesh: Mesh, name: str, more: str = "", first: str = "") -> str:
    """The sample policy with more before and after it."""
    file = mesh.root / name
    file.write_text(first + (mesh.root / "policy.toml").read_text() + more)
    return str(file)


DENY = '\n[[denies]]\nid = "no-echo"\nagents = ["researcher"]\nservices = ["echo"]\n'


def test_a_canary_is_in_force_on_one_node_and_all_stay_fresh(mesh: Mesh) -> None:
    """The other goes on by the old policy; applied to all, or rolled back, it is over."""
    before = sequences(mesh)["agents-1"]
    file = policy(mesh, "denied.toml", DENY)
    done = alice(mesh, "apply", file, "--yes", "--canary", "tools-1", "--json")
    assert (done.code, list(done.json["nodes"])) == (Exit.YES, ["tools-1"]), done
    assert done.json["difference"]["changes"][0]["kind"] == "lost"
    canary = done.json["sequence"]
    assert sequences(mesh) == {"agents-1": before, "tools-1": canary}
    assert mesh.status("agents-1")["canary"]["nodes"] == ["tools-1"]
    until(lambda: are_fresh(mesh), "both nodes to be fresh")
    assert mesh.cli("policy", "explain", "researcher", "echo", member="tools-1").code == Exit.NO
    assert mesh.cli("policy", "explain", "researcher", "echo", member="agents-1").code == Exit.YES
    assert alice(mesh, "rollback", str(before), "--yes").code == Exit.YES
    assert sequences(mesh) == {"agents-1": canary + 1, "tools-1": canary + 1}
    until(lambda: are_fresh(mesh), "both nodes to be fresh")


def test_two_operators_change_a_policy_that_wants_two(mesh: Mesh) -> None:
    """Proposed it is not in force; its proposer cannot approve it, another can; and so it is undone."""
    two = policy(mesh, "two.toml", first="apply-approvals = 2\n")
    assert alice(mesh, "apply", two, "--yes").code == Exit.YES
    before = sequences(mesh)["tools-1"]
    proposed = alice(mesh, "apply", policy(mesh, "one.toml"), "--yes", "--json")
    assert (proposed.code, proposed.json["state"]) == (Exit.UNCONFIRMED, "proposed"), proposed
    digest = proposed.json["digest"][:12]
    assert f"proposed by alice: {digest}" in bob(mesh, "ls").out
    own = alice(mesh, "approve", digest, "--yes")
    assert (own.code, "another operator" in own.err) == (Exit.NO, True)
    assert sequences(mesh)["tools-1"] == before
    approved = bob(mesh, "approve", digest, "--yes")
    assert approved.code == Exit.YES, approved
    assert sequences(mesh)["tools-1"] == before + 1
    [row, *_] = bob(mesh, "ls", "--json").json["versions"]
    assert (row["author"].rpartition("/")[2], row["approver"].rpartition("/")[2]) == ("alice", "bob")
    [record] = mesh.records("tools-1", kind="policy", what="received", sequence=before + 1)
    assert record["approver"].endswith("/operator/bob")


def test_what_is_locked_stays_in_the_policy(mesh: Mesh) -> None:
    """Until it is unlocked."""
    locked = mesh.cli("lock", "service:vault", "--json", operator="bob")
    assert locked.code == Exit.YES
    text = (mesh.root / "policy.toml").read_text().replace("vault", "safe")
    (mesh.root / "renamed.toml").write_text(text)
    refused = alice(mesh, "apply", str(mesh.root / "renamed.toml"), "--yes")
    assert (refused.code, "service:vault is locked by" in refused.err) == (Exit.NO, True)
    assert mesh.cli("unlock", locked.json["id"], operator="bob").code == Exit.YES


def test_a_large_policy_reaches_every_node(mesh: Mesh) -> None:
    """Over the wire, deflated, where a file by hand would be refused."""
    grants = "".join(
        f'[[grants]]\nid = "large-{n}"\nagents = ["researcher"]\nservices = ["echo"]\nowner = "{n:0180}"\n'
        for n in range(5_500)
    )
    file = policy(mesh, "large.toml", grants)
    assert Path(file).stat().st_size > 2**20
    refused = alice(mesh, "apply", file, "--yes")
    assert (refused.code, "--large" in refused.err) == (Exit.NO, True)
    done = alice(mesh, "apply", file, "--yes", "--large", "--wait", "60s")
    assert done.code == Exit.YES, done
    assert alice(mesh, "apply", policy(mesh, "small.toml"), "--yes").code == Exit.YES


def test_the_blast_radius_of_the_demo_is_drawn(mesh: Mesh, tmp_path: Path) -> None:
    """By the policy in force, with the roster as it is; a serial is traced to its owner."""
    picture = tmp_path / "radius.svg"
    done = mesh.cli("blast-radius", "agent:researcher", "--svg", str(picture))
    assert (done.code, ET.parse(picture).getroot().tag.endswith("svg")) == (Exit.YES, True)  # noqa: S314 - our own
    [issued, *_] = [one for one in mesh.records("ca", kind="renewal") if "/agent/researcher/" in one["id"]]
    traced = mesh.cli("blast-radius", f"serial:{issued['serial']}", "--json", operator="alice")
    assert traced.json["subject"] == "agent:researcher"
