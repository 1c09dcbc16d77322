"""Why the streams and requests of an agent were refused, for the agent to ask. In memory, bounded. Pure.

A raw TCP client that is refused sees a reset and no word. What was written to the audit log about it is noted here
too, the newest of each session, so that its processes can ask `why`; the log itself is not theirs to read.

Rules:

1. A process in a session's cgroup sees what is noted of that session and its children; a process outside of all sees
   what is noted of its user. What belongs to no session (a caller that was not known) is for its user, inside or out.
   So an ended session's processes still learn why.
2. Nothing is noted that a refusal does not say anyway: reason, rule, hint.
3. The newest KEPT of each, for the OWNERS that were heard of last: a session that is refused in a loop pushes out its
   own refusals only.
"""

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from pki.clock import Wall
from sidecar.audit.record import Facts, Kind, Record, Role
from sidecar.reasons import Reason

KEPT = 16
OWNERS = 512
"""Together about 8 MB at worst: a hint is at most 400 characters."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refusal, or one stream that was cut. ``session`` is empty for a caller that was none."""

    at: Wall
    stream: str
    session: str
    service: str
    reason: str
    rule: str
    hint: str


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks. ``cgroup``: the session cgroup that it is in, None for a process outside of all.

    ``sessions``: the live ones that it may see anyway. ``is_root``: it sees what everybody may.
    """

    uid: int
    cgroup: int | None = None
    sessions: Collection[str] = ()
    is_root: bool = False


@dataclass(slots=True)
class _Kept:
    """Of one session or child, or of one uid's callers that were none."""

    session: str = ""
    parents: tuple[str, ...] = ()
    uid: int | None = None
    cgroup: int | None = None
    newest: deque[Refusal] = field(default_factory=lambda: deque(maxlen=KEPT))

    def is_for(self, viewer: Viewer) -> bool:
        if viewer.is_root or self.session in viewer.sessions:
            return True
        if viewer.cgroup is None or not self.session:
            return self.uid == viewer.uid
        return self.cgroup == viewer.cgroup


class RefusalRing:
    """The newest refusals on this node, by whom they concern."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def note(self, record: Record) -> None:
        """Keep what ``record`` says, if it says that an agent of this node was refused or cut."""
        if record.fields.get("role") not in (Role.AGENT, Role.BOTH):
            return
        known = self._kept_of(record.fields)
        if known is not None and record.kind in _REFUSALS:
            known.newest.append(_refusal(record))

    def seen_by(self, viewer: Viewer, session: str = "") -> list[Refusal]:
        """What ``viewer`` may see, of ``session`` alone where one is named, newest first."""
        own = {one.session for one in self._kept.values() if one.session and one.is_for(viewer)}
        own.update(viewer.sessions)
        found = [
            refusal
            for one in self._kept.values()
            if one.is_for(viewer) or not own.isdisjoint(one.parents)
            for refusal in one.newest
            if not session or refusal.session == session
        ]
        return sorted(found, key=lambda one: one.at, reverse=True)

    def _kept_of(self, fields: Facts) -> _Kept | None:
        """Where it belongs, with what the record tells of whose it is; None: it says neither session nor uid."""
        session, uid, cgroup = _text(fields, "session"), fields.get("uid"), None
        attribution, parents = fields.get("attribution"), fields.get("parents")
        if isinstance(attribution, dict):
            uid, cgroup = attribution.get("uid"), attribution.get("cgroup")
        if not session and not isinstance(uid, int):
            return None
        kept = self._kept.setdefault(session or f"uid {uid}", _Kept(session))
        self._kept.move_to_end(session or f"uid {uid}")
        if len(self._kept) > OWNERS:
            self._kept.popitem(last=False)
        kept.uid = uid if isinstance(uid, int) else kept.uid
        kept.cgroup = cgroup if isinstance(cgroup, int) else kept.cgroup
        kept.parents = tuple(map(str, parents)) if isinstance(parents, list) else kept.parents
        return kept


def remedy(refusal: Refusal) -> str:
    """What would let the agent through, and who can do it."""
    word = refusal.reason
    return REMEDIES[Reason(word)] if word in _WORDS else "look at the audit logs of both nodes"


REMEDIES = {
    Reason.LOCKED: "wait until the lock ends, or ask an operator to unlock",
    Reason.REVOKED: "start a new session, if you may; an operator can lift a revocation",
    Reason.EXPIRED: "the certificates renew themselves once the CA answers; else start a new session",
    Reason.MISBOUND: "ask an admin: the policy names the nodes of each agent and service, the roster the nodes",
    Reason.STALE: "wait until this mesh hears from its CA again; an operator sees since when it has not",
    Reason.NARROWED: "the parent session may: let it do this, or start a child that keeps the service, operation and time",
    Reason.DENIED: "only another policy: the rule is a deny, which no grant and no lease overrides",
    Reason.NO_GRANT: "a grant of the policy: ask an admin to add one for this agent and service",
    Reason.NO_SESSION: "run inside a live session: lockgate session exec --agent NAME -- COMMAND",
    Reason.AMBIGUOUS_SESSION: "give each run a cgroup of its own: lockgate session exec, instead of session start",
    Reason.WRONG_CALLER: "use the bindings of your own agent, from a process that runs as the agent's user",
    Reason.BAD_PROOF: "ask an admin to look at both nodes: their certificates or clocks do not agree",
    Reason.AUDIT_UNAVAILABLE: "ask an admin: a node cannot write its audit log, and this segment requires one",
    Reason.LIMIT: "close streams that you do not need, and try again later",
    Reason.PEER_UNREACHABLE: "try again: the tool's node did not answer",
    Reason.TARGET_UNREACHABLE: "try again: the tool itself did not answer its node",
    Reason.BAD_REQUEST: "send what the service's protocol allows; the hint says what was not understood",
    Reason.TOOL_DRIFT: "ask an admin to review the tool's new definition and pin it in the policy",
    Reason.LEASE_ENDED: "ask for a new lease",
    Reason.DRAINING: "try again in a moment: the node is restarting",
    Reason.IDLE: "open a new stream, and send something on it now and then",
    Reason.LIFETIME: "open a new stream",
}

_WORDS = frozenset(Reason)
_REFUSALS = (Kind.DENIED, Kind.CUT, Kind.SHED)


def _refusal(record: Record) -> Refusal:
    words = ("stream", "session", "service", "reason", "rule", "hint")
    return Refusal(record.at, *(_text(record.fields, word) for word in words))


def _text(fields: Facts, name: str) -> str:
    return str(fields.get(name, ""))
