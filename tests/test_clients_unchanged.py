"""Clients that know nothing of us, on one mesh with two tool nodes: databases, git, curl, thousands of sockets.

Beside the sample policy there is a service for every server that a test starts. Every test leaves the mesh as it
found it, so that any of them can be run alone.
"""

import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.keys import save_private
from sidecar.dev.layout import free_ports
from sidecar.dev.wiki import blob
from sidecar.proxy.pool import MAX_IDLE, SPARE
from tests import certs
from tests.clients import CEILING_SECONDS, ask, connect, expected, knock, read
from tests.mesh import Done, Mesh, curl, dev_mesh, has, is_root, until
from tests.servers import DATABASE_USER, Command, Postgres, listens, postgres, postgres_binaries, serving

NODES = ("agents-1", "tools-1", "tools-2")
NOBODY = 65534
STREAMS = 2_000
BLOB_MIB = 1_024
SOFT_LIMIT = 1_024
"""Descriptors that a daemon is started with: what a login shell has. Two thousand streams need more."""
NEEDED_LIMIT = 3 * STREAMS
PATIENCE_SECONDS = 150.0
"""For thousands of handshakes on a machine that does something else as well."""
REVOKE_CEILING_SECONDS = 10.0
BENCH_CLIENTS = 4
REFUSED_CURL = (7, 55, 56)
"""curl: could not connect, could not send, or could not receive."""

TOOL_CA = certs.root("tool-ca")
OTHER_CA = certs.root("other-ca")
TOOL = certs.issue(TOOL_CA, "tool.internal")
SIDECAR = certs.issue(TOOL_CA, "sidecar.internal")
CREDENTIAL = "sidecar-certificate"
"""What LoadCredential= of a unit would call it."""

SERVICE = """
[services.{name}]
segment = "retrieval"
nodes = ["tools-1"]
target = "{target}"
protocol = "tcp"
{more}
"""
BINDING = """
[[bindings]]
agent = "researcher"
service = "{name}"
listen = {listen}
"""
GRANT = """
[[grants]]
id = "to-the-servers"
agents = ["researcher"]
services = [{names}]
"""
SERVERS = ("redis", "postgres", "postgres-socket", "git", "vouched", "entrusted", "doubted")


class Clients(Mesh):
    """A mesh with the servers of the tests: where each is reached, and where it listens."""

    entrance: dict[str, int]
    target: dict[str, int]
    folder: Path
    """For Unix sockets and credentials; anybody may pass through."""

    @property
    def wiki(self) -> str:
        return self.env["WIKI"]

    @property
    def echo(self) -> int:
        return int(self.env["ECHO"].rpartition(":")[2])

    @property
    def wiki_socket(self) -> Path:
        return self.folder / "wiki.sock"

    def record(self, member: str, **wanted: object) -> dict[str, Any]:
        """The newest record with these fields, once there is one."""
        return until(lambda: self.records(member, **wanted), f"{wanted} at {member}")[-1]

    def quiet(self) -> None:
        """Wait until no stream is left on any node."""
        until(lambda: not any(self.status(node)["streams"] for node in NODES), "all streams to end")

    def descriptors(self, member: str) -> int:
        return len(os.listdir(f"/proc/{self.process_of(member)}/fd"))

    def process_of(self, member: str) -> int:
        return int(self.status(member)["pid"])

    def policy(self) -> str:
        """The sample policy and a service for each server."""
        targets = {name: f"127.0.0.1:{port}" for name, port in self.target.items()}
        targets["postgres-socket"] = f"unix:{self.folder / 'postgres.sock'}"
        more = dict.fromkeys(SERVERS, "")
        file = str(self.folder / "sidecar.pem")
        for name, ca, shown in (
            ("vouched", "tool-ca.pem", file),
            ("entrusted", "tool-ca.pem", CREDENTIAL),
            ("doubted", "other-ca.pem", file),
        ):
            targets[name] = f"tls://127.0.0.1:{self.target['vouched']}"
            more[name] = (
                f'ca = "{self.folder / ca}"\nserver-name = "tool.internal"\n'
                f'inject = {{ client-certificate = "{shown}" }}'
            )
        return "".join(
            [
                (self.root / "policy.toml").read_text(),
                BINDING.format(name="wiki", listen=f'"unix:{self.wiki_socket}"'),
                *(SERVICE.format(name=name, target=targets[name], more=more[name]) for name in SERVERS),
                *(BINDING.format(name=name, listen=self.entrance[name]) for name in SERVERS),
                GRANT.format(names=", ".join(f'"{name}"' for name in SERVERS)),
            ]
        )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    """One mesh for the whole file, started with as few descriptors as a login shell gives."""
    folder = Path(tempfile.mkdtemp(prefix="lg-"))
    folder.chmod(0o755)
    few = ["prlimit", f"--nofile={SOFT_LIMIT}:"] if has("prlimit") else []
    credentials = ["env", f"CREDENTIALS_DIRECTORY={folder / 'credentials'}"]
    try:
        with dev_mesh(
            tmp_path_factory.mktemp("clients") / "D", "--nodes", "2", become=[*few, *credentials]
        ) as plain:
            clients = Clients(plain.root, plain.process, plain.env, plain.started)
            ports = free_ports(2 * len(SERVERS))
            clients.entrance = dict(zip(SERVERS, ports, strict=False))
            clients.target = dict(zip(SERVERS, ports[len(SERVERS) :], strict=True))
            clients.folder = folder
            write_credentials(folder)
            policy = clients.root / "own-policy.toml"
            policy.write_text(clients.policy())
            applied = clients.cli("policy", "apply", "--yes", str(policy), operator="alice")
            assert applied.code == 0, applied.err
            yield clients
    finally:
        shutil.rmtree(folder)


def write_credentials(folder: Path) -> None:
    """The TLS tool's own, those the sidecar is to trust, and the one it is to show."""
    for name, ca in (("tool-ca", TOOL_CA), ("other-ca", OTHER_CA)):
        (folder / f"{name}.pem").write_bytes(ca.certificate.public_bytes(Encoding.PEM))
    for name, one in (("tool", TOOL), ("sidecar", SIDECAR)):
        key = one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        save_private(one.certificate.public_bytes(Encoding.PEM) + key, folder / f"{name}.pem")
    # As systemd leaves it: read-only, and the mask of its ACL where a group's bits are.
    (folder / "credentials").mkdir(mode=0o700)
    credential = shutil.copy(folder / "sidecar.pem", folder / "credentials" / CREDENTIAL)
    Path(credential).chmod(0o440)


@pytest.fixture(scope="module")
def database(mesh: Clients) -> Iterator[Postgres]:
    """PostgreSQL behind two services: its port, and its Unix socket."""
    if postgres_binaries() is None:
        pytest.skip("postgresql is not installed")
    with postgres(mesh.target["postgres"]) as running:
        (mesh.folder / "postgres.sock").symlink_to(running.socket)
        yield running


@pytest.fixture(scope="module")
def tables(mesh: Clients, database: Postgres) -> None:
    """What pgbench works on."""
    done = client(database, "pgbench", mesh.entrance["postgres"], "-q", "-i", "-s", "1")
    assert done.code == 0, done.err


@pytest.fixture
def vouched(mesh: Clients) -> Iterator[None]:
    """A tool that speaks TLS and asks for a certificate of its own CA; it tells whose it was shown."""
    if not has("openssl"):
        pytest.skip("openssl is not installed")
    port, folder = mesh.target["vouched"], mesh.folder
    command: Command = [
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-www",
        "-cert",
        folder / "tool.pem",
    ]
    asking: Command = ["-CAfile", folder / "tool-ca.pem", "-Verify", "1", "-verify_return_error"]
    with serving([*command, *asking], lambda: listens(port), folder / "openssl.log"):
        yield


@pytest.fixture
def new_session(mesh: Clients) -> Iterator[None]:
    """The test ends the session; the next one gets its own."""
    yield
    started = mesh.cli("session", "start", "--agent", "researcher", "--json")
    mesh.env["SID"] = started.json["session"]


def client(database: Postgres, program: str, port: int, *words: str) -> Done:
    """psql or pgbench, through the binding at ``port``, to its end."""
    done = subprocess.run(
        client_command(database, program, port, *words),
        capture_output=True,
        text=True,
        timeout=CEILING_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def client_command(database: Postgres, program: str, port: int, *words: str) -> list[str]:
    where = ["-h", "127.0.0.1", "-p", str(port), "-U", DATABASE_USER]
    return [str(database.binaries / program), *where, *words, "postgres"]


def run(*words: str | Path) -> str:
    """A command's output; it must succeed."""
    environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    done = subprocess.run(words, capture_output=True, timeout=CEILING_SECONDS, check=False, env=environment)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout.decode()


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@contextmanager
def timed(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - started:.2f} s")  # noqa: T201 - read with pytest -s


# -- databases


@pytest.mark.skipif(not has("redis-server", "redis-cli"), reason="redis-server is not installed")
def test_redis_is_used_as_if_it_were_local(mesh: Clients, tmp_path: Path) -> None:
    """redis-cli reads what it wrote, and redis-benchmark with its 50 connections loses no answer."""
    port, entrance = mesh.target["redis"], str(mesh.entrance["redis"])
    server: Command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with serving([*server, "--dir", tmp_path], lambda: listens(port), tmp_path / "log"):
        assert run("redis-cli", "-p", entrance, "SET", "greeting", "hello") == "OK\n"
        assert run("redis-cli", "-p", entrance, "GET", "greeting") == "hello\n"
        measured = run("redis-benchmark", "-p", entrance, "-q", "-n", "2000", "-t", "ping,set,get,lrange_100")
    assert "Error" not in measured
    assert measured.count("requests per second") >= 4


def test_postgresql_answers_psql_and_pgbench(mesh: Clients, database: Postgres, tables: None) -> None:
    """A query comes back, and no transaction of a pgbench with several connections fails."""
    asked = client(
        database, "psql", mesh.entrance["postgres"], "-Atc", "select count(*) from pgbench_accounts"
    )
    assert (asked.code, asked.out) == (0, "100000\n"), asked.err
    bench = client(database, "pgbench", mesh.entrance["postgres"], "-n", "-c", "4", "-t", "50")
    assert bench.code == 0, bench.err
    assert "200/200" in bench.out
    assert "failed transactions: 0 " in bench.out


def test_a_target_may_be_a_unix_socket(mesh: Clients, database: Postgres) -> None:
    """The tool listens on a file only; the agent dials a port all the same."""
    query = "select inet_server_port() is null"  # Of a Unix socket there is none.
    asked = client(database, "psql", mesh.entrance["postgres-socket"], "-Atc", query)
    assert (asked.code, asked.out) == (0, "t\n"), asked.err


@pytest.mark.usefixtures("new_session", "tables")
def test_revoking_the_session_ends_pgbench_on_both_nodes(mesh: Clients, database: Postgres) -> None:
    """Told to the tool's node, in the middle of it: all its connections die, each cut as revoked on both nodes."""
    session = mesh.env["SID"]
    command = client_command(
        database, "pgbench", mesh.entrance["postgres"], "-n", "-T", "60", "-c", str(BENCH_CLIENTS)
    )
    mesh.quiet()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as bench:
        try:
            until(lambda: transactions_under_way(mesh) == BENCH_CLIENTS, "pgbench to be in the middle of it")
            started = time.monotonic()
            revoked = mesh.cli("revoke", f"session:{session}", "--json", member="tools-1")
            code = bench.wait(CEILING_SECONDS)
            elapsed = time.monotonic() - started
        finally:
            bench.kill()
    print(f"revoke to the end of pgbench: {elapsed:.2f} s")  # noqa: T201 - read with pytest -s
    assert revoked.code == 0, revoked.err
    assert code != 0
    assert elapsed < REVOKE_CEILING_SECONDS
    wanted = {"kind": "cut", "reason": "revoked", "service": "postgres", "session": session}
    for node in ("agents-1", "tools-1"):
        until(lambda at=node: len(mesh.records(at, **wanted)) == BENCH_CLIENTS, f"the cuts of {node}")  # type: ignore[misc]  # mypy infers no lambda's default
    assert knock(mesh.entrance["postgres"]) == "reset"


def transactions_under_way(mesh: Clients) -> int:
    """Streams that have carried more than a greeting."""
    streams = mesh.cli("stream", "ls", "--json", member="tools-1").json["streams"]
    return sum(one["bytes_in"] > 10_000 for one in streams)


# -- files


@pytest.mark.skipif(not has("git"), reason="git is not installed")
@pytest.mark.parametrize("how", ["dumb", "smart"])
def test_git_clones_over_http(mesh: Clients, tmp_path: Path, how: str) -> None:
    """A clone through the binding has the very commit, fsck finds nothing wrong with it, and a pull brings the next."""
    origin, clone, port = tmp_path / "origin", tmp_path / "clone", mesh.target["git"]
    run("git", "init", "-q", origin)
    (origin / "large").write_bytes(os.urandom(3_000_000))
    commit(origin, "cloned through two sidecars")
    dumb: Command = ["http.server", "--bind", "127.0.0.1", "--directory", tmp_path, str(port)]
    smart: Command = ["tests.git_server", str(port), tmp_path]
    server: Command = [sys.executable, "-m", *(dumb if how == "dumb" else smart)]
    with serving(server, lambda: listens(port), tmp_path / "log"):
        url = f"http://127.0.0.1:{mesh.entrance['git']}/origin/.git"
        run("git", "clone", "-q", url, clone)
        run("git", "-C", clone, "fsck", "--strict")
        commit(origin, "and fetched")
        run("git", "-C", clone, "pull", "-q", "--ff-only")
    heads = [run("git", "-C", one, "rev-parse", "HEAD") for one in (origin, clone)]
    assert heads[0] == heads[1]
    assert ("POST" in (tmp_path / "log").read_text()) == (how == "smart")


def commit(repository: Path, words: str) -> None:
    """A commit of everything, which a dumb server can hand out too."""
    (repository / "README").write_text(words)
    run("git", "-C", repository, "add", ".")
    run("git", "-C", repository, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", words)
    run("git", "-C", repository, "update-server-info")


@pytest.mark.skipif(not has("curl", "sha256sum"), reason="curl or sha256sum is not installed")
def test_1_gib_comes_down_byte_for_byte(mesh: Clients) -> None:
    """Many frames, many windows, one hash."""
    with timed(f"{BLOB_MIB} MiB down and hashed"):
        command = ["curl", "-sS", "--fail", f"{mesh.wiki}/api/blob?mib={BLOB_MIB}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as download:
            digest = subprocess.run(
                ["sha256sum"], stdin=download.stdout, capture_output=True, check=True
            ).stdout
    assert download.returncode == 0
    assert digest.split()[0].decode() == expected(blob(BLOB_MIB)).sha256


# -- sockets


def test_2000_streams_live_at_once_and_leave_nothing_behind(mesh: Clients) -> None:
    """All echo while all are open, over both tool nodes; then all close, and so do the descriptors."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < NEEDED_LIMIT:
        pytest.skip(f"no more than {most} descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    mesh.quiet()
    before = {node: mesh.descriptors(node) for node in NODES}
    with timed(f"{STREAMS} streams open, echoed and closed"):
        with ExitStack() as stack:
            streams = [stack.enter_context(connect(mesh.echo)) for _ in range(STREAMS)]
            words = [b"%08d" % number for number in range(STREAMS)]
            for stream, word in zip(streams, words, strict=True):
                stream.settimeout(PATIENCE_SECONDS)
                stream.sendall(word)
            assert [read(stream, 8) for stream in streams] == words
            assert mesh.status("agents-1")["streams"] == STREAMS
            assert [ask(stream, word) for stream, word in zip(streams, words, strict=True)] == words
        mesh.quiet()
    kept = 2 * (MAX_IDLE + SPARE)  # Idle connections in the pool, by its limit.
    for node in NODES:
        until(lambda at=node: mesh.descriptors(at) <= before[at] + kept, f"the descriptors of {node}")  # type: ignore[misc]  # mypy infers no lambda's default


@pytest.mark.skipif(not has("prlimit"), reason="prlimit is not installed")
def test_daemons_take_all_the_descriptors_they_may(mesh: Clients) -> None:
    """A soft limit is for programs that use select(2); started with a shell's, a daemon raises it by itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for member in ("ca", *NODES):
        assert resource.prlimit(mesh.process_of(member), resource.RLIMIT_NOFILE) == (most, most)


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no IPv6")
def test_a_binding_listens_on_ipv6_loopback_too(mesh: Clients) -> None:
    """Who dials localhost may get ::1 first."""
    with socket.create_connection(("::1", mesh.echo), timeout=CEILING_SECONDS) as stream:
        assert ask(stream, b"over IPv6") == b"over IPv6"


@pytest.mark.skipif(not has("curl"), reason="curl is not installed")
def test_a_binding_may_be_a_unix_socket(mesh: Clients) -> None:
    """curl --unix-socket gets what the port gives, and the caller's uid is on record."""
    done = curl("--fail", "--unix-socket", str(mesh.wiki_socket), "http://wiki/api/pages")
    assert (done.returncode, done.stdout) == (0, curl(f"{mesh.wiki}/api/pages").stdout), done.stderr
    assert mesh.record("agents-1", kind="admitted", service="wiki")["attribution"]["uid"] == os.getuid()


@pytest.mark.skipif(
    not (is_root() and has("setpriv", "curl")), reason="it takes root and setpriv to become another user"
)
def test_a_unix_socket_refuses_another_user(mesh: Clients) -> None:
    """The file lets anybody knock, so that the knock is on record: wrong_caller, with the uid."""
    before = len(mesh.records("agents-1", kind="denied", uid=NOBODY))
    done = curl("--unix-socket", str(mesh.wiki_socket), "http://wiki/api/pages", uid=NOBODY)
    assert (done.returncode in REFUSED_CURL, done.stdout) == (True, b""), done
    until(lambda: len(mesh.records("agents-1", kind="denied", uid=NOBODY)) > before, "the refusal on record")
    assert mesh.records("agents-1", kind="denied", uid=NOBODY)[-1]["reason"] == "wrong_caller"


# -- TLS targets


@pytest.mark.usefixtures("vouched")
@pytest.mark.skipif(not has("curl"), reason="curl is not installed")
@pytest.mark.parametrize("service", ["vouched", "entrusted"], ids=["from-a-file", "from-systemd"])
def test_a_tls_tool_sees_the_injected_certificate(mesh: Clients, service: str) -> None:
    """The agent speaks plain HTTP and holds nothing; the tool demands a certificate, and is shown the sidecar's."""
    done = curl("--fail", f"http://127.0.0.1:{mesh.entrance[service]}/")
    assert done.returncode == 0, done.stderr
    assert b"DNS:sidecar.internal" in done.stdout


@pytest.mark.usefixtures("vouched")
def test_a_tls_tool_that_the_named_ca_does_not_vouch_for_is_not_reached(mesh: Clients) -> None:
    """target_unreachable on both nodes, and the record says that it is the certificate."""
    assert knock(mesh.entrance["doubted"]) == "reset"
    for node in ("agents-1", "tools-1"):
        record = mesh.record(node, kind="cut", service="doubted")
        assert record["reason"] == "target_unreachable"
        assert "certificate" in record["hint"]


# -- two nodes for one service


def test_streams_spread_and_fail_over_and_come_back(mesh: Clients) -> None:
    """Fewest live streams first; a node that was killed takes its streams along, and new ones go to the other."""
    mesh.quiet()
    with ExitStack() as stack:
        streams = [stack.enter_context(connect(mesh.echo)) for _ in range(10)]
        assert [ask(stream, b"hello") for stream in streams] == [b"hello"] * 10
        assert peers(mesh) == {"tools-1": 5, "tools-2": 5}
        mesh.kill("tools-1")
        ends = Counter(after_the_kill(stream) for stream in streams)
        assert ends == {"alive": 5, "dead": 5}
        more = [stack.enter_context(connect(mesh.echo)) for _ in range(5)]
        assert [ask(stream, b"hello") for stream in more] == [b"hello"] * 5
        until(lambda: peers(mesh) == {"tools-2": 10}, "the streams of tools-1 to be gone")
        mesh.start("tools-1")
        mesh.ready("tools-1")
        until(lambda: "tools-1" in peers_of_new_streams(mesh, stack), "tools-1 to be used again")
    mesh.quiet()


def peers(mesh: Clients) -> dict[str, int]:
    """Live streams of the agents' node, by the tool's node."""
    return Counter(one["peer"] for one in mesh.cli("stream", "ls", "--json").json["streams"])


def peers_of_new_streams(mesh: Clients, stack: ExitStack) -> dict[str, int]:
    """The same, after one more."""
    stream = stack.enter_context(connect(mesh.echo))
    assert ask(stream, b"hello") == b"hello"
    return peers(mesh)


def after_the_kill(stream: socket.socket) -> str:
    try:
        return "alive" if ask(stream, b"still there?") == b"still there?" else "dead"
    except ConnectionError:
        return "dead"
