"""Whose fault it is, in the type. Anything else that is raised is a bug."""

from collections.abc import Iterable
from dataclasses import dataclass


class LockgateError(Exception):
    """Base of every expected failure. The message is one line: what, where, what to do."""


class RemoteError(LockgateError):
    """The other side sent something it must not send. Never carries the raw bytes."""


class LocalError(LockgateError):
    """Our own state, files or use is wrong."""


class UnreachableError(LockgateError):
    """The other side could not be reached, or went away."""


class RefusedError(LockgateError):
    """The other side understood and said no."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong in a file: where (``file:line key``), what, and what to do."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(LockgateError):
    """A file a human wrote is wrong. Carries every fault at once, never only the first."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))
