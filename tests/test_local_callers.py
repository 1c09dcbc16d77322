"""Callers on one machine, by real processes: over each kind of entrance, with a certificate, and around the mesh.

The mesh runs in a network namespace of its own, where nftables can be loaded without harm. The agent has a uid of its
own, and the one private tool stands beside both nodes.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.mesh import LOCKGATE, Done, Mesh, dev_mesh, has, is_root, until
from tests.namespaces import network_namespace

NODE = "agents-1"
VISITOR, STRANGER = 64_001, 64_002
TOOL, KERNEL, MTLS = 9101, 9201, 9202
REFUSED_CURL = (7, 35, 55, 56)
"""curl: could not connect, shake hands, send, or receive."""

POLICY = """
[services.wiki]
segment = "retrieval"
nodes = ["agents-1", "tools-1"]
target = "127.0.0.1:{tool}"
protocol = "tcp"
open-target = true

[agents.visitor]
nodes = ["agents-1"]
uid = {uid}

[[bindings]]
agent = "visitor"
service = "wiki"
listen = {kernel}

[[bindings]]
agent = "visitor"
service = "wiki"
listen = "unix:{folder}/wiki.sock"

[[bindings]]
agent = "visitor"
service = "wiki"
listen = {mtls}
callers = "mtls"

[[bindings]]
agent = "visitor"
service = "wiki"
listen = "unix:{folder}/wiki-tls.sock"
callers = "mtls"

[[grants]]
id = "read-wiki"
agents = ["visitor"]
services = ["wiki"]
"""

pytestmark = pytest.mark.skipif(
    not is_root() or not has("curl", "ip", "nsenter", "unshare", "setpriv"),
    reason="needs root, curl, iproute2 and util-linux",
)


@dataclass
class Place:
    """A mesh in its namespace, one session of the visitor, and a folder that anybody may pass through."""

    mesh: Mesh
    netns: str
    folder: Path
    session: str

    def inside(self, *command: str, uid: int | None = None) -> Done:
        """Run a command in the mesh's network namespace, as another user where ``uid`` says so."""
        return run("nsenter", f"--net=/run/netns/{self.netns}", *become(uid), *command)

    def lockgate(self, *words: str, given: str | None = None) -> Done:
        words = ("--dir", str(self.mesh.member(NODE)), *words)
        return run("nsenter", f"--net=/run/netns/{self.netns}", *LOCKGATE, *words, given=given)

    def curl(self, *words: str, uid: int | None = VISITOR) -> Done:
        return self.inside(*CURL, *words, uid=uid)

    def told(self, call: Callable[[], Done], **wanted: object) -> tuple[int, dict[str, Any]]:
        """The exit code of ``call``, and the one record with these fields that it left: written a moment later."""
        before = len(self.mesh.records(NODE, **wanted))
        done = call()
        found = until(lambda: self.mesh.records(NODE, **wanted)[before:], f"{wanted} after {done}")
        assert len(found) == 1
        return done.code, found[0]

    def admitted(self, call: Callable[[], Done]) -> dict[str, Any]:
        """The record of a ``call`` that succeeds."""
        code, record = self.told(call, kind="admitted", service="wiki")
        assert code == 0
        return record

    def denied(self, call: Callable[[], Done], reason: str) -> dict[str, Any]:
        """The record of a curl that is refused."""
        code, record = self.told(call, kind="denied", reason=reason)
        assert code in REFUSED_CURL
        return record


CURL = ("curl", "--silent", "--show-error", "--fail", "--max-time", "60")
PAGES = f"http://127.0.0.1:{KERNEL}/api/pages"
MTLS_PAGES = f"https://localhost:{MTLS}/api/pages"


def become(uid: int | None) -> tuple[str, ...]:
    return () if uid is None else ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups")


def run(*command: str, given: str | None = None) -> Done:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=90, check=False)
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def wiki(netns: str) -> Iterator[None]:
    command = [f"--net=/run/netns/{netns}", sys.executable, "-m", "sidecar.dev.wiki", str(TOOL)]
    with subprocess.Popen(["nsenter", *command], stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for the whole file."""
    with ExitStack() as stack:
        netns = stack.enter_context(network_namespace())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-")))
        folder.chmod(0o755)
        stack.enter_context(wiki(netns))
        root = tmp_path_factory.mktemp("callers") / "D"
        policy = folder / "policy.toml"
        policy.write_text(POLICY.format(tool=TOOL, uid=VISITOR, kernel=KERNEL, mtls=MTLS, folder=folder))
        enter = ("nsenter", f"--net=/run/netns/{netns}")
        mesh = stack.enter_context(dev_mesh(root, "--policy", str(policy), become=enter))
        his = folder / "his"
        his.mkdir()
        os.chown(his, VISITOR, VISITOR)
        words = ("session", "start", "--agent", "visitor", "--client-certificate", str(his / "pem"), "--json")
        started = mesh.cli(*words)
        assert started.code == 0, started
        yield Place(mesh, netns, folder, str(started.json["session"]))


# -- How a caller is known


@pytest.mark.parametrize(
    ("words", "over"),
    [
        ((PAGES,), "ipv4"),
        ((PAGES.replace("127.0.0.1", "[::1]"),), "ipv6"),
        ((PAGES.replace("127.0.0.1", "[::ffff:127.0.0.1]"),), "ipv4"),
        (("--unix-socket", "{folder}/wiki.sock", "http://wiki/api/pages"), "unix"),
    ],
    ids=["IPv4", "IPv6", "an IPv4-mapped address", "a Unix socket"],
)
def test_the_agents_process_is_known_over_every_kind_of_entrance(
    words: tuple[str, ...], over: str, place: Place
) -> None:
    """By the kernel, and the record says over what; another user's is refused by the same kernel."""
    words = tuple(word.format(folder=place.folder) for word in words)
    admitted = place.admitted(lambda: place.curl(*words))
    assert admitted["session"] == place.session
    assert (admitted["attribution"]["method"], admitted["attribution"]["over"]) == ("uid", over)
    denied = place.denied(lambda: place.curl(*words, uid=STRANGER), "wrong_caller")
    assert (denied["uid"], denied["attribution"]["over"]) == (STRANGER, over)


def test_a_unix_entrance_reaches_into_another_network_namespace(place: Place) -> None:
    """Mounted there, it is the only way in: its caller is known as here, and TCP finds nobody."""
    mounted = place.folder / "mounted"
    mounted.mkdir(exist_ok=True)

    def there(*command: str, uid: int) -> Done:
        script = 'ip link set lo up && mount --bind "$1" "$2" && shift 2 && exec "$@"'
        enter = ("unshare", "--net", "--mount", "sh", "-c", script, "sh", str(place.folder), str(mounted))
        return run(*enter, *become(uid), *command)

    through = (*CURL, "--unix-socket", str(mounted / "wiki.sock"), "http://wiki/api/pages")
    admitted = place.admitted(lambda: there(*through, uid=VISITOR))
    assert (admitted["session"], admitted["attribution"]["uid"]) == (place.session, VISITOR)
    assert place.denied(lambda: there(*through, uid=STRANGER), "wrong_caller")["uid"] == STRANGER
    assert there(*CURL, PAGES, uid=VISITOR).code == 7


# -- Bindings that ask for a certificate


def test_curl_with_the_bindings_certificate_is_let_in_whoever_runs_it(place: Place) -> None:
    """Over both families; its files are the session user's, for him alone."""
    pem = place.folder / "his" / "pem"
    assert {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in pem.iterdir()} == {
        "ca.crt": (VISITOR, 0o600),
        "wiki.pem": (VISITOR, 0o600),
    }
    shown = ("--cert", str(pem / "wiki.pem"), "--cacert", str(pem / "ca.crt"))
    for uid, family, over in ((VISITOR, "-4", "ipv4"), (VISITOR, "-6", "ipv6"), (None, "-4", "ipv4")):
        admitted = place.admitted(partial(place.curl, *shown, family, MTLS_PAGES, uid=uid))
        assert admitted["session"] == place.session
        assert admitted["attribution"] == {"method": "mtls", "over": over}
    through = ("--unix-socket", str(place.folder / "wiki-tls.sock"), "https://localhost/api/pages")
    admitted = place.admitted(lambda: place.curl(*shown, *through))
    assert admitted["attribution"] == {"method": "mtls", "over": "unix"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "peer did not return a certificate"),
        (("--cert", "{folder}/other.pem"), "certificate verify failed"),
    ],
    ids=["no certificate", "a self-made certificate"],
)
def test_curl_without_it_is_refused_even_as_the_agents_user(
    words: tuple[str, ...], says: str, place: Place
) -> None:
    """The uid alone opens nothing here."""
    other = place.folder / "other.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=me -keyout"
    assert run(*make.split(), str(other), "-out", str(other) + ".crt").code == 0
    other.write_text(other.read_text() + Path(str(other) + ".crt").read_text())
    other.chmod(0o644)
    roots = place.folder / "roots.crt"
    roots.write_bytes((place.folder / "his" / "pem" / "ca.crt").read_bytes())
    words = tuple(word.format(folder=place.folder) for word in words)
    denied = place.denied(lambda: place.curl(*words, "-4", "--cacert", str(roots), MTLS_PAGES), "bad_proof")
    assert says in denied["hint"]
    assert denied["attribution"] == {"method": "mtls", "over": "ipv4"}


def test_a_certificate_is_replaced_in_place_and_ends_with_its_session(place: Place) -> None:
    """A new one any time; none after the session."""
    pem = str(place.folder / "his" / "another")
    started = place.mesh.cli("session", "start", "--agent", "visitor", "--client-certificate", pem, "--json")
    session = str(started.json["session"])
    before = Path(pem, "wiki.pem").read_bytes()
    assert place.mesh.cli("session", "client-certificate", session, pem).code == 0
    assert Path(pem, "wiki.pem").read_bytes() != before
    shown = ("--cert", f"{pem}/wiki.pem", "--cacert", f"{pem}/ca.crt", MTLS_PAGES)
    assert place.admitted(lambda: place.curl(*shown))["session"] == session
    assert place.mesh.cli("session", "end", session).code == 0
    assert "has ended" in place.denied(lambda: place.curl(*shown), "no_session")["hint"]


# -- Around the mesh


def test_the_node_is_in_order(place: Place) -> None:
    """`lockgate check`: files, certificate, CA, daemon."""
    done = place.lockgate("check")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["ok"] * 5


@pytest.mark.skipif(not has("nft"), reason="needs nftables")
def test_the_printed_rules_close_every_way_around_and_leave_the_mesh_alone(place: Place) -> None:
    """Open to the agent and to nobody before; after, only the sidecar dials the tool, and the agent its bindings."""
    before = place.lockgate("check", "--bypass")
    assert before.code == 1, before
    assert f"OPEN      wiki at 127.0.0.1:{TOOL} to visitor (uid {VISITOR}), nobody" in before.out
    around = f"http://127.0.0.1:{TOOL}/api/pages"
    assert place.curl(around).code == 0

    rules = place.lockgate("check", "--print-confinement", "nftables").out
    loaded = run("nsenter", f"--net=/run/netns/{place.netns}", "nft", "-f", "-", given=rules)
    assert loaded.code == 0, loaded
    try:
        after = place.lockgate("check", "--bypass")
        assert after.code == 0, after
        assert f"closed    wiki at 127.0.0.1:{TOOL}" in after.out
        assert place.curl(around).code in REFUSED_CURL
        assert place.curl(around.replace("127.0.0.1", "127.0.0.2")).code in REFUSED_CURL
        assert place.curl(around, uid=STRANGER).code in REFUSED_CURL
        assert place.curl(f"http://127.0.0.1:{overlay_port(place)}/").code in REFUSED_CURL
        assert place.curl(PAGES).code == 0
        assert place.curl("--unix-socket", str(place.folder / "wiki.sock"), "http://wiki/api/pages").code == 0
    finally:
        assert place.inside("nft", "delete", "table", "inet", "lockgate").code == 0
    assert place.curl(around).code == 0


def overlay_port(place: Place) -> int:
    """Where the other node listens: no binding of the agent's."""
    text = (place.mesh.member("tools-1") / "etc" / "node.toml").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("listen")]
    return int(line.rpartition(":")[2].strip('"'))
