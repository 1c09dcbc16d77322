from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from pki.errors import RefusedError
from pki.tls.threshold import STALL_SECONDS, WAIT_SECONDS, Threshold

HONEST = 0.01
"""Seconds that an honest handshake takes."""


@dataclass
class Street:
    """Who knocks at a threshold, and what became of them: the time of their end, relative to the test's start."""

    threshold: Threshold
    nursery: trio.Nursery
    crossed: dict[str, float] = field(default_factory=dict)
    turned_out: dict[str, float] = field(default_factory=dict)

    async def knock(self, name: str, address: str, seconds: float) -> None:
        started = trio.current_time()
        try:
            async with self.threshold.crossing(address):
                await trio.sleep(seconds)
        except RefusedError:
            self.turned_out[name] = trio.current_time() - started
        else:
            self.crossed[name] = trio.current_time() - started

    async def knocks(self, name: str, *, address: str = "a", seconds: float = HONEST) -> None:
        self.nursery.start_soon(self.knock, name, address, seconds)
        await trio.testing.wait_all_tasks_blocked()

    async def crowd(self, name: str, count: int, address: Callable[[int], str] = lambda _: "a") -> None:
        """Half-open handshakes."""
        for number in range(count):
            await self.knocks(f"{name}{number}", address=address(number), seconds=1e6)


@pytest.fixture
async def street(nursery: trio.Nursery) -> Street:
    return Street(Threshold(total=8, each=4), nursery)


async def test_with_room_nobody_waits(street: Street, autojump_clock: trio.testing.MockClock) -> None:
    """Below both caps the threshold is not felt."""
    for number in range(8):
        await street.knocks(f"good{number}", address=str(number % 2))
    await trio.sleep(1)
    assert list(street.crossed.values()) == [pytest.approx(HONEST)] * 8


async def test_a_burst_of_honest_peers_loses_nobody(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """They take turns."""
    for number in range(12):
        await street.knocks(f"good{number}")
    await trio.sleep(1)
    assert len(street.crossed) == 12
    assert max(street.crossed.values()) == pytest.approx(3 * HONEST)


async def test_a_stalled_handshake_gives_way_to_a_newcomer(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """The oldest of the same address, as soon as it has stalled: a good peer behind it waits no longer."""
    await street.crowd("half", 4)
    await street.knocks("good")
    await trio.sleep(1)
    assert street.crossed == {"good": pytest.approx(STALL_SECONDS + HONEST, abs=0.2)}
    assert list(street.turned_out) == ["half0"]


async def test_nobody_gives_way_before_another_waits(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """A slow line is no crime."""
    await street.knocks("slow", seconds=4)
    await trio.sleep(5)
    assert street.crossed == {"slow": 4}


async def test_the_newest_goes_first(street: Street, autojump_clock: trio.testing.MockClock) -> None:
    """Behind a whole flood a good peer still waits for one stalled handshake only."""
    await street.crowd("half", 12)
    await street.knocks("good")
    await trio.sleep(1)
    assert street.crossed == {"good": pytest.approx(STALL_SECONDS + HONEST, abs=0.2)}


async def test_one_address_does_not_fill_the_place_of_another(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """Its share is its own, and its waiters are passed over."""
    await street.crowd("half", 8)
    await street.knocks("good", address="b")
    await trio.sleep(0.1)
    assert street.crossed == {"good": pytest.approx(HONEST)}


async def test_full_of_many_addresses_the_most_crowded_gives_way(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """Who holds most loses first."""
    await street.crowd("one", 2, lambda _: "b")
    await street.crowd("half", 4)
    await street.crowd("two", 2, lambda _: "c")
    await street.knocks("good", address="d")
    await trio.sleep(1)
    assert "good" in street.crossed
    assert list(street.turned_out) == ["half0"]


async def test_only_so_many_wait(street: Street, autojump_clock: trio.testing.MockClock) -> None:
    """Each holds a descriptor: the one that has waited longest is turned out at once."""
    await street.crowd("half", 4 + 8)
    assert not street.turned_out
    await street.knocks("good")
    assert street.turned_out == {"half4": 0}


async def test_nobody_waits_for_ever(street: Street, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever is passed over for WAIT_SECONDS has given up by then."""
    street.threshold = Threshold(total=8, each=1)
    for number in range(40):
        await street.knocks(f"half{number}", seconds=1e6)
        await trio.sleep(STALL_SECONDS / 2)
    assert max(street.turned_out.values()) <= WAIT_SECONDS + STALL_SECONDS


async def test_whoever_leaves_makes_room_at_once(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """A handshake that ends, well or not, is the next one's turn."""
    await street.crowd("half", 3)
    await street.knocks("good1")
    await street.knocks("good2")
    await trio.sleep(0.1)
    assert street.crossed == {"good1": pytest.approx(HONEST), "good2": pytest.approx(2 * HONEST)}


async def test_what_fails_inside_passes_through(
    street: Street, autojump_clock: trio.testing.MockClock
) -> None:
    """An error of the handshake is its own, and its place is free again."""
    threshold = Threshold(total=1, each=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            async with threshold.crossing("a"):
                raise ZeroDivisionError
