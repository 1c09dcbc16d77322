"""What a verification finds. Pure."""

from dataclasses import dataclass, field

from sidecar.audit.chain import Head


@dataclass(frozen=True, slots=True)
class BadRecord:
    """The first record that is not what was written; ``line`` counts from 1, the header."""

    volume: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.volume}: line {self.line} {self.what}"


@dataclass(slots=True)
class Report:
    """What a log shows. Everything before ``first_bad`` is right."""

    volumes: int = 0
    records: int = 0
    """Those that are right."""
    first_bad: BadRecord | None = None
    head: Head | None = None
    """The last record that is right."""
    torn: int = 0
    """Bytes after the last line of the newest volume: a write that was under way or cut short. No fault."""
    gaps: list[str] = field(default_factory=list)
    """What the folder does not hold and need not: volumes expire. No fault."""
    checkpoints: int = 0
    """Those whose signature was checked."""
    signed: Head | None = None
    """The last record that the node has signed for."""
    witnessed: Head | None = None
    """The last record that a peer holds, too."""

    @property
    def provable(self) -> str:
        """How much is shown, in words."""
        if self.head is None:
            return "nothing is shown: there is no record that is right"
        shown = f"complete up to {_place(self.head)}, chain {self.head.chain.hex()}"
        signed = f"signed up to {_place(self.signed)}" if self.signed else "no signature was checked"
        if self.witnessed is not None:
            return f"{shown}; {signed}; peers hold it up to {_place(self.witnessed)}"
        tail = "a cut-off tail needs witnesses: only a later head kept elsewhere would show it"
        return f"{shown}; {signed}; {tail}"


def _place(head: Head) -> str:
    return f"{head.volume} record {head.seq}"
