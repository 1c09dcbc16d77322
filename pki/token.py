"""The join token: what an admin hands over out of band, so that a newcomer and the CA can trust each other.

``lgt1.`` and base64url of a MessagePack map. The pins prove the CA to the newcomer, the secret proves the newcomer
to the CA. Whoever holds a token can redeem it once, so it is shown once and never logged: ``repr`` hides the secret.
"""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Annotated, Self

import msgspec

from pki import codec
from pki.errors import RemoteError
from pki.spiffe import MAX_SPIFFE_ID_BYTES, IdKind, SpiffeId

PREFIX = "lgt1."
SECRET_BYTES = 16
MAX_TOKEN_CHARS = 4_096
MAX_ADDRESSES = 8
MAX_PINS = 4

HostPort = Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,256}:[0-9]{1,5}\Z")]
Pin = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


@dataclass(frozen=True, slots=True)
class Token:
    """An invitation for ``member``, a node or an operator.

    ``addresses`` are ``host:port`` of the CA's API, ``pins`` SHA-256 of root SPKIs, ``secret`` 16 random bytes.
    """

    member: SpiffeId
    addresses: tuple[str, ...]
    pins: frozenset[bytes]
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token in ``text``, white space around it ignored; raises RemoteError, which never repeats the text."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise RemoteError(f'token: does not start with "{PREFIX}"; {_HINT}')
        if len(text) > MAX_TOKEN_CHARS:
            raise RemoteError(f"token: longer than {MAX_TOKEN_CHARS} characters; {_HINT}")
        try:
            body = codec.decode(_decode(text[len(PREFIX) :]), _Body, limit=MAX_TOKEN_CHARS, what="token")
        except (RemoteError, ValueError):
            raise RemoteError(f"token: cut short or damaged; {_HINT}") from None
        member = _member(body.member)
        return cls(member, tuple(body.ca), frozenset(body.pins), body.secret)

    def encode(self) -> str:
        """The token as text. It holds the secret: print it once, to whom it is for."""
        body = _Body(
            member=str(self.member),
            ca=list(self.addresses),
            pins=sorted(self.pins),
            secret=self.secret,
        )
        return PREFIX + base64.urlsafe_b64encode(codec.encode(body)).decode().rstrip("=")


_HINT = "copy the whole line that `lockgate token create` printed"


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    member: Annotated[str, msgspec.Meta(max_length=MAX_SPIFFE_ID_BYTES)]
    ca: Annotated[list[HostPort], msgspec.Meta(min_length=1, max_length=MAX_ADDRESSES)]
    pins: Annotated[list[Pin], msgspec.Meta(min_length=1, max_length=MAX_PINS)]
    secret: Annotated[bytes, msgspec.Meta(min_length=SECRET_BYTES, max_length=SECRET_BYTES)]


def _member(text: str) -> SpiffeId:
    try:
        member = SpiffeId.parse(text)
    except RemoteError:
        member = None
    if member is None or member.kind not in (IdKind.NODE, IdKind.OPERATOR):
        raise RemoteError(f"token: is for no node and no operator; {_HINT}")
    return member


def _decode(text: str) -> bytes:
    """Base64url without padding (RFC 4648 section 5), and nothing that a lenient decoder would skip."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64url") from None
    # One spelling for one token: '+', '/' and stray bits in the last character decode too.
    if base64.urlsafe_b64encode(data).decode().rstrip("=") != text:
        raise ValueError("not canonical base64url")
    return data
