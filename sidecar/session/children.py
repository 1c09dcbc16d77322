"""The life of child sessions: a process narrows what it and all that it starts may do, and cannot go back.

    process ── agent.sock ──> who calls?  its cgroup says which session or child it is
                              make        a step, not signed yet: its digest is the child's id
                              take in     the caller, by a handle on that very process, into a cgroup of the child's own

A child is told from its parent by its cgroup and by nothing else: they run as one user, so a uid says nothing, and
what the parent can read, so can the child. Where this daemon can make no cgroup there are no children. The step is signed when it is proven, by the key that the session has then.

A child ends with its time, with its session, with any child between, and when no process is in its cgroup any more.
Its end is said to no other node: no other can be asked for it, since only this one can prove it, and its streams are
cut here. A ``revoke session:CHILD`` of an operator does reach every node.
"""

from collections.abc import Container
from secrets import token_bytes

from pki.clock import Wall
from pki.errors import LocalError, RefusedError
from sidecar.audit import record
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.carry import Carrier
from sidecar.reasons import Reason
from sidecar.session import narrowing
from sidecar.session.cgroup import SessionCgroup
from sidecar.session.sessions import Child, Session, Sessions
from sidecar.session.starts import Starts
from sidecar.traceparent import SPAN_ENTROPY
from sidecar.traceparent import child as child_trace
from sidecar.wire import MAX_CHILD_DEPTH, MAX_NARROWING_BYTES

NONCE_BYTES = 16


class ChildLife:
    """Starts and ends the children of a node's sessions."""

    def __init__(self, sessions: Sessions, carrier: Carrier) -> None:
        self._sessions = sessions
        self._carrier = carrier
        self._starts = Starts()

    def start(self, parent: Session, left: Narrowing, pidfd: int) -> Session:
        """A child of ``parent`` (a session or child) with the rights in ``left``, which the process behind ``pidfd`` becomes.

        Raises RefusedError, or RemoteError for rights that the parent has not.
        """
        self._require_room(parent)
        steps = parent.child.steps if parent.child else ()
        body = narrowing.make(parent.name, left, token_bytes(NONCE_BYTES))
        if len(body) > MAX_NARROWING_BYTES:
            raise RefusedError(f"child: {len(body)} bytes of services and operations, name fewer")
        found = narrowing.read([*steps, body], parent.id.session)
        child = Child(
            session=parent.id.session,
            steps=(*steps, body),
            narrowing=found,
            started=self._carrier.clock.wall(),
            trace=child_trace(parent.trace, token_bytes(SPAN_ENTROPY)),
            cgroup=self._confine(found.children[-1], pidfd),
            agent=parent.id.name,
        )
        self._sessions.add_child(child)
        self._note("started", child, _facts(child, parent.uid))
        return parent.narrowed(child)

    def end(self, child: Child, why: str = "asked") -> None:
        """End a child and all below it, here and at once; their streams are cut."""
        for one in self._sessions.children:
            if one is not child and child.id not in one.parents:
                continue
            self._sessions.remove_child(one)
            self._note("ended", one, {"why": why})
        for live in list(self._carrier.table):
            left = live.request.narrowing
            if left is not None and child.id in left.children:
                live.cut(Reason.REVOKED, "session ended")

    def tidy(self, now: Wall) -> None:
        """End the children that time or their session's end leave nothing of. Once a second."""
        for child in self._sessions.children:
            if self._sessions.find(child.session) is None:
                self.end(child, "its session ended")
            elif now >= child.narrowing.not_after:
                self.end(child, "its time is over")

    def end_empty(self, empty: Container[str]) -> None:
        """End those among ``empty``: their last process was seen to be gone."""
        for child in self._sessions.children:
            if child.id in empty:
                self.end(child, "its last process is gone")

    def _require_room(self, parent: Session) -> None:
        if len(parent.parents) >= MAX_CHILD_DEPTH:
            raise RefusedError(f"child: {MAX_CHILD_DEPTH} below a session, and no deeper")
        live = sum(one.child is not None and one.uid == parent.uid for one in self._sessions.everyone())
        if refused := self._starts.begin(parent.uid, live, self._carrier.clock.boot()):
            raise RefusedError(f"child: {refused}")
        self._starts.finish(parent.uid)

    def _confine(self, name: str, pidfd: int) -> SessionCgroup:
        """The child's own cgroup with the process in it; raises RefusedError."""
        cgroup = self._sessions.prepare(name)
        if cgroup is None:
            raise RefusedError(
                "child: this node can give it no cgroup, and would not know it from its parent;"
                " the daemon has to run as root, on a machine with cgroup v2"
            )
        try:
            self._sessions.take_in(cgroup, pidfd)
        except LocalError as error:
            raise RefusedError(f"child: {error}") from None
        return cgroup

    def _note(self, what: str, child: Child, facts: record.Facts) -> None:
        now = self._carrier.clock.wall()
        known: record.Facts = {"parents": list[record.Value](child.parents), **facts}
        self._carrier.audit.append(record.session(now, what, child.id, child.agent, known))


def _facts(child: Child, uid: int) -> record.Facts:
    left = child.narrowing
    return {
        "uid": uid,
        "services": list[record.Value](sorted(left.services)),
        "operations": None if left.operations is None else list[record.Value](left.operations),
        "not_after": left.not_after,
        "trace": child.trace,
    }
