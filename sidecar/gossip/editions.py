"""Which version of the policy is due at a node: the newest, or a canary that names the node. Pure.

A canary takes the policy's place for the nodes that it names, and is over once a policy has a higher sequence. A
heartbeat names the policy only. So a node that has its canary in force counts as having the policy: it holds the
statement of both, and does what they say.
"""

from pki.statement import Canary, Edition
from sidecar.gossip.store import Entry, Store

NO_POLICY = "0" * 64
"""What stands for the digest of a policy before the first one."""


def canary_of(store: Store) -> Canary | None:
    """The canary that some nodes have in force; None for none, and for one that is over."""
    canary, policy = _body(store.newest("canary")), _body(store.newest("policy"))
    is_over = canary is not None and policy is not None and policy.sequence > canary.sequence
    return canary if isinstance(canary, Canary) and not is_over else None


def bundle_statement(store: Store, digest: str) -> bytes:
    """The envelope of the trust bundle with this digest; empty where it came with the join, and not over gossip."""
    entry = store.newest("bundle")
    return entry.statement.raw if entry and entry.statement.digest.hex() == digest else b""


def due_entry(store: Store, node: str) -> Entry | None:
    """What is to be in force at ``node`` (empty: at the CA); None before the first policy."""
    canary = canary_of(store)
    return store.newest("canary" if canary and node in canary.nodes else "policy")


def due(store: Store, node: str) -> Edition | None:
    """The body of :func:`due_entry`."""
    return _body(due_entry(store, node))


def counts_as(store: Store, node: str, held: tuple[int, str]) -> tuple[int, str] | None:
    """Sequence and digest of what ``node`` has in force, in the words of a heartbeat.

    None: a canary is due and not in force here, so that this node is not complete whatever a heartbeat says.
    """
    wanted, policy = due(store, node), _body(store.newest("policy"))
    if not isinstance(wanted, Canary):
        return held
    if held != (wanted.sequence, wanted.digest):
        return None
    return (policy.sequence, policy.digest) if policy else (0, NO_POLICY)


def _body(entry: Entry | None) -> Edition | None:
    body = entry.statement.body if entry else None
    return body if isinstance(body, Edition) else None
