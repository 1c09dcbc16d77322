"""Why a stream or request was refused or cut. Part of the API: a closed list, never renamed."""

from enum import StrEnum


class Reason(StrEnum):
    """Each refusal and each cut names exactly one of these (docs/wire.md has what each means)."""

    LOCKED = "locked"
    REVOKED = "revoked"
    EXPIRED = "expired"
    MISBOUND = "misbound"
    STALE = "stale"
    NARROWED = "narrowed"
    DENIED = "denied"
    NO_GRANT = "no_grant"
    NO_SESSION = "no_session"
    AMBIGUOUS_SESSION = "ambiguous_session"
    WRONG_CALLER = "wrong_caller"
    BAD_PROOF = "bad_proof"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    LIMIT = "limit"
    PEER_UNREACHABLE = "peer_unreachable"
    TARGET_UNREACHABLE = "target_unreachable"
    BAD_REQUEST = "bad_request"
    TOOL_DRIFT = "tool_drift"
    LEASE_ENDED = "lease_ended"
    DRAINING = "draining"
    IDLE = "idle"
    LIFETIME = "lifetime"
