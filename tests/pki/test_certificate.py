import warnings
from contextlib import suppress
from dataclasses import FrozenInstanceError

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pki.certificate import (
    LINEAGE,
    MAX_CERTIFICATE_BYTES,
    ON_BEHALF_OF,
    Certificate,
    is_p256,
    is_serial,
    is_user,
    lineage_of,
    lineage_value,
    read,
    to_datetime,
    user_of,
    user_value,
)
from pki.clock import SECOND, Wall
from pki.errors import RemoteError
from pki.svid import BACKDATE
from tests.authority import NOW, new_key, tiny_ca
from tests.forge import Fields, forge

CA = tiny_ca()
LEAF = CA.issue(CA.node(), new_key())[0]


def test_a_certificate_is_read_whole() -> None:
    """Every field that is used later is a plain value already."""
    key = new_key()
    certificate = read(CA.issue(CA.node(), key)[0])
    assert certificate.key == key.public_key()
    assert certificate.not_before == NOW - BACKDATE
    assert certificate.authority_key_id == read(CA.issuer.certificate).subject_key_id
    assert not certificate.self_issued
    assert read(CA.root.certificate).self_issued
    with pytest.raises(FrozenInstanceError):
        certificate.serial = 1  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30\x00",
        LEAF[:-1],
        LEAF + b"\0",
        LEAF + LEAF,
        LEAF.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1),
        LEAF.replace(b"\x06\x08*\x86H\xce=\x03\x01\x07", b"\x06\x08*\x86H\xce=\x03\x01\x7f", 1),
        LEAF.replace(b"\x06\x03U\x1d\x0e", b"\x06\x03U\x1d\x0f", 1),
        bytes(MAX_CERTIFICATE_BYTES + 1),
    ],
    ids=[
        "empty",
        "no-fields",
        "torn",
        "trailing",
        "two",
        "version-8",
        "curve",
        "twice-the-extension",
        "large",
    ],
)
def test_what_is_not_one_whole_certificate_is_a_remote_error(der: bytes) -> None:
    """Every way in which the parser fails, at once or at a field it parses late, comes out the same."""
    with pytest.raises(RemoteError, match=r"^certificate: "):
        read(der)


def test_a_serial_that_the_parser_warns_of_is_read_where_warnings_are_not_errors() -> None:
    """In production a warning is no exception, and the profile refuses the serial."""
    serial = LEAF.index(b"\x02\x13") + 2
    negative = LEAF[:serial] + b"\xff" + LEAF[serial + 1 :]
    with pytest.raises(RemoteError):
        read(negative)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not is_serial(read(negative).serial)


def test_key_identifiers_are_empty_where_missing() -> None:
    """Absent is not an error here: the profile judges it."""
    assert read(forge(CA.issuer, without=x509.SubjectKeyIdentifier)).subject_key_id == b""
    assert read(forge(CA.issuer, without=x509.AuthorityKeyIdentifier)).authority_key_id == b""
    by_name = x509.AuthorityKeyIdentifier(None, [x509.DNSName("x")], 1)
    assert read(forge(CA.issuer, change=[(by_name, False)])).authority_key_id == b""


@pytest.mark.parametrize("serial", [1, 127, 128, 255, 256, (1 << 159) - 1])
def test_a_lineage_is_read_as_it_was_written(serial: int) -> None:
    """Also where DER needs a leading zero octet."""
    assert lineage_of(with_lineage(lineage_value(serial))) == serial


def test_a_leaf_without_a_lineage_is_the_first_of_its_own() -> None:
    """To revoke it by serial then revokes just that line."""
    certificate = read(forge(CA.issuer))
    assert lineage_of(certificate) == certificate.serial


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x02",
        b"\x02\x00",
        b"\x02\x01\x00",
        b"\x02\x01\xff",
        b"\x02\x02\x00\x01",
        b"\x02\x01\x01\x00",
        b"\x02\x02\x01",
        b"\x04\x01\x01",
        lineage_value(1 << 159),
        b"\x02\x81\x01\x01",
    ],
    ids=bytes.hex,
)
def test_a_lineage_that_is_no_serial_is_refused(value: bytes) -> None:
    """A second spelling of a serial would slip past a revocation of it."""
    with pytest.raises(RemoteError, match="lineage"):
        lineage_of(with_lineage(value))


def with_lineage(value: bytes) -> Certificate:
    return read(forge(CA.issuer, change=[(x509.UnrecognizedExtension(LINEAGE, value), False)]))


USERS = ["a", "alice@example.org", "Zoë", "x" * 111, "x" * 120, "x" * 128, "é" * 127, "x" * 255]


@pytest.mark.parametrize("name", USERS)
def test_a_user_is_read_as_it_was_written(name: str) -> None:
    """Whatever the lengths of the DER around it."""
    assert user_of(with_user(user_value(name))) == name


def test_a_certificate_without_the_extension_is_on_nobody_s_behalf() -> None:
    """As most are."""
    assert user_of(read(forge(CA.issuer))) == ""


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"alice",
        b"\x0c\x05alice",
        user_value("alice") + b"\x00",
        user_value("alice")[:-1],
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alice")]).public_bytes(),
        x509.Name([x509.NameAttribute(NameOID.USER_ID, name) for name in ("alice", "bob")]).public_bytes(),
        user_value("al\nice"),
        user_value("alice "),
        user_value("x" * 256),
    ],
    ids=map(str, range(10)),
)
def test_a_user_that_is_no_name_is_refused(value: bytes) -> None:
    """A second spelling, or a line break in every log, is not for a certificate to bring."""
    with pytest.raises(RemoteError, match="on-behalf-of"):
        user_of(with_user(value))


@pytest.mark.parametrize("name", ["", " a", "a ", "a\x00", "a\nb", "\ud800", "x" * 256, "é" * 128])
def test_a_name_that_no_certificate_can_hold(name: str) -> None:
    """Empty, unprintable, unencodable, or longer than 255 bytes of UTF-8."""
    assert not is_user(name)


def with_user(value: bytes) -> Certificate:
    return read(forge(CA.issuer, change=[(x509.UnrecognizedExtension(ON_BEHALF_OF, value), False)]))


@pytest.mark.parametrize(
    ("number", "good"), [(1, True), ((1 << 159) - 1, True), (0, False), (-1, False), (1 << 159, False)]
)
def test_a_serial_is_positive_and_at_most_twenty_octets(number: int, good: bool) -> None:
    """RFC 5280 4.1.2.2."""
    assert is_serial(number) is good


def test_only_a_public_key_on_p256_counts() -> None:
    """Other curves and other algorithms read as no key at all."""
    rsa_key = rsa.generate_private_key(65_537, 2_048).public_key()
    p384 = ec.derive_private_key(7, ec.SECP384R1()).public_key()
    assert [is_p256(key) for key in (new_key().public_key(), p384, rsa_key, None)] == [
        True,
        False,
        False,
        False,
    ]
    assert read(forge(CA.issuer, Fields(key=p384))).key is None


@given(st.integers(-60_000_000_000 * SECOND, 250_000_000_000 * SECOND))
def test_certificate_time_is_wall_time_down_to_the_second(at: int) -> None:
    """Rounded down, on both sides of 1970."""
    assert 0 <= at - round(to_datetime(Wall(at)).timestamp()) * SECOND < SECOND


@given(data=st.data())
def test_any_change_of_bytes_gives_a_certificate_or_a_remote_error(data: st.DataObject) -> None:
    """Flipped, cut and inserted bytes of a good certificate reach deeper into the parser than random ones."""
    der = bytearray(LEAF)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    with suppress(RemoteError):
        assert isinstance(read(bytes(der)), Certificate)
