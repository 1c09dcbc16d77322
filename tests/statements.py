"""Statements as the CA, operators and nodes of a small mesh would sign them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from pki.clock import HOUR, Wall
from pki.fields import Wire
from pki.judge import Word
from pki.spiffe import SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import (
    Adoption,
    Heartbeat,
    Lift,
    Lock,
    Member,
    Node,
    Operator,
    Policy,
    Revocation,
    Signer,
    Statement,
    Target,
    Terms,
    sign,
)
from tests.authority import NOW, TinyCa, new_key, tiny_ca

NO_DIGEST = "0" * 64


@dataclass(frozen=True)
class Signatory:
    """Who signs: a key and its chain."""

    id: SpiffeId
    key: Key
    chain: tuple[bytes, ...]

    def says(self, kind: str, body: Wire, issued: int = NOW, ttl: int = HOUR) -> Statement:
        return sign(kind, body, Terms(1, issued, issued + ttl), self.key, self.chain)


@dataclass
class Mint:
    """Signs for one mesh. Whatever the CA signs gets the next number."""

    ca: TinyCa = field(default_factory=tiny_ca)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def member(self, name: SpiffeId, at: Wall = NOW, lifetime: int = HOUR) -> Signatory:
        key = new_key()
        return Signatory(name, key, self.ca.issue(name, key, at, lifetime))

    def node(self, name: str = "agents-1") -> Signatory:
        return self.member(self.ca.node(name))

    def operator(self, name: str = "alice") -> Signatory:
        return self.member(self.ca.operator(name))

    def says(self, kind: str, body: Wire, issued: int = NOW, ttl: int = HOUR) -> Statement:
        """The CA's word, numbered."""
        return self.signed(kind, body, Terms(1, issued, issued + ttl, next(self.numbers)))

    def signed(self, kind: str, body: Wire, terms: Terms) -> Statement:
        return sign(kind, body, terms, self.ca.statement_key, self.ca.statement_chain)

    def policy(self, sequence: int, digest: str = NO_DIGEST, size: int = 0) -> Statement:
        return self.says("policy", Policy(sequence=sequence, digest=digest, size=size, author="alice"))

    def enlists(self, who: Signatory, roles: Iterable[str] = ("responder",), sequence: int = 1) -> Statement:
        """The roster's entry of an operator."""
        key = spki_sha256(who.key.public_key()).hex()
        entry = Operator(sequence=sequence, name=who.id.name, key=key, roles=list(roles))
        return self.says("member", Member(member=entry))

    def enrols(self, name: str, sequence: int = 1, addresses: Iterable[str] = ()) -> Statement:
        """The roster's entry of a node."""
        entry = Node(
            sequence=sequence, name=name, addresses=list(addresses), version="1", features=[], labels=[]
        )
        return self.says("member", Member(member=entry))

    def adopts(self, original: Statement, ttl: int = HOUR) -> Statement:
        return self.says("adoption", Adoption(original=original.raw), ttl=ttl)

    def lifts(self, kind: str, *ids: str, ttl: int = HOUR) -> Statement:
        return self.says(kind, Lift(ids=list(ids)), ttl=ttl)

    def beats(self, digest: str, issued: int = NOW, number: int = 2**40, **in_force: object) -> Statement:
        """A heartbeat that promises the set ``digest``, by default beside no policy and the mint's own bundle."""
        promised = {
            "policy_sequence": 0,
            "policy_digest": NO_DIGEST,
            "bundle_sequence": self.ca.bundle.sequence,
            "bundle_digest": self.ca.bundle.digest,
            **in_force,
        }
        body = Heartbeat(number=number, digest=digest, **promised)  # type: ignore[arg-type]  # as the schema has them
        return self.signed("heartbeat", body, Terms(self.ca.bundle.epoch, issued, issued + 24 * HOUR))


def lock(kind: str = "all", value: str = "", message: str = "") -> Lock:
    return Lock(target=Target(kind=kind, value=value), message=message)  # type: ignore[arg-type]  # a test's own kind


def revocation(kind: str, value: str) -> Revocation:
    return Revocation(target=Target(kind=kind, value=value))  # type: ignore[arg-type]  # a test's own kind


def ca_word(statement: Statement) -> Word:
    """A statement as judged to be the CA's."""
    return Word(statement, frozenset({Signer.CA}), None)


def word_of(statement: Statement, by: SpiffeId, *signers: Signer) -> Word:
    """A statement as judged to be a member's."""
    return Word(statement, frozenset(signers), by)
