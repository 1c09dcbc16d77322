"""A node's signed word on what is in force here."""

from collections.abc import Iterable

from pki.clock import Wall
from pki.fields import MAX_ITEMS
from pki.statement import Applied, Receipt, Statement, Terms, sign
from sidecar.identity import Credential


def receipts(
    credential: Credential, epoch: int, statements: Iterable[Statement], cut: dict[str, int], now: Wall
) -> list[bytes]:
    """Receipts for ``statements``, in force since ``now``; ``cut``: streams ended by each. Envelopes."""
    due = list(statements)
    sealed = []
    for at in range(0, len(due), MAX_ITEMS):
        part = due[at : at + MAX_ITEMS]
        lines = [Applied(id=one.id, since=now, cut=cut.get(one.id, 0)) for one in part]
        terms = Terms(epoch, now, max(one.payload.expires for one in part))
        if terms.expires > now:
            sealed.append(
                sign("receipt", Receipt(applied=lines), terms, credential.key, credential.chain).raw
            )
    return sealed
