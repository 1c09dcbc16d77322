from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import LocalError
from sidecar.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.7:7443", "10.0.0.7", 7443),
        ("[2001:db8::7]:1", "2001:db8::7", 1),
        ("[::]:65535", "::", 65535),
        ("tools-1.example.org:80", "tools-1.example.org", 80),
        ("localhost:80", "localhost", 80),
    ],
)
def test_an_address_prints_as_it_is_read(text: str, host: str, port: int) -> None:
    """Host and port, IPv6 in brackets."""
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [("Tools.Example.ORG:1", "tools.example.org:1"), ("[2001:0DB8:0:0::7]:1", "[2001:db8::7]:1")],
)
def test_each_host_has_one_spelling(text: str, canonical: str) -> None:
    """Two addresses are equal when they mean the same."""
    assert str(Address.parse(text)) == canonical
    assert Address.parse(text) == Address.parse(canonical)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:080",
        "host:+80",
        "host:٨",
        "host:80 ",
        "ho st:80",
        "-host:80",
        "host-:80",
        "a..b:80",
        "http://host:80",
        "host:80/path",
        "::1:80",
        "[::1]",
        "[host]:80",
        "[10.0.0.7]:80",
        "[::1:80",
        "[fe80::1%eth0]:80",
        "[:::]:80",
        "h\0st:80",
        f"{'a' * 64}:80",
        f"{'.'.join(['a' * 60] * 5)}:80",
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    """What cannot be dialled is refused before anybody tries."""
    with pytest.raises(LocalError, match="host:port"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["127.1:80", "0177.0.0.1:80", "2130706433:80", "1.2.3.256:80", "a.1:80"])
def test_a_numeric_host_is_dotted_decimal_or_nothing(text: str) -> None:
    """The C library would dial 127.0.0.1 for 127.1, which no check for loopback could see."""
    with pytest.raises(LocalError, match="host:port"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(text: str, loopback: bool) -> None:
    """A name other than localhost never counts, whatever it resolves to."""
    assert Address.parse(text).is_loopback is loopback


@pytest.mark.parametrize(("host", "port"), [("HOST", 1), ("", 1), ("host", 0), ("host", 65536)])
def test_a_bad_address_cannot_be_made(host: str, port: int) -> None:
    """The constructor checks what parse checks."""
    with pytest.raises(LocalError, match="host:port"):
        Address(host, port)


@given(st.text())
def test_any_text_is_an_address_or_a_local_error(text: str) -> None:
    """No text raises anything else, and what is read prints to something that reads the same."""
    with suppress(LocalError):
        address = Address.parse(text)
        assert Address.parse(str(address)) == address
