import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.clock import DAY, SystemClock, Wall
from pki.token import Token
from sidecar.ca.daemon import read_config
from sidecar.exits import Exit
from sidecar.paths import Paths
from tests.sidecar.cli.live_ca import LiveCa, init, live_ca, serving
from tests.sidecar.cli.world import lockgate


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ca"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCa]:
    with live_ca(tmp_path_factory.mktemp("mesh") / "ca") as live:
        yield live


def test_init_prints_what_to_paste_next(root: Path) -> None:
    """With this very folder in it: first serve, then the first operator, then each node."""
    done = init(root, "--no-passphrase")
    assert done.code == Exit.YES
    here = f"lockgate --dir {root}"
    assert [line.strip() for line in done.out.splitlines() if line.startswith("  ")] == [
        f"{here} ca serve",
        f"{here} token create operator:NAME --role admin --role responder | lockgate join -",
        f"{here} token create node:NAME | ssh NAME lockgate join -",
    ]


def test_init_as_an_object_has_the_pin(root: Path) -> None:
    """What a script keeps to know this CA again."""
    body = init(root, "--no-passphrase", "--json").json
    assert body["ca"] == "spiffe://example.org/ca/main"
    assert len(body["root_pin"]) == 64


def test_init_writes_a_configuration_that_loads(root: Path) -> None:
    """With the addresses it was given."""
    done = init(root, "--no-passphrase", "--advertise", "ca.example.org:443", "--name", "ca-2")
    assert done.code == Exit.YES
    config = read_config(Paths.below(root))
    assert (config.name, config.trust_domain) == ("ca-2", "example.org")
    assert [str(one) for one in config.advertise] == ["ca.example.org:443"]
    assert config.listen[0].host == config.control_listen[0].host == "127.0.0.1"


def test_init_without_addresses_listens_for_all(root: Path) -> None:
    """The comment says which key to set where the host's name is not how others know it."""
    assert lockgate("--dir", root, "ca", "init", "--trust-domain", "a.b", "--no-passphrase").code == Exit.YES
    config = read_config(Paths.below(root))
    assert [str(one) for one in (*config.listen, *config.control_listen)] == ["0.0.0.0:7444", "0.0.0.0:7446"]
    assert '# advertise = "HOST:7444"' in Paths.below(root).ca_toml.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["--trust-domain", "Mesh/x"],
        ["--trust-domain", "a.b", "--name", 'x"\ndev = true'],
        ["--trust-domain", "a.b", "--listen", "everywhere"],
        [],
    ],
)
def test_init_with_what_makes_no_sense_makes_nothing(root: Path, words: list[str]) -> None:
    """A misuse leaves no half of a CA."""
    assert lockgate("--dir", root, "ca", "init", "--no-passphrase", *words).code == Exit.USAGE
    assert not root.exists()


def test_init_never_replaces_a_ca(root: Path) -> None:
    """Its root key would be gone for good."""
    init(root, "--no-passphrase")
    before = (root / "lib" / "authority" / "root.key").read_bytes()
    done = init(root, "--no-passphrase")
    assert (done.code, "there is a CA already" in done.err) == (Exit.NO, True)
    assert (root / "lib" / "authority" / "root.key").read_bytes() == before


def test_init_that_broke_off_is_done_again(root: Path) -> None:
    """The keys come last: without them, it is no CA yet."""
    init(root, "--no-passphrase")
    (root / "lib" / "authority").rename(root / "lib" / "elsewhere")
    assert init(root, "--no-passphrase").code == Exit.YES


def test_a_passphrase_guards_the_root_key_and_serving_needs_none(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root signs what lasts for years; what is signed every second must not wait for a human."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    monkeypatch.setenv("LOCKGATE_PASSPHRASE_FILE", str(secret))
    assert init(root).code == Exit.YES
    key = root / "lib" / "authority" / "root.key"
    assert b"ENCRYPTED" in key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    monkeypatch.delenv("LOCKGATE_PASSPHRASE_FILE")
    key.unlink()
    with serving(root, monkeypatch) as live:
        assert live.run("status").code == Exit.YES


@pytest.mark.parametrize(
    ("content", "mode", "words"), [("", 0o600, "empty"), ("x", 0o644, "lets others read it")]
)
def test_a_passphrase_file_that_guards_nothing_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, content: str, mode: int, words: str
) -> None:
    """Before anything is made."""
    secret = root.with_name("secret")
    secret.write_text(content)
    secret.chmod(mode)
    monkeypatch.setenv("LOCKGATE_PASSPHRASE_FILE", str(secret))
    done = init(root)
    assert (done.code, words in done.err) == (Exit.NO, True)
    assert not root.exists()


def test_a_cas_status_is_that_of_a_mesh_without_members(ca: LiveCa) -> None:
    """Ready at once: it waits for nobody."""
    done = ca.run("status")
    assert done.code == Exit.YES
    assert done.out.splitlines()[0] == "ca main: ready"


def test_a_token_alone_is_on_stdout(ca: LiveCa) -> None:
    """So that it can be piped to where it is needed; how to use it is on stderr."""
    done = ca.run("token", "create", "node:tools-1")
    token = Token.parse(done.out)
    assert str(token.member) == "spiffe://example.org/node/tools-1"
    assert token.addresses == (ca.api,)
    assert "lockgate join -" in done.err


def test_a_token_as_an_object_says_until_when(ca: LiveCa) -> None:
    """Scripts find it under `token`."""
    body = ca.run("token", "create", "operator:alice", "--role", "admin", "--ttl", "1h", "--json").json
    assert (body["kind"], body["name"]) == ("operator", "alice")
    assert Token.parse(body["token"]).member.name == "alice"


def test_a_token_in_a_file_is_on_no_screen(ca: LiveCa, tmp_path: Path) -> None:
    """For its owner only, from the first moment."""
    file = tmp_path / "token"
    done = ca.run("token", "create", "node:a", "--out", file, "--json")
    assert (done.json["token"], done.json["file"]) == (None, str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Token.parse(file.read_text()).member.name == "a"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["agent:x"], Exit.USAGE),
        (["tools-1"], Exit.USAGE),
        (["node:"], Exit.USAGE),
        (["node:a", "--ttl", "soon"], Exit.USAGE),
        (["node:a", "--ttl", "8d"], Exit.USAGE),
        (["node:A"], Exit.NO),
        (["node:a", "--role", "admin"], Exit.NO),
        (["operator:a"], Exit.NO),
        (["operator:a", "--role", "king"], Exit.NO),
    ],
)
def test_a_token_that_makes_no_sense_is_not_made(ca: LiveCa, words: list[str], code: Exit) -> None:
    """One line says why."""
    done = ca.run("token", "create", *words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("lockgate: ")


def test_status_says_who_holds_what_and_by_which_token(ca: LiveCa, tmp_path: Path) -> None:
    """By the token's id, which `token create` has said; its secret is nowhere. A young CA has nothing to warn of."""
    made = lockgate("--dir", ca.root, "token", "create", "node:listed", "--json").json
    (tmp_path / "token").write_text(made["token"])
    (tmp_path / "token").chmod(0o600)
    joined = lockgate("--dir", tmp_path / "node", "join", "--token-file", tmp_path / "token", "--json")
    assert joined.code == Exit.YES, joined.err
    done = lockgate("--dir", ca.root, "ca", "status", "--json")
    assert (done.code, done.json["warnings"]) == (Exit.YES, [])
    (member,) = [one for one in done.json["members"] if one["id"].endswith("/node/listed")]
    assert (member["by"], member["revoked"]) == (f"token {made['id']}", False)
    assert made["id"] in lockgate("--dir", ca.root, "ca", "status").out


def test_status_exits_with_1_once_a_key_has_passed_half_of_its_life(
    ca: LiveCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A timer can ask, and whoever is paged reads what to run."""
    real = SystemClock.wall
    monkeypatch.setattr(SystemClock, "wall", lambda self: Wall(real(self) + 46 * DAY))
    done = lockgate("--dir", ca.root, "ca", "status")
    assert done.code == Exit.NO
    assert "! the issuer key of this CA has passed half of its life, and ends in 43 days" in done.out


def test_status_is_for_the_ca_host(tmp_path: Path) -> None:
    """Elsewhere it says so."""
    done = lockgate("--dir", tmp_path, "ca", "status")
    assert (done.code, "run this on the CA's host" in done.err) == (Exit.NO, True)


def test_a_ca_is_made_below_a_root_from_outside(root: Path, tmp_path: Path) -> None:
    """As openssl makes one; what it must not say is said, and nothing is left behind."""
    pem, key = tmp_path / "corp.pem", tmp_path / "corp.key"

    def made(*more: str) -> None:
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key)]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-subj", "/O=Corporation"]
        command = ["openssl", "req", "-x509", "-days", "3650", "-out", str(pem), *curve, *usage, *more]
        subprocess.run(command, check=True, capture_output=True)
        key.chmod(0o600)

    made("-addext", "nameConstraints=critical,permitted;DNS:example.org")
    refused = init(root, "--root-cert", pem, "--root-key", key)
    assert (refused.code, "critical-extension" in refused.err) == (Exit.NO, True)
    assert init(root, "--root-cert", pem).code == Exit.USAGE
    assert not Paths.below(root).authority_dir.exists()
    made()
    done = init(root, "--root-cert", pem, "--root-key", key)
    assert done.code == Exit.YES, done.err
    assert not (Paths.below(root).authority_dir / "root.key").exists()
