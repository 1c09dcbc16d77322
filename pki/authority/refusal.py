"""Why the CA says no."""

from enum import StrEnum

from pki.errors import RefusedError


class Refusal(StrEnum):
    """The ``reason`` in the CA's error bodies: a closed list, never renamed."""

    TOKEN_UNKNOWN = "token_unknown"
    TOKEN_USED = "token_used"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_FOREIGN = "token_foreign"
    BANNED = "banned"
    NOT_LISTED = "not_listed"
    """No policy in force lets this node hold sessions of this agent."""
    SESSION_TAKEN = "session_taken"
    CLONE = "clone"
    """The certificate was renewed before, with another key: somebody has a copy of the old one."""
    ID_TOKEN = "id_token"
    """The ID token proves no user: the message says why."""
    NO_IDENTITY = "no_identity"
    NOT_ALLOWED = "not_allowed"


class RefusalError(RefusedError):
    """A no with its reason. The message is one line: what, and what to do."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason
