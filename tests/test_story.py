"""The story of the product, played on one real mesh from outside: the command line, curl and plain sockets.

Every test leaves the mesh as it found it, so that any of them can be run alone. Beside the sample policy there are
two services whose tool is the test itself: ``probe`` is granted, ``sealed`` is granted and denied.
"""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio
from jsonschema import Draft202012Validator

from pki.errors import UnreachableError
from sidecar import wire
from sidecar.dev.wiki import MIB, blob
from sidecar.session.cgroup import SessionCgroups
from sidecar.wire import FrameType
from tests.clients import (
    CEILING_SECONDS,
    ask,
    connect,
    converse,
    expected,
    how_it_ends,
    knock,
    read,
    read_all,
    tool,
    was_contacted,
)
from tests.hostile.rogue import Rogue, seen
from tests.mesh import curl, has, is_root, until
from tests.reference import AUDIT_SCHEMA
from tests.story import NODES, Story, receipts, story_mesh

STREAMS = 10
NOBODY = 65534
BLOB_MIB = 256
REFUSED_CURL = (7, 55, 56)
"""curl: could not connect, could not send, or could not receive. 52, an empty answer, would be a clean end."""

pytestmark = pytest.mark.skipif(not has("curl"), reason="curl is not installed")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """One mesh for the whole file."""
    with story_mesh(tmp_path_factory.mktemp("story") / "D") as story:
        yield story


@pytest.fixture
def lifted(mesh: Story) -> Iterator[None]:
    """Whatever was locked is lifted by bob in the end."""
    yield
    for lock in mesh.status("agents-1")["locks"]:
        mesh.cli("unlock", lock["id"], operator="bob")
    until(mesh.is_open, "the wiki to answer again")


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.2f} s")  # noqa: T201 - read with pytest -s


# -- allowed


def test_the_agent_reads_and_writes_a_page_of_the_private_wiki(mesh: Story) -> None:
    """What curl sends through the binding arrives at the tool, and what the tool answers comes back."""
    text = os.urandom(500_000).hex()
    url = f"{mesh.wiki}/api/pages/from-the-test"
    page = mesh.root / "page"
    page.write_text(text)
    assert curl("--fail", "--data-binary", f"@{page}", url).returncode == 0
    assert sha256(curl("--fail", url).stdout).digest() == sha256(text.encode()).digest()
    assert "from-the-test" in json.loads(curl(f"{mesh.wiki}/api/pages").stdout)


def test_256_mib_come_down_byte_for_byte(mesh: Story, tmp_path: Path) -> None:
    """A large download is identical to what the tool sent."""
    got = tmp_path / "blob"
    with timed(f"{BLOB_MIB} MiB down"):
        done = curl("--fail", "--output", str(got), f"{mesh.wiki}/api/blob?mib={BLOB_MIB}")
    assert done.returncode == 0, done.stderr
    with got.open("rb") as file:
        assert sha256_of(file.read) == expected(blob(BLOB_MIB)).sha256


def test_256_mib_go_up_and_come_back_byte_for_byte(mesh: Story) -> None:
    """Both directions at once: the echo tool gets all that was sent, returns it, and ends after us."""
    with connect(mesh.echo) as stream, timed(f"{BLOB_MIB} MiB up and down"):
        heard = converse(stream, blob(BLOB_MIB))
    assert heard == expected(blob(BLOB_MIB))


def test_a_client_may_end_first_and_still_hear_everything(mesh: Story) -> None:
    """Client half-closes: the tool sees the end, answers after it, and the answer arrives whole."""
    with tool(mesh.target["probe"]) as listener, connect(mesh.entrance["probe"]) as client:
        far, _ = listener.accept()
        with far:
            client.sendall(b"that is all")
            client.shutdown(socket.SHUT_WR)
            assert read_all(far) == b"that is all"
            far.sendall(b"an answer after the end")
            far.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"an answer after the end"


def test_a_tool_may_end_first_and_still_hear_everything(mesh: Story) -> None:
    """Tool half-closes: the client sees the end, and what it sends after it arrives whole."""
    with tool(mesh.target["probe"]) as listener, connect(mesh.entrance["probe"]) as client:
        far, _ = listener.accept()
        with far:
            far.sendall(b"good night")
            far.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"good night"
            client.sendall(b"one thing more")
            client.shutdown(socket.SHUT_WR)
            assert read_all(far) == b"one thing more"


def test_a_stream_that_ended_is_on_record_with_its_bytes_on_both_nodes(mesh: Story) -> None:
    """admitted, opened and closed under one stream id, with the byte counts of each direction."""
    with connect(mesh.echo) as stream:
        converse(stream, [b"12345"])
    newest = mesh.record("agents-1", kind="closed", service="echo", bytes_in=5, bytes_out=5)
    far = mesh.record("tools-1", kind="closed", stream=newest["stream"])
    assert (far["bytes_in"], far["bytes_out"], far["peer"]) == (5, 5, "agents-1")
    for node in NODES:
        kinds = [one["kind"] for one in mesh.records(node, stream=newest["stream"])]
        assert kinds == ["admitted", "opened", "closed"]


def test_the_second_stream_uses_the_connection_again(mesh: Story) -> None:
    """One handshake carries many streams: streams one after the other dial nothing new."""
    assert mesh.is_open()
    until(lambda: mesh.status("agents-1")["streams"] == 0, "all streams to end")
    before = mesh.status("agents-1")["pool"]
    assert all(mesh.is_open() for _ in range(5))
    after = mesh.status("agents-1")["pool"]
    assert after["reused"] == before["reused"] + 5
    assert after["dialled"] == before["dialled"]


# -- refused


@pytest.mark.skipif(
    not (is_root() and has("setpriv")), reason="it takes root and setpriv to become another user"
)
def test_another_uid_is_refused_before_anything_reaches_the_other_node(mesh: Story) -> None:
    """Same port, other user: wrong_caller with the uid on record; no record at tools-1, no dial to the tool."""
    before = len(mesh.streams_on_record("tools-1"))
    with tool(mesh.target["probe"]) as listener:
        done = curl(f"http://127.0.0.1:{mesh.entrance['probe']}/", uid=NOBODY)
        assert (done.returncode in REFUSED_CURL, done.stdout) == (True, b""), done
        record = mesh.record("agents-1", kind="denied", reason="wrong_caller", service="probe")
        with connect(mesh.entrance["probe"]) as own:  # A barrier: what follows the refusal does arrive.
            listener.accept()[0].close()
            own.shutdown(socket.SHUT_WR)
            assert read_all(own) == b""
        assert not was_contacted(listener)
    assert record["uid"] == NOBODY
    until(lambda: len(mesh.streams_on_record("tools-1")) > before, "the barrier to be on record")
    assert len(mesh.streams_on_record("tools-1")) == before + 1
    assert mesh.records("tools-1", stream=record["stream"]) == []


def test_a_service_without_a_grant_is_refused_and_the_absence_named(mesh: Story) -> None:
    """Default deny: no_grant on record, with a hint that no rule lets this agent reach that service."""
    done = curl(f"{mesh.env['VAULT']}/api/pages")
    assert (done.returncode in REFUSED_CURL, done.stdout) == (True, b""), done
    record = mesh.record("agents-1", kind="denied", service="vault")
    assert (record["reason"], record["agent"], record.get("rule", "")) == ("no_grant", "researcher", "")
    assert "no grant" in record["hint"]
    assert "vault" in record["hint"]


def test_a_deny_beats_a_grant_and_is_named(mesh: Story) -> None:
    """Denied although granted, the rule's id on record, and the tool not contacted."""
    with tool(mesh.target["sealed"]) as listener:
        assert knock(mesh.entrance["sealed"]) == "reset"
        record = mesh.record("agents-1", kind="denied", service="sealed")
        assert not was_contacted(listener)
    assert (record["reason"], record["rule"]) == ("denied", "sealed-off")


def test_a_dead_tool_is_named_and_no_reason_of_the_caller(mesh: Story) -> None:
    """Granted, but nobody serves the target: target_unreachable, at both nodes, and the path stays usable."""
    assert knock(mesh.entrance["probe"]) == "reset"
    for node in NODES:
        assert mesh.record(node, kind="cut", service="probe")["reason"] == "target_unreachable"
    assert mesh.is_open()


# -- locks


@pytest.mark.usefixtures("lifted")
def test_lock_all_cuts_live_streams_on_both_nodes_until_another_operator_unlocks(mesh: Story) -> None:
    """The kill switch: receipts with counts, the same streams cut on both nodes, new ones refused as locked."""
    with mesh.streams(3) as live:
        started = time.time()
        with timed("lock all, with receipts"):
            done = mesh.cli("lock", "all", "--message", "fire drill", "--json", operator="alice")
        assert done.code == 0, done
        name = done.json["id"]
        assert receipts(done) == dict.fromkeys(NODES, ("confirmed", 3))
        assert [how_it_ends(stream) for stream in live] == ["reset"] * 3
    for node in NODES:
        [lock] = mesh.status(node)["locks"]
        assert (lock["id"], lock["target"], lock["message"]) == (name, "all", "fire drill")
        assert "alice" in lock["by"]
        assert lock["until"] > time.time() * 1_000_000
    assert name in mesh.cli("lock", "ls").out

    assert knock(mesh.echo) == "reset"
    record = mesh.record("agents-1", kind="denied", reason="locked")
    assert record["rule"] == name
    assert "fire drill" in record["hint"]

    own = mesh.cli("unlock", name, operator="alice")
    assert (own.code, own.out) == (1, "")
    assert "another operator" in own.err
    assert not mesh.is_open()

    lifted = mesh.cli("unlock", name, "--json", operator="bob")
    assert lifted.code == 0, lifted
    assert {one["state"] for one in lifted.json["nodes"].values()} == {"confirmed"}
    assert mesh.is_open()
    cuts = [mesh.cut_streams(node, "locked", started, 3) for node in NODES]
    assert cuts[0] == cuts[1]
    assert len(set(cuts[0])) == len(cuts[0]) == 3
    assert mesh.cli("lock", "ls").out == "no locks in force\n"


@pytest.mark.usefixtures("lifted")
def test_a_lock_on_one_service_leaves_the_others_alone(mesh: Story) -> None:
    """Echo is locked and its stream dies; the wiki answers all the while."""
    with mesh.streams(1) as live:
        assert mesh.cli("lock", "service:echo", operator="alice").code == 0
        assert how_it_ends(live[0]) == "reset"
    assert knock(mesh.echo) == "reset"
    assert mesh.is_open()


@pytest.mark.usefixtures("lifted")
def test_a_killed_node_is_locked_again_from_its_first_accept(mesh: Story) -> None:
    """kill -9 and restart under a lock: the first OPEN it answers, of a node that does not care, is refused as locked."""
    rogue = Rogue.of(mesh, ["agents-1"])
    assert trio.run(first_answer, rogue) == "ACCEPTED"
    lock = mesh.cli("lock", "all", "--json", operator="alice")
    assert lock.code == 0, lock
    mesh.kill("tools-1")
    mesh.spawn("tools-1")
    assert trio.run(first_answer, rogue) == "locked"
    mesh.ready("tools-1")
    assert [one["id"] for one in mesh.status("tools-1")["locks"]] == [lock.json["id"]]
    assert not mesh.is_open()
    assert mesh.cli("unlock", lock.json["id"], operator="bob").code == 0
    until(mesh.is_open, "the wiki to answer again")
    found = mesh.records("tools-1")
    since = found[max(place for place, one in enumerate(found) if one["kind"] == "start") :]
    lifted = next(
        place for place, one in enumerate(since) if (one["kind"], one.get("what")) == ("lock", "lifted")
    )
    assert "admitted" not in {one["kind"] for one in since[:lifted]}


async def first_answer(rogue: Rogue) -> str:
    """Of tools-1, to an OPEN of the echo tool that stands ready before it listens."""
    with trio.fail_after(CEILING_SECONDS):
        while True:
            try:
                async with rogue.connection() as connection:
                    frames = [wire.encode(rogue.proof(connection)), (FrameType.OPEN, rogue.opening())]
                    await connection.frames.send_many(frames)
                    return await seen(connection.frames)
            except UnreachableError:
                await trio.sleep(0.005)


@pytest.mark.usefixtures("lifted")
def test_a_node_that_does_not_confirm_is_named_and_locked_once_it_wakes_up(mesh: Story) -> None:
    """tools-1 is stopped: `lock` exits 3 and names it with its latest moment; when it goes on, it is locked."""
    with mesh.paused("tools-1"):
        done = mesh.cli("lock", "service:echo", "--wait", "1s", "--json", operator="alice")
        words = mesh.cli("lock", "service:echo", "--wait", "1s", operator="alice")
        fleet = mesh.cli("status", "--fleet", "--json")
    assert fleet.code == 3, fleet
    [lacking] = [one for one in fleet.json["statements"] if one["id"] == done.json["id"]]
    assert {name: one["state"] for name, one in lacking["nodes"].items()} == {
        "agents-1": "confirmed",
        "tools-1": "unconfirmed",
    }
    assert (done.code, words.code) == (3, 3), (done, words)
    nodes = done.json["nodes"]
    assert {name: one["state"] for name, one in nodes.items()} == {
        "agents-1": "confirmed",
        "tools-1": "unconfirmed",
    }
    assert nodes["tools-1"]["refuses_by"]["retrieval"] > time.time() * 1_000_000
    assert any("tools-1" in line and "unconfirmed" in line.lower() for line in words.out.splitlines()), (
        words.out
    )
    locks = [one["id"] for one in mesh.status("agents-1")["locks"]]
    assert len(locks) == 2
    for name in locks:
        until(lambda name=name: mesh.standing(name)["tools-1"]["state"] == "confirmed", "tools-1 to confirm")  # type: ignore[misc]  # mypy infers no lambda's default
    assert sorted(one["id"] for one in mesh.status("tools-1")["locks"]) == sorted(locks)
    until(lambda: mesh.cli("status", "--fleet").code == 0, "all of the fleet to confirm")


def test_a_dry_run_says_what_a_lock_would_cut_and_cuts_nothing(mesh: Story) -> None:
    """The live streams by service, and what the policy would lose; all goes on."""
    with mesh.streams(2) as live:
        done = mesh.cli("lock", "service:echo", "--dry-run", "--json")
        assert (done.code, done.json["streams"], done.json["sessions"]) == (0, {"echo": 2}, 1), done
        assert done.json["paths"] == [
            {"agent": "researcher", "service": "echo", "segment": done.json["paths"][0]["segment"]}
        ]
        assert mesh.cli("revoke", "agent:nobody", "--dry-run", "--json").json["streams"] == {}
        assert [ask(stream, b"still") for stream in live] == [b"still"] * 2
    assert mesh.cli("lock", "ls").out == "no locks in force\n"


# -- automated


PROBING = """
[[invalidations]]
id = "probing"
on = "refusals"
agents = ["researcher"]
over = { count = 2, per = "1m" }
lock = "session"
ttl = "10m"
mode = "MODE"
"""


@contextmanager
def ruled(mesh: Story, mode: str) -> Iterator[None]:
    """With a rule that locks sessions which are refused again and again."""
    plain = mesh.root / "own-policy.toml"
    policy = mesh.root / "ruled-policy.toml"
    policy.write_text(plain.read_text() + PROBING.replace("MODE", mode))
    assert mesh.cli("policy", "apply", "--yes", str(policy), operator="alice").code == 0
    try:
        yield
    finally:
        assert mesh.cli("policy", "apply", "--yes", str(plain), operator="alice").code == 0


@pytest.mark.usefixtures("lifted")
def test_a_session_that_is_refused_again_and_again_locks_itself_out_everywhere(mesh: Story) -> None:
    """Observed first: on record, and all goes on. Enforced: its node cuts it at once, the CA locks it on every node."""
    with ruled(mesh, "observe"):
        assert [knock(mesh.entrance["sealed"]) for _ in range(3)] == ["reset"] * 3
        found = mesh.record("agents-1", kind="finding", rule="probing")
        assert (found["what"], found["enforced"], found["count"]) == ("refusals", False, 3)
        assert mesh.is_open()
    with ruled(mesh, "enforce"), mesh.streams(1) as live:
        assert [knock(mesh.entrance["sealed"]) for _ in range(3)] == ["reset"] * 3
        assert how_it_ends(live[0]) == "reset"
        assert knock(mesh.echo) == "reset"
        [lock] = until(lambda: mesh.status("tools-1")["locks"], "the CA to lock it everywhere")
        assert lock["target"].endswith(f"/agents-1/{mesh.session}")
        assert lock["by"] == "ca"
        found = mesh.record("agents-1", kind="finding", rule="probing", enforced=True)
        assert len(found["streams"]) == 3
        own = [one["id"] for one in mesh.status("agents-1")["locks"] if "agents-1" in one["by"]]
        assert own[0] in lock["message"]
        assert mesh.cli("unlock", lock["id"], operator="bob").code == 0
        until(mesh.is_open, "the wiki to answer again")


# -- revocation


@contextmanager
def without_ca(mesh: Story) -> Iterator[None]:
    """The CA killed, and started again."""
    mesh.kill("ca")
    try:
        yield
    finally:
        mesh.start("ca")
        mesh.start_session()


def test_a_revoked_session_is_dead_on_both_nodes_with_the_ca_away(mesh: Story) -> None:
    """Ten streams, no CA, one command at the tools' node: each stream cut once on each node, and receipts complete."""
    with mesh.streams(STREAMS) as live, without_ca(mesh):
        started = time.time()
        done = mesh.cli("revoke", f"session:{mesh.session}", "--json", member="tools-1")
        assert done.code == 0, done
        assert [how_it_ends(stream) for stream in live] == ["reset"] * STREAMS
        print(f"ten streams dead after {time.time() - started:.2f} s")  # noqa: T201 - the measured time is reported
        assert receipts(done) == dict.fromkeys(NODES, ("confirmed", STREAMS))
        name = done.json["id"]
        cuts = [mesh.cut_streams(node, "revoked", started, STREAMS) for node in NODES]
        assert cuts[0] == cuts[1]
        assert len(set(cuts[0])) == len(cuts[0]) == STREAMS
        for node in NODES:
            ended = [one["stream"] for kind in ("cut", "closed") for one in mesh.records(node, kind=kind)]
            assert len(ended) == len(set(ended))
        assert knock(mesh.echo) == "reset"
        record = mesh.record("agents-1", kind="denied", reason="revoked")
        assert record["session"] == mesh.session
        assert record["rule"] == name


def test_an_unrevoked_agent_comes_back_with_new_certificates_only(mesh: Story) -> None:
    """Revoked: nothing passes, no session starts. Unrevoked: the old session stays dead, a new one reaches the tool."""
    with mesh.streams(1) as live:
        revoked = mesh.cli("revoke", "agent:researcher", "--json", operator="alice")
        assert revoked.code == 0, revoked
        assert how_it_ends(live[0]) == "reset"
    name = revoked.json["id"]
    until(lambda: name in mesh.cli("revoke", "ls", member="ca").out, "the CA to hear of it")
    refused = mesh.cli("session", "start", "--agent", "researcher")
    assert refused.code == 1, refused
    lifted = mesh.cli("unrevoke", name, "--json", operator="bob")
    assert lifted.code == 0, lifted
    assert knock(mesh.echo) == "reset"
    record = mesh.record("agents-1", kind="denied", reason="revoked", rule=name)
    assert record["session"] == mesh.session
    mesh.start_session()
    assert mesh.is_open()
    [left] = [one for one in mesh.status("tools-1")["revocations"] if one["id"] == name]
    assert left["before"] > 0
    for node in NODES:
        whats = [one["what"] for one in mesh.records(node, kind="revocation", statement=name)]
        assert whats == ["applied", "lifted"]


# -- evidence


def flip_a_byte(lines: list[bytes]) -> int:
    place = len(lines) // 2
    lines[place] = lines[place].replace(b'"node":"tools-1"', b'"node":"tools-2"')
    return place + 1


def remove_a_line(lines: list[bytes]) -> int:
    place = len(lines) // 2
    del lines[place]
    return place + 1


def swap_two_lines(lines: list[bytes]) -> int:
    place = len(lines) // 2
    lines[place], lines[place + 1] = lines[place + 1], lines[place]
    return place + 1


@pytest.mark.parametrize("tamper", [flip_a_byte, remove_a_line, swap_two_lines], ids=lambda one: one.__name__)
def test_a_tampered_log_is_found_and_the_first_bad_record_named(
    mesh: Story, tmp_path: Path, tamper: Callable[[list[bytes]], int]
) -> None:
    """A copy of the log holds; with a changed byte, a removed line or two swapped ones it does not, and where."""
    copy = tmp_path / "copy"
    shutil.copytree(mesh.member("tools-1") / "lib" / "audit", copy)
    assert mesh.cli("audit", "verify", str(copy)).code == 0
    volume = max(copy.glob("*.jsonl"), key=lambda path: path.stat().st_size)
    lines = volume.read_bytes().splitlines(keepends=True)
    line = tamper(lines)
    volume.write_bytes(b"".join(lines))
    done = mesh.cli("audit", "verify", str(copy), "--json")
    assert done.code == 1
    assert (done.json["first_bad"]["volume"], done.json["first_bad"]["line"]) == (volume.name, line)
    words = mesh.cli("audit", "verify", str(copy))
    assert words.code == 1
    assert f"{volume.name} line {line}" in words.out


def test_the_logs_of_the_whole_story_hold(mesh: Story) -> None:
    """After everything above: both nodes' own logs verify, and `tail` prints the newest records."""
    for node in NODES:
        assert mesh.cli("audit", "verify", member=node).code == 0
        tail = mesh.cli("audit", "tail", "-n", "3", "--json", member=node).out.splitlines()
        assert len(tail) == 3
        assert [json.loads(line)["schema"] for line in tail] == [1, 1, 1]


def test_every_record_of_the_whole_story_is_of_the_shipped_schema(mesh: Story) -> None:
    """What is documented is what is written, by nodes and CA alike."""
    validator = Draft202012Validator(json.loads(AUDIT_SCHEMA.read_text()))
    for member in (*NODES, "ca"):
        for one in mesh.records(member):
            assert validator.is_valid(one), one


# -- session exec


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 0"), 0),
        (("sh", "-c", "exit 7"), 7),
        (("sh", "-c", "kill -TERM $$"), 128 + 15),
        (("/no/such/program",), 127),
        (("/etc/passwd",), 126),
    ],
    ids=["good", "failed", "killed", "not-found", "not-executable"],
)
def test_exec_passes_the_exit_code_on(mesh: Story, command: tuple[str, ...], code: int) -> None:
    """The command's own code; 128 + N for signal N; 126 and 127 as shells have them."""
    assert mesh.run_in_session(*command).code == code


def test_exec_says_125_when_it_fails_itself(mesh: Story) -> None:
    """An agent that the policy does not know gets no session, and nothing is run."""
    done = mesh.cli("session", "exec", "--agent", "nobody-knows", "--", "echo", "ran")
    assert (done.code, done.out) == (125, "")
    assert done.err.startswith("lockgate: ")


def test_exec_tells_the_command_its_session_addresses_and_trace(mesh: Story) -> None:
    """LOCKGATE_SESSION, LOCKGATE_<SERVICE>_ADDR and TRACEPARENT; the session ends with the command."""
    script = "import os, json; print(json.dumps(dict(os.environ)))"
    done = mesh.run_in_session(sys.executable, "-c", script)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["LOCKGATE_WIKI_ADDR"] == mesh.wiki.removeprefix("http://")
    assert found["LOCKGATE_ECHO_ADDR"] == mesh.env["ECHO"]
    version, trace, parent, flags = found["TRACEPARENT"].split("-")
    assert (version, len(trace), len(parent), flags) == ("00", 32, 16, "01")
    session = found["LOCKGATE_SESSION"]
    assert session != mesh.session
    listed = [one["session"] for one in mesh.cli("session", "ls", "--json").json["sessions"]]
    assert session not in listed
    assert mesh.session in listed
    kinds = [one["what"] for one in mesh.records("agents-1", kind="session", session=session)]
    assert kinds == ["started", "ended"]


@pytest.mark.skipif(
    not is_root(), reason="only root may make cgroups, which tell two sessions of one user apart"
)
def test_exec_is_a_session_of_its_own_beside_another(mesh: Story) -> None:
    """curl inside exec reaches the wiki as the new session, found by its cgroup; curl outside stays the old one."""
    script = 'echo $LOCKGATE_SESSION; exec curl -sSf "$0"'
    done = mesh.run_in_session("sh", "-c", script, f"{mesh.wiki}/api/pages")
    assert done.code == 0, done
    session, _, body = done.out.partition("\n")
    assert "welcome" in json.loads(body)
    admitted = mesh.record("agents-1", kind="admitted", session=session)
    assert admitted["attribution"]["method"] == "cgroup"
    cgroups = SessionCgroups.of_machine()
    until(lambda: session not in {one.session for one in cgroups.standing()}, "its cgroup to be gone")
    outside = len(mesh.records("agents-1", kind="admitted", session=mesh.session))
    assert mesh.is_open()
    until(
        lambda: len(mesh.records("agents-1", kind="admitted", session=mesh.session)) > outside,
        "the old session",
    )


@pytest.mark.skipif(
    not is_root(), reason="only root may make cgroups, which tell two sessions of one user apart"
)
def test_what_is_left_of_an_ended_session_is_not_its_sibling(mesh: Story) -> None:
    """A child that outlives its ended session keeps the cgroup of that: no_session, not the other live session."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        orphan = (
            "import socket, sys, urllib.request as u\n"
            "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
            "s.recv(1)\n"  # exec is over, and its session was ended, when this comes
            "try: said = u.urlopen(sys.argv[2]).read()\n"
            "except OSError: said = b'refused'\n"
            "s.sendall(said)\n"
        )
        port = listener.getsockname()[1]
        orphaning = f'"{sys.executable}" -c "$1" {port} {mesh.wiki}/api/pages >/dev/null 2>&1 &'
        done = mesh.run_in_session("sh", "-c", f"echo $LOCKGATE_SESSION; {orphaning} exit 0", "sh", orphan)
        assert (done.code, "still run" in done.err) == (0, True)
        line, _ = listener.accept()
        with line:
            assert mesh.cli("session", "end", done.out.strip()).code == 0
            line.sendall(b"!")
            assert read(line, 7) == b"refused"


# -- helpers


def sha256_of(read_some: Callable[[int], bytes]) -> str:
    digest = sha256()
    while data := read_some(MIB):
        digest.update(data)
    return digest.hexdigest()
