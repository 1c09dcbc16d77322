"""When a leaf is renewed, and the proof of one that has ended."""

from hypothesis import given
from hypothesis import strategies as st

from pki.clock import HOUR, SECOND, Wall
from pki.renewal import GRACE, LONGEST_PAUSE, Renewal, exporter_context, grace_holds, in_grace, sign_grace
from tests.authority import NOW, new_key

LIVES = st.integers(2 * SECOND, 30 * 24 * HOUR)


def leaf(life: int, jitter: int = 128) -> Renewal:
    return Renewal(NOW, Wall(NOW + life), jitter)


@given(LIVES, st.integers(0, 255))
def test_a_leaf_is_renewed_at_half_life_give_or_take_a_twentieth(life: int, jitter: int) -> None:
    """Half life with a spread of a tenth: a fleet that joined together does not renew together."""
    due = leaf(life, jitter).next_deadline - NOW
    assert life * 45 // 100 - 1 <= due <= life * 55 // 100 + 1


def test_the_jitter_spreads() -> None:
    """Different leaves of one life are due at different times."""
    assert len({leaf(HOUR, jitter).next_deadline for jitter in range(256)}) == 256


@given(LIVES, st.integers(1, 40))
def test_a_failed_renewal_is_tried_again_in_good_time(life: int, failures: int) -> None:
    """The pause grows, is bounded, and leaves a few tries before the end."""
    half = Wall(NOW + life // 2)
    renewal = leaf(life)
    pauses = []
    for _ in range(failures):
        renewal = renewal.failed(half)
        pauses.append(renewal.next_deadline - half)
    assert pauses == sorted(pauses)
    assert 0 < pauses[-1] <= max(LONGEST_PAUSE, life // 20)
    assert pauses[-1] <= max(life // 2 // 4 + 1, life // 20 + 1)


def test_after_the_end_tries_go_on() -> None:
    """A node that slept through its certificate's end asks on, in grace."""
    renewal = leaf(HOUR).failed(Wall(NOW + 2 * HOUR))
    assert renewal.next_deadline > NOW + 2 * HOUR


def test_grace_begins_at_the_end_and_is_a_week() -> None:
    """Before the end there is no need, a week after it no way."""
    assert not in_grace(NOW, NOW)
    assert in_grace(NOW, Wall(NOW + 1))
    assert in_grace(NOW, Wall(NOW + GRACE))
    assert not in_grace(NOW, Wall(NOW + GRACE + 1))


def test_a_grace_proof_is_of_one_connection_and_one_key() -> None:
    """Another exporter, another key, another signature: nothing."""
    key, exporter = new_key(), b"e" * 32
    proof = sign_grace(key, exporter)
    assert grace_holds(proof, key.public_key(), exporter)
    assert not grace_holds(proof, key.public_key(), b"f" * 32)
    assert not grace_holds(proof, new_key().public_key(), exporter)
    assert not grace_holds(b"junk", key.public_key(), exporter)
    assert exporter_context(b"one") != exporter_context(b"two")
