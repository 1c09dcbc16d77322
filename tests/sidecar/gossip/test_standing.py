from itertools import permutations

from pki.clock import HOUR, Wall
from pki.statement import Applied, Receipt, Statement
from sidecar.gossip.standing import awaited, confirmed
from sidecar.gossip.store import Store
from tests.authority import NOW
from tests.statements import Mint, Signatory, ca_word, lock, revocation, word_of

MINT = Mint()
NODE, OTHER = MINT.node("tools-1"), MINT.node("tools-2")
LOCK, CA_LOCK = MINT.says("lock", lock()), MINT.says("lock", lock("agent", "a"))


def held(*statements: Statement) -> Store:
    store = Store()
    for one in statements:
        who = next((who for who in (NODE, OTHER) if who.chain[0] == one.envelope.chain[0]), None)
        store.merge(word_of(one, who.id) if who else ca_word(one), None, Wall(NOW))
    store.settle(store.ids())
    return store


def receipt(since: int, *statements: Statement, node: Signatory = NODE) -> Statement:
    lines = [Applied(id=one.id, since=since, cut=since - NOW) for one in statements]
    return node.says("receipt", Receipt(applied=lines), issued=since)


def test_a_statement_is_confirmed_by_the_first_receipt_of_a_node() -> None:
    """A node that restarts may say it again: the time it took, and what it cut, are those of the first."""
    said = [receipt(NOW, CA_LOCK), receipt(NOW + 1, LOCK), receipt(NOW + 2, LOCK, CA_LOCK)]
    for order in permutations([*said, receipt(NOW + 9, LOCK, node=OTHER)]):
        found = confirmed(held(LOCK, *order))
        assert {who: line.cut for who, line in found[LOCK.id].items()} == {str(NODE.id): 1, str(OTHER.id): 9}
        assert {who: line.cut for who, line in found[CA_LOCK.id].items()} == {str(NODE.id): 0}


def test_what_counts_now_and_is_acknowledged_is_awaited() -> None:
    """Stops and lifts until they end, the newest policy and bundle; no roster, no end of a session by its own node."""
    own_end = NODE.says("revocation", revocation("id", str(MINT.ca.agent())))
    policies = [MINT.policy(1), MINT.policy(2)]
    lift = MINT.lifts("unlock", LOCK.id, ttl=2 * HOUR)
    store = held(LOCK, lift, own_end, *policies, MINT.enrols("tools-1"), MINT.ca.bundle_statement)
    wanted = {LOCK.id, lift.id, policies[1].id, MINT.ca.bundle_statement.id}
    assert {one.statement.id for one in awaited(store, NOW)} == wanted
    assert {one.statement.id for one in awaited(store, NOW + HOUR)} == wanted - {LOCK.id}
    issued = [one.statement.payload.issued for one in awaited(store, NOW)]
    assert issued == sorted(issued, reverse=True)
