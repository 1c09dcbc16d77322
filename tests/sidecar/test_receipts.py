from pki.clock import HOUR, SECOND, Wall
from pki.fields import MAX_ITEMS
from pki.statement import Lock, Receipt, Statement, Target, parse
from sidecar.identity import Credential
from sidecar.receipts import receipts
from tests.authority import NOW, new_key, tiny_ca
from tests.statements import Mint

CA = tiny_ca()


def credential() -> Credential:
    key = new_key()
    return Credential(CA.node(), CA.issue(CA.node(), key), key)


def locks(count: int) -> list[Statement]:
    mint = Mint(CA)
    alice = mint.operator()
    return [
        alice.says("lock", Lock(target=Target("service", f"wiki-{number}"), message=""))
        for number in range(count)
    ]


def read(raws: list[bytes]) -> list[Receipt]:
    bodies = [parse(raw).body for raw in raws]
    return [body for body in bodies if isinstance(body, Receipt)]


def test_a_receipt_names_each_statement_its_moment_and_its_cuts() -> None:
    """In force here since now, and so many streams ended by it."""
    first, second = locks(2)
    [receipt] = read(receipts(credential(), 1, [first, second], {second.id: 10}, NOW))
    assert [(one.id, one.since, one.cut) for one in receipt.applied] == [
        (first.id, NOW, 0),
        (second.id, NOW, 10),
    ]


def test_many_statements_make_several_receipts() -> None:
    """None over the limit of items, none left out."""
    due = locks(MAX_ITEMS + 1)
    made = read(receipts(credential(), 1, due, {}, NOW))
    assert [len(one.applied) for one in made] == [MAX_ITEMS, 1]


def test_nothing_due_is_no_receipt() -> None:
    """An empty one would say nothing."""
    assert receipts(credential(), 1, [], {}, NOW) == []


def test_what_has_expired_gets_no_receipt() -> None:
    """It is in force nowhere."""
    assert receipts(credential(), 1, locks(1), {}, Wall(NOW + HOUR + SECOND)) == []


def test_a_receipt_lives_as_long_as_what_it_is_for() -> None:
    """Whoever asks later finds it as long as the lock can be asked for."""
    [raw] = receipts(credential(), 1, locks(1), {}, NOW)
    assert parse(raw).payload.expires == NOW + HOUR
