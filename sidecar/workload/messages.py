"""The answers of the SPIFFE Workload API in protocol buffers' encoding (SPIFFE Workload API, appendix A).

Only what is sent: the requests for X.509 are empty messages. Every field here is a string, bytes, a message or a map,
and so length-delimited (wire type 2), which is all of the encoding that this needs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LENGTH_DELIMITED = 2


@dataclass(frozen=True, slots=True)
class X509Svid:
    """One identity. ``chain`` and ``bundle`` are concatenated DER, ``key`` is PKCS #8 DER."""

    spiffe_id: str
    chain: bytes
    key: bytes = field(repr=False)
    bundle: bytes


def x509_svid_response(svids: Iterable[X509Svid]) -> bytes:
    """An X509SVIDResponse; the first identity is the default one."""
    return b"".join(
        _field(
            1,
            _field(1, one.spiffe_id.encode())
            + _field(2, one.chain)
            + _field(3, one.key)
            + _field(4, one.bundle),
        )
        for one in svids
    )


def x509_bundles_response(bundles: Mapping[str, bytes]) -> bytes:
    """An X509BundlesResponse: trust domain (as a SPIFFE ID) to concatenated DER."""
    return b"".join(_field(2, _field(1, name.encode()) + _field(2, der)) for name, der in bundles.items())


def _field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, the top bit set on all but the last."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
