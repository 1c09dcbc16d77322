"""The CA's own word: statements under its statement key, each with a number that is given once.

Rules:

1. A number is committed in the register before anything is signed with it. A crash between the two leaves a gap,
   which does no harm; the same number under two statements would split the mesh.
2. What there is one newest of (policy, a member) also takes the next sequence of its name.
3. A heartbeat carries the number of others and has none of its own, else it would have to count itself.
4. The epoch is the trust bundle's.

Blocking: it waits for the register. Called from a thread.
"""

from dataclasses import dataclass
from typing import Literal

import msgspec

from pki.asking import Answer, Lease
from pki.authority.keystore import Authority
from pki.authority.register import Register
from pki.clock import Wall
from pki.errors import LocalError
from pki.fields import Wire
from pki.statement import (
    Adoption,
    Canary,
    Cutoff,
    Heartbeat,
    Lift,
    Lock,
    Member,
    Node,
    Operator,
    Policy,
    Revocation,
    Statement,
    Terms,
    sign,
)


@dataclass(frozen=True, slots=True)
class Span:
    """When a statement is issued, and when it expires: wall time in microseconds."""

    issued: Wall
    expires: Wall


@dataclass(frozen=True, slots=True)
class StatementSigner:
    """Signs for the CA. Whether it should is judged by who calls."""

    authority: Authority
    register: Register

    @property
    def for_good(self) -> Wall:
        """The end of what has no end of its own: that of the trust bundle."""
        return Wall(self.authority.bundle_statement.payload.expires)

    def policy(self, edition: Policy | Canary, at: Wall) -> Statement:
        """A policy to be in force, everywhere or on some nodes; its ``sequence`` is set here."""
        kind = "canary" if isinstance(edition, Canary) else "policy"
        newest = msgspec.structs.replace(edition, sequence=self.register.next_sequence("policy"))
        return self._numbered(kind, newest, Span(at, self.for_good))

    def member(self, entry: Node | Operator, at: Wall) -> Statement:
        """The roster's entry of a name; its ``sequence`` is set here."""
        kind = "node" if isinstance(entry, Node) else "operator"
        sequence = self.register.next_sequence(f"member/{kind}/{entry.name}")
        newest = msgspec.structs.replace(entry, sequence=sequence)
        return self._numbered("member", Member(member=newest), Span(at, self.for_good))

    def restriction(self, body: Lock | Revocation | Cutoff, span: Span) -> Statement:
        """A stop, by the CA itself: root on its host can always order one."""
        return self._numbered(type(body).__name__.lower(), body, span)

    def adoption(self, original: Statement, span: Span) -> Statement:
        """An operator's or node's restriction becomes the CA's, and outlives its signer. It keeps its own id."""
        return self._numbered("adoption", Adoption(original=original.raw), span)

    def lift(self, kind: Literal["unlock", "unrevoke"], body: Lift, span: Span) -> Statement:
        """An end to the named restrictions. The span must reach to the latest of their ends."""
        return self._numbered(kind, body, span)

    def again(self, statement: Statement, at: Wall) -> Statement:
        """The same words under the statement key and in the epoch of now, with a number of its own."""
        if statement.body is None:
            raise LocalError(
                f"statement {statement.kind}: not known to this version, and cannot be said again"
            )
        return self._numbered(statement.kind, statement.body, Span(at, Wall(statement.payload.expires)))

    def lease(self, body: Lease, span: Span) -> Statement:
        """What an escalation became."""
        return self._numbered("lease", body, span)

    def refusal(self, body: Answer, span: Span) -> Statement:
        """The CA's own no to an escalation."""
        return self._numbered("refusal", body, span)

    def heartbeat(self, body: Heartbeat, span: Span) -> Statement:
        """``body.number`` is the number of the newest statement that the digest covers, not merely the last given."""
        return self._sign("heartbeat", body, span, number=0)

    def _numbered(self, kind: str, body: Wire, span: Span) -> Statement:
        return self._sign(kind, body, span, number=self.register.next_number())

    def _sign(self, kind: str, body: Wire, span: Span, *, number: int) -> Statement:
        terms = Terms(self.authority.bundle.epoch, span.issued, span.expires, number)
        pair = self.authority.statement
        return sign(kind, body, terms, pair.key, (pair.certificate,))
