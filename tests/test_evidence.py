"""What is left when somebody was not there: logs of real daemons, copied, damaged, and judged by the command line."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import ask, connect
from tests.mesh import Done, curl, has, lockgate, until
from tests.story import NODES, Story, story_mesh

pytestmark = pytest.mark.skipif(not has("curl"), reason="curl is not installed")

ANEW = """
import hashlib, json, sys
path, chain, made = sys.argv[1], bytes(32), []
for line in open(path, "rb").read().splitlines():
    body = json.loads(line)
    del body["chain"]
    if body["kind"] == "lock":
        body["by"] = "nobody"
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    chain = hashlib.sha256(chain + text).digest()
    made.append(text[:-1] + b',"chain":"' + chain.hex().encode() + b'"}\\n')
open(path, "wb").write(b"".join(made))
"""
"""A forger: another author for every lock, and a right chain over that."""

MEMBERS = (*NODES, "ca")

CANARIES = ("bearer", "cookie", "api-key", "query", "form", "body", "userinfo", "argument")


def canary(name: str) -> str:
    return f"canary7f3a-{name}-9c1e"


def sing(story: Story) -> None:
    """Send a secret in every place where agents send them."""
    wiki = story.wiki
    said = {name: canary(name) for name in CANARIES}
    for words in (
        ("-H", f"Authorization: Bearer {said['bearer']}"),
        ("-H", f"Cookie: session={said['cookie']}"),
        ("-H", f"X-Api-Key: {said['api-key']}"),
        ("-X", "POST", "--data", f"password={said['form']}"),
        ("-X", "DELETE", "--data-binary", said["body"]),
        ("-u", f"user:{said['userinfo']}"),
    ):
        curl(*words, f"{wiki}/api/pages/canary")
    curl(f"{wiki}/api/pages?token={said['query']}")
    call = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "create_ticket", "arguments": {"title": said["argument"]}},
    }
    accept = ("-H", "Accept: application/json, text/event-stream", "-H", "Content-Type: application/json")
    curl(*accept, "--data", json.dumps(call), story.env["MCP"])


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A mesh on which something has happened: streams, requests, refusals, a lock, a revoked session."""
    with story_mesh(tmp_path_factory.mktemp("evidence") / "D") as story:
        for path in ("/api/pages", "/api/pages/intro"):
            assert curl(f"{story.wiki}{path}").returncode == 0
        assert curl("--request", "DELETE", f"{story.wiki}/api/pages/intro").returncode == 0
        sing(story)
        with connect(story.echo) as stream:
            assert ask(stream, b"hello") == b"hello"
        locked = story.cli("lock", "service:wiki", "--json", operator="alice")
        assert locked.code == 0, locked.err
        curl(f"{story.wiki}/api/pages")
        assert story.cli("unlock", locked.json["id"], operator="bob").code == 0
        until(story.is_open, "the wiki to answer again")
        yield story


@pytest.fixture(scope="module")
def copies(mesh: Story, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of all members' logs, once peers hold what happened."""
    done = max(one["seq"] for one in mesh.records("tools-1", kind="lock"))

    def held() -> bool:
        kept = mesh.records("agents-1", kind="witness", of="tools-1")
        return any(one["count"] > done for one in kept)

    until(held, "agents-1 to hold the head of tools-1")
    there = tmp_path_factory.mktemp("copies")
    mesh.copy_logs(there, MEMBERS)
    return there


def verify(mesh: Story, copies: Path, *words: str) -> Done:
    """On a machine that is no member: with the copies and the bundle, and nothing else."""
    elsewhere = mesh.root / "elsewhere"
    from tests.mesh import lockgate

    return lockgate(
        "--dir", str(elsewhere), "audit", "verify", "--bundle", str(copies / "bundle.statement"), *words
    )


def copied(copies: Path, tmp_path: Path) -> tuple[list[str], Path]:
    """Copies of the copies, to be damaged; where the log of tools-1 is in them."""
    shutil.copytree(copies, tmp_path / "all")
    [volume] = (tmp_path / "all" / "tools-1" / "audit").glob("*.jsonl")
    return [str(tmp_path / "all" / member) for member in MEMBERS], volume


def test_the_logs_of_all_members_hold_and_each_is_signed_and_held_by_the_others(
    mesh: Story, copies: Path
) -> None:
    """Elsewhere, with no more than the trust bundle."""
    done = verify(mesh, copies, *(str(copies / member) for member in MEMBERS), "--json")
    assert done.code == 0, done.out
    logs = {one["node"]: one for one in done.json["logs"]}
    assert len(logs) == len(MEMBERS)
    assert all(one["signed"] for one in logs.values())
    assert logs["tools-1"]["witnessed"]
    assert logs["agents-1"]["witnessed"]


def test_a_cut_end_is_found_by_what_the_others_hold(mesh: Story, copies: Path, tmp_path: Path) -> None:
    """By itself the shorter log looks right."""
    folders, volume = copied(copies, tmp_path)
    lines = volume.read_bytes().splitlines(keepends=True)
    volume.write_bytes(b"".join(lines[:4]))
    assert verify(mesh, copies, folders[1]).code == 0
    done = verify(mesh, copies, *folders, "--json")
    assert done.code == 1
    assert "the end of the log was cut off" in done.json["first_bad"]["what"]
    assert done.json["first_bad"]["volume"] == volume.name


def test_a_chain_that_was_computed_anew_is_found_by_the_signatures(
    mesh: Story, copies: Path, tmp_path: Path
) -> None:
    """Whoever edits a record and mends the chain has not the node's key."""
    folders, volume = copied(copies, tmp_path)
    subprocess.run([sys.executable, "-c", ANEW, str(volume)], check=True)
    done = verify(mesh, copies, folders[1], "--json")
    assert done.code == 1
    assert "is a checkpoint of another place" in done.json["first_bad"]["what"]


def test_no_secret_is_in_any_log(mesh: Story, copies: Path) -> None:
    """Not as it was sent, not in base64, and no private key of anybody: in logs, bodies kept, and output of daemons."""
    assert mesh.records("tools-1", kind="answered"), "the canaries passed nothing"
    words = [canary(name).encode() for name in CANARIES]
    words += [base64.b64encode(f"user:{canary('userinfo')}".encode())]
    for key in mesh.root.rglob("*.pem"):
        if b"PRIVATE KEY" in key.read_bytes():
            words += [line for line in key.read_bytes().splitlines() if len(line) == 64][:1]
    assert len(words) > len(CANARIES) + 3
    written = [path for path in copies.rglob("*") if path.is_file() and path.suffix != ".statement"]
    written += list((mesh.root / "logs").iterdir())
    found = [(path.name, word) for path in written for word in words if word in path.read_bytes()]
    # What a tool prints of its own is its own affair.
    assert [one for one in found if one[0] not in ("wiki.log", "echo.log", "vault.log", "tickets.log")] == []


def test_every_decision_of_all_members_is_made_again_and_is_the_same(
    mesh: Story, copies: Path, tmp_path: Path
) -> None:
    """On another machine, from the copies; with a body taken away it cannot be, and that is said."""
    folders = [str(copies / member) for member in MEMBERS]
    done = verify(mesh, copies, *folders, "--redecide", "--json")
    assert done.code == 0, done.out
    body = done.json
    assert body["decisions"] > 10
    assert (body["first_bad"], body["disagreements"], body["not_comparable"], body["missing"]) == (
        None,
        0,
        0,
        0,
    )
    words = verify(mesh, copies, *folders, "--redecide")
    assert f"{body['decisions']} decisions made again, 0 of them are others now" in words.out
    damaged, _ = copied(copies, tmp_path)
    for kept in (tmp_path / "all/tools-1/objects").iterdir():
        if b"[[grants]]" in kept.read_bytes():  # whichever policy it was
            kept.unlink()
    done = verify(mesh, copies, damaged[1], "--redecide", "--json")
    assert (done.code, done.json["missing"] > 0) == (1, True)


def test_without_a_bundle_it_says_that_no_signature_was_checked(mesh: Story, copies: Path) -> None:
    """The chain alone is judged."""
    done = lockgate("--dir", str(mesh.root / "elsewhere"), "audit", "verify", str(copies / "tools-1"))
    assert done.code == 0
    assert "signatures and witnesses were not checked" in done.out


def test_the_daemon_reads_its_own_bundle(mesh: Story) -> None:
    """On a node, and on the CA, no option is needed."""
    for member in MEMBERS:
        done = mesh.cli("audit", "verify", "--json", member=member)
        assert done.code == 0, done.out
        assert done.json["checkpoints"] > 0


def test_a_volume_that_is_full_or_left_behind_is_compressed_and_read_as_ever(mesh: Story) -> None:
    """After a kill, with small volumes: rolled, compressed, and still one log to every command."""
    seen = len(mesh.cli("audit", "tail", "-n", "100000", "--json", member="tools-1").out.splitlines())
    mesh.kill("tools-1")
    toml = mesh.member("tools-1") / "etc" / "node.toml"
    toml.write_text(toml.read_text() + "\n[audit]\nvolume-bytes = 65536\n")
    mesh.start("tools-1")
    mesh.ready("tools-1")
    until(mesh.is_open, "the wiki to answer again")
    folder = mesh.member("tools-1") / "lib" / "audit"
    until(lambda: list(folder.glob("*.jsonl.zst")), "the volume of before to be compressed")

    def rolled() -> bool:
        curl(*[f"{mesh.wiki}/api/pages" for _ in range(20)])
        return len(list(folder.glob("*.jsonl"))) > 1

    until(rolled, "a full volume to be closed")
    done = mesh.cli("audit", "verify", "--redecide", "--json", member="tools-1")
    assert done.code == 0, done.out
    assert done.json["volumes"] >= 3
    assert done.json["missing"] == done.json["disagreements"] == 0
    lines = mesh.cli("audit", "tail", "-n", "100000", "--json", member="tools-1").out.splitlines()
    assert len(lines) > seen
    assert mesh.cli("audit", "trace", mesh.session, member="tools-1").code == 0
