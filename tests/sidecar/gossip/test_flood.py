import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.clock import Wall
from pki.errors import RemoteError
from pki.statement import Statement, parse
from sidecar.defaults import REPAIR_PEERS
from sidecar.gossip import digest, flood
from sidecar.gossip.flood import (
    ASKED_TICKS,
    FEW,
    RECONSIDER_TICKS,
    Arrived,
    Beaten,
    Declined,
    Flood,
    LinkDown,
    LinkUp,
    Merged,
    Reconsidered,
    Send,
    Ticked,
)
from sidecar.gossip.store import Store
from sidecar.wire import Fetch, Ids, Statements, Summary, Want
from tests.authority import NOW
from tests.statements import Mint, ca_word, lock

MINT = Mint()
LOCKS = [MINT.says("lock", lock("agent", f"a{n}")) for n in range(2 * FEW)]
BEAT = MINT.beats("0" * 64).raw
TICK = Ticked(b"entropy")


def holding(*statements: Statement) -> Store:
    store = Store()
    for statement in statements:
        store.merge(ca_word(statement), None, Wall(NOW))
    return store


def linked(store: Store, *peers: str) -> Flood:
    """A member with links that came up in silence."""
    one = Flood(store)
    for peer in peers:
        one.handle(LinkUp(peer))
    return one


def ids_of(*statements: Statement) -> bytes:
    return digest.pack(statement.id for statement in statements)


def summary(*statements: Statement) -> Summary:
    return Summary(digest=digest.of_ids(statement.id for statement in statements))


def listing(*statements: Statement) -> Ids:
    return Ids(ids=ids_of(*statements), last=True)


def carried(sends: Iterable[Send]) -> list[bytes]:
    return [raw for send in sends if isinstance(send.message, Statements) for raw in send.message.envelopes]


def test_what_is_new_goes_to_every_link_but_the_one_it_came_from() -> None:
    """Its source has it."""
    one = linked(holding(), "a", "b", "c")
    raws = (LOCKS[0].raw,)
    message = Statements(envelopes=[LOCKS[0].raw])
    assert one.handle(Merged(raws, "b")) == [Send("a", message), Send("c", message)]
    assert one.handle(Merged(raws, None)) == [Send(peer, message) for peer in "abc"]


def test_what_came_in_bulk_is_not_passed_on() -> None:
    """A joiner would send the whole store to all who have it; our own word goes out whatever its size."""
    one = linked(holding(), "a", "b")
    raws = tuple(each.raw for each in LOCKS[: FEW + 1])
    assert one.handle(Merged(raws, "a")) == []
    assert len(carried(one.handle(Merged(raws, None)))) == 2 * len(raws)
    assert len(carried(one.handle(Merged(raws[:FEW], "a")))) == FEW


def test_a_heartbeat_is_flooded_and_given_to_each_new_link() -> None:
    """It is no part of the store, so repair would not bring it."""
    one = linked(holding(), "a", "b")
    message = Statements(envelopes=[BEAT])
    assert one.handle(Beaten(BEAT, "a")) == [Send("b", message)]
    assert one.handle(LinkUp("c")) == [Send("c", message), Send("c", summary())]


def test_a_link_that_comes_up_compares_at_once() -> None:
    """A joiner, or a healed partition, waits for no tick."""
    assert Flood(holding(LOCKS[0])).handle(LinkUp("a")) == [Send("a", summary(LOCKS[0]))]


def test_equal_digests_end_the_exchange() -> None:
    """Nothing is lacking on either side."""
    one = linked(holding(LOCKS[0]), "a")
    assert one.handle(Arrived("a", summary(LOCKS[0]))) == []


def test_another_digest_is_answered_with_our_ids() -> None:
    """An empty list is a list."""
    assert linked(holding(LOCKS[0]), "a").handle(Arrived("a", summary())) == [Send("a", listing(LOCKS[0]))]
    assert linked(holding(), "a").handle(Arrived("a", summary(LOCKS[0]))) == [Send("a", listing())]


def test_a_list_is_answered_with_what_it_lacks_and_what_we_lack() -> None:
    """Both sides are whole after one exchange."""
    one = linked(holding(*LOCKS[:2]), "a")
    sends = one.handle(Arrived("a", listing(*LOCKS[1:3])))
    assert sends == [
        Send("a", Statements(envelopes=[LOCKS[0].raw])),
        Send("a", Want(ids=ids_of(LOCKS[2]))),
    ]


def test_a_list_comes_in_parts() -> None:
    """Nothing is concluded before the last one."""
    one = linked(holding(*LOCKS[:2]), "a")
    assert one.handle(Arrived("a", Ids(ids=ids_of(LOCKS[0]), last=False))) == []
    assert one.handle(Arrived("a", listing(LOCKS[1]))) == []


def test_our_list_goes_out_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame grows with the store."""
    monkeypatch.setattr(flood, "IDS_PER_PART", 3)
    one = linked(holding(*LOCKS[:7]), "a")
    parts = [send.message for send in one.handle(Arrived("a", summary()))]
    assert [(len(part.ids), part.last) for part in parts if isinstance(part, Ids)] == [
        (48, False),
        (48, False),
        (16, True),
    ]


def test_what_is_wanted_is_sent_if_it_is_held() -> None:
    """It may have expired since it was listed."""
    one = linked(holding(LOCKS[0]), "a")
    assert one.handle(Arrived("a", Want(ids=ids_of(*LOCKS[:2])))) == [
        Send("a", Statements(envelopes=[LOCKS[0].raw]))
    ]


def test_what_is_wanted_twice_is_sent_once() -> None:
    """Sixteen bytes named over and over would bring a whole statement every time."""
    one = linked(holding(LOCKS[0]), "a")
    assert len(carried(one.handle(Arrived("a", Want(ids=ids_of(LOCKS[0]) * 100))))) == 1


def test_what_is_asked_of_one_peer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may list what nobody has, and we remember what we asked for."""
    monkeypatch.setattr(flood, "MAX_ASKED", 3)
    one = linked(holding(), "rogue", "b")
    assert len(carried_wants(one.handle(Arrived("rogue", listing(*LOCKS[:2]))))) == 2
    assert len(carried_wants(one.handle(Arrived("rogue", listing(*LOCKS[2:5]))))) == 1
    assert carried_wants(one.handle(Arrived("rogue", listing(LOCKS[9])))) == []
    assert len(carried_wants(one.handle(Arrived("b", listing(*LOCKS[9:12]))))) == 3


def test_statements_travel_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fits a frame, and one exchange sends so many: the next goes on from there."""
    monkeypatch.setattr(flood, "BATCH_BYTES", 2 * len(LOCKS[0].raw) + 10)
    one = linked(holding(*LOCKS[:5]), "a")
    want = Arrived("a", Want(ids=ids_of(*LOCKS[:5])))
    sizes = [len(send.message.envelopes) for send in one.handle(want) if isinstance(send.message, Statements)]
    assert sizes == [2, 2, 1]
    monkeypatch.setattr(flood, "MAX_BATCHES", 2)
    assert len(one.handle(want)) == 2


def test_many_small_statements_fill_a_batch_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is limited beside their bytes."""
    monkeypatch.setattr(flood, "MAX_BATCH_ITEMS", 2)
    sends = linked(holding(*LOCKS[:3]), "a").handle(Arrived("a", Want(ids=ids_of(*LOCKS[:3]))))
    assert len(sends) == 2


def test_no_more_than_a_few_are_sent_unasked() -> None:
    """A joiner with sixty peers would get the whole store sixty times; it is told what there is, and asks."""
    one = linked(holding(*LOCKS[: FEW + 1]), "a")
    sends = one.handle(Arrived("a", listing()))
    assert sends == [Send("a", listing(*LOCKS[: FEW + 1]))]


def test_a_peer_is_told_all_ids_once_a_second() -> None:
    """A hundred bytes of its must not cost us a megabyte each."""
    one = linked(holding(LOCKS[0]), "a")
    assert len(one.handle(Arrived("a", summary()))) == 1
    assert one.handle(Arrived("a", summary())) == []
    one.handle(TICK)
    assert len(one.handle(Arrived("a", summary()))) == 1


def test_a_statement_is_asked_of_one_peer_at_a_time() -> None:
    """What sixty peers list comes once."""
    one = linked(holding(), "a", "b")
    assert one.handle(Arrived("a", listing(LOCKS[0]))) == [Send("a", Want(ids=ids_of(LOCKS[0])))]
    assert one.handle(Arrived("b", listing(LOCKS[0]))) == []


def test_a_peer_that_lists_what_it_never_sends_keeps_nothing_from_us() -> None:
    """After its time is up, others are asked and it is not, for as long again."""
    one = linked(holding(), "rogue", "b")
    one.handle(Arrived("rogue", listing(LOCKS[0])))
    for _ in range(ASKED_TICKS):
        one.handle(TICK)
    assert one.handle(Arrived("rogue", listing(LOCKS[0]))) == []
    assert carried_wants(one.handle(Arrived("b", listing(LOCKS[0])))) == [LOCKS[0].id]


def test_an_only_peer_is_asked_again() -> None:
    """Its answer may have been lost with a link."""
    one = linked(holding(), "a")
    one.handle(Arrived("a", listing(LOCKS[0])))
    for _ in range(2 * ASKED_TICKS):
        one.handle(TICK)
    assert carried_wants(one.handle(Arrived("a", listing(LOCKS[0])))) == [LOCKS[0].id]


def carried_wants(sends: Iterable[Send]) -> list[str]:
    return [
        name for send in sends if isinstance(send.message, Want) for name in digest.unpack(send.message.ids)
    ]


def test_what_was_refused_is_not_asked_for_again() -> None:
    """Else it would be sent and refused each second, for ever."""
    one = linked(holding(), "a")
    one.handle(Declined("a", (LOCKS[0].id,)))
    assert one.handle(Arrived("a", listing(LOCKS[0]))) == []


def test_a_refusal_is_listed_to_the_peer_that_holds_it_and_to_no_other() -> None:
    """Its digest equals ours then, and repair ends; nobody else is told of what we do not hold."""
    one = linked(holding(LOCKS[0]), "a", "b")
    one.handle(Declined("a", (LOCKS[1].id,)))
    tick = {send.peer: send.message for send in one.handle(TICK)}
    assert tick == {"a": summary(*LOCKS[:2]), "b": summary(LOCKS[0])}
    assert one.handle(Arrived("a", summary(*LOCKS[:2]))) == []
    assert one.handle(Arrived("a", summary(LOCKS[0]))) == []
    assert one.handle(Arrived("a", summary())) == [Send("a", listing(*LOCKS[:2]))]
    assert one.handle(Arrived("b", summary())) == [Send("b", listing(LOCKS[0]))]


def test_a_refusal_is_forgotten_when_its_peer_has_dropped_the_statement() -> None:
    """Else we would list for ever what nobody holds."""
    one = linked(holding(LOCKS[0]), "a")
    one.handle(Declined("a", (LOCKS[1].id,)))
    one.handle(Arrived("a", listing(LOCKS[0])))
    assert one.handle(TICK) == [Send("a", summary(LOCKS[0]))]


def test_a_refused_statement_that_is_held_now_is_listed_once() -> None:
    """It came adopted, from somebody else."""
    store = holding(LOCKS[0])
    one = linked(store, "a")
    one.handle(Declined("a", (LOCKS[1].id,)))
    store.merge(ca_word(LOCKS[1]), None, Wall(NOW))
    assert one.handle(TICK) == [Send("a", summary(*LOCKS[:2]))]


@pytest.mark.parametrize("change", ["reconsidered", "a minute"])
def test_a_refusal_is_judged_again_when_verdicts_may_differ(change: str) -> None:
    """When who may say what has changed, or time has passed."""
    one = linked(holding(), "a")
    one.handle(Declined("a", (LOCKS[0].id,)))
    if change == "reconsidered":
        one.handle(Reconsidered())
    else:
        for _ in range(RECONSIDER_TICKS):
            one.handle(TICK)
    assert carried_wants(one.handle(Arrived("a", listing(LOCKS[0])))) == [LOCKS[0].id]


def test_nothing_a_member_can_sign_makes_us_judge_refusals_again() -> None:
    """A rogue could have us verify its junk each second by one good statement."""
    one = linked(holding(), "a")
    one.handle(Declined("a", (LOCKS[0].id,)))
    one.handle(Merged((LOCKS[1].raw,), "a"))
    one.handle(Beaten(BEAT, "a"))
    assert one.handle(Arrived("a", listing(LOCKS[0]))) == []


def test_refusals_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rogue peer grows its own list only, and that no further than this."""
    monkeypatch.setattr(flood, "MAX_REFUSED", 2)
    one = linked(holding(), "a")
    one.handle(Declined("a", tuple(each.id for each in LOCKS[:3])))
    assert carried_wants(one.handle(Arrived("a", listing(*LOCKS[:3])))) == [LOCKS[0].id]


def test_ids_listed_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that lists without end breaks the protocol."""
    monkeypatch.setattr(flood, "MAX_IDS", 2)
    one = linked(holding(), "a")
    one.handle(Arrived("a", Ids(ids=ids_of(*LOCKS[:2]), last=False)))
    with pytest.raises(RemoteError, match="more than 2 ids"):
        one.handle(Arrived("a", listing(LOCKS[2])))


def test_what_belongs_elsewhere_is_refused() -> None:
    """Only the exchange's own messages are part of it."""
    with pytest.raises(RemoteError, match="Fetch is no part"):
        linked(holding(), "a").handle(Arrived("a", Fetch(digest="0" * 64, offset=0)))


def test_a_peer_without_a_link_is_nobody() -> None:
    """Its last words and refusals may be handled after it went."""
    one = linked(holding(LOCKS[0]), "a")
    assert one.handle(LinkDown("a")) == []
    assert one.handle(Arrived("a", summary())) == []
    assert one.handle(Declined("a", (LOCKS[1].id,))) == []
    assert one.handle(TICK) == []
    assert one.links == []


def test_each_second_a_few_peers_are_compared_with_and_over_time_all() -> None:
    """Which ones is as random as the entropy."""
    peers = [f"peer-{n:02}" for n in range(20)]
    one = linked(holding(), *peers)
    rounds = [{send.peer for send in one.handle(Ticked(bytes([n])))} for n in range(40)]
    assert {len(chosen) for chosen in rounds} == {REPAIR_PEERS}
    assert set[str]().union(*rounds) == set(peers)


def nothing_is_lost(nth: int) -> bool:
    return False


class Mesh:
    """Members that merge whatever they get, and a network that may lose it. No clock: time is a call of `second`."""

    def __init__(self, size: int, lost: Callable[[int], bool] | None = None) -> None:
        self.stores = {f"node-{n:02}": Store() for n in range(size)}
        self.floods = {name: Flood(store) for name, store in self.stores.items()}
        self.lost = lost or nothing_is_lost
        self.seconds = 0
        self.received: Counter[str] = Counter()
        self._wire: deque[tuple[str, Send]] = deque()
        self._sent = 0

    def connect(self, one: str, other: str) -> None:
        for near, far in ((one, other), (other, one)):
            self._send(near, self.floods[near].handle(LinkUp(far)))

    def connect_all(self) -> None:
        for one, other in combinations(self.stores, 2):
            self.connect(one, other)

    def say(self, name: str, statement: Statement) -> None:
        self._merge(name, [statement.raw], None)
        self.settle()

    def settle(self) -> None:
        """Deliver until the wire is empty."""
        while self._wire:
            source, send = self._wire.popleft()
            self._sent += 1
            if not self.lost(self._sent):
                self._deliver(source, send)

    def second(self) -> None:
        self.seconds += 1
        for name, one in self.floods.items():
            self._send(name, one.handle(Ticked(f"{self.seconds} {name}".encode())))
        self.settle()

    def agrees(self) -> bool:
        return len({store.ids_digest() for store in self.stores.values()}) == 1

    def _deliver(self, source: str, send: Send) -> None:
        if isinstance(send.message, Statements):
            self.received[send.peer] += len(send.message.envelopes)
            self._merge(send.peer, send.message.envelopes, source)
        else:
            self._send(send.peer, self.floods[send.peer].handle(Arrived(source, send.message)))

    def _merge(self, name: str, raws: list[bytes], source: str | None) -> None:
        new = tuple(raw for raw in raws if self.stores[name].merge(ca_word(parse(raw)), None, Wall(NOW)))
        if new:
            self._send(name, self.floods[name].handle(Merged(new, source)))

    def _send(self, source: str, sends: list[Send]) -> None:
        self._wire.extend((source, send) for send in sends)


def test_flooding_alone_reaches_everybody() -> None:
    """With nothing lost, a statement is everywhere before a second has passed, over a ring as over a full mesh."""
    mesh = Mesh(20)
    names = list(mesh.stores)
    for one, other in zip(names, [*names[1:], names[0]], strict=True):
        mesh.connect(one, other)
    mesh.settle()
    mesh.say("node-07", LOCKS[0])
    assert all(LOCKS[0].id in store for store in mesh.stores.values())
    assert mesh.seconds == 0


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 220))
def test_a_lossy_network_of_twenty_converges_once_it_heals(seed: int, loss: int) -> None:
    """Whatever was lost while statements were said, repair makes all members equal within seconds of the loss's end."""

    def lost(nth: int) -> bool:
        return hashlib.sha256(f"{seed} {nth}".encode()).digest()[0] < loss

    mesh = Mesh(20, lost)
    mesh.connect_all()
    for nth, statement in enumerate(LOCKS[:20]):
        mesh.say(f"node-{nth:02}", statement)
        mesh.second()
    mesh.lost = nothing_is_lost
    while not mesh.agrees():
        mesh.second()
        assert mesh.seconds <= 20 + 6
    assert all(len(store) == 20 for store in mesh.stores.values())


def test_even_while_messages_are_lost_the_mesh_converges() -> None:
    """Every fourth message gone for ever, and no healing."""
    mesh = Mesh(20, lambda nth: nth % 4 == 0)
    mesh.connect_all()
    for nth, statement in enumerate(LOCKS[:20]):
        mesh.say(f"node-{nth:02}", statement)
    while not mesh.agrees():
        mesh.second()
        assert mesh.seconds < 20


def test_a_joiner_gets_the_whole_store_once() -> None:
    """From sixty peers that all have it, and without sending it back to any of them."""
    mesh = Mesh(20)
    *members, joiner = mesh.stores
    for name in members:
        for statement in LOCKS:
            mesh.stores[name].merge(ca_word(statement), None, Wall(NOW))
    for one, other in combinations(members, 2):
        mesh.connect(one, other)
    for name in members:
        mesh.connect(joiner, name)
    mesh.settle()
    while not mesh.agrees():
        mesh.second()
        assert mesh.seconds < 5
    assert mesh.received == {joiner: len(LOCKS)}


def test_two_halves_become_one_when_the_partition_ends() -> None:
    """Each side said things; the first links between them bring both to all, at once."""
    mesh = Mesh(10)
    names = list(mesh.stores)
    for half in (names[:5], names[5:]):
        for one, other in combinations(half, 2):
            mesh.connect(one, other)
    mesh.say(names[0], LOCKS[0])
    mesh.say(names[9], LOCKS[1])
    mesh.connect(names[4], names[5])
    mesh.settle()
    assert mesh.agrees()
    assert len(mesh.stores[names[0]]) == 2


def test_a_quiet_mesh_sends_nothing_but_digests() -> None:
    """A hundred bytes to five peers each second."""
    mesh = Mesh(20)
    mesh.connect_all()
    mesh.say("node-00", LOCKS[0])
    before = mesh.received.total()
    for _ in range(5):
        mesh.second()
    assert mesh.received.total() == before
