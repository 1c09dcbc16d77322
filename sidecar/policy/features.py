"""What this version's data path enforces of the policy language: the one switch.

A policy that uses more is refused whole: a rule that nobody enforces is worse than none. Whoever builds the data path
of a feature adds it to :data:`ENFORCED`, and nothing else has to change here.
"""

from enum import StrEnum


class Feature(StrEnum):
    """Names for the roster and for a policy's ``requires``. A name is never re-used for another meaning."""

    TCP = "tcp"
    HTTP = "http"
    MCP = "mcp"
    ESCALATIONS = "escalations"
    INJECT_HEADER = "inject-header"
    INVALIDATIONS = "invalidations"
    MTLS_CALLERS = "mtls-callers"
    OBJECTIVES = "objectives"
    OBSERVE = "observe"
    PINS = "pins"
    QUOTAS = "quotas"
    SESSION_LIMITS = "session-limits"
    TWO_PERSON = "two-person"


ENFORCED: frozenset[Feature] = frozenset(
    {
        Feature.TCP,
        Feature.HTTP,
        Feature.MCP,
        Feature.ESCALATIONS,
        Feature.INJECT_HEADER,
        Feature.INVALIDATIONS,
        Feature.MTLS_CALLERS,
        Feature.OBJECTIVES,
        Feature.OBSERVE,
        Feature.PINS,
        Feature.QUOTAS,
        Feature.SESSION_LIMITS,
        Feature.TWO_PERSON,
    }
)

LANGUAGE: frozenset[Feature] = frozenset(Feature)
"""All there is to parse: for tests, and for tools that only read a policy."""
