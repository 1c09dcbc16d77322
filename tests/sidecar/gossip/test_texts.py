import hashlib

import msgspec
import pytest

from pki.errors import LocalError, RemoteError
from sidecar.gossip.texts import PART_BYTES, PATIENCE_TICKS, Ask, Fetching, part_of
from sidecar.wire import Fetch, Object

TEXT = bytes(range(256)) * 2_000
DIGEST = hashlib.sha256(TEXT).hexdigest()
PEERS = ("a", "b", "c")
LIMIT = 2**20


def wanting() -> Fetching:
    """A fetch under way, first asked of ``a``."""
    fetching = Fetching(LIMIT)
    fetching.want(DIGEST, len(TEXT))
    assert fetching.tick(PEERS) == Ask("a", Fetch(digest=DIGEST, offset=0))
    return fetching


def answer(ask: Ask | bytes | None, text: bytes | None = TEXT) -> Object:
    assert isinstance(ask, Ask)
    return part_of(text, ask.message)


def test_a_text_comes_in_parts_from_one_peer() -> None:
    """Each part asks for the next, and the whole is what the digest says."""
    fetching = wanting()
    outcome: Ask | bytes | None = Ask("a", Fetch(digest=DIGEST, offset=0))
    offsets = []
    while isinstance(outcome, Ask):
        offsets.append(outcome.message.offset)
        outcome = fetching.take("a", answer(outcome), PEERS)
    assert outcome == TEXT
    assert offsets == [0, PART_BYTES, 2 * PART_BYTES]
    assert fetching.digest == ""


def test_nothing_is_asked_when_nothing_is_wanted() -> None:
    """A tick of a member at rest."""
    fetching = Fetching(LIMIT)
    assert fetching.tick(PEERS) is None
    assert fetching.take("a", part_of(TEXT, Fetch(digest=DIGEST, offset=0)), PEERS) is None


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
    fetching.take("a", part_of(TEXT, Fetch(digest=DIGEST, offset=0)), PEERS)
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
    part = part_of(TEXT, Fetch(digest=DIGEST, offset=0))
    assert fetching.take("b", part, PEERS) is None
    assert fetching.take("a", msgspec.structs.replace(part, digest="0" * 64), PEERS) is None
    assert fetching.tick(PEERS) is None


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ({"total": len(TEXT) + 1}, "not the part"),
        ({"offset": 1}, "not the part"),
        ({"data": b""}, "not the part"),
        ({"data": TEXT + b"x"}, "longer than its statement says"),
        ({"data": b"x" * len(TEXT)}, "not what its digest says"),
    ],
    ids=["total", "offset", "nothing", "longer", "other"],
)
def test_a_lying_peer_is_to_blame_and_another_is_asked(lie: dict[str, object], why: str) -> None:
    """All parts came from it, so it is known who made them up."""
    fetching = wanting()
    part = part_of(TEXT, Fetch(digest=DIGEST, offset=0))
    with pytest.raises(RemoteError, match=why):
        fetching.take("a", msgspec.structs.replace(part, **lie), PEERS)
    assert fetching.tick(PEERS) == Ask("b", Fetch(digest=DIGEST, offset=0))


def test_a_part_beyond_the_end_is_empty() -> None:
    """Asked for by whoever believes the text to be longer."""
    assert part_of(TEXT, Fetch(digest=DIGEST, offset=len(TEXT) + 5)).data == b""
