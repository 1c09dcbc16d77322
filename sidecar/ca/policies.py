"""Which policy the CA publishes: checked, compared, confirmed by a second operator where it takes two, and kept.

Rules:

1. An operator applies what it has seen: it names the policy that it compared its own with. When another one is in
   force by then, nothing is applied.
2. Where the policy in force wants two, the second confirms the same bytes on the same terms, before PROPOSAL_LIFE is
   over, while the policy in force is still that one. Nobody confirms a proposal of its own.
3. What was checked when it was proposed is checked again: roster and locks have gone on.
4. What was published is kept: the text by its digest, its row in the register. A row that a crash kept from being
   written is read off the store.
5. One policy is published at a time: sequences come into force in their order.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import trio

from pki.authority.entries import PolicyVersion, Proposal
from pki.authority.policies import Answer, Approval, Wish
from pki.authority.signer import StatementSigner
from pki.clock import HOUR, Clock, Wall
from pki.errors import ConfigError, Fault, LocalError, RefusedError
from pki.spiffe import SpiffeId
from pki.statement import Canary, Edition, Policy, Statement
from sidecar.compiling import load_aside
from sidecar.defaults import POLICY_BYTES, TOML_BYTES
from sidecar.gossip.editions import NO_POLICY, canary_of
from sidecar.gossip.member import Member
from sidecar.objects import Objects
from sidecar.packed import pack, unpack
from sidecar.policy import model
from sidecar.policy.check import Severity, check
from sidecar.policy.obstacles import Terms, obstacles
from sidecar.snapshot import Facts, Roster, Snapshot

PROPOSAL_LIFE = HOUR
FILE = "policy"
"""What an operator's file is called in faults: its name stays with the operator."""
ACTIVE = "active"
"""Stands for the policy in force, where others are named by sequence or digest."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Office:
    """What the desk needs of the CA's office. ``member`` is asked for each time: it is composed later."""

    member: Callable[[], Member]
    signer: StatementSigner
    objects: Objects
    clock: Clock
    publish: Callable[[Statement], Awaitable[None]]
    dev: bool


class PolicyDesk:
    """Takes in policies, and gives out every version. ``thread`` is where the register and the key are used."""

    def __init__(self, office: Office, thread: trio.CapacityLimiter) -> None:
        self._office = office
        self._thread = thread
        # Of its own: a policy that takes seconds to check must not hold up the heartbeat.
        self._checking = trio.CapacityLimiter(1)
        self._turn = trio.Lock()

    # -- what operators ask

    async def apply(self, wish: Wish, author: str) -> Answer:
        """Put a policy in force, or propose it where that takes two. Raises ConfigError with every fault."""
        limit = POLICY_BYTES if wish.large else TOML_BYTES
        text = await self._checked(unpack, wish.packed, limit)
        policy = await self._checked(load_aside, text, FILE, limit)
        terms = Terms(frozenset(wish.canary), frozenset(wish.strand))
        async with self._turn:
            self._require_base(wish.base)
            warnings = await self._judge(policy, terms)
            await self._in_thread(self._office.objects.put, text)
            if self._approvals() > 1:
                return await self._propose(policy.digest, wish, author, warnings)
            edition = _edition(policy.digest, len(text), author, "", terms)
            self._office.member().offer(policy)
            return await self._publish(edition, warnings)

    async def approve(self, approval: Approval, approver: str) -> Answer:
        """Confirm what another operator proposed. Raises RefusedError, or ConfigError for what is wrong by now."""
        async with self._turn:
            proposal = await self._confirmed(approval, approver)
            terms = _terms_of(proposal)
            text = await self._text(proposal.digest)
            policy = await self._checked(load_aside, text, FILE, POLICY_BYTES)
            warnings = await self._judge(policy, terms)
            edition = _edition(proposal.digest, len(text), proposal.author, approver, terms)
            self._office.member().offer(policy)
            answer = await self._publish(edition, warnings)
            await self._in_thread(self._office.signer.register.drop_proposal, proposal.digest)
        return answer

    async def listing(self) -> Answer:
        """Every version, what waits for a second operator, and what is in force."""
        await self.keep_newest()
        member = self._office.member()
        versions = await self._in_thread(self._office.signer.register.policies)
        canary = canary_of(member.store)
        return {
            "sequence": member.loaded.sequence,
            "digest": member.loaded.digest,
            "approvals": self._approvals(),
            "canary": canary.sequence if canary else None,
            "versions": [_version_row(one) for one in versions],
            "proposals": [_proposal_row(one) for one in await self._proposals()],
        }

    async def text(self, reference: str) -> Answer:
        """A policy by ``active``, its sequence, or the digest of a version or proposal; raises RefusedError."""
        listing = await self.listing()
        if reference == ACTIVE:
            if listing["digest"] == NO_POLICY:
                return {"sequence": 0, "digest": NO_POLICY, "packed": pack(b"")}
            return await self._version(listing["sequence"], listing["digest"])
        for row in (*listing["versions"], *listing["proposals"]):
            if reference in (str(row.get("sequence", "")), row["digest"]):
                return await self._version(row.get("sequence", 0), row["digest"])
        raise RefusedError(f"policy {reference[:64]!a}: no such version; `lockgate policy ls` lists them")

    async def keep_newest(self) -> None:
        """Write down the newest policy and canary of the store, if a crash kept them from it."""
        store = self._office.member().store
        for entry in (store.newest("policy"), store.newest("canary")):
            if entry is not None:
                await self.keep(entry.statement)

    async def keep(self, statement: Statement) -> None:
        """Write down what was published; nothing for other statements."""
        body = statement.body
        if not isinstance(body, Edition):
            return
        nodes = tuple(body.nodes) if isinstance(body, Canary) else ()
        at = Wall(statement.payload.issued)
        version = PolicyVersion(body.sequence, body.digest, body.author, body.approver, nodes, at)
        await self._in_thread(self._office.signer.register.keep_policy, version)

    # -- inside

    def _approvals(self) -> int:
        policy = self._office.member().loaded.policy
        return policy.apply_approvals if policy else 1

    def _require_base(self, base: str) -> None:
        if base != self._office.member().loaded.digest:
            raise RefusedError("another policy has come into force meanwhile; look at the difference again")

    async def _confirmed(self, approval: Approval, approver: str) -> Proposal:
        """The proposal that ``approver`` has seen and may confirm; raises RefusedError."""
        proposal = next((one for one in await self._proposals() if one.digest == approval.digest), None)
        if proposal is None:
            raise RefusedError(
                f"no proposal {approval.digest[:12]} is waiting; `lockgate policy ls` lists them"
            )
        if proposal.author == approver:
            raise RefusedError("a policy is approved by another operator than the one who proposed it")
        if not self._is_admin(SpiffeId.parse(proposal.author).name):
            raise RefusedError(f"{proposal.author} is no admin any more: its proposal is void")
        seen = Terms(frozenset(approval.canary), frozenset(approval.strand))
        if (approval.base, seen) != (proposal.base, _terms_of(proposal)):
            raise RefusedError("it was proposed anew on other terms meanwhile; look at it again")
        self._require_base(proposal.base)
        return proposal

    def _is_admin(self, name: str) -> bool:
        member = self._office.member()
        entry, restrictions = member.operator(name), member.snapshot.restrictions
        return (
            entry is not None
            and "admin" in entry.roles
            and restrictions.revocation_of(Facts(operator=name)) is None
            and not restrictions.is_locked("operator", name, member.floor)
        )

    async def _judge(self, policy: model.Policy, terms: Terms) -> list[str]:
        """The warnings; raises ConfigError with every fault."""
        snapshot = self._office.member().snapshot
        floor = self._office.member().floor
        locks = [lock for lock in snapshot.restrictions.locks if floor < lock.until]
        examine = partial(check, policy, snapshot.roster, dev=self._office.dev, now=self._office.clock.wall())
        findings = await self._checked(examine)
        findings += obstacles(policy, snapshot.policy, _members(snapshot), locks, terms)
        faults = [
            Fault(one.fault(FILE).where, one.what, one.hint)
            for one in findings
            if one.severity is Severity.ERROR
        ]
        if faults:
            raise ConfigError(faults)
        return [str(one.fault(FILE)) for one in findings]

    async def _propose(self, digest: str, wish: Wish, author: str, warnings: list[str]) -> Answer:
        now = self._office.clock.wall()
        terms = json.dumps({"canary": wish.canary, "strand": wish.strand})
        proposal = Proposal(digest, wish.base, author, terms, now, Wall(now + PROPOSAL_LIFE))
        others = await self._proposals()
        if any(one.digest == digest and one.author != author for one in others):
            raise RefusedError(f"somebody proposed the same; run: lockgate policy approve {digest[:12]}")
        await self._in_thread(self._office.signer.register.propose, proposal)
        return {"state": "proposed", "warnings": warnings, **_proposal_row(proposal)}

    async def _publish(self, edition: Policy | Canary, warnings: list[str]) -> Answer:
        now = self._office.clock.wall()
        statement = await self._in_thread(self._office.signer.policy, edition, now)
        await self._office.publish(statement)
        body = statement.body
        return {
            "state": "applied",
            "id": statement.id,
            "sequence": body.sequence if isinstance(body, Edition) else 0,
            "digest": edition.digest,
            "warnings": warnings,
        }

    async def _proposals(self) -> list[Proposal]:
        return await self._in_thread(self._office.signer.register.proposals, self._office.clock.wall())

    async def _version(self, sequence: int, digest: str) -> Answer:
        text = await self._text(digest)
        return {"sequence": sequence, "digest": digest, "packed": await self._checked(pack, text)}

    async def _text(self, digest: str) -> bytes:
        text = await self._checked(self._office.objects.read, digest)
        if text is None:
            raise LocalError(f"policy {digest}: its text is gone from the disk")
        return text

    async def _checked(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._checking)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await trio.to_thread.run_sync(work, *args, limiter=self._thread)


def _members(snapshot: Snapshot) -> Roster:
    """The nodes that are not revoked: what another one lacks, nobody waits for."""
    revoked = snapshot.restrictions.revocation_of
    nodes = {name: node for name, node in snapshot.roster.nodes.items() if not revoked(Facts(nodes=(name,)))}
    return Roster(nodes, snapshot.roster.operators)


def _edition(digest: str, size: int, author: str, approver: str, terms: Terms) -> Policy | Canary:
    policy = Policy(sequence=0, digest=digest, size=size, author=author, approver=approver)
    if not terms.canary:
        return policy
    return Canary(
        sequence=0,
        digest=digest,
        size=size,
        author=author,
        approver=approver,
        nodes=sorted(terms.canary),
    )


def _terms_of(proposal: Proposal) -> Terms:
    terms = json.loads(proposal.terms)
    return Terms(frozenset(terms["canary"]), frozenset(terms["strand"]))


def _version_row(version: PolicyVersion) -> dict[str, Any]:
    return {
        "sequence": version.sequence,
        "digest": version.digest,
        "author": version.author,
        "approver": version.approver,
        "nodes": list(version.nodes),
        "at": version.at,
    }


def _proposal_row(proposal: Proposal) -> dict[str, Any]:
    terms = _terms_of(proposal)
    return {
        "digest": proposal.digest,
        "base": proposal.base,
        "author": proposal.author,
        "nodes": sorted(terms.canary),
        "strand": sorted(terms.strand),
        "at": proposal.at,
        "expires": proposal.expires,
    }
