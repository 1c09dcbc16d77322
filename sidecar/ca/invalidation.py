"""What the CA makes of the findings of nodes: a lock for the whole mesh, where policy and author warrant one. Pure.

A node acts on its own finding by itself. For everybody else its word is not enough: a rogue node could have whatever
it likes locked everywhere. So the CA locks only what is bound to the node that says so (its own sessions, agents that
may run on it, services beside it, itself), only by a rule that the policy in force has, and no longer than that says.
"""

from collections.abc import Iterable, Iterator

from pki.clock import Wall
from pki.spiffe import IdKind, SpiffeId
from pki.statement import Finding, Lock, Target
from sidecar.gossip.store import Entry, Store
from sidecar.policy.model import Invalidation, Mode, Policy, Scope, Suspicion
from sidecar.snapshot import Roster, Snapshot, stands_beside

_KINDS = {Scope.SESSION: "id", Scope.AGENT: "agent", Scope.SERVICE: "service", Scope.NODE: "node"}


def due_locks(store: Store, policy: Policy, roster: Roster, floor: int) -> Iterator[tuple[Lock, int]]:
    """The locks that findings still ask for, with their ends. One that was lifted is not asked for again."""
    answered = {
        entry.statement.body.evidence
        for entry in store.of_kinds("lock")
        if isinstance(entry.statement.body, Lock)
    }
    for entry in store.of_kinds("finding"):
        body, name = entry.statement.body, entry.statement.id
        if not isinstance(body, Finding) or name in answered or store.is_lifted("finding", name):
            continue
        rule = policy.invalidations.get(body.rule)
        ends = min(entry.ends, entry.statement.payload.issued + (rule.ttl if rule else 0))
        if rule is not None and ends > floor and _is_warranted(entry, body, rule, policy, roster):
            message = f"rule {body.rule}: {body.count} {body.what}, by finding {name} of {entry.author}"
            yield Lock(target=body.target, message=message[:_MESSAGE], evidence=name), ends


def clone_locks(cloned: Iterable[str], snapshot: Snapshot, floor: Wall) -> Iterator[tuple[Lock, int]]:
    """The locks on nodes that have a copy, by the policy, with how long they last (us)."""
    rules = snapshot.policy.invalidations.values() if snapshot.policy else ()
    rule = next((one for one in rules if one.on is Suspicion.CLONE and one.mode is Mode.ENFORCE), None)
    for node in sorted(cloned):
        is_locked = snapshot.restrictions.is_locked("node", node, floor)
        if rule is not None and node in snapshot.roster.nodes and not is_locked:
            message = f"rule {rule.id}: a certificate of {node} was renewed by two keys"
            yield Lock(target=Target(kind="node", value=node), message=message), rule.ttl


def _is_warranted(entry: Entry, body: Finding, rule: Invalidation, policy: Policy, roster: Roster) -> bool:
    is_meant = (rule.on, rule.mode) == (body.what, Mode.ENFORCE) and body.enforced
    if not is_meant or body.target.kind != _KINDS[rule.lock]:
        return False
    author, value = SpiffeId.parse(entry.author), body.target.value
    match rule.lock:
        case Scope.SESSION:
            who = SpiffeId.parse(value)
            return who.kind is IdKind.AGENT and who.node == author.name and who.name in rule.agents
        case Scope.AGENT:
            agent = policy.agents.get(value)
            return agent is not None and value in rule.agents and author.name in agent.nodes
        case Scope.SERVICE:
            service = policy.services.get(value)
            return service is not None and stands_beside(service, author.name, roster)
        case Scope.NODE:
            return value == author.name


_MESSAGE = 500
