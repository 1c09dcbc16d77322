import json
import time
from pathlib import Path

import pytest

from pki.clock import DAY, HOUR, Wall
from pki.errors import LocalError, UnreachableError
from pki.statement import Demand, signature_holds
from sidecar import operator
from sidecar.operator import OPERATOR_FILE, OperatorCredential, passphrase
from tests.authority import tiny_ca
from tests.sidecar.cli.operators import NOWHERE, credential

NOW = Wall(time.time_ns() // 1_000)


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that LOCKGATE_PASSPHRASE_FILE names."""
    path = tmp_path / "secret"
    path.write_text("correct horse\n")
    path.chmod(0o600)
    monkeypatch.setenv("LOCKGATE_PASSPHRASE_FILE", str(path))
    return path


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, and nobody to ask."""
    monkeypatch.delenv("LOCKGATE_PASSPHRASE_FILE", raising=False)
    monkeypatch.setattr(operator, "_has_terminal", lambda: False)


def test_a_credential_signs_for_its_operator(tmp_path: Path, alone: None) -> None:
    """In the epoch of its bundle, from now, for as long as asked."""
    alice = OperatorCredential.load(credential(tmp_path / "alice"))
    said = alice.sign("demand", Demand(action="unlock", ids=["a" * 26]), HOUR)
    assert signature_holds(said, alice.credential.key.public_key())
    assert said.payload.expires - said.payload.issued == HOUR
    assert said.payload.epoch == alice.bundle.epoch
    assert (alice.author, alice.ca) == ("spiffe://example.org/operator/alice", NOWHERE)


def test_a_credential_under_a_passphrase_needs_it(tmp_path: Path, secret: Path) -> None:
    """A wrong one is told from a damaged file as well as it can be."""
    folder = credential(tmp_path / "alice", passphrase=b"correct horse")
    assert OperatorCredential.load(folder).author.endswith("/alice")
    secret.write_text("wrong")
    with pytest.raises(LocalError, match="wrong passphrase"):
        OperatorCredential.load(folder)


def test_a_credential_that_has_expired_says_what_to_do(tmp_path: Path, alone: None) -> None:
    """They last half a day: most people read this once."""
    folder = credential(tmp_path / "alice", ca=tiny_ca(at=Wall(NOW - DAY)))
    with pytest.raises(LocalError, match=r"expired; .* token create operator:alice .* run: lockgate join"):
        OperatorCredential.load(folder)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"ca": 7}', "\x00"])
def test_a_damaged_folder_is_said_to_be(tmp_path: Path, alone: None, text: str) -> None:
    """One line that names it."""
    folder = credential(tmp_path / "alice")
    (folder / OPERATOR_FILE).write_text(text)
    with pytest.raises(LocalError, match=r"alice: operator\.json is damaged; join again"):
        OperatorCredential.load(folder)


def test_a_folder_that_is_no_credential_is_named(tmp_path: Path) -> None:
    """A mistyped --operator."""
    with pytest.raises(
        LocalError, match=r"operator .*/nobody: No such file or directory; run: lockgate join"
    ):
        OperatorCredential.load(tmp_path / "nobody")


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, alone: None) -> None:
    """It may have been read already."""
    folder = credential(tmp_path / "alice")
    (folder / "key.pem").chmod(0o644)
    with pytest.raises(LocalError, match="lets others read it"):
        OperatorCredential.load(folder)


def test_where_the_ca_is_stands_beside_the_key(tmp_path: Path, alone: None) -> None:
    """For its owner only, too."""
    folder = credential(tmp_path / "alice")
    assert json.loads((folder / OPERATOR_FILE).read_text()) == {"ca": NOWHERE, "encrypted": False}
    assert (folder / OPERATOR_FILE).stat().st_mode & 0o077 == 0


def test_a_ca_that_is_down_is_unreachable(tmp_path: Path, alone: None) -> None:
    """As itself, not in a group of errors."""
    alice = OperatorCredential.load(credential(tmp_path / "alice"))
    with pytest.raises(UnreachableError, match="cannot connect"):
        alice.call_ca("GET", "/v1/status", None)


def test_a_passphrase_comes_from_the_file(secret: Path) -> None:
    """Without the line's end; nobody is asked."""
    assert passphrase("passphrase") == b"correct horse"


@pytest.mark.parametrize(
    ("text", "mode", "words"), [(" \n", 0o600, "is empty"), ("x", 0o640, "lets others read it")]
)
def test_a_file_that_guards_nothing_is_refused(secret: Path, text: str, mode: int, words: str) -> None:
    """An empty passphrase would look like protection."""
    secret.write_text(text)
    secret.chmod(mode)
    with pytest.raises(LocalError, match=words):
        passphrase("passphrase")


def test_without_a_terminal_the_variable_is_named(alone: None) -> None:
    """A script reads what it has to set."""
    with pytest.raises(LocalError, match="set LOCKGATE_PASSPHRASE_FILE"):
        passphrase("passphrase")
