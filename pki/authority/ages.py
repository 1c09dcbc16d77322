"""How old the CA's own keys are, and which of them want a successor. Blocking: it reads their certificates."""

from dataclasses import dataclass
from pathlib import Path

from pki.authority.keystore import Names, certificate, read_standing
from pki.certificate import read
from pki.clock import DAY, Wall


@dataclass(frozen=True, slots=True)
class KeyAge:
    """One of the CA's own keys. From half of its life on it wants a successor: ``lockgate ca rotate``."""

    part: str
    not_before: Wall
    not_after: Wall

    def is_due(self, now: Wall) -> bool:
        return now - self.not_before >= (self.not_after - self.not_before) / 2


def key_ages(folder: Path) -> tuple[KeyAge, ...]:
    """The CA's keys in use, root first; raises LocalError."""
    return ages_of(folder, read_standing(folder).active)


def ages_of(folder: Path, names: Names) -> tuple[KeyAge, ...]:
    """The same of one generation. One whose key lies elsewhere is as old as its certificate."""
    return tuple(_age(folder, part, getattr(names, part)) for part in Names.__struct_fields__)


def overdue(folder: Path, now: Wall) -> list[str]:
    """What an admin should hear of, a sentence for each key; empty while all is well."""
    return [
        f"the {one.part} key of this CA has passed half of its life, and ends in {days(one, now)} days; "
        f"run: lockgate ca rotate prepare{' --key root' if one.part == 'root' else ''}"
        for one in key_ages(folder)
        if one.is_due(now)
    ]


def days(key: KeyAge, now: Wall) -> int:
    """How many whole days it has left; 0 once it has expired."""
    return max(0, key.not_after - now) // DAY


def _age(folder: Path, part: str, name: str) -> KeyAge:
    held = read(certificate(folder / f"{name}.pem"))
    return KeyAge(part, held.not_before, held.not_after)
