"""Statements handed over in a file: what was written is read, and nothing else is."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from pki.statement import MAX_STATEMENT_BYTES
from sidecar.gossip import dump as dumps
from sidecar.gossip.dump import MAGIC, Dump, decode, encode, sources

ENVELOPES = st.lists(st.binary(min_size=1, max_size=64), max_size=8).map(tuple)

DAMAGED = [
    (b"", "not a file of"),
    (b"lockgate-statements/2 a\n", "not a file of"),
    (MAGIC + b"a", "not a file of"),
    (MAGIC + b"../a\n", "not a file of"),
    (MAGIC + b"\xff\n", "not a file of"),
    (MAGIC + b"a" * 65 + b"\n", "not a file of"),
    (MAGIC + b"a\n\x00\x00\x00\x02x", "cut off"),
    (MAGIC + b"a\n\x00\x00\x00\x00", "cut off"),
    (MAGIC + b"a\n\x00", "cut off"),
    (
        MAGIC + b"a\n" + (MAX_STATEMENT_BYTES + 1).to_bytes(4, "big") + b"x" * (MAX_STATEMENT_BYTES + 1),
        "cut off",
    ),
]


@given(ENVELOPES)
def test_what_was_written_is_read(envelopes: tuple[bytes, ...]) -> None:
    """All envelopes in their order, and whose they are."""
    assert decode(encode(Dump("tools-1", envelopes))) == Dump("tools-1", envelopes)


@pytest.mark.parametrize(("data", "why"), DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_refused(data: bytes, why: str) -> None:
    """Cut off, of another kind, or with a name that is none."""
    with pytest.raises(RemoteError, match=why):
        decode(data)


@given(st.binary(max_size=200).map(lambda data: MAGIC + b"a\n" + data) | st.binary(max_size=200))
def test_any_bytes_are_a_dump_or_refused(data: bytes) -> None:
    """Whoever wrote it made nothing else happen."""
    with suppress(RemoteError):
        assert encode(decode(data)) == data


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size is looked at before anything in it."""
    monkeypatch.setattr(dumps, "MAX_DUMP_BYTES", 10)
    with pytest.raises(RemoteError, match="at most 10"):
        decode(b"x" * 11)


def test_an_adoption_stands_for_what_it_wraps() -> None:
    """The original's signer may be long gone; the CA's word for it is what counts."""
    assert sources(b"original", []) == (b"original",)
    assert sources(b"original", [b"one", b"two"]) == (b"one", b"two")
