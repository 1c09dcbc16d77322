"""kill -9 of the CA and of nodes, at seeded points under load: nothing that was acknowledged is missing afterwards.

One mesh, many rounds. In each, clients open short echo streams and send requests while an operator locks, unlocks and
revokes, until a seeded number of operations is done; then one daemon is killed in the middle of whatever it was doing,
and started again. What commands acknowledged, node by node, is kept in a ledger and compared with what the nodes then
enforce; what clients were answered, with the records of the nodes, as their segment requires the log.

`make test-long` plays ten times as many rounds: LOCKGATE_ROUNDS.
"""

import os
import random  # noqa: TID251 - seeded: a round that failed can be played again
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from pki.errors import LockgateError
from pki.ids import new_id
from sidecar.control.client import call
from sidecar.dev.layout import open_layout
from sidecar.exits import Exit
from tests.clients import CEILING_SECONDS, ask, knock
from tests.mesh import Mesh, dev_mesh, until
from tests.sidecar.cli.world import Done, lockgate

ROUNDS = int(os.environ.get("LOCKGATE_ROUNDS", "20"))
NODES = ("agents-1", "tools-1")
MEMBERS = ("ca", *NODES)
CLIENTS = 2
"""Of each kind."""
MOST_OPERATIONS = 80
"""Before the kill, counted from the start of a round."""
ACTS = [(node, act) for act in ("lock agent", "revoke", "lock ghost", "unlock") for node in NODES]
"""In turns over all rounds, so that each was acknowledged often enough, however slow a machine is."""
LEAST_ACTS = 3
"""Of the operator in a round, before the kill."""
TERM = 10
"""Rounds an operator serves: one may have 200 statements live, no more."""


@dataclass
class Ledger:
    """What commands acknowledged, by node: the targets of its revocations, and its locks by id. What clients saw."""

    revoked: dict[str, set[str]] = field(default_factory=lambda: {node: set() for node in NODES})
    locked: dict[str, set[str]] = field(default_factory=lambda: {node: set() for node in NODES})
    lifted: dict[str, set[str]] = field(default_factory=lambda: {node: set() for node in NODES})
    attempted: set[str] = field(default_factory=set)
    """Locks whose unlock was asked for: it may have worked, whatever the command heard."""
    echoes: int = 0
    """Streams whose bytes came back."""
    pages: set[str] = field(default_factory=set)
    """Paths of requests that were answered by the tool, each asked for once."""


@dataclass
class Load:
    """Counts what is done, so that a kill comes after so many operations and not after so much time."""

    over: bool = False
    of_clients: "SimpleQueue[None]" = field(default_factory=SimpleQueue)
    of_operator: "SimpleQueue[None]" = field(default_factory=SimpleQueue)

    def await_operations(self, number: int) -> None:
        for _ in range(number):
            self.of_clients.get(timeout=CEILING_SECONDS)
        for _ in range(LEAST_ACTS):
            self.of_operator.get(timeout=CEILING_SECONDS)


@dataclass
class Wreck:
    """A mesh that is killed piece by piece."""

    mesh: Mesh
    stack: ExitStack
    ledger: Ledger = field(default_factory=Ledger)
    operator: str = "bob"
    torn: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    ids: int = 0
    turns: int = 0

    @property
    def echo(self) -> int:
        return int(self.mesh.env["ECHO"].rpartition(":")[2])

    @property
    def wiki(self) -> int:
        return int(self.mesh.env["WIKI"].rpartition(":")[2])

    def status(self, member: str) -> dict[str, Any]:
        return call(self.mesh.member(member) / "run" / "admin.sock", "GET", "/v1/status")

    def run(self, member: str, *words: str) -> Done:
        """A command of the operator, in this process: only the operator's thread may use it under load."""
        folder = self.mesh.root / "operators" / self.operator
        return lockgate("--dir", self.mesh.member(member), "--operator", folder, *words, "--json")

    def change_operator(self, name: str) -> None:
        token = str(self.mesh.root / f"token-{name}")
        self.operator = name
        roles = ("--role", "responder")
        assert self.run("ca", "token", "create", f"operator:{name}", *roles, "--out", token).code == Exit.YES
        assert self.run("ca", "join", "--no-passphrase", "--token-file", token).code == Exit.YES
        until(lambda: all(name in self.status(node)["operators"] for node in NODES), f"{name} in the roster")

    def fresh(self) -> str:
        self.ids += 1
        return new_id(self.ids.to_bytes(16))


@pytest.fixture(scope="module")
def wreck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wreck]:
    with ExitStack() as stack:
        wreck = Wreck(stack.enter_context(dev_mesh(tmp_path_factory.mktemp("crashes") / "D")), stack)
        require_the_log(wreck.mesh)
        yield wreck


def require_the_log(mesh: Mesh) -> None:
    """From here on nothing of the tools is reached before its record is on disk."""
    policy = mesh.root / "policy.toml"
    policy.write_text(
        policy.read_text().replace("[segments.retrieval]", '[segments.retrieval]\naudit = "required"')
    )
    done = mesh.cli("policy", "apply", str(policy), "--yes", "--wait", "20s", operator="alice")
    assert done.code == Exit.YES, done


# The load


@contextmanager
def under_load(wreck: Wreck, chance: random.Random) -> Iterator[Load]:
    """Clients and an operator at work until the end of the block; their failures come out there."""
    load = Load()
    with ThreadPoolExecutor(2 * CLIENTS + 1) as pool:
        streams = [pool.submit(_open_streams, wreck.echo, load) for _ in range(CLIENTS)]
        requests = [pool.submit(_send_requests, wreck.wiki, load) for _ in range(CLIENTS)]
        operator = pool.submit(_operate, wreck, load, chance)
        try:
            yield load
        finally:
            load.over = True
            wreck.ledger.echoes += sum(worker.result(CEILING_SECONDS) for worker in streams)
            wreck.ledger.pages.update(*(worker.result(CEILING_SECONDS) for worker in requests))
            operator.result(CEILING_SECONDS)


def _open_streams(port: int, load: Load) -> int:
    """One short echo after the other. While a daemon is down, being turned away is the right answer."""
    answered = 0
    while not load.over:
        answered += _echo(port) == b"hello"
        load.of_clients.put(None)
    return answered


def _send_requests(port: int, load: Load) -> list[str]:
    """One page after the other, none of which the wiki has: its 404 is the tool's answer, all others are not."""
    answered = []
    while not load.over:
        path = f"/api/{secrets.token_hex(8)}"
        if _page(port, path) == HTTPStatus.NOT_FOUND:
            answered.append(path)
        load.of_clients.put(None)
    return answered


def _page(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=CEILING_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except TimeoutError:
        raise
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def _echo(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), CEILING_SECONDS) as stream:
            return ask(stream, b"hello")
    except TimeoutError:
        raise
    except OSError:
        return b""


def _operate(wreck: Wreck, load: Load, chance: random.Random) -> None:
    """Stop and let go, through either node, and keep what was acknowledged."""
    held: list[str] = []
    while not load.over:
        at, act = ACTS[wreck.turns % len(ACTS)]
        wreck.turns += 1
        if act == "unlock" and held:
            _unlock(wreck, at, held.pop(0))
        elif act == "revoke":
            _revoke(wreck, at)
        else:
            # The agent of the clients, now and then: then their streams are cut and refused.
            target = (
                "agent:researcher" if act == "lock agent" and not held else f"agent:ghost-{wreck.ids % 7}"
            )
            held += _lock(wreck, at, target)
        load.of_operator.put(None)


def _lock(wreck: Wreck, at: str, target: str) -> list[str]:
    done = wreck.run(at, "lock", target, "--wait", "500ms")
    return _acknowledge(done, wreck.ledger.locked, lambda answer: str(answer["id"]))


def _revoke(wreck: Wreck, at: str) -> None:
    target = f"session:{wreck.fresh()}"
    done = wreck.run(at, "revoke", target, "--wait", "500ms")
    _acknowledge(done, wreck.ledger.revoked, lambda _: target)


def _unlock(wreck: Wreck, at: str, lock: str) -> None:
    wreck.ledger.attempted.add(lock)
    _acknowledge(wreck.run(at, "unlock", lock, "--wait", "500ms"), wreck.ledger.lifted, lambda _: lock)


def _acknowledge(done: Done, book: dict[str, set[str]], what: Callable[[dict[str, Any]], str]) -> list[str]:
    """Enter what each node confirmed, also where another did not; the one thing entered, or nothing."""
    answer = done.json
    if "error" in answer:
        return []
    entry = what(answer)
    confirmed = {node for node, one in answer["nodes"].items() if one["state"] == "confirmed"}
    assert (done.code == Exit.YES) == (confirmed == set(NODES)), done
    for node in confirmed:
        book[node].add(entry)
    return [entry]


# What must hold afterwards


def tear(wreck: Wreck, node: str) -> None:
    """Leave half a record at the end of a dead node's log, as a write that the kill cut short does."""
    newest = max(
        (wreck.mesh.member(node) / "lib" / "audit").glob("*.jsonl"),
        key=lambda path: path.stem.rpartition("-")[2],
    )
    whole = newest.read_bytes().splitlines()[-1]
    with newest.open("ab") as file:
        file.write(whole[: len(whole) // 2])
    wreck.torn[node] += 1


def check_ledger(wreck: Wreck, node: str) -> None:
    """All that this node confirmed is in force on it now."""
    status, ledger = wreck.status(node), wreck.ledger
    revoked = {one["target"] for one in status["revocations"]}
    locks = {one["id"] for one in status["locks"]}
    assert ledger.revoked[node] - revoked == set(), "acknowledged revocations are gone"
    assert ledger.locked[node] - ledger.attempted - locks == set(), "acknowledged locks are gone"
    assert ledger.lifted[node] & locks == set(), "what was let go is stopped again"


def check_audit(wreck: Wreck) -> None:
    """Every log verifies, that of the CA too, and what a client was answered is on record: requests, where they are read."""
    for member in MEMBERS:
        done = wreck.run(member, "audit", "verify")
        assert done.code == Exit.YES, done
    for node in NODES:
        assert len(wreck.mesh.records(node, kind="admitted", service="echo")) >= wreck.ledger.echoes
    recorded = {one["operation"]["name"] for one in wreck.mesh.records("tools-1", kind="request")}
    assert wreck.ledger.pages - recorded == set(), "answered requests are on no record"


def agree(wreck: Wreck) -> None:
    """All members come to hold the same, count and content."""

    def same() -> bool:
        try:
            answers = [wreck.status(member) for member in MEMBERS]
        except LockgateError:
            return False
        held = [
            (
                one["statements"],
                {lock["id"] for lock in one["locks"]},
                {revocation["id"] for revocation in one["revocations"]},
            )
            for one in answers
        ]
        return held.count(held[0]) == len(held)

    until(same, "all members to hold the same statements")


def release(wreck: Wreck) -> None:
    """Lift what the round left locked: the next begins with an agent that may work."""

    def is_free() -> bool:
        # Of every member: what one of them was told last may not have reached the others yet.
        held = [one for member in MEMBERS for one in wreck.status(member)["locks"]]
        locks = {one["id"] for one in held if one["target"] == "agent:researcher"}
        wreck.ledger.attempted.update(locks)
        return [wreck.run("agents-1", "unlock", lock).code for lock in locks] == []

    until(is_free, "the agent to be unlocked")


def check_session(wreck: Wreck, victim: str) -> None:
    """It survives a restart of all but its own node, where its key was in memory only: there, a new one starts."""
    if victim == "agents-1":
        assert knock(wreck.echo) == "reset"
        until(
            lambda: wreck.run("agents-1", "session", "start", "--agent", "researcher").code == Exit.YES, "one"
        )
    assert until(lambda: _echo(wreck.echo), "the tool to be reached") == b"hello"


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_was_acknowledged_outlives_a_kill(wreck: Wreck, number: int) -> None:
    """Whoever is killed, whenever: its locks and revocations hold, its log verifies, and the mesh agrees again."""
    chance = random.Random(number)  # noqa: S311 - to be played again
    if number % TERM == 0:
        wreck.change_operator(f"responder-{number // TERM}")
    victim = MEMBERS[number % len(MEMBERS)]
    with under_load(wreck, chance) as load:
        load.await_operations(chance.randint(1, MOST_OPERATIONS))
        wreck.mesh.kill(victim)
    if victim in NODES and number % 2:
        tear(wreck, victim)
    wreck.mesh.start(victim)
    if victim in NODES:
        check_ledger(wreck, victim)  # At its first word: what a peer has to bring back was not durable.
    until(lambda: all(wreck.status(member)["ready"] for member in MEMBERS), "everybody to be ready")
    for node in NODES:
        check_ledger(wreck, node)
    release(wreck)
    check_session(wreck, victim)
    agree(wreck)
    for node in NODES:
        check_ledger(wreck, node)
    check_audit(wreck)


def test_the_ledger_was_worth_comparing(wreck: Wreck) -> None:
    """Locks, revocations and unlocks were acknowledged, by both nodes, and clients answered: else nothing was shown."""
    ledger = wreck.ledger
    assert min(ledger.echoes, len(ledger.pages)) >= ROUNDS, ledger
    for book in (ledger.locked, ledger.revoked, ledger.lifted):
        assert all(len(book[node]) >= ROUNDS // 4 for node in NODES), book


def test_every_torn_line_was_set_aside_and_noted(wreck: Wreck) -> None:
    """What a cut-off write left is no part of the log, and is not thrown away."""
    check_audit(wreck)
    for node in NODES:
        notes = wreck.mesh.records(node, kind="recovery", what="torn_line_set_aside")
        aside = list((wreck.mesh.member(node) / "lib" / "audit-torn").glob("*.torn"))
        assert len(notes) == len(aside) >= wreck.torn[node]
        assert {path.stat().st_size for path in aside} == {note["bytes"] for note in notes}
    if 2 * len(MEMBERS) <= ROUNDS:
        assert all(wreck.torn.values())


def test_nothing_of_it_is_left_running(wreck: Wreck) -> None:
    """However often its parts were killed, a mesh that ends leaves no process and no listener."""
    ports = open_layout(wreck.mesh.root, 1).ports
    wreck.stack.close()
    assert processes_of(wreck.mesh.root) == []
    for port in (
        ports.ca,
        ports.ca_control,
        *ports.nodes.values(),
        *ports.tools.values(),
        *ports.bindings.values(),
    ):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def processes_of(root: Path) -> list[str]:
    """Command lines that name this folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes()
        except OSError:
            continue
        if str(root).encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found
