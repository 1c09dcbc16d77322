"""Where a statement is in force, by the receipts that came back. Pure.

What has no receipt is not said to be in force, whatever else is known of that node. A node that comes back later gives
its receipt then, so the answer changes by itself.
"""

from collections.abc import Iterator

from pki.statement import Applied, Receipt, Revocation
from sidecar.gossip.editions import canary_of
from sidecar.gossip.store import Entry, Store

MAX_WITNESSES = 64

Confirmed = dict[str, dict[str, Applied]]
"""By the statement's id and the node's SPIFFE ID: the first line of a receipt that says so."""


def confirmed(store: Store) -> Confirmed:
    """All receipts, in one pass."""
    found: dict[str, dict[str, tuple[tuple[int, str], Applied]]] = {}
    for entry in store.of_kinds("receipt"):
        body, statement = entry.statement.body, entry.statement
        order = statement.payload.issued, statement.id
        for line in body.applied if isinstance(body, Receipt) else ():
            by_author = found.setdefault(line.id, {})
            held = by_author.get(entry.author)
            if held is None or order < held[0]:
                by_author[entry.author] = order, line
    return {name: {who: line for who, (_, line) in one.items()} for name, one in found.items()}


def witnessed(store: Store, statement_id: str) -> list[int]:
    """When nodes had a statement in force, by their receipts (wall, us), each time once; at most MAX_WITNESSES."""
    times = {
        entry.statement.payload.issued
        for entry in store.of_kinds("receipt")
        if isinstance(entry.statement.body, Receipt)
        and any(line.id == statement_id for line in entry.statement.body.applied)
    }
    return sorted(times)[:MAX_WITNESSES]


def awaited(store: Store, floor: int) -> Iterator[Entry]:
    """What counts now and nodes give receipts for, the newest first."""
    newest = [store.newest(kind) for kind in ("bundle", "policy")] + (
        [store.newest("canary")] if canary_of(store) else []
    )
    stops = [one for one in store.of_kinds(*_STOPS) if one.ends > floor]
    entries = [*stops, *(one for one in newest if one is not None)]
    yield from sorted(
        (one for one in entries if not _is_own_end(one)),
        key=lambda one: (one.statement.payload.issued, one.statement.id),
        reverse=True,
    )


def _is_own_end(entry: Entry) -> bool:
    """Sessions end all day long, each by the word of its own node: no receipts are given for that."""
    return isinstance(entry.statement.body, Revocation) and entry.statement.body.target.kind == "id"


_STOPS = ("lock", "revocation", "cutoff", "unlock", "unrevoke")
