"""One X.509 certificate, read whole (RFC 5280).

cryptography parses lazily: a certificate that loads can still raise at the one field nobody looked at yet. `read`
touches every field that anyone here uses, once, and turns a parser's many ways to fail into one RemoteError. What
it returns cannot raise any more.

Private identifiers stand under the arc of one UUID, 9a20dc78-62ef-4de8-83f3-99aee3ec5efa (ITU-T X.667).
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TypeGuard, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pki.clock import SECOND, Wall
from pki.errors import RemoteError
from pki.spki import PublicKey

_ARC = "2.25.204871736518461296135264674172082347770"

LINEAGE = x509.ObjectIdentifier(f"{_ARC}.1")
"""Extension of a leaf, never critical: the serial of the first certificate of its lineage, a DER INTEGER."""

ON_BEHALF_OF = x509.ObjectIdentifier(f"{_ARC}.3")
"""Extension of a session's leaf, never critical: the user whom it runs for, a DER Name with one userId (RFC 4519 2.39)."""

MAX_USER_BYTES = 255

STATEMENT_SIGNING = x509.ObjectIdentifier(f"{_ARC}.2")
"""The one extended key usage of a statement key: with none at all, TLS libraries would take it for any purpose."""

MAX_CERTIFICATE_BYTES = 16_384
MAX_SERIAL_BITS = 159  # RFC 5280 4.1.2.2: positive, and at most 20 octets with its sign

# What cryptography raises at hostile bytes. Warning: it warns of some of them, and tests turn warnings into errors.
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    Warning,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

E = TypeVar("E", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose every field was read without an error. Nothing in it is judged yet."""

    der: bytes
    parsed: x509.Certificate
    extensions: x509.Extensions
    key: PublicKey | None
    """P-256, the one kind in use here; None for any other."""
    serial: int
    not_before: Wall
    not_after: Wall

    def extension(self, kind: type[E]) -> x509.Extension[E] | None:
        """The extension of this kind with its criticality, or None."""
        try:
            return self.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None

    @property
    def subject_key_id(self) -> bytes:
        """The name of its own key; empty without the extension."""
        found = self.extension(x509.SubjectKeyIdentifier)
        return found.value.digest if found else b""

    @property
    def authority_key_id(self) -> bytes:
        """The name of the key that signed it; empty without the extension."""
        found = self.extension(x509.AuthorityKeyIdentifier)
        return (found.value.key_identifier if found else None) or b""

    @property
    def self_issued(self) -> bool:
        """Whether it names itself as its issuer, as a root does."""
        return self.parsed.subject == self.parsed.issuer


def read(der: bytes) -> Certificate:
    """The certificate of these bytes; raises RemoteError for anything that is not one certificate, whole."""
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise RemoteError(f"certificate: {len(der)} bytes, at most {MAX_CERTIFICATE_BYTES} are allowed")
    try:
        return _read(der)
    except UNREADABLE:
        raise RemoteError("certificate: not one readable X.509 certificate") from None


def lineage_value(serial: int) -> bytes:
    """The content of the lineage extension: a DER INTEGER."""
    # cryptography's ASN.1 interface is not stable yet; a CRL number is an INTEGER and nothing else (RFC 5280 5.2.3).
    return x509.CRLNumber(serial).public_bytes()


def lineage_of(certificate: Certificate) -> int:
    """The serial that names the certificate's lineage: its own, where it carries no lineage extension.

    Raises RemoteError for an extension that does not hold a serial.
    """
    try:
        extension = certificate.extensions.get_extension_for_oid(LINEAGE)
    except x509.ExtensionNotFound:
        return certificate.serial
    value = extension.value.public_bytes()
    # DER has one encoding for a value, so a parse that encodes back to the same bytes was right, header included.
    serial = int.from_bytes(value[2:])
    if not is_serial(serial) or lineage_value(serial) != value:
        raise RemoteError("certificate: the lineage extension holds no serial number")
    return serial


def is_user(name: str) -> bool:
    """Whether a user's name may stand in a certificate: 1 to 255 bytes of UTF-8, printable, no spaces around it."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # Half of a surrogate pair, which JSON can spell.
        return False
    return 1 <= size <= MAX_USER_BYTES and name.isprintable() and name == name.strip()


def user_value(name: str) -> bytes:
    """The content of the on-behalf-of extension."""
    return x509.Name([x509.NameAttribute(NameOID.USER_ID, name)]).public_bytes()


def user_of(certificate: Certificate) -> str:
    """The user that a session's certificate says it runs for; empty without one.

    Raises RemoteError for an extension that holds no such name.
    """
    try:
        value = certificate.extensions.get_extension_for_oid(ON_BEHALF_OF).value.public_bytes()
    except x509.ExtensionNotFound:
        return ""
    # As above: the one spelling of a name is known by spelling it again. What is before it has few sizes.
    for start in _user_headers():
        try:
            name = value[start:].decode()
        except UnicodeDecodeError:
            continue
        if is_user(name) and user_value(name) == value:
            return name
    raise RemoteError("certificate: the on-behalf-of extension holds no user's name")


def is_serial(number: int) -> bool:
    """Whether ``number`` may be a certificate's serial number (RFC 5280 4.1.2.2)."""
    return number > 0 and number.bit_length() <= MAX_SERIAL_BITS


def is_p256(key: object) -> TypeGuard[PublicKey]:
    """Whether ``key`` is a public key on P-256."""
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def to_datetime(at: Wall) -> datetime:
    """``at`` in UTC, down to the whole second, as certificates count."""
    return _EPOCH + timedelta(seconds=at // SECOND)


@cache
def _user_headers() -> list[int]:
    return sorted({len(user_value("x" * size)) - size for size in range(1, MAX_USER_BYTES + 1)})


def _read(der: bytes) -> Certificate:
    parsed = x509.load_der_x509_certificate(der)
    # A signature ending in a zero bit may be written with that bit cut off: another spelling of the same certificate.
    if not der.endswith(b"\0" + parsed.signature):
        raise ValueError("a signature of whole bytes has no unused bits (RFC 5280 4.1.1.3)")
    # Read for their errors alone: each is parsed only when asked for.
    _ = parsed.subject, parsed.issuer, parsed.version, parsed.signature_algorithm_oid
    key = parsed.public_key()
    return Certificate(
        der=der,
        parsed=parsed,
        extensions=parsed.extensions,
        key=key if is_p256(key) else None,
        serial=parsed.serial_number,
        not_before=_to_wall(parsed.not_valid_before_utc),
        not_after=_to_wall(parsed.not_valid_after_utc),
    )


def _to_wall(moment: datetime) -> Wall:
    return Wall((moment - _EPOCH) // timedelta(microseconds=1))
