"""What fields of a statement's body may hold: each type carries its own limits."""

from typing import Annotated

import msgspec

from pki.certificate import MAX_CERTIFICATE_BYTES

MAX_MESSAGE_CHARS = 500
MAX_ITEMS = 256

Text = Annotated[str, msgspec.Meta(max_length=MAX_MESSAGE_CHARS)]
Der = Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]
Certificates = Annotated[list[Der], msgspec.Meta(max_length=MAX_ITEMS)]
Sequence = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Sha256Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
# A kind becomes part of the signed prefix, and of log lines: no kind can hold a NUL, a slash or a line break.
KindName = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]
Id = Annotated[str, msgspec.Meta(pattern=r"^[a-z2-7]{26}\Z")]
Ids = Annotated[list[Id], msgspec.Meta(min_length=1, max_length=MAX_ITEMS)]
Texts = Annotated[list[Text], msgspec.Meta(max_length=MAX_ITEMS)]


class Wire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything on the wire: frozen, every key named, none that the schema does not know."""
