"""Every method that a client of MCP may send, as data: what it is about, and how it is decided.

Followed: the method tables of protocol 2025-11-25 (schema reference, ClientRequest and ClientNotification) and of
2026-07-28 (the same page of that revision). Tasks, experimental in the first and an extension to the second, are not
here, so they are refused like every method that is not.
"""

from dataclasses import dataclass
from enum import StrEnum

from sidecar.policy.operation import TOOLS_CALL


class Era(StrEnum):
    """The two shapes of the protocol: a handshake and sessions, or every request by itself."""

    SESSIONS = "2025-11-25"
    STATELESS = "2026-07-28"


class About(StrEnum):
    """Where a method's params say what it is about."""

    NOTHING = "nothing"
    NAME = "name"
    URI = "uri"
    REFERENCE = "ref"
    """Of a completion: a prompt's name or a template's URI."""
    FILTER = "notifications"
    """Of a subscription: any number of URIs."""


@dataclass(frozen=True, slots=True)
class Method:
    """About nothing: whoever may open the stream may send it. ``listed``: the key of what its answer lists."""

    eras: frozenset[Era]
    about: About = About.NOTHING
    listed: str = ""
    notification: bool = False


_BOTH = frozenset(Era)
_SESSIONS = frozenset({Era.SESSIONS})
_STATELESS = frozenset({Era.STATELESS})


RESOURCES_READ = "resources/read"
RESOURCES_SUBSCRIBE = "resources/subscribe"
PROMPTS_GET = "prompts/get"
INITIALIZE = "initialize"

METHODS: dict[str, Method] = {
    INITIALIZE: Method(_SESSIONS),
    "ping": Method(_SESSIONS),
    "logging/setLevel": Method(_SESSIONS),
    "server/discover": Method(_STATELESS),
    "tools/list": Method(_BOTH, listed="tools"),
    "prompts/list": Method(_BOTH, listed="prompts"),
    "resources/list": Method(_BOTH, listed="resources"),
    "resources/templates/list": Method(_BOTH, listed="resourceTemplates"),
    TOOLS_CALL: Method(_BOTH, About.NAME),
    PROMPTS_GET: Method(_BOTH, About.NAME),
    RESOURCES_READ: Method(_BOTH, About.URI),
    RESOURCES_SUBSCRIBE: Method(_SESSIONS, About.URI),
    "resources/unsubscribe": Method(_SESSIONS, About.URI),
    "completion/complete": Method(_BOTH, About.REFERENCE),
    "subscriptions/listen": Method(_STATELESS, About.FILTER),
    "notifications/initialized": Method(_SESSIONS, notification=True),
    "notifications/progress": Method(_SESSIONS, notification=True),
    "notifications/roots/list_changed": Method(_SESSIONS, notification=True),
    "notifications/cancelled": Method(_BOTH, notification=True),
}

VERSIONS: dict[str, Era] = {
    "2025-03-26": Era.SESSIONS,
    "2025-06-18": Era.SESSIONS,
    "2025-11-25": Era.SESSIONS,
    "2026-07-28": Era.STATELESS,
}
"""By the value of MCP-Protocol-Version. The revisions with sessions differ in nothing that is read here."""

SERVER_METHODS = frozenset(
    {
        "ping",
        "roots/list",
        "sampling/createMessage",
        "elicitation/create",
        "notifications/cancelled",
        "notifications/elicitation/complete",
        "notifications/message",
        "notifications/progress",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
    }
)
"""What a server may send of its own accord, or ask for in a result."""
