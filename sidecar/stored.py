"""A member's statements, read from its folder beside its daemon. Blocking."""

from contextlib import closing
from pathlib import Path

from pki.errors import LocalError
from sidecar.gossip.dump import Dump, sources
from sidecar.gossip.journal import Journal


def held_in(store: Path, holder: str, bundle: Path) -> Dump:
    """What ``holder`` keeps in ``store``, and its trust bundle first; raises LocalError."""
    try:
        first = bundle.read_bytes()
    except OSError as error:
        raise LocalError(f"{bundle}: {error.strerror}") from None
    with closing(Journal(store)) as journal:
        entries = journal.entries()
    rest = (
        raw for one in entries for raw in sources(one.statement.raw, [each.raw for each in one.adoptions])
    )
    return Dump(holder, (first, *rest))
