"""Of what a statement is one version among others, and which of two counts. Pure."""

from pki.statement import AuditHead, Bundle, Edition, Member, Statement


def subject_of(statement: Statement, author: str) -> tuple[str, str] | None:
    """Of what the statement is one version among others; None: it stands for itself."""
    kind, body = statement.kind, statement.body
    if isinstance(body, Edition | Bundle):
        return kind, ""
    if isinstance(body, Member):
        return kind, f"{type(body.member).__name__.lower()}/{body.member.name}"
    if isinstance(body, AuditHead):
        return kind, author
    return None


def is_superseded(one: Statement, other: Statement) -> bool:
    """Whether ``other`` takes the place of ``one``. Two that contradict each other are both kept, as evidence."""
    return order_of(one) < order_of(other) and not is_conflict(one, other)


def is_conflict(one: Statement, other: Statement) -> bool:
    """Two bodies at one sequence. The same body said again, under another number, is none."""
    is_one_of_many = isinstance(one.body, Edition | Bundle | Member)
    return is_one_of_many and order_of(one)[:2] == order_of(other)[:2] and one.body != other.body


def order_of(statement: Statement) -> tuple[int, int, int, bytes]:
    """Which of two versions is newer. The digest makes it total: two bodies at one number end the same everywhere."""
    body = statement.body.member if isinstance(statement.body, Member) else statement.body
    sequence: int = body.at if isinstance(body, AuditHead) else getattr(body, "sequence", 0)
    return statement.payload.epoch, sequence, statement.payload.number, statement.digest
