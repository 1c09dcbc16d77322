"""Whatever a human gets wrong: one line for each fault, that says what, where and what to do, and the right exit code.

Each row is typed at a shell. The mesh it is typed at goes on unharmed.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pki.ids import new_id
from pki.token import Token
from sidecar.exits import Exit
from sidecar.operator import PASSPHRASE_VARIABLE
from tests.forked import lockgate
from tests.mesh import Done, Mesh, dev_mesh, until

NOBODY = new_id(bytes(16))
"""An id that nothing has."""

ASK_ADMIN = "ask an admin for a new one: `lockgate token create`"
COPY_LINE = "copy the whole line that `lockgate token create` printed"
USAGE = "try: lockgate"
DAEMON = "is the daemon running?"
RESTORE = "restore it from a copy"


@dataclass(frozen=True)
class Yard:
    """A mesh, and a folder to spoil copies of it in."""

    mesh: Mesh
    root: Path
    tokens: dict[str, str]

    def copy(self, member: str, name: str) -> Path:
        """The files of a member, without its sockets: what a daemon would be started on."""
        folder = self.root / name
        shutil.copytree(self.mesh.member(member), folder, ignore=shutil.ignore_patterns("run"))
        return folder

    def file(self, name: str, content: str | bytes, mode: int = 0o600) -> str:
        path = self.root / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return str(path)

    def dir(self, member: str, operator: str = "alice") -> tuple[str, ...]:
        return "--dir", str(self.mesh.member(member)), "--operator", self.operator(operator)

    def operator(self, name: str) -> str:
        made = self.root / name
        return str(made if made.exists() else self.mesh.root / "operators" / name)

    def policy(self, name: str, more: str) -> str:
        """The sample policy and what is wrong with it."""
        return self.file(name, (self.mesh.root / "policy.toml").read_text() + more)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """A dev mesh; a node and an operator with a passphrase that joined it; tokens used, expired and unused."""
    root = tmp_path_factory.mktemp("bad-input")
    with dev_mesh(root / "mesh") as mesh:

        def token(member: str, *options: str) -> str:
            return mesh.cli("token", "create", member, *options, member="ca").out.strip()

        tokens = {"expired": token("node:late-1", "--ttl", "1s"), "used": token("node:new-1")}
        expired = time.monotonic() + 1
        tokens |= {"unused": token("node:new-2"), "carol": token("operator:carol", "--role", "approver")}
        yard = Yard(mesh, root, tokens)
        yard.file("right", "correct horse")
        yard.file("wrong", "battery staple")
        yard.file("open", "correct horse", 0o644)
        assert join(yard, "new-1", "used").code == 0
        carol = ("--operator", str(root / "carol"), "join", "-")
        environment = {PASSPHRASE_VARIABLE: str(root / "right")}
        assert lockgate(*carol, given=tokens["carol"], environment=environment).code == 0
        until(lambda: time.monotonic() > expired, "a token to expire")
        yield yard


def join(yard: Yard, folder: str, token: str) -> Done:
    words = ("--dir", str(yard.root / folder), "join", "-", "--listen", "127.0.0.1:1")
    return lockgate(*words, given=yard.tokens.get(token, token))


Words = Callable[[Yard], tuple[str, ...]]


@dataclass(frozen=True)
class Row:
    """What is typed, and what comes of it. ``says``: what each line of the complaint holds, in their order."""

    name: str
    words: Words
    code: int
    says: tuple[str, ...]
    given: Callable[[Yard], str] | None = None
    passphrase: str = ""
    """A file with one, in the yard."""


# -- tokens


def _joins(name: str, token: Callable[[Yard], str], code: int, *says: str, folder: str = "x") -> Row:
    def words(yard: Yard) -> tuple[str, ...]:
        return "--dir", str(yard.root / folder), "join", "-", "--listen", "127.0.0.1:1"

    return Row(f"join-{name}", words, code, says, token)


def _altered(**changes: Any) -> Callable[[Yard], str]:
    return lambda yard: replace(Token.parse(yard.tokens["unused"]), **changes).encode()


def _joins_with(name: str, *options: str, code: int, says: str) -> Row:
    return Row(f"join-{name}", lambda yard: ("--dir", str(yard.root / "x"), "join", *options), code, (says,))


TOKENS = [
    _joins("garbage", lambda _: "please let me in\n", 1, f'does not start with "lgt1."; {COPY_LINE}'),
    _joins("empty", lambda _: "", 1, COPY_LINE),
    _joins("cut-short", lambda yard: yard.tokens["unused"][:-9], 1, f"cut short or damaged; {COPY_LINE}"),
    _joins("far-too-long", lambda _: "lgt1." + "A" * 9_000, 1, COPY_LINE),
    _joins("never-made", _altered(secret=bytes(16)), 1, f"this CA never made it; {ASK_ADMIN}"),
    _joins("used", lambda yard: yard.tokens["used"], 1, f"already used, with another key; {ASK_ADMIN}"),
    _joins("expired", lambda yard: yard.tokens["expired"], 1, f"token: expired; {ASK_ADMIN}"),
    _joins("of-another-mesh", _altered(pins=frozenset({bytes(32)})), 1, "not the CA that made this token"),
    _joins(
        "ca-is-away", _altered(addresses=("127.0.0.1:1",)), 3, "check that `lockgate ca serve` runs there"
    ),
    _joins(
        "folder-of-another",
        lambda yard: yard.tokens["unused"],
        1,
        "node/new-1 already; choose another",
        folder="new-1",
    ),
    _joins_with("no-token", code=2, says="on standard input (lockgate join -) or with --token-file"),
    _joins_with("two-tokens", "-", "--token-file", "/none", code=2, says="not both"),
    _joins_with("no-such-file", "--token-file", "/none", code=1, says="/none: No such file or directory"),
    _joins_with("bad-listen", "-", "--listen", "here", code=2, says="'here' is not \"host:port\""),
]

# -- operators


def _operator(name: str, who: str, words: tuple[str, ...], *says: str, passphrase: str = "") -> Row:
    typed = [*words]
    return Row(name, lambda yard: (*yard.dir("agents-1", who), *typed), 1, says, passphrase=passphrase)


LOCK = ("lock", "agent:researcher")

OPERATORS = [
    _operator("operator-unknown", "zed", LOCK, "zed: No such file or directory; run: lockgate join"),
    _operator("passphrase-wrong", "carol", LOCK, "wrong passphrase", passphrase="wrong"),
    _operator("passphrase-unasked", "carol", LOCK, f"no terminal to ask for it; set {PASSPHRASE_VARIABLE}"),
    _operator("passphrase-file-gone", "carol", LOCK, "/gone: No such file or directory", passphrase="gone"),
    _operator("passphrase-file-open", "carol", LOCK, "mode 0644 lets others read it; run: chmod 0600", passphrase="open"),
    _operator("approver-locks", "carol", LOCK, "operator/carol may not sign it, only ca, responder", passphrase="right"),
    _operator("approver-unlocks", "carol", ("unlock", NOBODY), "needs the role responder or admin", passphrase="right"),
    _operator("unlock-of-nothing", "alice", ("unlock", NOBODY), f"unlock {NOBODY}: no such lock is in force; `lockgate lock ls`"),
    Row(
        "responder-applies-a-policy",
        lambda yard: (*yard.dir("agents-1", "bob"), "policy", "apply", "--yes", str(yard.mesh.root / "policy.toml")),
        1,
        ("operator/bob: needs the role admin",),
    ),
]  # fmt: skip

# -- words that no verb takes


def _misused(words: str, says: str, member: str = "agents-1") -> Row:
    typed = [word.replace("_", "") for word in words.split(" ")]
    return Row(words.replace(" ", "-"), lambda yard: (*yard.dir(member), *typed), 2, (says,))


TARGETS = "one of all, segment:..., service:..., agent:..., session:..., node:..., operator:..., serial:..."

MISUSED = [
    *(_misused(f"lock {target}", TARGETS) for target in ("everything", "agent:", "all:x", "id:x")),
    *(_misused(f"lock {target}", "a name of a-z") for target in ("agent:A", "node:a/b")),
    _misused("lock session:abc", "not an id of 26 characters"),
    _misused("lock serial:xyz", "not a serial of 1 to 40 hex digits"),
    *(_misused(f"revoke {target}", "one of agent:...") for target in ("all", "segment:retrieval")),
    *(_misused(f"lock all --ttl {ttl}", "--ttl: more than 0 and at most 4h") for ttl in ("5h", "0s")),
    *(_misused(f"lock all --ttl {ttl}", 'is not a duration such as "30s"') for ttl in ("-1s", "1", "ever")),
    _misused("lock all --wait soon", 'is not a duration such as "30s"'),
    _misused("unlock abc", "is not an id of 26 characters"),
    _misused("session end x", "is not an id of 26 characters"),
    _misused("session why x", "is not an id of 26 characters"),
    _misused("session child", "Missing argument 'COMMAND...'"),
    _misused("session child --service Wiki true", "is not a name of a-z, 0-9 and inner hyphens"),
    _misused("session child --life never true", 'is not a duration such as "30s"'),
    _misused("stream cut ../x", "is not an id of 26 characters"),
    _misused("token create new-1", "node:NAME or operator:NAME", "ca"),
    _misused("token create node:new-1 --ttl 1y", 'is not a duration such as "30s"', "ca"),
    _misused("token create node:new-1 --ttl 8d", "--ttl: at least 1s and at most 7d", "ca"),
    _misused("ca init --trust-domain A --no-passphrase", "is not a trust domain such as", "ca"),
    _misused("frobnicate", "No such command 'frobnicate'"),
    _misused("status --frob", "No such option '--frob'"),
    _misused("audit tail -n -1", "-n"),
]  # fmt: skip

# -- what is not there


def _absent(words: str, code: int, says: str, *, of: str = "nowhere") -> Row:
    def typed(yard: Yard) -> tuple[str, ...]:
        folder = yard.root / "nowhere" if of == "nowhere" else yard.mesh.member(of)
        return "--dir", str(folder), *words.replace("YARD", str(yard.root)).split(" ")

    return Row(f"{words} of {of}".replace(" ", "-").replace("/", "."), typed, code, (says,))


ABSENT = [
    *(_absent(verb, 3, DAEMON) for verb in ("status", "reload", "stream ls", "session ls", "lock ls", "revoke ls")),
    _absent("token create node:x", 3, DAEMON),
    _absent("session start --agent researcher", 3, DAEMON),
    _absent("session why", 3, DAEMON),
    _absent("audit tail", 1, "lib/audit: No such file or directory"),
    _absent("audit verify", 1, "lib/audit: No such file or directory; name a folder of audit volumes"),
    _absent("audit verify YARD/gone", 1, "gone: No such file or directory; name a folder of audit volumes"),
    _absent("audit verify YARD", 1, "holds no audit volumes (*.jsonl); name a folder that does"),
    _absent("policy check /none", 1, "/none: No such file or directory"),
    _absent("policy check YARD", 1, "Is a directory"),
    _absent("join --token-file /dev/zero", 1, COPY_LINE),
    _absent("session start --agent nobody", 1, "agent nobody: not in the policy", of="agents-1"),
    _absent(f"session end {NOBODY}", 1, f"session {NOBODY}: you have no such session", of="agents-1"),
    _absent(f"stream cut {NOBODY}", 1, f"stream {NOBODY}: not live here", of="agents-1"),
    _absent("token create node:x", 1, "no such call; is --dir of the right daemon?", of="agents-1"),
    _absent("token create operator:x --role king", 1, "roles of admin, approver, auditor, responder", of="ca"),
    _absent("token create operator:x", 1, "an operator has one or more roles", of="ca"),
    _absent("token create node:NEW", 1, "NAME of a-z, 0-9 and inner hyphens", of="ca"),
    _absent("ca init --trust-domain a.b --no-passphrase", 1, "a CA already; give --dir another folder", of="ca"),
]  # fmt: skip

# -- policies

BAD_POLICY = """
[services.wiki2]
segment = "retrival"
nodes = ["tools-1"]
target = "127.0.0.1:1"
protocl = "tcp"
[[grants]]
id = "x"
agents = ["reseacher"]
services = ["wikki"]
[[grants]]
id = 7
"""
POLICY_FAULTS = (
    'services.wiki2.segment: there is no segment "retrival" (did you mean "retrieval"?)',
    'services.wiki2.protocl: unknown key (did you mean "protocol"?)',
    '.agents[0]: there is no agent "reseacher" (did you mean "researcher"?)',
    '.services[0]: there is no service "wikki" (did you mean "wiki"?)',
    ".id: must be a string",
)


def _applies(name: str, content: str | bytes, *says: str) -> Row:
    def words(yard: Yard) -> tuple[str, ...]:
        return *yard.dir("agents-1"), "policy", "apply", yard.file(f"{name}.toml", content)

    return Row(f"policy-{name}", words, 1, says)


POLICIES = [
    Row(
        "policy-without-end",
        lambda yard: (*yard.dir("agents-1"), "policy", "apply", "/dev/zero"),
        1,
        ("/dev/zero: a policy has at most 1048576 bytes",),
    ),
    Row(
        "policy-all-faults-at-once",
        lambda yard: (*yard.dir("agents-1"), "policy", "apply", yard.policy("bad.toml", BAD_POLICY)),
        1,
        POLICY_FAULTS,
    ),
    _applies("no-toml", "[[[[", "no-toml.toml:1: column 3"),
    _applies("no-text", b"\xff\xfe", "no-text.toml:1: not UTF-8"),
    _applies("too-large", "#" * (1024 * 1024 + 1), "too-large.toml: a policy has at most"),
    _applies("too-deep", "x = " + "[" * 5_000, "too-deep.toml"),
]

ROWS = [*TOKENS, *OPERATORS, *MISUSED, *ABSENT, *POLICIES]
SAMPLE = [*TOKENS[::3], *OPERATORS[::3], *MISUSED[::6], *ABSENT[::5], *POLICIES[::2]]
"""Some of every sort, and of every exit code."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_one_line_for_each_fault(yard: Yard, row: Row) -> None:
    """On stderr, with what, where and what to do; never a traceback; the exit code says of what sort it is."""
    done = _type(yard, row)
    assert (done.code, done.out) == (row.code, "")
    lines = _complaint(done)
    assert len(lines) == len(row.says), lines
    for line, says in zip(lines, row.says, strict=True):
        assert says in line


@pytest.mark.parametrize("row", SAMPLE, ids=lambda row: row.name)
def test_with_json_one_object_at_every_exit_code(yard: Yard, row: Row) -> None:
    """A script reads one object, whatever came of it, and nothing else."""
    done = _type(yard, row, "--json")
    assert (done.code, done.err) == (row.code, "")
    assert done.json["schema_version"] == 1
    assert done.json["error"]["exit"] == row.code
    for says in row.says:
        assert says in done.json["error"]["message"]


def test_a_repeated_join_changes_nothing(yard: Yard) -> None:
    """A script may run it again, with the token that it used."""
    before = (yard.root / "new-1" / "lib" / "identity" / "chain.pem").read_bytes()
    done = join(yard, "new-1", "used")
    assert (done.code, done.err) == (0, "")
    assert "already joined as spiffe://dev.lockgate.internal/node/new-1; nothing changed" in done.out
    assert (yard.root / "new-1" / "lib" / "identity" / "chain.pem").read_bytes() == before


def test_check_lists_all_faults_of_a_policy_with_their_lines(yard: Yard) -> None:
    """Its report is its result, so it stands on stdout; refused is exit code 1."""
    file = yard.policy("checked.toml", BAD_POLICY)
    said = lockgate("policy", "check", file)
    assert (said.code, said.err) == (1, "")
    findings = lockgate("policy", "check", file, "--json").json["findings"]
    first = len((yard.mesh.root / "policy.toml").read_text().splitlines()) + 3
    assert findings[0]["where"] == f"{file}:{first} services.wiki2.segment"
    assert len(findings) == len(POLICY_FAULTS)
    assert len(said.out.splitlines()) == len(POLICY_FAULTS) + 1


def test_an_audit_log_without_a_record_shows_nothing(yard: Yard) -> None:
    """A log that was emptied must not pass for one that is whole."""
    folder = yard.root / "emptied"
    folder.mkdir()
    (folder / "20260101T000000Z-00000000.jsonl").touch()
    done = lockgate("audit", "verify", str(folder))
    assert (done.code, done.err) == (1, "")
    assert "nothing is shown: there is no record that is right" in done.out


# -- daemons that must not start

Spoiling = Callable[[Path], object]


@dataclass(frozen=True)
class Start:
    """A daemon on the spoilt files of a member, and how it says no."""

    name: str
    spoil: Spoiling
    code: int
    says: tuple[str, ...]
    member: str = "agents-1"


def _appends(file: str, text: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        with (folder / file).open("a") as config:
            config.write(text)

    return spoil


def _writes(file: str, content: bytes) -> Spoiling:
    return lambda folder: (folder / file).write_bytes(content)


def _removes(pattern: str) -> Spoiling:
    def spoil(folder: Path) -> None:
        for path in (folder / "lib").rglob(pattern):
            path.unlink()

    return spoil


def _cuts_the_store(folder: Path) -> None:
    store = folder / "lib" / "statements.db"
    _removes("statements.db-*")(folder)
    store.write_bytes(store.read_bytes()[:8_192])


def _store_of(content: bytes) -> Spoiling:
    def spoil(folder: Path) -> None:
        _removes("statements.db-*")(folder)
        (folder / "lib" / "statements.db").write_bytes(content)

    return spoil


def _swaps_keys(folder: Path) -> None:
    shutil.copy(folder.parent / "mesh" / "tools-1" / IDENTITY / "key.pem", folder / IDENTITY / "key.pem")


BAD_NODE = 'nmae = "x"\nlog-level = 7\n[limits]\nstreams = "many"\nidle = "ever"\n'
BAD_CA = 'nmae = "x"\n[lifetimes]\nsession = "x"\nnode = "1s"\n'
IDENTITY = "lib/identity"
NODE_FAULTS = (
    "nmae: unknown key",
    "log-level: must be one of",
    "limits.streams: must be",
    "limits.idle: must be",
)
CA_FAULTS = ("nmae: unknown key", "lifetimes.session: must be a duration", "lifetimes.node: must be")

STARTS = [
    Start("config-faults", _appends("etc/node.toml", BAD_NODE), Exit.CONFIG, NODE_FAULTS),
    Start("config-no-toml", _writes("etc/node.toml", b"name = \n"), Exit.CONFIG, ("node.toml:1: column 8",)),
    Start("config-gone", lambda folder: (folder / "etc/node.toml").unlink(), 1, ("node.toml: No such file or directory; run: lockgate join",)),
    Start("port-in-use", lambda _: None, 1, ("Address already in use; is another daemon running?",)),
    Start("key-open", lambda folder: (folder / IDENTITY / "key.pem").chmod(0o644), 1, ("key.pem: mode 0644 lets others read it; run: chmod 0600",)),
    Start("key-gone", _removes("key.pem"), 1, (f"key.pem: the key is gone; {RESTORE}",)),
    Start("key-damaged", _writes(f"{IDENTITY}/key.pem", b"x"), 1, (f"key.pem: not a PEM key; {RESTORE}",)),
    Start("key-of-another", _swaps_keys, 1, ("key.pem: not the key of chain.pem beside it",)),
    Start("chain-gone", _removes("chain.pem"), 1, ("chain.pem: No such file or directory; run: lockgate join",)),
    Start("chain-damaged", _writes(f"{IDENTITY}/chain.pem", b"x"), 1, (f"not certificates in PEM; {RESTORE}",)),
    Start("bundle-gone", _removes("bundle.statement"), 1, ("bundle.statement: No such file or directory; run: lockgate join",)),
    Start("bundle-damaged", _writes(f"{IDENTITY}/bundle.statement", b"\xc1"), 1, (f"bundle.statement: statement: not valid MessagePack; {RESTORE}",)),
    Start("store-gone", _removes("statements.db*"), 1, ("statements.db: the statement store is gone; restore it",)),
    Start("store-empty", _store_of(b""), 1, (f"statements.db: the statement store is empty; {RESTORE}",)),
    Start("store-damaged", _cuts_the_store, 1, (RESTORE,)),
    Start("store-no-database", _store_of(b"no database" * 500), 1, (f"file is not a database; {RESTORE}",)),
    Start("ca-config-faults", _appends("etc/ca.toml", BAD_CA), Exit.CONFIG, CA_FAULTS, "ca"),
    Start("ca-config-gone", lambda folder: (folder / "etc/ca.toml").unlink(), 1, ("ca.toml: No such file or directory; run: lockgate ca init",), "ca"),
    Start("ca-port-in-use", lambda _: None, 1, ("CA port", ), "ca"),
    Start("ca-key-open", lambda folder: (folder / "lib/authority/issuer.key").chmod(0o640), 1, ("issuer.key: mode 0640 lets others read it; run: chmod 0600",), "ca"),
    Start("ca-key-gone", _removes("issuer.key"), 1, ("issuer.key",), "ca"),
    Start("ca-register-gone", _removes("register.sqlite*"), 1, ("register.sqlite",), "ca"),
    Start("ca-store-gone", _removes("statements.db*"), 1, ("statements.db: the statement store is gone; restore it",), "ca"),
]  # fmt: skip


@pytest.mark.parametrize("start", STARTS, ids=lambda start: start.name)
def test_a_daemon_that_cannot_do_its_duty_does_not_start(yard: Yard, start: Start) -> None:
    """All faults at once; 78 for what a human wrote, so that systemd does not try again; 1 for the rest."""
    folder = yard.copy(start.member, f"start-{start.name}")
    start.spoil(folder)
    done = lockgate("--dir", str(folder), *(["ca", "serve"] if start.member == "ca" else ["run"]))
    assert (done.code, done.out) == (start.code, "")
    lines = _complaint(done)
    assert len(lines) == len(start.says), lines
    for line, says in zip(lines, start.says, strict=True):
        assert says in line
    if start.code == Exit.CONFIG:
        assert all(".toml:" in line for line in lines)


@pytest.mark.parametrize("member", ["agents-1", "ca"])
def test_a_second_daemon_leaves_the_first_alone(yard: Yard, member: str) -> None:
    """On the same files and other ports: the first keeps its sockets and its log."""
    folder = yard.mesh.member(member)
    config = folder / "etc" / ("ca.toml" if member == "ca" else "node.toml")
    before = config.read_text()
    ports = ("listen", "control-listen")
    elsewhere = [line for line in before.splitlines() if line.partition(" ")[0] not in ports]
    free = [f'{name} = "127.0.0.1:{port}"' for name, port in zip(ports, (1, 2), strict=True)]
    config.write_text("\n".join([*elsewhere, *free[: 2 if member == "ca" else 1]]))
    try:
        done = lockgate("--dir", str(folder), *(["ca", "serve"] if member == "ca" else ["run"]))
    finally:
        config.write_text(before)
    assert done.code == 1
    assert "admin.sock: another daemon serves it; stop that one first" in _complaint(done)[0]
    assert yard.mesh.cli("status", member=member).code == 0


def test_the_mesh_took_no_harm(yard: Yard) -> None:
    """After all of it: nothing is locked, the policy is the first one, and every log verifies."""
    for member in ("agents-1", "tools-1"):
        status = yard.mesh.status(member)
        assert (status["ready"], status["locks"], status["revocations"]) == (True, [], [])
        assert status["policy"]["sequence"] == 1
        assert yard.mesh.cli("audit", "verify", member=member).code == 0


def _type(yard: Yard, row: Row, *more: str) -> Done:
    environment = {PASSPHRASE_VARIABLE: str(yard.root / row.passphrase) if row.passphrase else ""}
    words = row.words(yard)
    return lockgate(*words, *more, given=row.given(yard) if row.given else "", environment=environment)


def _complaint(done: Done) -> list[str]:
    """The lines of stderr, less the pointer to --help that a usage error has."""
    assert "Traceback" not in done.err
    lines = done.err.splitlines()
    if done.code == Exit.USAGE:
        assert lines.pop().startswith(USAGE)
    assert all(line.startswith("lockgate: ") for line in lines), lines
    return lines
