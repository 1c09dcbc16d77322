"""What the demo's MCP tool does: tickets in memory. Each tool's docstring is what models read."""

from collections.abc import Callable
from dataclasses import dataclass, field

MAX_TICKETS = 1_000
HANDBOOK = "Be kind. Refund up to 10 at once; ask a human for more.\n"


@dataclass
class Tickets:
    """The tools are its public methods."""

    titles: list[str] = field(default_factory=lambda: ["The door squeaks", "Invoice 7 is wrong"])

    def list_tickets(self) -> str:
        """All tickets, a line each: number and title."""
        return "\n".join(f"{number} {title}" for number, title in enumerate(self.titles, 1))

    def get_ticket(self, number: int) -> str:
        """The title of one ticket."""
        if not 1 <= number <= len(self.titles):
            raise ValueError(f"there is no ticket {number}")
        return self.titles[number - 1]

    def create_ticket(self, title: str) -> str:
        """Open a ticket; gives its number."""
        if len(self.titles) >= MAX_TICKETS:
            raise ValueError("there are too many tickets")
        self.titles.append(title[:200])
        return str(len(self.titles))

    def refund(self, number: int, amount: int) -> str:
        """Pay an amount back to whoever opened a ticket."""
        return f"paid {amount} for ticket {number}: {self.get_ticket(number)}"

    def delete_tickets(self) -> str:
        """Delete every ticket."""
        self.titles.clear()
        return "deleted"

    @property
    def tools(self) -> list[Callable[..., str]]:
        return [self.list_tickets, self.get_ticket, self.create_ticket, self.refund, self.delete_tickets]


READ_ONLY = frozenset({"list_tickets", "get_ticket"})
DESTRUCTIVE = frozenset({"delete_tickets"})
