"""The sessions that live on this node: who each is, and how its processes are known."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pki.clock import Boot, Wall
from pki.errors import LocalError
from pki.keys import Key
from pki.spiffe import SpiffeId
from pki.verify import Identity
from sidecar.policy.narrowing import Narrowing
from sidecar.proxy.attribute import Candidate
from sidecar.session.cgroup import SessionCgroup, SessionCgroups


@dataclass(frozen=True, slots=True)
class Child:
    """What makes a child of its session: the steps that narrow it, each a body of :mod:`sidecar.session.narrowing`."""

    session: str
    """The id of the certified session at the top, whose key signs."""
    steps: tuple[bytes, ...]
    narrowing: Narrowing
    started: Wall
    trace: str
    cgroup: SessionCgroup
    agent: str = ""

    @property
    def id(self) -> str:
        return self.narrowing.children[-1]

    @property
    def parents(self) -> tuple[str, ...]:
        """The ids above it, the certified session's first, its direct parent's last."""
        return (self.session, *self.narrowing.children[:-1])

    def candidate(self, uid: int) -> Candidate:
        return Candidate(self.id, uid, self.cgroup.id)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one agent here, or a child of one.

    The key is in this process's memory and on no disk, and leaves it only where the session was started for export. When
    the last reference to it goes (a renewal, the end of the session and of its streams), OpenSSL wipes the scalar.
    No copy of it as bytes is made but for the export: Python can wipe those no more than any other of its bytes.
    """

    identity: Identity
    key: Key = field(repr=False)
    uid: int
    started: Wall
    trace: str
    """Its traceparent: the streams of a session are spans of one trace."""
    cgroup: SessionCgroup | None = None
    child: Child | None = None
    """Set on a child: identity and key are then those of the session that it is a child of."""
    exported: bool = False
    """Whether its holder has the key, too."""

    @property
    def id(self) -> SpiffeId:
        return self.identity.id

    @property
    def on_behalf_of(self) -> str:
        """The user whom this run is for, by the CA's word; empty: nobody's."""
        return self.identity.on_behalf_of

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.name, self.uid, self.cgroup.id if self.cgroup else None)

    @property
    def name(self) -> str:
        """The id that it is known by: the child's, or that in the certificate."""
        return self.child.id if self.child else self.id.session

    @property
    def parents(self) -> tuple[str, ...]:
        return self.child.parents if self.child else ()

    @property
    def narrowing(self) -> Narrowing | None:
        """What a child has left; None: all that the policy gives."""
        return self.child.narrowing if self.child else None

    def narrowed(self, child: Child | None) -> "Session":
        """The same as ``child``, which is one of its own; itself for None."""
        if child is None:
            return self
        return replace(self, child=child, started=child.started, trace=child.trace, cgroup=child.cgroup)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of the cgroups at a time."""

    before: frozenset[int]
    """Those that were claimed then."""
    standing: frozenset[int] | None
    """Ids of all that stand; None: that could not be told."""
    gone: tuple[SessionCgroup, ...]
    empty: frozenset[str]
    """Sessions and children that are known by their cgroup, with no process in it any more."""


class Sessions:
    """By session id. Memory only: a restart of the daemon ends them."""

    def __init__(self, cgroups: SessionCgroups | None = None) -> None:
        """``cgroups``: where sessions may get one of their own; None: all are known by their uid."""
        self.claimed: frozenset[int] = frozenset()
        """Ids of the session cgroups of this machine, of ended sessions and of another daemon's too."""
        self._cgroups = cgroups
        self._sessions: dict[str, Session] = {}
        self._children: dict[str, Child] = {}
        self._left: list[SessionCgroup] = []
        """Of sessions that ended; each goes when the last process has left it."""
        self._orphans: list[SessionCgroup] = []
        """Of sessions that no daemon knows any more, with processes in them still."""
        self._used: dict[str, Boot] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Enter a new session, or the renewed one in place of the old."""
        self._sessions[session.id.session] = session

    def find(self, name: str) -> Session | None:
        """The session or child of this id. A child whose session has ended is gone with it."""
        child = self._children.get(name)
        session = self._sessions.get(child.session if child else name)
        return session and session.narrowed(child)

    def everyone(self) -> list[Session]:
        """The sessions, and the children of those."""
        return [*self, *(session.narrowed(child) for child, session in self._living())]

    def of_agent(self, agent: str) -> list[Candidate]:
        return [
            *(session.candidate for session in self if session.id.name == agent),
            *(child.candidate(session.uid) for child, session in self._living() if session.id.name == agent),
        ]

    def used(self, name: str, now: Boot) -> None:
        """A stream of this certified session was asked for."""
        self._used[name] = now

    def last_used(self, name: str) -> Boot | None:
        return self._used.get(name)

    def is_empty(self, session: Session) -> bool:
        """Whether it is known by its cgroup, and no process is in that or in one of its children's, as far as can be told."""
        if session.cgroup is None:
            return False
        own = [child.cgroup for child in self.children if child.session == session.id.session]
        try:
            return not any(cgroup.populated() for cgroup in (session.cgroup, *own))
        except LocalError:
            return False

    def adopt(self, name: str) -> SessionCgroup | None:
        """The cgroup that root made for a session of this name; None when there is none."""
        cgroup = self._cgroups.find(name) if self._cgroups else None
        if cgroup is not None:
            self.claimed |= {cgroup.id}
        return cgroup

    def confine(self, name: str, pidfd: int) -> SessionCgroup | None:
        """A cgroup for a session of this name, with the process of ``pidfd`` in it; None where there can be none.

        Raises LocalError when that process does not get in: it is gone.
        """
        cgroup = self.prepare(name)
        if cgroup is not None:
            self.take_in(cgroup, pidfd)
        return cgroup

    def take_in(self, cgroup: SessionCgroup, pidfd: int) -> None:
        """Move a process into one that was made for it; raises LocalError, and then that cgroup is nobody's.

        Whoever is in it stays there and is nobody, too: put out, a child's processes would be rid of their session by
        asking for a grandchild and dying at the right moment.
        """
        try:
            cgroup.take_in(pidfd)
        except LocalError:
            if not cgroup.remove():
                self._left.append(cgroup)
            raise

    def remove(self, name: str) -> Session | None:
        """Take a session out. What it started may live on, in its cgroup, and reaches nothing."""
        session = self._sessions.pop(name, None)
        self._used.pop(name, None)
        if session is not None and session.cgroup is not None:
            self._left.append(session.cgroup)
        return session

    @property
    def children(self) -> list[Child]:
        """All that were entered and not taken out, of ended sessions too."""
        return list(self._children.values())

    def prepare(self, name: str) -> SessionCgroup | None:
        """A cgroup for the session or child that is to be ``name``; None where this daemon can make none."""
        cgroup = self._cgroups.create(name) if self._cgroups else None
        if cgroup is not None:
            self.claimed |= {cgroup.id}
        return cgroup

    def add_child(self, child: Child) -> None:
        self._children[child.id] = child

    def remove_child(self, child: Child) -> None:
        """Take a child out. What runs in its cgroup lives on and reaches nothing."""
        if self._children.pop(child.id, None):
            self._left.append(child.cgroup)

    def sweep(self) -> None:
        """As the daemon starts: remove what a killed one left. Processes that still run there reach nothing."""
        if self._cgroups is not None:
            self._orphans = self._cgroups.sweep(self._sessions)
            self.settle(self.look())

    @property
    def orphans(self) -> dict[str, int]:
        """Sessions that a killed daemon left with processes still running: how many each."""
        return {one.session: len(one.members()) for one in self._orphans}

    def look(self) -> Look:
        """Remove the cgroups of ended sessions that are empty by now, and see which stand and which are empty.

        Reads and removes a file or more for each session: not on the event loop, which goes on with this table meanwhile.
        """
        before = self.claimed
        gone = [one for one in (*self._left, *self._orphans) if one.remove()]
        everyone = self.everyone()
        empty = frozenset(one.name for one in everyone if one.child is None and self.is_empty(one))
        left = frozenset(one.name for one in everyone if one.child is not None and _is_left(one))
        standing: frozenset[int] | None = before
        if self._cgroups is not None:
            try:
                standing = frozenset(one.id for one in self._cgroups.standing())
            except OSError:  # Out of descriptors: what was claimed stays claimed.
                standing = None
        return Look(before, standing, tuple(gone), empty | left)

    def settle(self, seen: Look) -> None:
        """Take up what :meth:`look` saw. A cgroup that was made since then counts as well."""
        self._left = [one for one in self._left if one not in seen.gone]
        self._orphans = [one for one in self._orphans if one not in seen.gone]
        if seen.standing is not None:
            self.claimed = seen.standing | (self.claimed - seen.before)

    def _living(self) -> Iterator[tuple[Child, Session]]:
        """The children whose session lives, with it."""
        for child in self.children:
            if session := self._sessions.get(child.session):
                yield child, session


def _is_left(child: Session) -> bool:
    """Whether the last process of a child is gone, as far as can be told."""
    try:
        return child.cgroup is not None and not child.cgroup.populated()
    except LocalError:
        return False
