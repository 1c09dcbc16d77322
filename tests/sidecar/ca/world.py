"""A CA's office over a real register and store, in a mesh of operators and nodes whose keys the test holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pki.authority.entries import PolicyVersion
from pki.authority.issuer import Issuer
from pki.authority.keystore import Authority, Pair
from pki.authority.policies import Approval, Wish
from pki.authority.register import Register
from pki.authority.signer import StatementSigner
from pki.clock import HOUR, Wall
from pki.errors import LocalError
from pki.spiffe import SpiffeId
from pki.spki import spki_sha256
from pki.statement import Demand, Node, Operator, Statement, Target
from pki.verify import Identity, verify
from sidecar.ca.daemon import compose
from sidecar.ca.office import Office
from sidecar.config import load_ca_config
from sidecar.gossip.journal import Journal
from sidecar.lifecycle import make_folders
from sidecar.packed import pack
from sidecar.paths import Paths
from tests.authority import NOW, TinyCa, new_serial
from tests.clock import ManualClock
from tests.statements import Mint, Signatory

CONFIG = load_ca_config(
    b'name = "ca-1"\ntrust-domain = "example.org"\nlisten = "127.0.0.1:7444"\n', "ca.toml"
)
BOOT_ID = "this boot"

POLICY = """\
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"

[agents.researcher]
nodes = ["agents-1"]
uid = 1001

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[grants]]
id = "read-wiki"
agents = ["researcher"]
services = ["wiki"]
"""


class FaultRegister(Register):
    """Set ``broken`` to why no write succeeds."""

    broken = ""
    broken_policies = ""
    broken_lifts = ""

    def lift_bans(self, statements: Iterable[str], before: int, at: Wall) -> None:
        if self.broken_lifts:
            raise LocalError(self.broken_lifts)
        super().lift_bans(statements, before, at)

    def keep_policy(self, version: PolicyVersion) -> None:
        if self.broken_policies:
            raise LocalError(self.broken_policies)
        super().keep_policy(version)

    def ban(self, target: Target, statement: str, at: Wall) -> None:
        self._check()
        super().ban(target, statement, at)

    def next_number(self) -> int:
        self._check()
        return super().next_number()

    def _check(self) -> None:
        if self.broken:
            raise LocalError(self.broken)


@dataclass
class Bureau:
    """The office and all that is under it. :meth:`restarted` is a new process over the same files."""

    folder: Path
    mint: Mint = field(default_factory=Mint)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.paths = Paths.below(self.folder)
        make_folders(self.paths)
        journal = Journal(self.paths.statements, create=True)
        journal.close()
        path = self.folder / "register.sqlite"
        if not path.exists():
            FaultRegister.create(path)
        self.register = FaultRegister.open(path)
        self.signer = StatementSigner(authority_of(self.mint.ca), self.register)
        self.issuer = Issuer(
            self.signer.authority, self.register, lambda size: (2 * new_serial()).to_bytes(20)[-size:]
        )
        self.office: Office = compose(self.paths, CONFIG, self.signer, self.clock)

    async def restarted(self) -> "Bureau":
        again = Bureau(self.folder, self.mint, self.clock)
        await again.office.member.restore(BOOT_ID)
        return again

    async def enlist(self, name: str, *roles: str) -> Signatory:
        """A new operator in the roster."""
        since = Wall(NOW - HOUR)
        who = self.mint.member(self.mint.ca.operator(name), since, 12 * HOUR)
        key = spki_sha256(who.key.public_key()).hex()
        entry = Operator(sequence=0, name=name, key=key, roles=list(roles))
        await self.office.publish(self.signer.member(entry, self.clock.wall()))
        return who

    async def enrol(self, *names: str) -> None:
        """New nodes in the roster."""
        for name in names:
            entry = Node(sequence=0, name=name, addresses=[], version="1", features=[], labels=[])
            await self.office.publish(self.signer.member(entry, self.clock.wall()))

    async def hears(self, *statements: Statement) -> list[str]:
        """From a peer; why each refused one was refused."""
        return await self.office.member.take(
            [one.raw for one in statements], "spiffe://example.org/node/agents-1"
        )

    async def apply(self, text: str, author: str = "alice", **terms: object) -> dict[str, Any]:
        """A policy from an operator who has seen the one in force."""
        base = self.office.member.loaded.digest
        made = {"base": base, "canary": [], "strand": [], "large": False, **terms}
        wish = Wish(packed=pack(text.encode()), **made)  # type: ignore[arg-type]  # as the schema has them
        return dict(await self.office.policies.apply(wish, str(self.mint.ca.operator(author))))

    async def approve(self, proposed: Mapping[str, Any], approver: str) -> dict[str, Any]:
        """As ``approver``, who has seen it."""
        approval = Approval(
            digest=proposed["digest"],
            base=proposed["base"],
            canary=proposed["nodes"],
            strand=proposed["strand"],
        )
        return dict(await self.office.policies.approve(approval, str(self.mint.ca.operator(approver))))

    def identity(self, who: Signatory) -> Identity:
        found = verify(who.chain, self.mint.ca.bundle, self.clock.wall())
        assert isinstance(found, Identity)
        return found

    def locks(self) -> list[str]:
        return [lock.id for lock in self.office.member.snapshot.restrictions.locks]

    def numbers(self, *statements: Statement) -> list[int]:
        """The CA's numbers on these restrictions: by adoption, since none is the CA's own."""
        entries = [self.office.member.store.entry(one.id) for one in statements]
        return [adoption.payload.number for entry in entries if entry for adoption in entry.adoptions]


def authority_of(ca: TinyCa) -> Authority:
    """The keys of a CA in memory as those of a CA on disk."""
    return Authority(
        id=SpiffeId.for_ca(ca.trust_domain, "ca-1"),
        bundle=ca.bundle,
        bundle_statement=ca.bundle_statement,
        issuer=ca.issuer,
        statement=Pair(ca.statement_chain[0], ca.statement_key),
        tls=Pair(ca.ca_leaf, ca.ca_key),
    )


def unlock(ids: Iterable[str]) -> Demand:
    return Demand(action="unlock", ids=list(ids))
