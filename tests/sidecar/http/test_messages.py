import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.lexical import MAX_HEAD_BYTES
from sidecar.http.messages import Messages
from sidecar.http.seams import MalformedError

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


def fed(
    data: bytes, role: type[h11.SERVER] | type[h11.CLIENT] = h11.SERVER, *, asked: bytes = b""
) -> Messages:
    """Messages that have been fed; a client has sent a request first."""
    messages = Messages(role)
    if role is h11.CLIENT:
        messages.write(h11.Request(method=asked or b"GET", target=b"/", headers=[(b"Host", b"h")]))
        messages.write(h11.EndOfMessage())
    if data:
        messages.feed(data)
    return messages


def body(messages: Messages) -> bytes:
    found = b""
    while isinstance(part := messages.part(), h11.Data):
        found += bytes(part.data)
    assert isinstance(part, h11.EndOfMessage)
    return found


def answer(messages: Messages) -> bytes:
    sent = messages.write(h11.Response(status_code=200, headers=[(b"Content-Length", b"0")]))
    return sent + messages.write(h11.EndOfMessage())


def test_messages_come_one_after_the_other() -> None:
    """What follows a message is kept for the next exchange, and its head is looked at then."""
    messages = fed(POST + GET + b"GET /b HTTP/1.1\r\nHost: h\r\nA: b\nC: d\r\n\r\n")
    head = messages.head()
    assert isinstance(head, h11.Request)
    assert head.method == b"POST"
    before = messages.is_complete
    assert body(messages) == b"hello"
    assert (before, messages.is_complete) == (False, True)
    assert answer(messages).startswith(b"HTTP/1.1 200 ")
    assert messages.next_exchange()
    assert not messages.is_idle
    assert messages.head() is not None
    assert body(messages) == b""
    answer(messages)
    assert messages.next_exchange()
    with pytest.raises(MalformedError, match="control byte"):
        messages.head()


def test_a_head_may_come_in_pieces() -> None:
    """Byte by byte it is the same head."""
    messages = Messages(h11.SERVER)
    for byte in GET[:-1]:
        messages.feed(bytes([byte]))
        assert messages.head() is None
    messages.feed(GET[-1:])
    assert messages.head() is not None


def test_nonsense_is_refused_as_soon_as_it_is_there() -> None:
    """Who never ends a line must not have to time out."""
    messages = fed(b"GET / HTTP/1.1\nHost: h\n")
    with pytest.raises(MalformedError, match="control byte"):
        messages.head()
    messages = fed(b"GET / HTTP/1.1\r")
    assert messages.head() is None
    messages.feed(b"Host: h")
    with pytest.raises(MalformedError, match="control byte"):
        messages.head()


@pytest.mark.parametrize("role", [h11.SERVER, h11.CLIENT])
def test_a_head_without_end_is_too_long(role: type[h11.SERVER] | type[h11.CLIENT]) -> None:
    """At the cap, whether its end has come or not."""
    start = GET[:-2] if role is h11.SERVER else b"HTTP/1.1 200 OK\r\n"
    for end in (b"", b"\r\n\r\n"):
        messages = fed(start + b"A: " + b"b" * MAX_HEAD_BYTES + end, role)
        with pytest.raises(MalformedError, match="longer than") as refused:
            messages.head()
        assert refused.value.status == 431


def test_an_end_in_the_middle_of_a_head_is_no_clean_end() -> None:
    """Nor one in a body."""
    messages = fed(GET[:-2])
    messages.feed(b"")
    with pytest.raises(MalformedError, match="in the middle of a head"):
        messages.head()
    messages = fed(POST[:-1])
    assert messages.head() is not None
    assert isinstance(messages.part(), h11.Data)
    messages.feed(b"")
    with pytest.raises(MalformedError, match="not valid HTTP"):
        messages.part()


def test_an_end_before_a_body_that_goes_on_to_it_is_known_to_h11() -> None:
    """A response without framing ends with its connection, wherever that was noticed."""
    messages = fed(b"HTTP/1.0 200 OK\r\n\r\nall", h11.CLIENT)
    messages.feed(b"")
    assert messages.head() is not None
    assert body(messages) == b"all"
    assert not messages.next_exchange()


@pytest.mark.parametrize(
    "chunks",
    [b"x\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloo\r\n", b"-1\r\n", b"5;a\nb\r\nhello\r\n", b"f" * 40],
)
def test_broken_chunks_are_refused(chunks: bytes) -> None:
    """h11 takes no liberties there."""
    messages = fed(CHUNKED + chunks)
    assert messages.head() is not None
    messages.feed(b"")
    with pytest.raises(MalformedError, match="not valid HTTP"):
        list(iter(messages.part, None))


def test_extensions_and_trailers_are_not_passed_on() -> None:
    """h11 drops the first, and whoever uses this the second."""
    messages = fed(CHUNKED + b"5;a=b\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n")
    assert messages.head() is not None
    assert body(messages) == b"hello"


def test_after_its_end_a_message_has_no_more_parts() -> None:
    """Asking all the same is refused: it would be the next message's."""
    messages = fed(GET + GET)
    assert messages.head() is not None
    assert body(messages) == b""
    with pytest.raises(MalformedError, match="something else"):
        messages.part()


def test_a_part_may_be_yet_to_come() -> None:
    """None then, and no error."""
    messages = fed(POST[:-5])
    assert messages.head() is not None
    assert messages.part() is None
    messages.feed(b"hello")
    assert body(messages) == b"hello"


def test_an_old_response_with_chunks_is_ambiguous() -> None:
    """HTTP/1.0 knows none (RFC 9112 section 6.1)."""
    messages = fed(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", h11.CLIENT)
    with pytest.raises(MalformedError, match=r"HTTP/1\.0"):
        messages.head()


def test_a_switch_that_nobody_asked_for_is_refused() -> None:
    """h11 knows what was asked."""
    messages = fed(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", h11.CLIENT)
    with pytest.raises(MalformedError):
        messages.head()


def test_what_a_response_answers_is_known() -> None:
    """No body after a HEAD, to either side."""
    messages = fed(GET.replace(b"GET", b"HEAD"))
    assert messages.head() is not None
    before = messages.asks_for_head_only
    body(messages)
    answer(messages)
    assert messages.next_exchange()
    assert (before, messages.asks_for_head_only) == (True, False)
    tool = fed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", h11.CLIENT, asked=b"HEAD")
    assert tool.head() is not None
    assert body(tool) == b""


def test_who_waits_for_a_100_is_known() -> None:
    """Until it is told to go on."""
    messages = fed(POST[:-5].replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert messages.head() is not None
    before = messages.waits_for_go_on
    messages.write(h11.InformationalResponse(status_code=100, headers=[]))
    assert (before, messages.waits_for_go_on) == (True, False)


def test_1xx_responses_come_before_the_final_one() -> None:
    """Each is a head of its own, looked at like any other."""
    messages = fed(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", h11.CLIENT
    )
    assert isinstance(messages.head(), h11.InformationalResponse)
    assert isinstance(messages.head(), h11.Response)
    assert body(messages) == b""
    assert messages.next_exchange()


def test_what_follows_a_switch_is_not_http() -> None:
    """Bytes of the other protocol that came with the head."""
    messages = fed(GET + b"\x81\x00")
    assert messages.head() is not None
    assert body(messages) == b""
    assert messages.unread() == b"\x81\x00"
    assert messages.is_idle


@given(
    st.binary(max_size=300), st.sampled_from([h11.SERVER, h11.CLIENT]), st.sampled_from([b"", POST, CHUNKED])
)
def test_any_bytes_are_messages_or_refused(
    data: bytes, role: type[h11.SERVER] | type[h11.CLIENT], start: bytes
) -> None:
    """Any bytes: parts of messages, or the one error type."""
    messages = fed(start + data, role)
    messages.feed(b"")
    try:
        if messages.head() is not None:
            while isinstance(messages.part(), h11.Data):
                pass
    except MalformedError:
        return
