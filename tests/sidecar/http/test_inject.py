from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.http.inject import credential_of
from sidecar.policy.model import InjectHeader


def written(path: Path, text: str, mode: int = 0o600) -> InjectHeader:
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return InjectHeader("Authorization", str(path), "Bearer ")


def test_without_inject_nothing_is_added() -> None:
    """There is nothing to read."""
    assert credential_of(None) is None


def test_a_credential_is_read_at_each_use(tmp_path: Path) -> None:
    """So that it can be rotated; its last newline is none of it."""
    read = credential_of(written(tmp_path / "a", "one two\n"))
    assert read is not None
    assert read() == (b"Authorization", b"Bearer one two")
    written(tmp_path / "a", "three\r\n")
    assert read() == (b"Authorization", b"Bearer three")


@pytest.mark.parametrize("text", ["", "\n", "a\nb", "a\r\nX: y", "caf\u00e9", "a\x00", " a", "a\t\n"])
def test_a_credential_that_is_no_field_value_is_refused(tmp_path: Path, text: str) -> None:
    """A second line would be a second field; the error does not say what is in the file."""
    read = credential_of(written(tmp_path / "a", text))
    assert read is not None
    with pytest.raises(LocalError, match=r"a: a credential is one line of printable ASCII\Z"):
        read()


@pytest.mark.parametrize(("mode", "why"), [(0o644, "lets others read it"), (None, "No such file")])
def test_a_file_that_is_not_private_is_refused(tmp_path: Path, mode: int | None, why: str) -> None:
    """Or not there."""
    inject = written(tmp_path / "a", "x", mode or 0o600)
    if mode is None:
        (tmp_path / "a").unlink()
    read = credential_of(inject)
    assert read is not None
    with pytest.raises(LocalError, match=why):
        read()
