"""Exit codes of the lockgate command."""

from enum import IntEnum


class Exit(IntEnum):
    YES = 0
    NO = 1
    """Refused, or faults were found."""
    USAGE = 2
    UNCONFIRMED = 3
    """Unreachable, or not confirmed by every node."""
    CONFIG = 78
    """A daemon was started with bad configuration (sysexits EX_CONFIG)."""
    EXEC_FAILED = 125
    """`session exec` itself failed."""
    CANNOT_EXECUTE = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
