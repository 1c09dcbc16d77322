import hashlib

import msgspec
import pytest

from pki.errors import LocalError, RemoteError
from sidecar.gossip.texts import PART_BYTES, PATIENCE_TICKS, Ask, Fetching, Whole, longest_packed, part_of
from sidecar.packed import pack
from sidecar.wire import Fetch, Object

TEXT = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(16_000))
"""It does not shrink, so it comes in parts."""
PACKED = pack(TEXT)
DIGEST = hashlib.sha256(TEXT).hexdigest()
PEERS = ("a", "b", "c")
LIMIT = 2**20


def wanting() -> Fetching:
    """A fetch under way, first asked of ``a``."""
    fetching = Fetching(LIMIT)
    fetching.want(DIGEST, len(TEXT))
    assert fetching.tick(PEERS) == Ask("a", Fetch(digest=DIGEST, offset=0))
    return fetching


def answer(ask: Ask | Whole | None) -> Object:
    assert isinstance(ask, Ask)
    return part_of(PACKED, ask.message)


def test_a_text_comes_in_parts_from_one_peer() -> None:
    """Each part asks for the next, and the whole is what the digest says."""
    fetching = wanting()
    outcome: Ask | Whole | None = Ask("a", Fetch(digest=DIGEST, offset=0))
    offsets = []
    while isinstance(outcome, Ask):
        offsets.append(outcome.message.offset)
        outcome = fetching.take("a", answer(outcome), PEERS)
    assert outcome == Whole("a", DIGEST, len(TEXT), PACKED)
    assert outcome.text() == TEXT
    assert offsets == [0, PART_BYTES, 2 * PART_BYTES]
    fetching.stop("0" * 64)
    assert fetching.digest == DIGEST
    fetching.stop(DIGEST)
    assert fetching.digest == ""


def test_nothing_is_asked_when_nothing_is_wanted() -> None:
    """A tick of a member at rest."""
    fetching = Fetching(LIMIT)
    assert fetching.tick(PEERS) is None
    assert fetching.take("a", part_of(PACKED, Fetch(digest=DIGEST, offset=0)), PEERS) is None


def test_a_text_too_large_to_be_kept_is_not_fetched() -> None:
    """Whatever its statement says."""
    fetching = wanting()
    with pytest.raises(LocalError, match=f"a text of {LIMIT + 1} bytes"):
        fetching.want("0" * 64, LIMIT + 1)
    assert fetching.digest == ""


def test_wanting_it_again_loses_nothing_and_wanting_another_begins_anew() -> None:
    """Only one text is wanted at a time: the newest."""
    fetching = wanting()
    fetching.want(DIGEST, len(TEXT))
    assert fetching.tick(PEERS) is None
    fetching.want("0" * 64, 1)
    assert fetching.tick(PEERS) == Ask("a", Fetch(digest="0" * 64, offset=0))
    fetching.stop()
    assert fetching.digest == ""


def test_a_peer_without_the_text_is_passed_over_at_once() -> None:
    """Each is asked once, then all again at the next tick: no storm of questions while nobody has it."""
    fetching = wanting()
    missing = part_of(None, Fetch(digest=DIGEST, offset=0))
    assert fetching.take("a", missing, PEERS) == Ask("b", Fetch(digest=DIGEST, offset=0))
    assert fetching.take("b", missing, PEERS) == Ask("c", Fetch(digest=DIGEST, offset=0))
    assert fetching.take("c", missing, PEERS) is None
    assert fetching.tick(PEERS) == Ask("a", Fetch(digest=DIGEST, offset=0))


def test_a_silent_peer_is_passed_over_after_a_while() -> None:
    """It may hold its link up and say nothing."""
    fetching = wanting()
    asked = [fetching.tick(PEERS) for _ in range(PATIENCE_TICKS + 1)]
    assert asked == [None] * PATIENCE_TICKS + [Ask("b", Fetch(digest=DIGEST, offset=0))]


def test_a_peer_that_left_is_passed_over_at_the_next_tick() -> None:
    """And the text is fetched from the start: all its parts come from one peer."""
    fetching = wanting()
    fetching.take("a", part_of(PACKED, Fetch(digest=DIGEST, offset=0)), PEERS)
    assert fetching.tick(["b", "c"]) == Ask("b", Fetch(digest=DIGEST, offset=0))


def test_without_any_peer_the_text_waits() -> None:
    """The first link that comes up is asked."""
    fetching = Fetching(LIMIT)
    fetching.want(DIGEST, len(TEXT))
    assert fetching.tick([]) is None
    assert fetching.tick(["z"]) == Ask("z", Fetch(digest=DIGEST, offset=0))


def test_a_part_nobody_waits_for_is_nothing() -> None:
    """Late, of another text, or from a peer that was not asked."""
    fetching = wanting()
    part = part_of(PACKED, Fetch(digest=DIGEST, offset=0))
    assert fetching.take("b", part, PEERS) is None
    assert fetching.take("a", msgspec.structs.replace(part, digest="0" * 64), PEERS) is None
    assert fetching.tick(PEERS) is None


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"total": longest_packed(len(TEXT)) + 1}, "longer than its statement says"),
        ({"offset": 1}, "not the part"),
        ({"data": b""}, "not the part"),
        ({"data": PACKED + b"x"}, "not the part"),
    ],
    ids=["total", "offset", "nothing", "longer"],
)
def test_a_lying_peer_is_to_blame_and_another_is_asked(lie: dict[str, object], why: str) -> None:
    """All parts came from it, so it is known who made them up."""
    fetching = wanting()
    part = part_of(PACKED, Fetch(digest=DIGEST, offset=0))
    with pytest.raises(RemoteError, match=why):
        fetching.take("a", msgspec.structs.replace(part, **lie), PEERS)
    assert fetching.tick(PEERS) == Ask("b", Fetch(digest=DIGEST, offset=0))


def test_the_size_that_is_promised_first_is_kept_to() -> None:
    """A peer that goes on promising more never ends."""
    fetching = wanting()
    more = answer(fetching.take("a", part_of(PACKED, Fetch(digest=DIGEST, offset=0)), PEERS))
    with pytest.raises(RemoteError, match="not the part"):
        fetching.take("a", msgspec.structs.replace(more, total=more.total + 1), PEERS)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (pack(b"x" * len(TEXT)), "not what its digest says"),
        (pack(TEXT[:-1]), "not what its digest says"),
        (pack(TEXT + b"x"), "once inflated"),
        (pack(bytes(2**26)), "once inflated"),
        (PACKED[:-1], "cut short"),
        (b"xxx", "not deflated"),
    ],
    ids=["other", "shorter", "longer", "bomb", "cut", "nonsense"],
)
def test_what_is_not_the_text_is_the_fault_of_who_sent_it(packed: bytes, why: str) -> None:
    """It is told only when all is there, and a bomb goes no further than the size in the statement."""
    with pytest.raises(RemoteError, match=why):
        Whole("a", DIGEST, len(TEXT), packed).text()


def test_until_it_is_here_another_peer_is_asked() -> None:
    """What came whole may have been made up."""
    fetching = Fetching(LIMIT)
    fetching.want("0" * 64, 100)
    fetching.tick(PEERS)
    small = pack(b"x" * 100)
    part = part_of(small, Fetch(digest="0" * 64, offset=0))
    assert isinstance(fetching.take("a", part, PEERS), Whole)
    assert fetching.tick(PEERS) == Ask("b", Fetch(digest="0" * 64, offset=0))


@pytest.mark.parametrize("size", [0, 1, 1_000, 100_000])
def test_no_text_is_longer_than_the_longest_on_its_way(size: int) -> None:
    """Whatever is in it."""
    noise = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(size // 32 + 1))[:size]
    assert len(pack(noise)) <= longest_packed(size)


def test_a_part_beyond_the_end_is_empty() -> None:
    """Asked for by whoever believes the text to be longer."""
    assert part_of(PACKED, Fetch(digest=DIGEST, offset=len(PACKED) + 5)).data == b""
