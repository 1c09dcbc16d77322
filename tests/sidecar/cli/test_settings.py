from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.cli.settings import Settings, operator_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The credentials of one user: alice in two meshes, bob in one."""
    home = operator_home()
    assert tmp_path in home.parents
    for folder in ("a.example/alice", "b.example/alice", "b.example/bob"):
        (home / folder).mkdir(parents=True)
    return home


def test_the_only_credential_needs_no_name(tmp_path: Path) -> None:
    """Most people have one."""
    only = operator_home() / "a.example" / "alice"
    only.mkdir(parents=True)
    assert Settings(str(tmp_path)).operator_folder == only


def test_a_name_picks_among_several(home: Path, tmp_path: Path) -> None:
    """In whichever mesh it is, as long as it is in one."""
    assert Settings(str(tmp_path), "bob").operator_folder == home / "b.example" / "bob"


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (None, "several credentials"),
        ("alice", "operator alice: several"),
        ("eve", "operator eve: no credential"),
    ],
)
def test_what_is_not_clear_is_asked_for(home: Path, tmp_path: Path, operator: str | None, words: str) -> None:
    """No guess is made about who signs."""
    with pytest.raises(LocalError, match=words):
        _ = Settings(str(tmp_path), operator).operator_folder


def test_a_pattern_is_not_a_name(home: Path, tmp_path: Path) -> None:
    """Only whole names pick a credential."""
    with pytest.raises(LocalError, match="no credential"):
        _ = Settings(str(tmp_path), "b*").operator_folder


def test_a_path_is_taken_as_it_is(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a slash always, without one when no credential has that name."""
    assert Settings(str(tmp_path), "./bob").operator_folder == Path("bob")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carol").mkdir()
    (tmp_path / "bob").mkdir()
    assert Settings(str(tmp_path), "carol").operator_folder == Path("carol")
    assert Settings(str(tmp_path), "bob").operator_folder == home / "b.example" / "bob"


def test_option_before_variable_before_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory may name the operator of whoever works in it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ca.toml").write_text('operator = "/of/config"\n')
    assert Settings(str(tmp_path)).operator_folder == Path("/of/config")
    monkeypatch.setenv("LOCKGATE_OPERATOR", "/of/variable")
    assert Settings(str(tmp_path)).operator_folder == Path("/of/variable")
    assert Settings(str(tmp_path), "/of/option").operator_folder == Path("/of/option")


@pytest.mark.parametrize(
    ("file", "text", "is_dev"),
    [
        (None, "", None),
        ("node.toml", 'dev = true\nname = "a"', True),
        ("node.toml", 'name = "a"', False),
        ("ca.toml", "dev = true", True),
        ("ca.toml", "not toml", None),
    ],
)
def test_a_dev_mesh_is_known_by_its_configuration(
    tmp_path: Path, file: str | None, text: str, is_dev: bool | None
) -> None:
    """Without one that can be read, nobody knows."""
    (tmp_path / "etc").mkdir()
    if file:
        (tmp_path / "etc" / file).write_text(text)
    assert Settings(str(tmp_path)).is_dev is is_dev
