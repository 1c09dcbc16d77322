import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from pki.certificate import lineage_of, read
from pki.clock import HOUR, Wall
from pki.errors import UnreachableError
from pki.spki import spki_sha256
from sidecar import operator
from sidecar.cli.operator import acting
from sidecar.cli.settings import Settings
from sidecar.exits import Exit
from sidecar.identity import CHAIN_FILE, Credential
from sidecar.operator import OperatorCredential
from tests.authority import tiny_ca
from tests.sidecar.cli.live_ca import LiveCa, live_ca
from tests.sidecar.cli.operators import credential
from tests.sidecar.cli.world import Done, lockgate

NOW = Wall(time.time_ns() // 1_000)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCa]:
    with live_ca(tmp_path_factory.mktemp("mesh") / "ca") as live:
        yield live


@pytest.fixture
def folder(ca: LiveCa, tmp_path: Path) -> Path:
    """The credential of an operator who just joined."""
    token = tmp_path / "token"
    folder = tmp_path / "alice"
    ca.run("token", "create", "operator:alice", "--role", "responder", "--out", token)
    assert lockgate("--operator", folder, "join", "--token-file", token, "--no-passphrase").code == Exit.YES
    return folder


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """One past half its life, whose CA is away."""
    at = Wall(NOW - 7 * HOUR)
    return credential(tmp_path / "old", ca=tiny_ca(at=at))


def renew(folder: Path, *words: str) -> Done:
    return lockgate("--operator", folder, "operator", "renew", *words)


def test_an_operator_renews_and_keeps_the_key(ca: LiveCa, folder: Path) -> None:
    """A new certificate of the same line, in the same folder."""
    before = Credential.load(folder)
    done = renew(folder, "--json")
    after = Credential.load(folder)
    assert (done.code, done.json["id"]) == (Exit.YES, str(before.id))
    assert done.json["not_after"] == read(after.chain[0]).not_after
    assert spki_sha256(after.key.public_key()) == spki_sha256(before.key.public_key())
    assert lineage_of(read(after.chain[0])) == read(before.chain[0]).serial != read(after.chain[0]).serial


def test_a_renewed_credential_takes_a_new_token(ca: LiveCa, folder: Path, tmp_path: Path) -> None:
    """Its 7 days are running; the token before it, said again, takes nothing away."""
    renew(folder)
    renewed = (folder / CHAIN_FILE).read_bytes()
    join = ("--operator", folder, "join", "--token-file", tmp_path / "token", "--no-passphrase")
    said_again = lockgate(*join)
    assert (said_again.code, (folder / CHAIN_FILE).read_bytes() == renewed) == (Exit.YES, True)
    (tmp_path / "token").unlink()
    ca.run("token", "create", "operator:alice", "--role", "responder", "--out", tmp_path / "token")
    assert lockgate(*join).out.startswith("joined as")
    leaf = read(Credential.load(folder).chain[0])
    assert lineage_of(leaf) == leaf.serial


def test_renewing_needs_the_ca(old: Path) -> None:
    """One line, and the credential is as it was."""
    before = (old / CHAIN_FILE).read_bytes()
    done = renew(old)
    assert (done.code, "cannot connect" in done.err) == (Exit.UNCONFIRMED, True)
    assert (old / CHAIN_FILE).read_bytes() == before


def test_what_is_past_half_its_life_is_renewed_after_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before: whoever pulls the kill switch waits for no renewal."""
    before = (folder / CHAIN_FILE).read_bytes()
    monkeypatch.setattr(OperatorCredential, "is_due", True)
    with acting(Settings(operator=str(folder))):
        assert (folder / CHAIN_FILE).read_bytes() == before
    assert (folder / CHAIN_FILE).read_bytes() != before


def test_a_young_credential_is_left_alone(folder: Path) -> None:
    """Half of its life is before it."""
    before = (folder / CHAIN_FILE).read_bytes()
    with acting(Settings(operator=str(folder))) as alice:
        assert not alice.is_due
    assert (folder / CHAIN_FILE).read_bytes() == before


def test_without_the_ca_an_operator_goes_on_in_silence(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The certificate is valid, and a stop must work while the CA is away."""
    with acting(Settings(operator=str(old))) as alice:
        assert alice.is_due
    assert capsys.readouterr().err == ""


def test_a_renewal_that_is_refused_says_so_in_time(
    ca: LiveCa, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While there is still a credential to work with; the command itself has worked."""
    monkeypatch.setattr(OperatorCredential, "is_due", True)
    monkeypatch.setattr("pki.authority.issuer.OPERATOR_LINE", HOUR)
    with acting(Settings(operator=str(folder))):
        pass
    said = capsys.readouterr().err
    assert said.startswith("operator alice: works until ")
    assert "token create operator:alice" in said
    assert said.count("\n") == 1
    assert renew(folder).code == Exit.NO


def test_a_ca_that_is_slow_keeps_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too late is as good as away."""

    async def forever(_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(operator, "renew_operator", forever)
    with pytest.raises(UnreachableError, match="no answer within 0"):
        OperatorCredential.load(folder).renew(0)
