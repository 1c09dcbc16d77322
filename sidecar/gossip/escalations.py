"""The escalations that a member's store holds, and where each stands. Pure."""

from pki.asking import Answer
from pki.clock import Wall
from pki.ids import digest_id
from pki.statement import Statement
from sidecar.escalation.book import KINDS, File, Ground, Held, files, stand
from sidecar.escalation.machine import Escalation
from sidecar.gossip.store import Store


def held_files(store: Store) -> dict[str, File]:
    """All that is held on each request, by its id."""
    return files(Held(one.statement, one.author, one.accepted) for one in store.of_kinds(*KINDS))


def escalations(store: Store, ground: Ground, now: Wall) -> dict[str, Escalation]:
    """Where each stands, by request id."""
    return {name: stand(file, ground, now) for name, file in held_files(store).items()}


def cut_by(statement: Statement) -> str:
    """The rule of the streams that a statement cuts: itself, or of a refusal the lease of that request."""
    body = statement.body
    return digest_id(bytes.fromhex(body.request)) if isinstance(body, Answer) else statement.id
