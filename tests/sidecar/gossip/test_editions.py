import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pki.statement import Canary, Statement
from sidecar.gossip.editions import NO_POLICY, canary_of, counts_as, due, due_entry
from sidecar.gossip.store import Store
from tests.authority import NOW
from tests.sidecar.gossip.member_world import FakeOutlet, Home
from tests.statements import Mint, ca_word

MINT = Mint()
OLD, NEW = b"# old\n", b"# new\n"
New = Callable[[str], Home]


def digest_of(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def policy(sequence: int, text: bytes) -> Statement:
    return MINT.policy(sequence, digest_of(text), len(text))


def canary(sequence: int, text: bytes, *nodes: str) -> Statement:
    body = Canary(
        sequence=sequence, digest=digest_of(text), size=len(text), author="alice", nodes=list(nodes)
    )
    return MINT.says("canary", body)


def store_of(*statements: Statement) -> Store:
    store = Store()
    for statement in statements:
        store.merge(ca_word(statement), None, NOW)
        store.settle([statement.id])
    return store


POLICY_1, POLICY_3 = policy(1, OLD), policy(3, NEW)
CANARY_2, CANARY_4 = canary(2, NEW, "a"), canary(4, OLD, "b")


@pytest.mark.parametrize(
    ("held", "at_a", "at_b", "at_ca"),
    [
        ([], None, None, None),
        ([POLICY_1], 1, 1, 1),
        ([POLICY_1, CANARY_2], 2, 1, 1),
        ([CANARY_2, POLICY_1], 2, 1, 1),
        ([CANARY_2], 2, None, None),
        ([POLICY_1, CANARY_2, POLICY_3], 3, 3, 3),
        ([POLICY_3, CANARY_4], 3, 4, 3),
        ([POLICY_1, CANARY_2, CANARY_4], 1, 4, 1),
        ([CANARY_4, CANARY_2, POLICY_1], 1, 4, 1),
    ],
)
def test_a_canary_is_due_where_it_is_named_until_a_newer_policy(
    held: list[Statement], at_a: int | None, at_b: int | None, at_ca: int | None
) -> None:
    """In whatever order they came; a newer canary takes the place of an older one."""
    store = store_of(*held)
    for node, sequence in (("a", at_a), ("b", at_b), ("", at_ca)):
        edition = due(store, node)
        assert (edition.sequence if edition else None) == sequence
        entry = due_entry(store, node)
        assert (entry.statement.body if entry else None) == edition
    running = canary_of(store)
    named = set(running.nodes) if running else set()
    assert named == {node for node in "ab" if isinstance(due(store, node), Canary)}


def test_a_node_with_its_canary_counts_as_having_the_policy() -> None:
    """Exactly with that one in force: neither with the old policy, nor with anything else."""
    store = store_of(POLICY_1, CANARY_2)
    canaried, old = (2, digest_of(NEW)), (1, digest_of(OLD))
    assert counts_as(store, "a", canaried) == old
    assert counts_as(store, "a", old) is None
    assert counts_as(store_of(POLICY_1, CANARY_2), "b", old) == old
    assert counts_as(store_of(CANARY_2), "a", canaried) == (0, NO_POLICY)
    assert counts_as(store_of(POLICY_1, CANARY_2, POLICY_3), "a", canaried) == canaried


# -- at members


@pytest.fixture
def new(tmp_path: Path) -> New:
    def make(name: str) -> Home:
        folder = tmp_path / name
        folder.mkdir()
        home = Home(folder, MINT, FakeOutlet(name))
        home.member.node = name
        for text in (OLD, NEW):
            home.objects.put(text)
        return home

    return make


async def beat(home: Home, *numbered: Statement) -> None:
    """A heartbeat that names the policy, and counts all that the CA said."""
    promised: dict[str, Any] = {"policy_sequence": 1, "policy_digest": digest_of(OLD)}
    await home.take(MINT.beats(store_of(*numbered).numbered_digest(NOW), **promised))


@pytest.mark.parametrize(("name", "text"), [("a", NEW), ("b", OLD)])
async def test_with_a_canary_about_both_kinds_of_node_are_complete(name: str, text: bytes, new: New) -> None:
    """One decides by the canary, the other by the policy, and both are fresh; only the first gives a receipt."""
    home = new(name)
    await home.take(POLICY_1, CANARY_2)
    await beat(home, POLICY_1, CANARY_2)
    assert home.member.loaded.digest == digest_of(text)
    assert home.member.moment().as_of == NOW
    assert (CANARY_2.id in dict(home.outlet.receipts)) == (name == "a")


@pytest.mark.parametrize("name", ["a", "b"])
async def test_a_node_that_lacks_the_canarys_statement_is_not_complete(name: str, new: New) -> None:
    """Withholding it ends in refusal, at nodes that it does not even name."""
    home = new(name)
    await home.take(POLICY_1)
    await beat(home, POLICY_1, CANARY_2)
    assert home.member.moment().as_of is None


async def test_a_node_that_cannot_load_its_canary_is_not_complete(new: New) -> None:
    """It keeps the policy, says why, and refuses after its segments' limits: nobody takes it for a good canary."""
    home = new("a")
    bad = b"nonsense = 1\n"
    home.objects.put(bad)
    broken = canary(2, bad, "a")
    await home.take(POLICY_1)
    await home.take(broken)
    await beat(home, POLICY_1, broken)
    assert home.member.loaded.digest == digest_of(OLD)
    assert "nonsense" in home.member.loaded.fault
    assert home.member.moment().as_of is None


async def test_a_canary_is_taken_up_again_after_a_restart(new: New) -> None:
    """And the policy after it ends it."""
    home = new("a")
    await home.take(POLICY_1, CANARY_2)
    home.journal.close()
    again = Home(home.folder, MINT, FakeOutlet("a"), home.clock)
    again.member.node = "a"
    await again.member.restore("this boot")
    assert again.member.loaded.sequence == 2
    await again.take(POLICY_3)
    assert again.member.loaded.sequence == 3
