"""The bytes of a message's head, looked at before and after h11 parses them. Pure.

h11 is the one parser. It is lenient where HTTP has been lenient, and mends what it reads: it takes a bare LF for a
line's end, unfolds folded lines, makes one of several equal Content-Lengths and lets control bytes pass. A tool behind
us gets only what h11 writes, so none of that could smuggle a request past a decision; but the agent may have meant
another message than the one that was decided on. So rather than guess, a head is refused when

1. a byte in it is not allowed (a CR or LF that ends no line, NUL, any control byte but a tab),
2. a line begins with white space (a folded field) or has no name that is a token right before a colon,
3. h11 read other fields from it than there are lines.

What is refused is not described by its bytes: they may be a secret.
"""

import re
from collections.abc import Iterable

from sidecar.http.seams import Fields, MalformedError

MAX_HEAD_BYTES = 32_768
MAX_FIELDS = 128
END = b"\r\n\r\n"

MAX_LENGTH = 2**53 - 1
"""Of a body, in bytes: what a record can hold."""

_PREFACE = b"PRI * HTTP/2"
_TLS_HANDSHAKE = 0x16
_BAD_BYTE = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n")
_FIELD = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+:")
_REQUEST_LINE = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+ [^ \t]+ HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-9][0-9]{2}( [^\r\n]*)?")


def check_start(data: bytes) -> None:
    """The first bytes of a request's head; raises MalformedError for what can become none."""
    if data.startswith(_PREFACE):
        hint = "HTTP/2 is not spoken here: use HTTP/1.1, or protocol tcp for a gRPC service"
        raise MalformedError(hint, status=505)
    if data[:1] and data[0] == _TLS_HANDSHAKE:
        raise MalformedError("a TLS handshake: a binding speaks plain HTTP, the mesh encrypts it")


def check_bytes(data: bytes, start: int = 0, end: int | None = None) -> None:
    """Raises MalformedError for a byte between ``start`` and ``end`` that no head may hold.

    A CR that is the last of them may become a line's end yet: begin the next time with it.
    """
    stop = len(data) if end is None else end
    if stop > MAX_HEAD_BYTES:
        raise MalformedError(f"the head is longer than {MAX_HEAD_BYTES} bytes", status=431)
    last = stop - 1 if data[stop - 1 : stop] == b"\r" else stop
    if _BAD_BYTE.search(data, start, last):
        raise MalformedError("the head holds a control byte, or a line that does not end with CR LF")


def request_fields(head: bytes) -> Fields:
    """The fields of a request's head as they stand in it, END included; raises MalformedError."""
    line, fields = _split(head)
    if _REQUEST_LINE.fullmatch(line) is None:
        if line.endswith((b" HTTP/1.0", b" HTTP/0.9")) or b" HTTP/" not in line:
            raise MalformedError("HTTP/1.1 is needed: an older request has no framing to rely on", status=505)
        raise MalformedError("the request line is not: METHOD target HTTP/1.1")
    return fields


def response_fields(head: bytes) -> Fields:
    """The same of a response's head."""
    line, fields = _split(head)
    if _STATUS_LINE.fullmatch(line) is None:
        raise MalformedError("the status line is not one of HTTP/1.1")
    return fields


def require_agreement(head: Fields, parsed: Iterable[tuple[bytes, bytes]]) -> None:
    """Rule 3. ``parsed`` are the fields that h11 read; raises MalformedError."""
    if tuple((name, value.lower() if name == b"transfer-encoding" else value) for name, value in head) != (
        tuple(parsed)
    ):
        raise MalformedError("the framing fields are repeated or ambiguous")


def check_framing(fields: Fields) -> None:
    """How long the body is must have one answer (RFC 9112 section 6.3); raises MalformedError."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if lengths and codings:
        raise MalformedError("Content-Length and Transfer-Encoding contradict each other")
    if len(lengths) > 1:
        raise MalformedError("several Content-Length fields")
    if codings and codings != [b"chunked"]:
        raise MalformedError("a Transfer-Encoding other than chunked", status=501)
    if lengths:
        _check_length(lengths[0])


def _check_length(value: bytes) -> None:
    digits = value.isascii() and value.isdigit()
    # A leading zero is octal to somebody.
    if not digits or len(value) > 16 or int(value) > MAX_LENGTH or value != b"%d" % int(value):
        raise MalformedError("a Content-Length that is no plain number")


def _split(head: bytes) -> tuple[bytes, Fields]:
    check_bytes(head)
    first, *lines = head.removesuffix(END).split(b"\r\n")
    if len(lines) > MAX_FIELDS:
        raise MalformedError(f"more than {MAX_FIELDS} header fields", status=431)
    return first, tuple(map(_field, lines))


def _field(line: bytes) -> tuple[bytes, bytes]:
    if line[:1] in (b" ", b"\t"):
        raise MalformedError("a folded header field")
    if _FIELD.match(line) is None:
        raise MalformedError("a header line without a proper name")
    name, _, value = line.partition(b":")
    return name.lower(), value.strip(b" \t")
