from sidecar.policy.model import OperationClass
from sidecar.proxy.rooms import Rooms


def test_each_class_has_its_own_limit() -> None:
    """What is taken of the one is not taken of the other, and comes back."""
    rooms = Rooms(read=2, mutate=1)
    rooms.take(OperationClass.MUTATE)
    assert not rooms.has_room(OperationClass.MUTATE)
    assert rooms.has_room(OperationClass.READ)
    rooms.take(OperationClass.READ)
    assert rooms.has_room(OperationClass.READ)
    rooms.leave(OperationClass.MUTATE)
    assert rooms.has_room(OperationClass.MUTATE)
