"""What stands in the register, as values."""

from dataclasses import dataclass

from pki.clock import Wall
from pki.spiffe import IdKind, SpiffeId


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who may come in with a token: a node, or an operator in ``roles``, until ``expires``."""

    kind: IdKind
    name: str
    roles: tuple[str, ...]
    expires: Wall


@dataclass(frozen=True, slots=True)
class Spending:
    """A token after someone tried to spend it: by whose key it is spent (SHA-256 of the SPKI), and the answer."""

    invitation: Invitation
    spent_by: bytes | None
    answer: bytes | None


@dataclass(frozen=True, slots=True)
class Issuance:
    """One certificate; serials in lower-case hex. ``basis`` says why it was issued: a token, a renewal, a session."""

    serial: str
    lineage: str
    id: SpiffeId
    spki_sha256: bytes
    not_before: Wall
    not_after: Wall
    basis: str
    renewed: str | None = None
    """The serial of the certificate, of a node or an operator, that this one follows."""
    der: bytes | None = None
    issuer: str = ""
    """The key identifier of the certificate that signed it, in hex."""


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """A policy that was published; ``approver`` is empty where it took one, ``nodes`` where it is no canary."""

    sequence: int
    digest: str
    author: str
    approver: str
    nodes: tuple[str, ...]
    at: Wall


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy that waits for a second operator. ``base``: the digest of the one that it was compared with.

    ``terms`` is what else was asked for, as JSON.
    """

    digest: str
    base: str
    author: str
    terms: str
    at: Wall
    expires: Wall


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate, as it stands in the register."""

    id: str
    lineage: str
    not_after: Wall
    issued: Wall
    issuer: str = ""
    serial: str = ""
