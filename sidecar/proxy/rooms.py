"""How many requests of each class may be under way on a node at one time. Pure.

Reads and mutations have limits of their own: a flood of the one leaves room for the other.
"""

from collections import Counter
from dataclasses import dataclass, field

from sidecar.defaults import MUTATE_REQUESTS, READ_REQUESTS
from sidecar.policy.model import OperationClass


@dataclass(slots=True)
class Rooms:
    """``take`` and ``leave`` by class."""

    read: int = READ_REQUESTS
    mutate: int = MUTATE_REQUESTS
    _taken: Counter[OperationClass] = field(default_factory=Counter)

    def has_room(self, wanted: OperationClass) -> bool:
        return self._taken[wanted] < (self.read if wanted is OperationClass.READ else self.mutate)

    def take(self, wanted: OperationClass) -> None:
        self._taken[wanted] += 1

    def leave(self, taken: OperationClass) -> None:
        self._taken[taken] -= 1
