"""The tour: the story of the product, played with real programs, each step said in plain words.

Every step states what must happen. One that surprises ends the tour with a failure.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pki.errors import LockgateError
from sidecar.audit.tail import Tail
from sidecar.dev.layout import AGENTS, TOOLS, lockgate
from sidecar.dev.mesh import Mesh
from sidecar.dev.wiki import blob

BLOB_MIB = 32
STREAMS = 10
RECORDS = 10_000
MCP_VERSION = "2026-07-28"
PATIENCE = 10.0
"""Seconds. A deadline, not a measure."""


class SurpriseError(Exception):
    """A step that did not go as the story says."""


def play(mesh: Mesh, say: Callable[[str], None]) -> bool:
    """Play all steps; whether every one went as it should."""
    try:
        for number, step in zip(count(1), STEPS, strict=False):
            say(f"\n{number}. {step.__doc__}")
            for line in step(mesh):
                say(f"   {line}")
    except (SurpriseError, LockgateError, OSError) as surprise:
        say(f"   SURPRISE: {surprise}")
        return False
    say("\nAll of it went as it should.")
    return True


def _allowed(mesh: Mesh) -> Iterable[str]:
    """The agent reads the private wiki: from its own port, over mutual TLS, to the tools' node."""
    url = f"{_url(mesh, 'wiki')}/api/pages"
    status, body = fetch(url)
    expect(status == 200, f"{url} answered {status}")
    yield f"curl {url}  ->  {body.decode().strip()}"
    _, data = fetch(f"{_url(mesh, 'wiki')}/api/blob?mib={BLOB_MIB}")
    expected = sha256(b"".join(blob(BLOB_MIB))).hexdigest()
    expect(sha256(data).hexdigest() == expected, "the bytes that arrived are not those that were sent")
    yield f"{BLOB_MIB} MiB arrived byte for byte (SHA-256 {expected[:16]}...)"
    for _ in range(8):
        fetch(url)
    pool = mesh.status(AGENTS)["pool"]
    expect(pool["reused"] > 0, "no connection was used twice")
    yield f"10 streams; {pool['reused']} of them went over a connection that had carried one before"


def _ungranted(mesh: Mesh) -> Iterable[str]:
    """The agent tries the vault: it has a port for it, and no rule that grants it."""
    status, _ = fetch(f"{_url(mesh, 'vault')}/api/pages")
    expect(status == 0, f"the vault answered {status}")
    record = find(mesh, AGENTS, kind="denied", service="vault")
    yield f"refused; on record as {record['reason']}: {record.get('hint', '')}"
    status, body = fetch(f"{_url(mesh, 'wiki')}/api/pages/welcome", b"mine now")
    expect(status == 403, f"writing a page was answered {status}")
    refusal = json.loads(body)
    yield f"POST to the wiki, which it may read  ->  403 {refusal['reason']}: {refusal['hint']}"


def _stranger(mesh: Mesh) -> Iterable[str]:
    """Another user of this machine tries the agent's port."""
    curl = shutil.which("curl")
    setpriv = shutil.which("setpriv")
    if not (curl and setpriv and _is_root()):
        yield "skipped: it takes root, setpriv and curl to become another user"
        return
    url = f"{_url(mesh, 'wiki')}/api/pages"
    command = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", curl, "-sf", "-m", "10", url]
    done = subprocess.run(command, capture_output=True, check=False)
    expect(done.returncode != 0 and not done.stdout, "another user was let in")
    record = find(mesh, AGENTS, kind="denied", reason="wrong_caller")
    expect(record.get("uid") == 65534, "the record does not name the uid")
    yield f"refused; on record as wrong_caller, uid {record['uid']}"


def _escalation(mesh: Mesh) -> Iterable[str]:
    """The agent asks for more than it is granted: Bob agrees, it is used, and Alice takes it back."""
    shown = _tools(mesh)
    expect("delete_tickets" not in shown, "a tool that is granted to nobody was shown")
    yield f"tools/list of the tickets' MCP server  ->  {', '.join(shown)}"
    said = _delete_tickets(mesh)
    expect("no_grant" in said, f"delete_tickets was answered: {said}")
    yield f"tools/call delete_tickets  ->  {said.partition('. ')[0]}"
    wanted = ("--to", "action", "--service", "tickets", "--reason", "the quarter is over", "--ttl", "5m")
    asked = mesh.run(*_dir(mesh), "request", "create", *wanted)["id"]
    yield f"lockgate request create --to action --service tickets ...  ->  {asked}, {_request(mesh, asked)['state']}"
    run(mesh, "bob", "request", "approve", asked, "--yes")
    until(lambda: "delete_tickets" in _tools(mesh), "the tool to be shown")
    yield f"lockgate request approve, by bob  ->  {_request(mesh, asked)['state']}; now the tool is shown"
    said = _delete_tickets(mesh)
    expect(said == "deleted", f"delete_tickets was answered: {said}")
    record = find(mesh, TOOLS, kind="request", rule=asked)
    yield f"tools/call delete_tickets  ->  {said}; on record under the lease {record['rule']}"
    run(mesh, "alice", "request", "deny", asked, "--yes", "--message", "that was all")
    said = until(lambda: "lease_ended" in (said := _delete_tickets(mesh)) and said, "the lease to end")
    yield f"lockgate request deny, by alice; the same call  ->  {said.partition('. ')[0]}"


def _kill_switch(mesh: Mesh) -> Iterable[str]:
    """Alice pulls the kill switch. The tools' node is killed and comes back: still locked. Bob unlocks."""
    locked = run(mesh, "alice", "lock", "all", "--message", "the tour pulls it")
    yield f"lockgate lock all  ->  {in_force(locked)}"
    expect(not is_open(mesh), "the wiki answered while all is locked")
    child = mesh.children[TOOLS]
    child.send_signal(signal.SIGKILL)
    child.wait()
    mesh.spawn(TOOLS, lockgate("--dir", str(mesh.layout.member(TOOLS)), "run"))
    until(lambda: mesh.status(TOOLS), "the tools' node to come back")
    expect(bool(mesh.status(TOOLS)["locks"]), "the lock did not survive kill -9")
    expect(not is_open(mesh), "the wiki answered after the restart")
    yield "kill -9 of the tools' node, restart: locked from its first accept on"
    own = mesh.run_any("--operator", str(mesh.layout.operator("alice")), *_dir(mesh), "unlock", locked["id"])
    expect("error" in own, "alice lifted her own lock of all")
    unlocked = run(mesh, "bob", "unlock", locked["id"])
    yield f"lockgate unlock, by bob  ->  {in_force(unlocked)}"
    until(lambda: is_open(mesh), "the wiki to answer again")
    yield "the wiki answers again"


def _revocation(mesh: Mesh) -> Iterable[str]:
    """Ten streams are open, the CA is killed, and the session is revoked on the tools' node."""
    port = mesh.layout.ports.bindings["echo"]
    streams = [_echoing(port) for _ in range(STREAMS)]
    yield f"{STREAMS} streams are open, each has echoed"
    mesh.children["ca"].send_signal(signal.SIGKILL)
    mesh.children["ca"].wait()
    yield "the CA is dead"
    started = time.monotonic()
    directory = str(mesh.layout.member(TOOLS))
    revoked = mesh.run("--dir", directory, "revoke", f"session:{mesh.session}")
    yield f"lockgate revoke session:...  ->  {in_force(revoked)}"
    for stream in streams:
        expect(_ends(stream), "a stream outlived the revocation")
    yield f"all {STREAMS} are dead, {time.monotonic() - started:.2f} s after the command was typed"
    cuts = [cut_streams(mesh, name) for name in (AGENTS, TOOLS)]
    expect(
        cuts[0] == cuts[1] and len(cuts[0]) == STREAMS, "the two nodes' cut records are not the same streams"
    )
    yield f"each node has {STREAMS} cut records, of the same streams"
    expect(not is_open(mesh), "a new connection was let in")
    yield "a new connection is refused"


def _evidence(mesh: Mesh) -> Iterable[str]:
    """The audit logs are checked, and then one byte of a copy is changed."""
    for name in (AGENTS, TOOLS):
        report = mesh.run("--dir", str(mesh.layout.member(name)), "audit", "verify")
        yield f"{name}: {report['records']} records, the chain holds"
    copy = mesh.layout.root / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(mesh.layout.member(TOOLS) / "lib" / "audit", copy)
    volume = max(copy.glob("*.jsonl"))
    data = volume.read_bytes()
    volume.write_bytes(data.replace(b'"kind":"cut"', b'"kind":"cuz"', 1))
    report = mesh.run("audit", "verify", str(copy))
    expect(report["first_bad"] is not None, "the changed byte was not found")
    bad = report["first_bad"]
    yield f"one byte changed in a copy: found, {bad['volume']} line {bad['line']}: {bad['what']}"


STEPS = (_allowed, _ungranted, _stranger, _escalation, _kill_switch, _revocation, _evidence)


def expect(held: bool, otherwise: str) -> None:
    """Raise SurpriseError with ``otherwise`` unless ``held``."""
    if not held:
        raise SurpriseError(otherwise)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true answer of ``condition``; SurpriseError when none comes in time."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        expect(time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}")
        time.sleep(0.02)  # noqa: TID251 - a script has nothing else to do
    return answer


def fetch(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a GET, or a POST of ``body``; 0 and nothing when the connection is refused or cut."""
    try:
        with urlopen(url, body, timeout=PATIENCE) as response:  # noqa: S310 - our own loopback URL
            return response.status, response.read()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read()
    except (URLError, OSError):
        return 0, b""


def mcp(mesh: Mesh, method: str, name: str = "") -> dict[str, Any]:
    """The result of one MCP request, in the protocol that has no handshake (2026-07-28)."""
    meta: dict[str, Any] = {"io.modelcontextprotocol/protocolVersion": MCP_VERSION}
    meta |= {"io.modelcontextprotocol/clientInfo": {"name": "tour", "version": "1"}}
    meta |= {"io.modelcontextprotocol/clientCapabilities": {}}
    params = {"_meta": meta, **({"name": name, "arguments": {}} if name else {})}
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    fields = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MCP_VERSION,
        "Mcp-Method": method,
        **({"Mcp-Name": name} if name else {}),
    }
    port = mesh.layout.ports.bindings["tickets"]
    request = Request(f"http://127.0.0.1:{port}/mcp", asked, fields)
    with urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - the same
        body = response.read().decode()
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith(("data: {", "{"))]
    answer = json.loads(lines[-1])
    expect("result" in answer, f"{method} was answered: {body}")
    result: dict[str, Any] = answer["result"]
    return result


def is_open(mesh: Mesh) -> bool:
    """Whether the agent reaches the wiki."""
    return fetch(f"{_url(mesh, 'wiki')}/api/pages")[0] == 200


def find(mesh: Mesh, member: str, **wanted: str) -> dict[str, Any]:
    """The newest audit record of a node with these fields."""
    return until(  # type: ignore[no-any-return]  # until gives what the condition gives
        lambda: next((one for one in reversed(records(mesh, member)) if wanted.items() <= one.items()), None),
        f"{wanted} in the log of {member}",
    )


def cut_streams(mesh: Mesh, member: str) -> list[str]:
    """The ids of the streams that a node's log says were cut as revoked, sorted, repeats kept."""
    until(lambda: len(_revoked(mesh, member)) >= STREAMS, f"the cut records of {member}")
    return _revoked(mesh, member)


def records(mesh: Mesh, member: str) -> list[dict[str, Any]]:
    """What a node's log says of this run; an earlier one in the same folder has its records there too."""
    folder: Path = mesh.layout.member(member) / "lib" / "audit"
    newest = [json.loads(line) for line in Tail(folder).last(RECORDS)]
    return [one for one in newest if one["at"] >= mesh.began]


def run(mesh: Mesh, operator: str, *words: str) -> dict[str, Any]:
    """A command of an operator, at the agents' node."""
    return mesh.run("--operator", str(mesh.layout.operator(operator)), *_dir(mesh), *words)


def in_force(answer: dict[str, Any]) -> str:
    """Node by node, where a statement is in force."""
    nodes = answer["nodes"]
    late = [name for name, one in nodes.items() if one["state"] != "confirmed"]
    expect(bool(nodes) and not late, f"not confirmed by {', '.join(late) or 'any node'}")
    return ", ".join(f"{name}: confirmed, {one['cut']} streams cut" for name, one in nodes.items())


def _tools(mesh: Mesh) -> list[str]:
    return [str(tool["name"]) for tool in mcp(mesh, "tools/list")["tools"]]


def _delete_tickets(mesh: Mesh) -> str:
    """What the call that no grant allows is answered."""
    return " ".join(part.get("text", "") for part in mcp(mesh, "tools/call", "delete_tickets")["content"])


def _request(mesh: Mesh, name: str) -> dict[str, Any]:
    return mesh.run(*_dir(mesh), "request", "show", name)


def _revoked(mesh: Mesh, member: str) -> list[str]:
    cut = [one for one in records(mesh, member) if one["kind"] == "cut" and one["reason"] == "revoked"]
    return sorted(one["stream"] for one in cut)


def _echoing(port: int) -> socket.socket:
    stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    stream.sendall(b"hello")
    expect(stream.recv(5) == b"hello", "the echo tool did not answer")
    return stream


def _ends(stream: socket.socket) -> bool:
    with stream:
        try:
            return stream.recv(1) == b""
        except TimeoutError:
            return False
        except OSError:
            return True


def _url(mesh: Mesh, service: str) -> str:
    return f"http://127.0.0.1:{mesh.layout.ports.bindings[service]}"


def _dir(mesh: Mesh) -> tuple[str, str]:
    return "--dir", str(mesh.layout.member(AGENTS))


def _is_root() -> bool:
    return os.geteuid() == 0
