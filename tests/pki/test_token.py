import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki import codec
from pki.errors import RemoteError
from pki.spiffe import SpiffeId
from pki.token import MAX_TOKEN_CHARS, PREFIX, Token

SECRET = bytes(range(16))
MEMBER = SpiffeId.for_node("example.org", "tools-1")
TOKEN = Token(MEMBER, ("127.0.0.1:7444", "[::1]:7444"), frozenset({b"p" * 32}), SECRET)
FIELDS = {"member": str(MEMBER), "ca": ["ca:7444"], "pins": [b"p" * 32], "secret": SECRET}


def spelled(value: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(codec.encode(value)).decode().rstrip("=")


def test_a_token_survives_the_trip_through_text() -> None:
    """Parsing what was encoded gives the same token, with blanks of a paste around it, too."""
    assert Token.parse(TOKEN.encode()) == TOKEN
    assert Token.parse(f"  {TOKEN.encode()}\n") == TOKEN


@given(
    st.binary(min_size=16, max_size=16),
    st.frozensets(st.binary(min_size=32, max_size=32), min_size=1, max_size=4),
)
def test_every_token_has_one_spelling(secret: bytes, pins: frozenset[bytes]) -> None:
    """encode is the inverse of parse."""
    token = Token(MEMBER, ("ca:1",), pins, secret)
    assert Token.parse(token.encode()).encode() == token.encode()


def test_the_secret_is_never_shown() -> None:
    """Neither repr nor str of a token holds its secret."""
    assert "secret" not in repr(TOKEN)
    assert str(SECRET) not in str(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("hello", id="a word"),
        pytest.param("lgt2.AAAA", id="another version"),
        pytest.param(PREFIX, id="prefix only"),
        pytest.param(TOKEN.encode()[:-4], id="cut short"),
        pytest.param(TOKEN.encode()[:-1], id="cut by one"),
        pytest.param(TOKEN.encode() + "=", id="padded"),
        pytest.param(TOKEN.encode()[:20] + "\n" + TOKEN.encode()[20:], id="wrapped"),
        pytest.param(TOKEN.encode()[:20] + "é" + TOKEN.encode()[21:], id="not ASCII"),
        pytest.param(PREFIX + "A" * MAX_TOKEN_CHARS, id="too long"),
        pytest.param(spelled([1, 2]), id="no map"),
        pytest.param(spelled({**FIELDS, "more": 1}), id="an unknown key"),
        pytest.param(spelled({**FIELDS, "member": "spiffe://example.org/ca/main"}), id="for a CA"),
        pytest.param(spelled({**FIELDS, "member": "tools-1"}), id="no SPIFFE ID"),
        pytest.param(
            spelled({**FIELDS, "member": "spiffe://example.org/node/" + "a" * 600}), id="a long name"
        ),
        pytest.param(spelled({**FIELDS, "ca": []}), id="no address"),
        pytest.param(spelled({**FIELDS, "ca": ["ca:7444"] * 9}), id="too many addresses"),
        pytest.param(spelled({**FIELDS, "ca": ["ca"]}), id="no port"),
        pytest.param(spelled({**FIELDS, "ca": ["c\x1ba:1"]}), id="a control character"),
        pytest.param(spelled({**FIELDS, "pins": []}), id="no pin"),
        pytest.param(spelled({**FIELDS, "pins": [b"p" * 31]}), id="a short pin"),
        pytest.param(spelled({**FIELDS, "pins": [bytes([n]) * 32 for n in range(5)]}), id="too many pins"),
        pytest.param(spelled({**FIELDS, "secret": b"s" * 15}), id="a short secret"),
    ],
)
def test_a_bad_token_says_what_to_do_and_repeats_nothing(text: str) -> None:
    """One line, no part of what was pasted: it may be a good token with one slip."""
    with pytest.raises(RemoteError) as caught:
        Token.parse(text)
    assert "lockgate token create" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert text[9:] not in str(caught.value) or len(text) < 10


@given(st.one_of(st.text(), st.binary().map(lambda data: PREFIX + base64.urlsafe_b64encode(data).decode())))
def test_any_text_is_a_token_or_a_remote_error(text: str) -> None:
    """No text raises anything else."""
    with suppress(RemoteError):
        Token.parse(text)
