from hypothesis import given
from hypothesis import strategies as st

from sidecar.policy.model import OperationClass
from sidecar.proxy.rooms import Rooms

READ, MUTATE = OperationClass.READ, OperationClass.MUTATE


def test_each_class_has_its_own_limit() -> None:
    """What is taken of the one is not taken of the other, and comes back."""
    rooms = Rooms(read=2, mutate=1)
    rooms.take(MUTATE, "a")
    assert not rooms.has_room(MUTATE, "a")
    assert rooms.has_room(READ, "a")
    rooms.take(READ, "a")
    assert rooms.has_room(READ, "a")
    rooms.leave(MUTATE, "a")
    assert rooms.has_room(MUTATE, "a")


def test_one_agent_leaves_room_for_the_others() -> None:
    """It may have three quarters; the last one is for those that hold less than a quarter."""
    rooms = Rooms(read=8)
    while rooms.has_room(READ, "greedy"):
        rooms.take(READ, "greedy")
    others = 0
    while rooms.has_room(READ, "other"):
        rooms.take(READ, "other")
        others += 1
    assert others == 2
    rooms.leave(READ, "greedy")
    assert not rooms.has_room(READ, "greedy")
    assert rooms.has_room(READ, "third")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(0, 20))
def test_no_more_than_the_limit_is_ever_taken(steps: list[tuple[str, bool]], limit: int) -> None:
    """Whoever comes and goes; and when all have left, it is as at first."""
    rooms, held = Rooms(mutate=limit), dict.fromkeys("abc", 0)
    for agent, comes in steps:
        if comes and rooms.has_room(MUTATE, agent):
            rooms.take(MUTATE, agent)
            held[agent] += 1
        elif not comes and held[agent]:
            rooms.leave(MUTATE, agent)
            held[agent] -= 1
        assert sum(held.values()) <= limit
    for agent, count in held.items():
        for _ in range(count):
            rooms.leave(MUTATE, agent)
    assert rooms.has_room(MUTATE, "a") is (limit > 0)
