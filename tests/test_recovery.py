"""The CA's host is lost: with the root's key, the nodes and perhaps a backup it comes back, and has forgotten no ban."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest

from tests.clients import ask, connect
from tests.mesh import Done, Mesh, dev_mesh, lockgate, until

NODES = ("agents-1", "tools-1")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with dev_mesh(tmp_path_factory.mktemp("recovery") / "D") as mesh:
        yield mesh


@pytest.fixture
def keys(mesh: Mesh, tmp_path: Path) -> tuple[str, Path]:
    """The recipient of backups, and the file that opens them; the root's key lies beside it, offline."""
    identity = pyrage.x25519.Identity.generate()
    opens = tmp_path / "age.key"
    opens.write_text(f"# keep offline\n{identity}\n")
    opens.chmod(0o600)
    shutil.copy(mesh.member("ca") / "lib" / "authority" / "root.key", tmp_path / "root.key")
    return str(identity.to_public()), opens


def ban(mesh: Mesh, name: str) -> str:
    """A node that joined, and was revoked; the id of the revocation."""
    token = mesh.cli("token", "create", f"node:{name}", "--json", member="ca").json["token"]
    joined = lockgate("--dir", str(mesh.member(name)), "join", "-", "--json", given=token)
    assert joined.code == 0, joined.err
    done = mesh.cli("revoke", f"node:{name}", "--as-ca", "--json", member="ca")
    assert done.code == 0, done.out + done.err
    found: str = done.json["id"]
    return found


def lose(mesh: Mesh) -> None:
    """kill -9, and nothing is left of what the CA knew."""
    mesh.kill("ca")
    shutil.rmtree(mesh.member("ca") / "lib")


def handed_over(mesh: Mesh, folder: Path) -> list[str]:
    """What each node holds, as the words of the command line."""
    words = []
    for name in NODES:
        out = folder / f"{name}.statements"
        done = mesh.cli("statements", "--out", str(out), member=name)
        assert done.code == 0, done.err
        words += ["--node", str(out)]
    return words


def recover(mesh: Mesh, *words: str) -> Done:
    return mesh.cli("ca", "recover", "--json", *words, member="ca")


def session_of(mesh: Mesh) -> str:
    """A new session's id, empty where it is refused."""
    done = mesh.cli("session", "start", "--agent", "researcher", "--json")
    return str(done.json["session"]) if done.code == 0 else ""


def told(mesh: Mesh, epoch: int) -> dict[str, bool]:
    """Which nodes have said that they hold the trust bundle of this epoch."""
    plan = mesh.cli("ca", "rotate", "plan", "--json", member="ca").json
    bundle = plan["bundle"]
    return {name: bundle == {"epoch": epoch, "sequence": held} for name, held in plan["nodes"].items()}


def is_whole(mesh: Mesh, banned: dict[str, str], epoch: int) -> None:
    """Nodes follow the CA into its new epoch; what was revoked is revoked, on nodes and for tokens; work goes on."""
    mesh.start("ca")
    for name in NODES:
        until(lambda: told(mesh, epoch).get(name), f"{name} to follow the CA")  # noqa: B023 - called at once
        mesh.ready(name)
        assert set(banned.values()) <= {one["id"] for one in mesh.status(name)["revocations"]}
    for name in banned:
        refused = mesh.cli("token", "create", f"node:{name}", "--json", member="ca")
        assert (refused.code, "was revoked" in refused.out + refused.err) == (1, True)
    assert mesh.cli("token", "create", "node:fresh", member="ca").code == 0
    started = until(lambda: session_of(mesh), "a certificate for a session")
    assert mesh.cli("session", "end", started).code == 0  # Two of one uid would be ambiguous.
    with connect(int(mesh.env["ECHO"].rpartition(":")[2])) as stream:
        assert ask(stream, b"works") == b"works"


def test_backup_revoke_wipe_recover_and_it_is_still_revoked(
    mesh: Mesh, keys: tuple[str, Path], tmp_path: Path
) -> None:
    """What came after the backup is read back from the nodes; streams never notice."""
    (recipient, opens), sealed = keys, tmp_path / "ca.age"
    banned = {"before": ban(mesh, "before")}
    assert mesh.cli("ca", "backup", "--recipient", recipient, "--out", str(sealed), member="ca").code == 0
    banned["after"] = ban(mesh, "after")
    stale = mesh.cli("token", "create", "node:stale", "--json", member="ca").json["token"]
    with connect(int(mesh.env["ECHO"].rpartition(":")[2])) as stream:
        assert ask(stream, b"before") == b"before"
        lose(mesh)
        words = ["--backup", str(sealed), "--identity", str(opens)]
        partly = recover(mesh, *words, *handed_over(mesh, tmp_path)[:2])
        assert (partly.code, partly.json["unheard"]) == (3, ["tools-1"])
        done = recover(mesh, *words, *handed_over(mesh, tmp_path))
        assert (done.code, done.json["epoch"]) == (0, 2), done.out + done.err
        is_whole(mesh, banned, 2)
        assert ask(stream, b"after") == b"after"
    joined = lockgate("--dir", str(mesh.member("stale")), "join", "-", "--json", given=stale)
    assert joined.code == 1


def test_the_root_alone_brings_a_ca_back_with_what_the_nodes_hold(
    mesh: Mesh, keys: tuple[str, Path], tmp_path: Path
) -> None:
    """No backup: bans, policy and roster come from the nodes, and operators' locks too."""
    banned = {"unbacked": ban(mesh, "unbacked")}
    lose(mesh)
    wrong = tmp_path / "other.key"
    assert (
        lockgate(
            "--dir", str(tmp_path / "other"), "ca", "init", "--trust-domain", "x.org", "--no-passphrase"
        ).code
        == 0
    )
    shutil.copy(tmp_path / "other" / "lib" / "authority" / "root.key", wrong)
    refused = recover(mesh, "--root-key", str(wrong), *handed_over(mesh, tmp_path))
    assert (refused.code, "another CA's" in refused.out) == (1, True)
    done = recover(mesh, "--root-key", str(keys[1].with_name("root.key")), *handed_over(mesh, tmp_path))
    assert (done.code, done.json["epoch"]) == (0, 3), done.out + done.err
    is_whole(mesh, banned, 3)
    assert recover(mesh, "--root-key", str(wrong), *handed_over(mesh, tmp_path)).code == 1
