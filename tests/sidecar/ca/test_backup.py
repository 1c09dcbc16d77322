"""A backup opens for its recipients, and holds nothing but what belongs in one."""

import io
import tarfile

import pyrage
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.ca import backup
from sidecar.ca.backup import REGISTER, STATEMENTS, seal, unseal

FILES = {REGISTER: b"r" * 10_000, STATEMENTS: b"", "objects/" + "0" * 64: b"policy"}
ONE, TWO = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
OPENS = f"# a comment\n\n{ONE}\n".encode()


def packed(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for entry, content in entries:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return bytes(pyrage.encrypt(made.getvalue(), [ONE.to_public()]))


def link(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry


def test_each_recipient_alone_opens_it() -> None:
    """Two admins keep a key each; either of them can."""
    sealed = seal(FILES, [str(TWO.to_public()), str(ONE.to_public())])
    assert unseal(sealed, OPENS) == FILES
    assert unseal(sealed, str(TWO).encode()) == FILES


def test_nobody_else_opens_it_and_it_shows_nothing() -> None:
    """Neither content nor names can be read without a key."""
    sealed = seal(FILES, [str(ONE.to_public())])
    assert b"register" not in sealed
    with pytest.raises(LocalError, match="for another key"):
        unseal(sealed, str(TWO).encode())
    with pytest.raises(LocalError, match="no AGE-SECRET-KEY"):
        unseal(sealed, b"# empty\n")
    with pytest.raises(LocalError, match="backup"):
        unseal(sealed, b"\xff\xfe")


@pytest.mark.parametrize("recipient", ["", "age1x", "ssh-ed25519 x", "ssh-rsa", str(ONE)])
def test_a_recipient_that_is_none_is_refused(recipient: str) -> None:
    """A secret key in its place too: it would stand in a shell's history."""
    with pytest.raises(LocalError, match="a recipient is age1"):
        seal(FILES, [recipient])


def test_a_changed_byte_is_noticed() -> None:
    """Nothing of a damaged backup is used."""
    sealed = bytearray(seal(FILES, [str(ONE.to_public())]))
    sealed[-20] ^= 1
    with pytest.raises(LocalError, match="backup"):
        unseal(bytes(sealed), OPENS)


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../etc/passwd"),
        tarfile.TarInfo("/etc/passwd"),
        tarfile.TarInfo("objects/../x"),
        tarfile.TarInfo("issuer.key"),
        tarfile.TarInfo(REGISTER + "\n"),
        link(REGISTER),
    ],
    ids=lambda entry: entry.name,
)
def test_what_does_not_belong_in_it_is_refused(entry: tarfile.TarInfo) -> None:
    """Whoever knows a recipient can make a backup: names and links are not theirs to choose."""
    with pytest.raises(LocalError, match="does not belong"):
        unseal(packed((entry, b"")), OPENS)


def test_a_name_twice_a_missing_part_and_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named; no half of a backup is used."""
    register, statements = tarfile.TarInfo(REGISTER), tarfile.TarInfo(STATEMENTS)
    with pytest.raises(LocalError, match="does not belong"):
        unseal(packed((register, b"a"), (register, b"b")), OPENS)
    with pytest.raises(LocalError, match="missing"):
        unseal(packed((register, b"a")), OPENS)
    monkeypatch.setattr(backup, "MAX_BYTES", 100)
    with pytest.raises(LocalError, match="too large"):
        unseal(packed((register, b"a" * 60), (statements, b"a" * 60)), OPENS)


@settings(max_examples=50)
@given(st.binary(max_size=2048))
def test_any_encrypted_bytes_are_a_backup_or_refused(content: bytes) -> None:
    """Bytes that are no tar end in a refusal."""
    sealed = bytes(pyrage.encrypt(content, [ONE.to_public()]))
    with pytest.raises(LocalError, match="backup"):
        unseal(sealed, OPENS)
