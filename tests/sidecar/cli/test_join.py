import base64
import io
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pki.certificate import read
from pki.clock import DAY, HOUR, Wall
from pki.errors import RemoteError
from pki.spiffe import SpiffeId
from pki.spki import spki_sha256
from pki.token import Token
from sidecar.address import Address
from sidecar.cli import join
from sidecar.cli.settings import operator_home
from sidecar.daemon import read_config
from sidecar.exits import Exit
from sidecar.identity import CHAIN_FILE, Credential
from sidecar.operator import OperatorCredential
from sidecar.paths import Paths
from tests.authority import new_key, tiny_ca
from tests.sidecar.cli.live_ca import LiveCa, live_ca
from tests.sidecar.cli.world import Done, lockgate

NOW = Wall(time.time_ns() // 1_000)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCa]:
    with live_ca(tmp_path_factory.mktemp("mesh") / "ca") as live:
        yield live


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "member"


def paste(root: Path, token: str, *words: object) -> Done:
    """`lockgate join -` with this on its standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(token))
        return lockgate("--dir", root, "join", "-", *words)


def held(folder: Path) -> SpiffeId:
    return Credential.load(folder).id


# Nodes


def test_a_node_joins_and_can_run(ca: LiveCa, root: Path) -> None:
    """Credential, trust bundle, store and configuration are there, and the CA knows it by its new certificate."""
    done = paste(root, ca.token("node:tools-1"), "--listen", "127.0.0.1:7443")
    assert (done.code, done.err) == (Exit.YES, "")
    assert done.out.splitlines()[-1] == "next: lockgate run"
    paths = Paths.below(root)
    config = read_config(paths)
    assert (config.name, config.trust_domain, str(config.ca)) == ("tools-1", "example.org", ca.api)
    assert config.listen == config.advertise == (Address("127.0.0.1", 7443),)
    assert str(held(paths.identity_dir)) == "spiffe://example.org/node/tools-1"
    assert paths.statements.exists()
    assert "tools-1" in ca.run("status", "--json").json["nodes"]


def test_a_node_that_listens_everywhere_advertises_how_it_reaches_the_ca(ca: LiveCa, root: Path) -> None:
    """So it needs no option at all."""
    body = paste(root, ca.token("node:tools-2"), "--json").json
    assert body["self_test"] == body["id"] == "spiffe://example.org/node/tools-2"
    config = read_config(Paths.below(root))
    assert [str(one) for one in (*config.listen, *config.advertise)] == ["0.0.0.0:7443", "127.0.0.1:7443"]


def test_joining_again_changes_nothing(ca: LiveCa, root: Path) -> None:
    """With the same token or a new one: a repeat is not a mistake, and spends nothing."""
    paste(root, ca.token("node:a"))
    before = (Paths.below(root).chain).read_bytes()
    token = ca.token("node:a")
    done = paste(root, token)
    assert (done.code, "already joined" in done.out) == (Exit.YES, True)
    assert Paths.below(root).chain.read_bytes() == before
    assert paste(root.with_name("other"), token).code == Exit.YES


def test_a_folder_has_one_identity(ca: LiveCa, root: Path) -> None:
    """A token for another name is a mistake, and is not spent."""
    paste(root, ca.token("node:a"))
    token = ca.token("node:b")
    done = paste(root, token)
    assert (done.code, "choose another folder for spiffe://example.org/node/b" in done.err) == (Exit.NO, True)
    assert paste(root.with_name("other"), token).code == Exit.YES


def test_a_join_that_broke_off_is_done_again_with_the_same_token(ca: LiveCa, root: Path) -> None:
    """The key is kept, so the CA answers the same; the credential is written last."""
    token = ca.token("node:c")
    assert paste(root, token).code == Exit.YES
    paths = Paths.below(root)
    for path in (paths.chain, paths.node_toml):
        path.unlink()
    assert paste(root, token).code == Exit.YES
    assert read_config(paths).name == "c"


def test_a_configuration_of_ones_own_is_kept(ca: LiveCa, root: Path) -> None:
    """Whoever prepares node.toml first finds it as it was."""
    paths = Paths.below(root)
    paths.etc.mkdir(parents=True)
    paths.node_toml.write_text("# mine\n")
    assert paste(root, ca.token("node:d")).code == Exit.YES
    assert paths.node_toml.read_text() == "# mine\n"


def test_a_node_whose_certificate_has_ended_joins_anew(ca: LiveCa, root: Path) -> None:
    """Beyond its renewal grace, a new token is the only way back."""
    folder = Paths.below(root).identity_dir
    expired(folder, tiny_ca(at=Wall(NOW - 2 * DAY)).node("e"), Wall(NOW - 2 * DAY))
    assert paste(root, ca.token("node:e")).code == Exit.YES
    assert read(Credential.load(folder).chain[0]).not_after > NOW


def expired(folder: Path, who: SpiffeId, at: Wall) -> None:
    """A credential that lived for an hour from ``at`` on."""
    key = new_key()
    Credential(who, tiny_ca(at=at).issue(who, key, lifetime=HOUR), key).save(folder)


# Operators


def test_an_operator_joins_under_a_passphrase(
    ca: LiveCa, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credential is in the home folder, for its owner only, and signs with the passphrase."""
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    monkeypatch.setenv("LOCKGATE_PASSPHRASE_FILE", str(secret))
    done = paste(root, ca.token("operator:alice", "--role", "admin"))
    folder = operator_home() / "example.org" / "alice"
    assert done.out == f"joined as spiffe://example.org/operator/alice; the credential is in {folder}\n"
    assert b"ENCRYPTED" in (folder / "key.pem").read_bytes()
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert OperatorCredential.load(folder).ca == ca.api
    assert ca.run("status", "--json").json["operators"]["alice"] == ["admin"]


def test_an_operator_joins_without_one_where_it_is_wanted_so(ca: LiveCa, root: Path, tmp_path: Path) -> None:
    """--operator names the folder."""
    token = ca.token("operator:bob", "--role", "responder")
    body = paste(root, token, "--operator", tmp_path / "bob", "--no-passphrase", "--json").json
    assert body["folder"] == str(tmp_path / "bob")
    assert OperatorCredential.load(tmp_path / "bob").author == "spiffe://example.org/operator/bob"


def test_without_a_terminal_the_passphrase_has_to_come_from_a_file(ca: LiveCa, root: Path) -> None:
    """Before the token is spent."""
    token = ca.token("operator:carol", "--role", "responder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.operator._has_terminal", lambda: False)
        done = paste(root, token)
    assert (done.code, "set LOCKGATE_PASSPHRASE_FILE" in done.err) == (Exit.NO, True)
    assert paste(root, token, "--no-passphrase").code == Exit.YES


def test_half_way_an_operator_takes_a_new_token(ca: LiveCa, root: Path, tmp_path: Path) -> None:
    """Nobody is to be locked out for a moment: the key stays, the certificate is new, and so are its 7 days."""
    folder = tmp_path / "dave"
    half = Wall(NOW - HOUR // 2 - 60_000_000)
    expired(folder, tiny_ca(at=half).operator("dave"), half)
    key = spki_sha256(Credential.load(folder).key.public_key())
    words = ("--operator", folder, "--no-passphrase")
    assert paste(root, ca.token("operator:dave", "--role", "admin"), *words).code == Exit.YES
    assert spki_sha256(Credential.load(folder).key.public_key()) == key
    assert read(Credential.load(folder).chain[0]).not_after > NOW + HOUR
    assert "already joined" in paste(root, ca.token("operator:dave", "--role", "admin"), *words).out


# Tokens


def test_a_token_comes_from_a_file_too(ca: LiveCa, root: Path, tmp_path: Path) -> None:
    """For whoever deploys without a terminal."""
    file = tmp_path / "token"
    ca.run("token", "create", "node:f", "--out", file)
    assert lockgate("--dir", root, "join", "--token-file", file).code == Exit.YES


@pytest.mark.parametrize("words", [[], ["-", "--token-file", "x"]])
def test_a_token_comes_from_one_place(root: Path, words: list[str]) -> None:
    """Neither and both are a misuse."""
    assert lockgate("--dir", root, "join", *words).code == Exit.USAGE


def test_a_token_file_that_cannot_be_read_is_named(root: Path, tmp_path: Path) -> None:
    """And one that is no text."""
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, why in (("gone", "No such file or directory"), ("bytes", "not text")):
        done = lockgate("--dir", root, "join", "--token-file", tmp_path / name)
        assert (done.code, done.err) == (Exit.NO, f"lockgate: token: {tmp_path / name}: {why}\n")


def test_bad_tokens_are_told_apart(ca: LiveCa, root: Path, tmp_path: Path) -> None:
    """One line each: what, and whom to ask."""
    used = ca.token("node:g")
    paste(tmp_path / "first", used)
    foreign = Token.parse(used)
    other = Token(foreign.member, foreign.addresses, frozenset({bytes(32)}), foreign.secret)
    away = Token(foreign.member, ("127.0.0.1:1",), foreign.pins, foreign.secret)
    unknown = Token(foreign.member, foreign.addresses, foreign.pins, bytes(16))
    for token, code, words in (
        ("", Exit.NO, 'does not start with "lgt1."'),
        (used[:-9], Exit.NO, "cut short or damaged"),
        (used, Exit.NO, "already used, with another key"),
        (other.encode(), Exit.NO, "not the CA that made this token"),
        (unknown.encode(), Exit.NO, "this CA never made it"),
        (away.encode(), Exit.UNCONFIRMED, "cannot connect"),
    ):
        done = paste(root, token)
        assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1)
        assert words in done.err
    assert not (Paths.below(root).identity_dir / CHAIN_FILE).exists()


def test_no_secret_is_printed(ca: LiveCa, root: Path) -> None:
    """Not the token, not the key: a terminal is recorded more often than one thinks."""
    token = ca.token("node:h")
    done = paste(root, token)
    assert token[10:40] not in done.out + done.err
    assert "PRIVATE" not in done.out + done.err


def test_an_address_that_is_none_is_a_misuse(ca: LiveCa, root: Path) -> None:
    """Before the token is spent."""
    assert paste(root, ca.token("node:i"), "--listen", "everywhere").code == Exit.USAGE


# Self-test


def test_a_ca_that_sends_somebody_elses_certificate_is_not_believed(ca: LiveCa, root: Path) -> None:
    """Its own mistake would make two members of one name."""
    mine = tiny_ca(at=NOW)
    key = new_key()
    token = Token(mine.node("a"), (ca.api,), frozenset({bytes(32)}), bytes(16))
    nothing: dict[str, object] = {}
    for answer, words in (
        (nothing, "is no good"),
        (answered((b"junk",)), "is no good"),
        (answered(mine.issue(mine.node("b"), key)), "for spiffe://example.org/node/b, not for"),
        (answered(mine.issue(mine.node("a"), new_key())), "for another key"),
    ):
        with pytest.raises(RemoteError, match=words):
            join._checked(answer, token, mine.bundle, key)
    assert (
        join._checked(answered(mine.issue(mine.node("a"), key)), token, mine.bundle, key).id == token.member
    )


def answered(chain: tuple[bytes, ...]) -> dict[str, object]:
    return {"chain": [base64.b64encode(one).decode() for one in chain]}
