"""What the CA's API says of policies (docs/wire.md, "CA API"); who knows a policy is not here."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import msgspec

from pki.fields import MAX_ITEMS, Sha256Hex, Wire

Answer = Mapping[str, Any]
"""Fields of a JSON object."""

Names = Annotated[list[Annotated[str, msgspec.Meta(max_length=63)]], msgspec.Meta(max_length=MAX_ITEMS)]


class Wish(Wire, frozen=True):
    """A policy to be put in force. ``packed``: its text, deflated. ``base``: the digest of the one it replaces.

    ``canary``: on these nodes only. ``strand``: nodes that may lack what it requires. ``large``: a program wrote it.
    """

    packed: bytes
    base: Sha256Hex
    canary: Names
    strand: Names
    large: bool


class Approval(Wire, frozen=True):
    """What a second operator confirms: a proposal's digest, and the terms on which it was proposed."""

    digest: Sha256Hex
    base: Sha256Hex
    canary: Names
    strand: Names


class Policies(Protocol):
    """Publishes policies, and knows all that were. Authors and approvers are SPIFFE IDs."""

    async def apply(self, wish: Wish, author: str) -> Answer:
        """Raises ConfigError with every fault, or RefusedError."""

    async def approve(self, approval: Approval, approver: str) -> Answer: ...

    async def listing(self) -> Answer: ...

    async def text(self, reference: str) -> Answer: ...
