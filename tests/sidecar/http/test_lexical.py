import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http import lexical
from sidecar.http.seams import MalformedError

START = b"GET / HTTP/1.1\r\n"


def request(*lines: bytes) -> bytes:
    return START + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_fields_are_read_as_they_stand() -> None:
    """Names in lower case, values without the white space around them."""
    assert lexical.request_fields(request(b"Host:  a b\t", b"X:")) == ((b"host", b"a b"), (b"x", b""))
    response = b"HTTP/1.1 204\r\nA: b\r\n\r\n"
    assert lexical.response_fields(response) == ((b"a", b"b"),)


HEADS = [
    (request(b"A: b", b" c"), "folded", 400),
    (request(b"A: b", b"\tc"), "folded", 400),
    (request(b"A : b"), "proper name", 400),
    (request(b": b"), "proper name", 400),
    (request(b"no colon"), "proper name", 400),
    (request(b"A\xe9: b"), "proper name", 400),
    (request(b"A(b): c"), "proper name", 400),
    (request(b"A: b\x00"), "control byte", 400),
    (request(b"A: b\x01"), "control byte", 400),
    (request(b"A: b\x7f"), "control byte", 400),
    (request(b"A: b\x0bc"), "control byte", 400),
    (request(b"A: b\nC: d"), "control byte", 400),
    (request(b"A: b\rC: d"), "control byte", 400),
    (request(*[b"A: b"] * 129), "more than 128", 431),
    (request(b"A: " + b"b" * 40_000), "longer than", 431),
    (b"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 is needed", 505),
    (b"GET /\r\n\r\n", "HTTP/1.1 is needed", 505),
    (b"GET / HTTP/3.1\r\n\r\n", "request line", 400),
    (b"GET / http/1.1\r\n\r\n", "HTTP/1.1 is needed", 505),
    (b"GET  / HTTP/1.1\r\n\r\n", "request line", 400),
    (b"GET / HTTP/1.1 \r\n\r\n", "request line", 400),
    (b"GET /a b HTTP/1.1\r\n\r\n", "request line", 400),
    (b" GET / HTTP/1.1\r\n\r\n", "request line", 400),
    (b"\r\n\r\n", "HTTP/1.1 is needed", 505),
    (b"\r\nGET / HTTP/1.1\r\n\r\n", "proper name", 400),
    (b"G@T / HTTP/1.1\r\n\r\n", "request line", 400),
]


@pytest.mark.parametrize(
    ("head", "why", "status"), HEADS, ids=[f"{n}-{one[1]}" for n, one in enumerate(HEADS)]
)
def test_a_head_with_two_readings_is_refused(head: bytes, why: str, status: int) -> None:
    """Each with its own reason, which repeats nothing of the head."""
    with pytest.raises(MalformedError, match=why) as refused:
        lexical.request_fields(head)
    assert refused.value.status == status


@pytest.mark.parametrize("line", [b"HTTP/2 200 OK", b"HTTP/1.1 099", b"HTTP/1.1 20", b"ICY 200 OK", b""])
def test_a_status_line_of_something_else_is_refused(line: bytes) -> None:
    """A tool that does not speak HTTP is not passed on."""
    with pytest.raises(MalformedError, match="status line"):
        lexical.response_fields(line + b"\r\n\r\n")


@pytest.mark.parametrize("start", [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01"])
def test_other_protocols_are_named(start: bytes) -> None:
    """Who speaks HTTP/2 or TLS to a binding is told what to do."""
    with pytest.raises(MalformedError, match=r"HTTP/2|TLS"):
        lexical.check_start(start)


def test_a_cr_may_be_the_last_that_came() -> None:
    """Its LF may be on its way; seen again with what follows, it is judged."""
    lexical.check_bytes(b"GET / HTTP/1.1\r")
    lexical.check_bytes(b"GET / HTTP/1.1\r\n", 14)
    with pytest.raises(MalformedError):
        lexical.check_bytes(b"GET / HTTP/1.1\rx", 14)


@pytest.mark.parametrize(
    "fields",
    [
        ((b"content-length", b"1"), (b"transfer-encoding", b"chunked")),
        ((b"content-length", b"1"), (b"content-length", b"1")),
        ((b"content-length", b"1"), (b"content-length", b"2")),
        ((b"content-length", b"1, 1"),),
        ((b"content-length", b"+1"),),
        ((b"content-length", b"-1"),),
        ((b"content-length", b"01"),),
        ((b"content-length", b"0x1"),),
        ((b"content-length", b"1_0"),),
        ((b"content-length", b""),),
        ((b"content-length", "\u0661".encode()),),
        ((b"content-length", b"9007199254740992"),),
        ((b"content-length", b"99999999999999999999"),),
        ((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")),
        ((b"transfer-encoding", b"gzip, chunked"),),
        ((b"transfer-encoding", b"chunked, identity"),),
        ((b"transfer-encoding", b"identity"),),
        ((b"transfer-encoding", b"xchunked"),),
        ((b"transfer-encoding", b"chunked;q=1"),),
        ((b"transfer-encoding", b""),),
    ],
    ids=str,
)
def test_how_long_a_body_is_has_one_answer(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    """Request smuggling begins where it has two."""
    with pytest.raises(MalformedError):
        lexical.check_framing(fields)


def test_plain_framing_is_plain() -> None:
    """A length, chunks, or nothing."""
    lexical.check_framing(((b"content-length", b"0"),))
    lexical.check_framing(((b"content-length", b"9007199254740991"),))
    lexical.check_framing(((b"transfer-encoding", b"Chunked"),))
    lexical.check_framing(())


def test_h11_must_have_read_what_stands_there() -> None:
    """What it merged, unfolded or dropped is refused; the case of a coding is not."""
    lexical.require_agreement(
        ((b"a", b"B"), (b"transfer-encoding", b"Chunked")), [(b"a", b"B"), (b"transfer-encoding", b"chunked")]
    )
    with pytest.raises(MalformedError, match="ambiguous"):
        lexical.require_agreement(((b"a", b"b"), (b"a", b"b")), [(b"a", b"b")])


@given(st.binary(max_size=200))
def test_any_head_is_read_or_refused(data: bytes) -> None:
    """Any bytes: fields, or the one error type."""
    for read in (lexical.request_fields, lexical.response_fields):
        try:
            fields = read(data + lexical.END)
        except MalformedError:
            continue
        assert all(name == name.lower() for name, _ in fields)
