"""HTTP through a mesh: real clients, a tool that counts, and hostile requests, over real sockets."""

import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading  # noqa: TID251 - a websockets server of the tests' own
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
import websockets.sync.server
from websockets.exceptions import InvalidStatus

from sidecar.dev.layout import free_ports
from tests.clients import CEILING_SECONDS, connect, how_it_ends
from tests.hostile.requests import HOSTILE, REFUSED_BY_RULE, Hostile
from tests.http_tool import Memory, http_tool
from tests.mesh import Mesh, curl, dev_mesh, has, until

MIB = 1024 * 1024
UPLOAD_MIB = int(os.environ.get("LOCKGATE_UPLOAD_MIB", "64"))
"""A gigabyte by hand: LOCKGATE_UPLOAD_MIB=1024."""
GROWTH_MIB = 24
"""What a daemon may grow by while it carries an upload, whatever its size."""

SECRET = "the-tools-own-secret-7c1e"

POLICY = """
[services.web]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{web_target}"
protocol = "http"
host = "web.internal"
[[services.web.operations]]
methods = ["POST"]
path = "/api/orders/**"
segment = "action"

[services.secured]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{web_target}"
protocol = "http"
inject = {{ header = "Authorization", credential = "{credential}", prefix = "Bearer " }}

[services.chat]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{chat_target}"
protocol = "http"

[services.here]
segment = "retrieval"
nodes = ["agents-1"]
target = "127.0.0.1:{web_target}"
protocol = "http"
open-target = true

[services.closed]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{web_target}"
protocol = "http"

[services.down]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{down_target}"
protocol = "http"

[[grants]]
id = "web"
agents = ["researcher"]
services = ["web", "secured", "chat", "here", "down"]
http = [
    {{ methods = ["GET", "HEAD", "POST", "PUT"], path = "/api/**" }},
    {{ methods = ["GET"], path = "/q/list", query = {{ limit = {{ max = 100 }} }} }},
    {{ methods = ["WEBSOCKET"], path = "/chat" }},
]

[[denies]]
id = "private"
agents = ["researcher"]
services = ["web"]
http = [{{ methods = ["GET"], path = "/api/private/**" }}]
"""
SERVICES = ("web", "secured", "chat", "here", "closed", "down")


class Web(Mesh):
    """A mesh with HTTP services, and the tool behind most of them."""

    entrance: dict[str, int]
    memory: Memory
    folder: Path

    def url(self, service: str = "web") -> str:
        return f"http://{self.host(service)}"

    def host(self, service: str = "web") -> str:
        return f"127.0.0.1:{self.entrance[service]}"

    def requests(self) -> list[dict[str, Any]]:
        return self.records("tools-1", kind="request")

    def last(self, kind: str = "request") -> dict[str, Any]:
        """The record of the last request that the tool received."""
        name = self.memory.requests[-1].field("lockgate-request")
        return until(lambda: self.records("tools-1", kind=kind, request=name), f"{kind} {name}")[0]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """One mesh for the whole file."""
    folder = Path(tempfile.mkdtemp(prefix="lg-"))
    names = [*SERVICES, "web_target", "chat_target", "down_target"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    credential = folder / "credential"
    credential.touch(mode=0o600)
    credential.write_text(SECRET + "\n")
    bindings = "".join(
        f'[[bindings]]\nagent = "researcher"\nservice = "{name}"\nlisten = {ports[name]}\n'
        for name in SERVICES
    )
    with dev_mesh(tmp_path_factory.mktemp("http") / "D") as plain, http_tool(ports["web_target"]) as memory:
        web = Web(plain.root, plain.process, plain.env, plain.started)
        web.entrance, web.memory, web.folder = ports, memory, folder
        own = web.root / "own-policy.toml"
        sample = (web.root / "policy.toml").read_text()
        own.write_text(sample + POLICY.format(credential=credential, **ports) + bindings)
        applied = web.cli("policy", "apply", "--yes", str(own), operator="alice")
        assert applied.code == 0, applied.err
        with chat_server(ports["chat_target"]):
            yield web
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def forgotten(mesh: Web) -> None:
    mesh.memory.clear()


def chat_server(port: int) -> websockets.sync.server.Server:
    """Echoes every message."""

    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    server = websockets.sync.server.serve(echo, "127.0.0.1", port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


# -- Clients, unchanged


def test_curl_reads_over_one_connection(mesh: Web) -> None:
    """Keep-alive: three requests, one stream."""
    urls = [f"{mesh.url()}/api/{number}" for number in range(3)]
    done = curl("--fail", "--write-out", "%{num_connects}", *urls)
    assert done.returncode == 0, done.stderr
    assert [one.target for one in mesh.memory.requests] == ["/api/0", "/api/1", "/api/2"]
    assert len({one.field("lockgate-stream") for one in mesh.memory.requests}) == 1


def test_the_tool_is_told_who_asks(mesh: Web) -> None:
    """Verified names, ids that lead to the records, the session's trace, and the service's own host."""
    forged = ("-H", "Lockgate-Agent: root", "-H", "lockgate_agent: root", "-H", "X-Forwarded-User: root")
    assert curl("--fail", *forged, f"{mesh.url()}/api/me").returncode == 0
    [seen] = mesh.memory.requests
    record = mesh.last()
    assert seen.field("lockgate-agent") == "researcher"
    assert seen.field("lockgate-session") == mesh.env["SID"] == record["session"]
    assert seen.field("lockgate-stream") == record["stream"]
    assert seen.field("lockgate-request") == record["request"]
    assert seen.field("traceparent") == record["trace"]
    assert seen.field("host") == "web.internal"
    assert "root" not in str(seen.fields)
    started = mesh.records("agents-1", kind="session", session=mesh.env["SID"])[0]
    assert record["trace"].split("-")[1] == started["trace"].split("-")[1]


@pytest.mark.parametrize("chunked", [False, True])
def test_curl_uploads(mesh: Web, chunked: bool) -> None:
    """With a length and in chunks, with an Expect that the tool answers or curl tires of; every byte arrives."""
    body = os.urandom(3 * MIB)
    (mesh.folder / "up").write_bytes(body)
    how = ("-H", "Transfer-Encoding: chunked") if chunked else ()
    target = f"{mesh.url()}/api/up"
    done = curl("--fail", *how, "-H", "Expect: 100-continue", "-T", str(mesh.folder / "up"), target)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sha256"] == hashlib.sha256(body).hexdigest()
    answered = mesh.last("answered")
    assert (answered["status"], answered["bytes_in"]) == (200, len(body))


def test_httpx_speaks_as_ever(mesh: Web) -> None:
    """A client with a pool: reads, writes, streams, and a refusal that it can read."""
    with httpx.Client(base_url=mesh.url(), timeout=CEILING_SECONDS) as client:
        assert client.get("/api/a").json()["target"] == "/api/a"
        assert client.post("/api/b", content=(b"x" * 1_000 for _ in range(100))).json()["size"] == 100_000
        assert client.head("/api/c").status_code == 200
        with client.stream("GET", "/api/blob?mib=2") as blob:
            assert sum(map(len, blob.iter_bytes())) == 2 * MIB
        refused = client.delete("/api/a")
        assert refused.status_code == 403
        assert refused.json()["reason"] == "no_grant"
        assert client.get("/api/after").status_code == 200


def test_server_sent_events_arrive_as_they_are_sent(mesh: Web) -> None:
    """The second event is sent only after the first was read."""
    with (
        httpx.Client(base_url=mesh.url(), timeout=CEILING_SECONDS) as client,
        client.stream("GET", "/api/events") as events,
    ):
        lines = events.iter_lines()
        assert next(lines) == "data: 1"
        mesh.memory.go_on.set()
        assert [line for line in lines if line] == ["data: 2"]


def test_a_websocket_is_one_request_and_then_messages(mesh: Web) -> None:
    """Decided as WEBSOCKET; a big message passes, too."""
    url = f"ws://{mesh.host('chat')}/chat"
    with websockets.sync.client.connect(url, max_size=None, proxy=None) as chat:
        for message in ("hello", b"\0" * MIB):
            chat.send(message)
            assert chat.recv() == message
    until(lambda: mesh.records("tools-1", kind="answered", status=101), "the websocket to be on record")
    [record] = mesh.records("tools-1", kind="request", service="chat")
    assert (record["operation"], record["operation_class"]) == (
        {"method": "WEBSOCKET", "name": "/chat"},
        "mutate",
    )
    with pytest.raises(InvalidStatus) as refused:
        websockets.sync.client.connect(f"ws://{mesh.host('chat')}/api/chat", proxy=None)
    assert refused.value.response.status_code == 403


def test_an_early_answer_reaches_a_client_that_still_sends(mesh: Web) -> None:
    """A tool that does not want a body says so, and the agent hears it."""
    (mesh.folder / "much").write_bytes(bytes(2 * MIB))
    done = curl(
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--data-binary",
        f"@{mesh.folder / 'much'}",
        f"{mesh.url()}/api/early",
    )
    assert done.stdout == b"413"


def test_an_upload_leaves_memory_flat(mesh: Web) -> None:
    """Both daemons carry an upload of any size with the memory of a few chunks."""
    daemons = [int(mesh.status(node)["pid"]) for node in ("agents-1", "tools-1")]
    before = [peak_mib(pid) for pid in daemons]
    command = ["curl", "-sS", "--fail", "-T", "-", "--max-time", "300", f"{mesh.url()}/api/big"]
    zeros = ["head", "-c", str(UPLOAD_MIB * MIB), "/dev/zero"]
    with subprocess.Popen(zeros, stdout=subprocess.PIPE) as pipe:
        done = subprocess.run(command, stdin=pipe.stdout, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["size"] == UPLOAD_MIB * MIB
    assert max(after - old for after, old in zip(map(peak_mib, daemons), before, strict=True)) < GROWTH_MIB


@pytest.mark.skipif(not has("wrk"), reason="wrk is not installed")
def test_under_load_every_allowed_request_is_on_record_once(mesh: Web) -> None:
    """What the tool counted is what was admitted, and answered."""
    before = len(mesh.requests())
    done = subprocess.run(
        ["wrk", "-t1", "-c8", "-d2s", f"{mesh.url()}/api/load"], capture_output=True, text=True, check=True
    )
    assert "Non-2xx" not in done.stdout
    until(lambda: len(mesh.requests()) - before == mesh.memory.heads, "the records to be written")
    assert mesh.memory.heads > 50


# -- Credentials


def test_a_credential_is_seen_by_the_tool_alone(mesh: Web) -> None:
    """In place of the agent's own; not in the answer, nor in any log or record of any node."""
    done = curl("-v", "-H", "Authorization: Bearer mine", f"{mesh.url('secured')}/api/x")
    assert SECRET.encode() not in done.stdout + done.stderr
    [seen] = mesh.memory.requests
    assert seen.field("authorization") == f"Bearer {SECRET}"
    mesh.last("answered")
    files = [one for one in mesh.root.rglob("*") if one.is_file() and not one.is_socket()]
    assert [one for one in files if SECRET.encode() in one.read_bytes()] == []


def test_a_rotated_credential_needs_no_restart(mesh: Web) -> None:
    """It is read at each use; one that others may read is not used, and the agent is told nothing of why."""
    credential = mesh.folder / "credential"
    try:
        credential.write_text("another\n")
        assert curl("--fail", f"{mesh.url('secured')}/api/x").returncode == 0
        assert mesh.memory.requests[-1].field("authorization") == "Bearer another"
        credential.chmod(0o644)
        refused = curl(f"{mesh.url('secured')}/api/x")
        assert json.loads(refused.stdout)["reason"] == "target_unreachable"
        assert str(credential).encode() not in refused.stdout
    finally:
        credential.chmod(0o600)
        credential.write_text(SECRET + "\n")


# -- Refusals


def test_a_service_without_a_grant_is_a_403_that_says_so(mesh: Web) -> None:
    """Before a stream is open: nothing is read, and the client reads why; an upload does not keep it from that."""
    done = curl("-w", "%{http_code}", "-o", "-", f"{mesh.url('closed')}/api/x")
    body, status = done.stdout[:-3], done.stdout[-3:]
    assert status == b"403", done.stderr
    assert json.loads(body)["reason"] == "no_grant"
    assert mesh.memory.heads == 0


def test_a_tool_that_is_down_is_a_403_that_says_so(mesh: Web) -> None:
    """The stream cannot be opened: target_unreachable, with a time to try again."""
    done = curl("-i", f"{mesh.url('down')}/api/x")
    assert b"target_unreachable" in done.stdout
    assert b"Retry-After" in done.stdout


def test_a_tool_beside_the_agent_is_read_all_the_same(mesh: Web) -> None:
    """On one node there is one decision for each request, and its records."""
    assert curl("--fail", f"{mesh.url('here')}/api/x").returncode == 0
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{mesh.url('here')}/x").stdout == b"403"
    [record] = until(lambda: mesh.records("agents-1", kind="request", service="here"), "the record")
    assert record["role"] == "both"


def test_an_ambiguous_answer_of_the_tool_is_not_passed_on(mesh: Web) -> None:
    """502, and the connection goes on."""
    urls = [f"{mesh.url()}/api/ambiguous", f"{mesh.url()}/api/next"]
    done = curl("-o", "/dev/null", "-w", "%{http_code} ", "-o", "/dev/null", *urls)
    assert done.stdout == b"502 200 "


def test_a_lock_cuts_a_request_in_flight(mesh: Web) -> None:
    """The response in the middle, hard; the next is refused with the lock, and after unlock all is well."""
    with lifted(mesh) as locks, connect(mesh.entrance["web"]) as stream:
        stream.sendall(b"GET /api/events HTTP/1.1\r\nHost: %b\r\n\r\n" % mesh.host().encode())
        until(lambda: b"data: 1" in stream.recv(65_536, socket.MSG_PEEK), "the first event")
        stream.recv(65_536)
        locks.append(
            mesh.cli("lock", "service:web", "--message", "stop", "--json", operator="alice").json["id"]
        )
        assert how_it_ends(stream) == "reset"
        [answered] = until(lambda: mesh.records("tools-1", kind="answered", reason="locked"), "the record")
        assert (answered["status"], answered["service"]) == (200, "web")
        refused = json.loads(curl(f"{mesh.url()}/api/x").stdout)
        assert refused["reason"] == "locked"
        assert "stop" in refused["hint"]
    assert curl("--fail", f"{mesh.url()}/api/x").returncode == 0


@contextmanager
def lifted(mesh: Web) -> Iterator[list[str]]:
    """Locks, by id, that are lifted at the end."""
    locks: list[str] = []
    try:
        yield locks
    finally:
        mesh.memory.go_on.set()
        for one in locks:
            assert mesh.cli("unlock", one, operator="alice").code == 0


# -- Hostile requests


def test_hostile_requests_reach_no_tool(mesh: Web) -> None:
    """Each is refused with its reason, on record, and the tool has received none of them."""
    wrong = [one.name for one in HOSTILE if not is_refused(mesh, one, "bad_request")]
    assert wrong == []
    assert mesh.memory.requests == []
    assert mesh.memory.heads == 0
    assert len(HOSTILE) >= 100


def test_requests_that_no_rule_allows_reach_no_tool(mesh: Web) -> None:
    """However they are spelled."""
    wrong = [one.name for one in REFUSED_BY_RULE if not is_refused(mesh, one, "")]
    assert wrong == []
    assert mesh.memory.heads == 0


def test_after_all_of_them_the_daemons_are_well(mesh: Web) -> None:
    """No task, stream or descriptor is left, and the log has said little."""
    until(
        lambda: not any(mesh.status(node)["streams"] for node in ("agents-1", "tools-1")),
        "all streams to end",
    )
    assert curl("--fail", f"{mesh.url()}/api/x").returncode == 0
    log = (mesh.root / "logs" / "tools-1.log").read_text()
    assert "Traceback" not in log, log


def is_refused(mesh: Web, hostile: Hostile, reason: str) -> bool:
    with connect(mesh.entrance["web"]) as stream:
        stream.sendall(hostile.to(mesh.host()))
        response = http.client.HTTPResponse(stream)
        try:
            response.begin()
            said = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            print(hostile.name, repr(error))  # noqa: T201 - shown when the test fails
            return False
    is_right = (
        response.status == hostile.status
        and hostile.says in said["hint"]
        and (said["reason"] == reason if reason else said["reason"] in ("no_grant", "denied"))
    )
    if not is_right:
        print(hostile.name, response.status, said)  # noqa: T201 - shown when the test fails
    return is_right


def peak_mib(pid: int) -> int:
    """The most that a process has had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))
