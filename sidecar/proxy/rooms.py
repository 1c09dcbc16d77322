"""How many requests of each class may be under way on a node at one time. Pure.

Reads and mutations have limits of their own: a flood of the one leaves room for the other. Of each the last quarter is
for agents that hold less than a quarter of it: one agent with many requests leaves room for the others.
"""

from collections import Counter
from dataclasses import dataclass, field

from sidecar.defaults import MUTATE_REQUESTS, READ_REQUESTS
from sidecar.policy.model import OperationClass


@dataclass(slots=True)
class Rooms:
    """``take`` and ``leave`` by class and agent."""

    read: int = READ_REQUESTS
    mutate: int = MUTATE_REQUESTS
    _taken: Counter[OperationClass] = field(default_factory=Counter)
    _held: Counter[tuple[OperationClass, str]] = field(default_factory=Counter)

    def has_room(self, wanted: OperationClass, agent: str) -> bool:
        limit = self.read if wanted is OperationClass.READ else self.mutate
        quarter = limit // 4
        free = limit - self._taken[wanted]
        return free > (0 if self._held[wanted, agent] < quarter else quarter)

    def take(self, wanted: OperationClass, agent: str) -> None:
        self._taken[wanted] += 1
        self._held[wanted, agent] += 1

    def leave(self, taken: OperationClass, agent: str) -> None:
        self._taken[taken] -= 1
        self._held[taken, agent] -= 1
        if not self._held[taken, agent]:
            del self._held[taken, agent]
