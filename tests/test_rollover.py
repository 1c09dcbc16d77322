"""A rollover of the CA's keys on a real mesh, with streams alive: none is cut, and nobody is left behind unsaid."""

import socket
from collections.abc import Iterator

import pytest

from tests.clients import ask, connect, knock
from tests.mesh import Done, Mesh, dev_mesh, lockgate, until

STREAMS = 6
STEPS = {"prepare": "prepared", "activate": "activated", "retire": "idle"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Certificates live for ten minutes, so that whoever renews in time did so because of the rollover."""
    with dev_mesh(tmp_path_factory.mktemp("rollover") / "D", "--lifetime", "10m") as mesh:
        yield mesh


@pytest.fixture
def streams(mesh: Mesh) -> Iterator[list[socket.socket]]:
    """Open from before the first step to after the last; none of them may be cut."""
    cuts = len(mesh.records("agents-1", kind="cut")), len(mesh.records("tools-1", kind="cut"))
    held = [connect(int(mesh.env["ECHO"].rpartition(":")[2])) for _ in range(STREAMS)]
    flow(held)
    yield held
    flow(held)
    for stream in held:
        stream.close()
    assert (len(mesh.records("agents-1", kind="cut")), len(mesh.records("tools-1", kind="cut"))) == cuts


def flow(streams: list[socket.socket]) -> None:
    for stream in streams:
        assert ask(stream, b"alive") == b"alive"


def rotate(mesh: Mesh, *words: str) -> Done:
    return mesh.cli("ca", "rotate", *words, "--json", member="ca")


def renew_operators(mesh: Mesh) -> None:
    """Nodes and sessions renew by themselves; operators when they next work."""
    for name in ("alice", "bob"):
        done = mesh.cli("operator", "renew", member="agents-1", operator=name)
        assert done.code == 0, done.err


def taken(mesh: Mesh, step: str, *words: str) -> None:
    """Take a step; it is confirmed by every node, and the mesh works on under a fresh heartbeat."""
    if step == "retire":
        renew_operators(mesh)
    done = rotate(mesh, step, "--wait", "40s", *words)
    assert done.code == 0, done.out + done.err
    mesh.ready("agents-1")
    mesh.ready("tools-1")
    with connect(int(mesh.env["ECHO"].rpartition(":")[2])) as fresh:
        assert ask(fresh, b"new") == b"new"


def restart(mesh: Mesh, member: str) -> None:
    mesh.kill(member)
    mesh.start(member)
    mesh.ready(member)


def join_a_node(mesh: Mesh, name: str) -> None:
    """A new node joins, which makes it a member that the roster names; it leaves at once by being revoked."""
    token = mesh.cli("token", "create", f"node:{name}", "--json", member="ca").json["token"]
    done = lockgate("--dir", str(mesh.member(name)), "join", "-", "--json", given=token)
    assert done.code == 0, done.err
    assert mesh.cli("revoke", f"node:{name}", "--as-ca", member="ca").code in (0, 3)


@pytest.mark.parametrize("keys", [("root",), ("issuer", "statement")], ids=["root", "online"])
def test_no_stream_is_cut_in_any_phase_of_a_rollover(
    mesh: Mesh, streams: list[socket.socket], keys: tuple[str, ...]
) -> None:
    """Each step is acknowledged by every node, and new streams open; a newcomer joins in each phase."""
    before = rotate(mesh, "plan").json
    assert (before["phase"], before["next"]) == ("idle", "prepare")
    for step, phase in STEPS.items():
        taken(mesh, step, *(f"--key={key}" for key in keys if step == "prepare"))
        flow(streams)
        assert rotate(mesh, "plan").json["phase"] == phase
        join_a_node(mesh, f"{keys[0]}-{phase}")
    assert rotate(mesh, "plan").json["bundle"]["sequence"] >= before["bundle"]["sequence"] + 3
    assert mesh.cli("lock", "agent:nobody", "--ttl", "1s", member="agents-1", operator="bob").code in (0, 1)


def test_ca_and_nodes_restart_in_every_phase(mesh: Mesh) -> None:
    """What a step has changed was on disk before anybody relied on it."""
    for step, phase in STEPS.items():
        # The session of a daemon that was killed is in nobody's hands any more, which the CA cannot know.
        gone = [one["who"] for one in rotate(mesh, "plan").json["steps"][step] if "session:" in one["who"]]
        taken(mesh, step, *(f"--strand={who}" for who in gone))
        for member in ("ca", "agents-1", "tools-1"):
            restart(mesh, member)
        assert rotate(mesh, "plan").json["phase"] == phase
        until(lambda: mesh.cli("session", "start", "--agent", "researcher").code == 0, "a session")


def test_a_step_waits_for_a_node_that_sleeps_and_goes_on_without_it_by_name(mesh: Mesh) -> None:
    """It is named with the reason, and exit code 3; when it wakes, it takes up what it missed, and renews."""
    taken(mesh, "prepare", "--key", "root")
    until(lambda: rotate(mesh, "plan").code == 0, "everybody to have said that it knows the new key")
    mesh.kill("tools-1")
    activated = rotate(mesh, "activate", "--wait", "1s")
    assert (activated.code, activated.json["taken"]) == (3, True)  # Only its receipt is missing.
    refused = rotate(mesh, "retire", "--wait", "0s")
    assert (refused.code, refused.json["taken"]) == (3, False)
    whom = {one["who"] for one in refused.json["broken"]}
    assert "node:tools-1" in whom
    until(
        lambda: _others(rotate(mesh, "plan")) == set(),
        "everybody but the sleeper and those who hold to their end",
    )
    renew_operators(mesh)
    left = [one["who"] for one in rotate(mesh, "plan").json["steps"]["retire"]]
    assert not {"operator:alice", "operator:bob"} & set(left)
    strand = [word for who in left for word in ("--strand", who)]
    assert rotate(mesh, "retire", "--wait", "2s", *strand).code == 3
    mesh.start("tools-1")
    mesh.ready("tools-1")
    until(
        lambda: (
            rotate(mesh, "plan").json["nodes"]["tools-1"] == rotate(mesh, "plan").json["bundle"]["sequence"]
        ),
        "its word",
    )


def _others(plan: Done) -> set[str]:
    return {one["who"] for one in plan.json["steps"]["retire"] if one["who"] == "node:agents-1"}


def test_a_rollback_goes_back_phase_by_phase(mesh: Mesh) -> None:
    """To the old key, then to none but it; a step that leads nowhere is refused, and names those that do."""
    taken(mesh, "prepare")
    assert "possible now: activate, rollback" in rotate(mesh, "retire").out
    taken(mesh, "activate")
    taken(mesh, "rollback")
    assert rotate(mesh, "plan").json["phase"] == "prepared"
    taken(mesh, "rollback")
    assert rotate(mesh, "plan").json["phase"] == "idle"
    assert mesh.records("ca", kind="rollover")[-1]["what"] == "rollback"


def test_a_tainted_statement_key_signs_nothing_that_counts_and_lets_nothing_go(
    mesh: Mesh, streams: list[socket.socket]
) -> None:
    """The epoch goes up; locks stay in force, said again under the new key; streams go on."""
    renew_operators(mesh)
    locked = mesh.cli("lock", "agent:ghost", "--ttl", "1h", "--json", operator="bob")
    assert locked.code == 0, locked.err
    before = rotate(mesh, "plan").json["bundle"]
    done = mesh.cli("ca", "taint", "--key", "statement", "--wait", "40s", "--json", member="ca")
    assert done.code == 0, done.out + done.err
    after = rotate(mesh, "plan").json
    assert (after["phase"], after["bundle"]["epoch"]) == ("idle", before["epoch"] + 1)
    flow(streams)
    for node in ("agents-1", "tools-1"):
        mesh.ready(node)
        assert locked.json["id"] in [one["id"] for one in mesh.status(node)["locks"]]


def test_a_tainted_issuer_leaves_nobody_but_who_joins_again(mesh: Mesh) -> None:
    """Its certificates count nowhere any more, since who stole the key could have made them: every node joins anew."""
    done = mesh.cli("ca", "taint", "--key", "issuer", "--wait", "1s", "--json", member="ca")
    assert (done.code, done.json["taken"]) == (3, True)
    until(lambda: knock(int(mesh.env["ECHO"].rpartition(":")[2])) == "reset", "the session to be over")
    for name in ("agents-1", "tools-1"):
        mesh.kill(name)
        token = mesh.cli("token", "create", f"node:{name}", "--json", member="ca").json["token"]
        joined = lockgate("--dir", str(mesh.member(name)), "join", "-", "--json", given=token)
        assert joined.code == 0, joined.err
        mesh.start(name)
    for name in ("agents-1", "tools-1"):
        mesh.ready(name)
    until(lambda: mesh.cli("session", "start", "--agent", "researcher").code == 0, "a session")
    assert until(
        lambda: knock(int(mesh.env["ECHO"].rpartition(":")[2])) == "answered", "the tool to be reached"
    )
