import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from pki.ids import new_id
from sidecar.gossip import digest

IDS = st.lists(st.binary(min_size=16, max_size=16).map(new_id), max_size=20)
PAIRS = st.lists(st.tuples(st.integers(0, 2**53), st.binary(min_size=32, max_size=32)), max_size=20)


@given(PAIRS)
def test_the_promised_set_has_no_order(pairs: list[tuple[int, bytes]]) -> None:
    """The CA and a node collect it in different orders."""
    assert digest.of_numbered(pairs) == digest.of_numbered(reversed(pairs))


def test_the_promised_set_tells_number_and_content_apart() -> None:
    """Another number, another statement or one more is another set."""
    one, other = bytes(32), bytes(31) + b"\1"
    sets: list[list[tuple[int, bytes]]] = [[], [(1, one)], [(2, one)], [(1, other)], [(1, one), (2, one)]]
    assert len({digest.of_numbered(each) for each in sets}) == len(sets)


def test_the_digest_of_nothing_is_fixed() -> None:
    """It is what every member has before the CA's first word."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert digest.of_numbered([]) == digest.of_ids([]) == empty


@given(IDS)
def test_ids_survive_packing(ids: list[str]) -> None:
    """Sixteen bytes each, in the order given."""
    assert digest.unpack(digest.pack(ids)) == ids
    assert len(digest.pack(ids)) == 16 * len(ids)


@given(IDS)
def test_the_digest_of_ids_has_no_order(ids: list[str]) -> None:
    """Two peers that hold the same have nothing to repair."""
    assert digest.of_ids(ids) == digest.of_ids(reversed(ids))


@pytest.mark.parametrize("length", [1, 15, 17])
def test_half_an_id_is_the_peers_fault(length: int) -> None:
    """Nothing is guessed from what was cut off."""
    with pytest.raises(RemoteError, match="not a multiple of 16"):
        digest.unpack(bytes(length))
