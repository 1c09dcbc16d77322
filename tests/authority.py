"""A mini CA in memory, for tests that need members who can prove who they are.

Keys come from small numbers and serials are counted, so a run differs from the last only in its signatures.
"""

from dataclasses import dataclass, field
from itertools import count

from cryptography.hazmat.primitives.asymmetric import ec

from pki import svid
from pki.bundle import TrustBundle, open_pinned
from pki.clock import DAY, HOUR, SECOND, Wall
from pki.ids import new_id
from pki.spiffe import SpiffeId
from pki.spki import Key, spki_sha256
from pki.statement import Bundle, Statement, Terms, sign

NOW = Wall(1_900_000_000 * SECOND)
"""2030-03-17, long before and after anything that a test makes relative to it."""

TRUST_DOMAIN = "example.org"
SESSION = new_id(b"session-of-16-by")

_numbers = count(1_000)


def new_key() -> Key:
    """A P-256 key that no other call gives."""
    return ec.derive_private_key(next(_numbers), ec.SECP256R1())


def new_serial() -> int:
    return (1 << 150) + next(_numbers)


@dataclass(frozen=True)
class TinyCa:
    """Root, issuer, the CA's own TLS leaf, a statement key, and the bundle that names them."""

    trust_domain: str
    at: Wall
    root: svid.Signer
    issuer: svid.Signer
    ca_key: Key
    ca_leaf: bytes
    statement_key: Key
    statement_chain: tuple[bytes, ...]
    bundle_statement: Statement
    bundle: TrustBundle = field(init=False)

    def __post_init__(self) -> None:
        pins = frozenset({spki_sha256(self.root.key.public_key())})
        object.__setattr__(self, "bundle", open_pinned(self.bundle_statement, pins))

    @property
    def ca_chain(self) -> tuple[bytes, ...]:
        """What the CA presents in TLS: its leaf alone, since a root signed it."""
        return (self.ca_leaf,)

    def issue(
        self,
        spiffe_id: SpiffeId,
        key: Key,
        at: Wall | None = None,
        lifetime: int = HOUR,
        on_behalf_of: str = "",
    ) -> tuple[bytes, ...]:
        """What a new member presents: its leaf and the issuer, or for /ca/ its leaf alone. DER."""
        under_root = spiffe_id.path[0] == "ca"
        plan = svid.LeafPlan(
            id=spiffe_id,
            key=key.public_key(),
            serial=new_serial(),
            at=self.at if at is None else at,
            lifetime=lifetime,
            on_behalf_of=on_behalf_of,
        )
        if under_root:
            return (svid.leaf(plan, self.root),)
        return (svid.leaf(plan, self.issuer), self.issuer.certificate)

    def node(self, name: str = "agents-1") -> SpiffeId:
        return SpiffeId.for_node(self.trust_domain, name)

    def agent(self, name: str = "researcher", node: str = "agents-1", session: str = SESSION) -> SpiffeId:
        return SpiffeId.for_agent(self.trust_domain, name, node, session)

    def operator(self, name: str = "alice") -> SpiffeId:
        return SpiffeId.for_operator(self.trust_domain, name)


def tiny_ca(trust_domain: str = TRUST_DOMAIN, at: Wall = NOW, *, epoch: int = 1, sequence: int = 1) -> TinyCa:
    """A whole CA whose certificates were all issued at ``at``."""
    root = new_root(trust_domain, at)
    issuer = new_issuer(root, trust_domain, at)
    ca_key, statement_key = new_key(), new_key()
    name = SpiffeId.for_ca(trust_domain, "ca-1")
    ca_leaf = svid.leaf(svid.LeafPlan(name, ca_key.public_key(), new_serial(), at, 90 * DAY), root)
    signs = svid.statement_key(
        svid.LeafPlan(name, statement_key.public_key(), new_serial(), at, 90 * DAY), root
    )
    body = Bundle(
        trust_domain=trust_domain,
        sequence=sequence,
        roots=[root.certificate],
        issuers=[issuer.certificate],
        statement_keys=[signs],
    )
    terms = Terms(epoch=epoch, issued=at, expires=at + 3_650 * DAY)
    return TinyCa(
        trust_domain=trust_domain,
        at=at,
        root=root,
        issuer=issuer,
        ca_key=ca_key,
        ca_leaf=ca_leaf,
        statement_key=statement_key,
        statement_chain=(signs,),
        bundle_statement=sign("bundle", body, terms, root.key, (root.certificate,)),
    )


def new_root(trust_domain: str = TRUST_DOMAIN, at: Wall = NOW, lifetime: int = 3_650 * DAY) -> svid.Signer:
    key = new_key()
    return svid.Signer(svid.root(svid.CaPlan(trust_domain, new_serial(), at, lifetime), key), key)


def new_issuer(
    root: svid.Signer, trust_domain: str = TRUST_DOMAIN, at: Wall = NOW, lifetime: int = 90 * DAY
) -> svid.Signer:
    key = new_key()
    plan = svid.CaPlan(trust_domain, new_serial(), at, lifetime)
    return svid.Signer(svid.issuer(plan, key.public_key(), root), key)
