import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.ids import ID_BYTES, digest_id, is_id, new_id

SIXTEEN = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)


@given(SIXTEEN, SIXTEEN)
def test_an_id_stands_for_its_bytes_alone(one: bytes, other: bytes) -> None:
    """Two ids are equal exactly if their 16 bytes are."""
    assert is_id(new_id(one))
    assert (new_id(one) == new_id(other)) is (one == other)


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_an_id_takes_exactly_sixteen_bytes(length: int) -> None:
    """Less is guessable, more would be cut off unseen."""
    with pytest.raises(ValueError, match="16 bytes"):
        new_id(bytes(length))


def test_a_digest_is_named_by_its_first_128_bits() -> None:
    """What follows them does not change the id."""
    assert digest_id(bytes(16) + b"\xff" * 16) == new_id(bytes(16))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 25,
        "a" * 27,
        "A" * 26,
        "a" * 25 + "b",  # the same bytes as 26 times a, spelled otherwise
        "a" * 25 + "1",
        "a" * 26 + "\n",
        "é" + "a" * 25,
    ],
)
def test_an_id_has_one_spelling(text: str) -> None:
    """Two spellings of one id would be two names for one thing."""
    assert not is_id(text)
