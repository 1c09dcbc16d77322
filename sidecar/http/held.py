"""How many bytes of messages a node holds whole at one time. Pure.

Most bodies pass through a few chunks of memory. What is read before it is decided on, or looked into before an agent
sees it, is held; each alone is limited, and this limits all together, or a few hundred callers could have the memory
of the node.
"""

from dataclasses import dataclass

from sidecar.defaults import HELD_BYTES

PARSED = 4
"""What text becomes at worst, and what it is spelled as: characters of four bytes."""
VALUE_BYTES = 256
MAX_VALUES = 50_000
"""Of one JSON document that is held (:mod:`sidecar.mcp.json`)."""
FULL = "this node holds as many bytes of messages as it may; try again soon"


@dataclass(slots=True)
class Budget:
    """All of a node's."""

    most: int = HELD_BYTES
    taken: int = 0

    def share(self) -> "Held":
        """For one message."""
        return Held(self)


@dataclass(slots=True)
class Held:
    """One message's share, in bytes of the message; what those cost with all that is made of them is counted."""

    budget: Budget
    _cost: int = 0

    def hold(self, size: int) -> bool:
        """Hold ``size`` bytes from now on, more or fewer than before; False, and nothing changed, where there is no room."""
        cost = PARSED * size + VALUE_BYTES * min(size // 2, MAX_VALUES)
        if cost > self._cost and self.budget.taken + cost - self._cost > self.budget.most:
            return False
        self.budget.taken += cost - self._cost
        self._cost = cost
        return True

    def release(self) -> None:
        """Again is nothing."""
        self.hold(0)
