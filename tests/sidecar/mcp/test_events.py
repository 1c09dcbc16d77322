from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import RemoteError
from sidecar.mcp.events import MAX_EVENT_BYTES, Event, Reader

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x00"))
EVENTS = st.builds(
    Event,
    data=st.lists(TEXT, min_size=1).map("\n".join),
    type=TEXT,
    id=st.none() | TEXT,
    retry=st.none() | st.integers(0, 10**9 - 1),
)


def events(*pieces: bytes) -> list[Event | None]:
    reader = Reader()
    return [event for piece in pieces for event in reader.feed(piece)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\r\n\r\n", [Event("a")]),
        (b"data: a\r\r", [Event("a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
        (b"event: message\nid: 7\nretry: 50\ndata: a\ndata:  b\n\n", [Event("a\n b", "message", "7", 50)]),
        (b"id: 7\ndata: \n\n", [Event("", id="7")]),
        (b"data\n\n", [Event("")]),
        (b"data: a\nid: x\x00y\nretry: soon\n\n", [Event("a")]),
        (b"retry: 9999999999\n\n", [Event("")]),
        (b"nonsense: 1\n\n", [Event("")]),
        (b": ping\n\ndata: a\n\n", [None, Event("a")]),
        (b"\n\n\n", []),
        (b"data: a\n", []),
    ],
)
def test_a_stream_is_read_as_the_standard_says(stream: bytes, expected: list[Event | None]) -> None:
    """Line ends, a BOM, comments, and fields that mean nothing."""
    assert events(stream) == expected
    assert events(*(stream[at : at + 1] for at in range(len(stream)))) == expected


@given(st.lists(EVENTS, max_size=4), st.lists(st.integers(0, 200), max_size=5))
def test_what_is_spelled_is_read_back_however_it_is_cut(sent: list[Event], cuts: list[int]) -> None:
    """One spelling, and a reader that does not care where a piece ends."""
    stream = b"".join(event.spelled() for event in sent)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    assert events(*pieces) == sent


@given(st.lists(st.binary() | st.sampled_from([b"data: ", b"\r", b"\n", b":", b"\n\n"])))
def test_any_bytes_are_events_or_the_one_error(pieces: list[bytes]) -> None:
    """Nothing else is raised."""
    try:
        events(*pieces)
    except RemoteError:
        return


def test_an_event_is_capped() -> None:
    """In one line or in many, and whether or not it ends; the next one begins anew."""
    reader = Reader()
    almost = b"data: " + b"x" * (MAX_EVENT_BYTES - 100)
    assert len([*reader.feed(almost + b"\n\n"), *reader.feed(almost + b"\n\n")]) == 2
    assert list(reader.feed(b": a comment\n" * 1_000)) == [None] * 1_000
    for endless in (b"x" * 65_536, b"data: x\n" * 8_192):
        with pytest.raises(RemoteError, match="an event of over"):
            events(*[endless] * (MAX_EVENT_BYTES // 65_536 + 1))


def test_an_event_must_be_text() -> None:
    """Some readers put U+FFFD where others stop."""
    with pytest.raises(RemoteError, match="not UTF-8"):
        events(b"data: \xff\n\n")
