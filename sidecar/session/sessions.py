"""The sessions that live on this node: who each is, and how its processes are known."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pki.clock import Wall
from pki.errors import LocalError
from pki.keys import Key
from pki.spiffe import SpiffeId
from pki.verify import Identity
from sidecar.proxy.attribute import Candidate
from sidecar.session.cgroup import SessionCgroup, SessionCgroups


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one agent here. The key never leaves this process."""

    identity: Identity
    key: Key = field(repr=False)
    uid: int
    started: Wall
    trace: str
    """Its traceparent: the streams of a session are spans of one trace."""
    cgroup: SessionCgroup | None = None

    @property
    def id(self) -> SpiffeId:
        return self.identity.id

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.id.session, self.uid, self.cgroup.id if self.cgroup else None)


class Sessions:
    """By session id. Memory only: a restart of the daemon ends them."""

    def __init__(self, cgroups: SessionCgroups | None = None) -> None:
        """``cgroups``: where sessions may get one of their own; None: all are known by their uid."""
        self.claimed: frozenset[int] = frozenset()
        """Ids of the session cgroups of this machine, of ended sessions and of another daemon's too."""
        self._cgroups = cgroups
        self._sessions: dict[str, Session] = {}
        self._left: list[SessionCgroup] = []
        """Of sessions that ended; each goes when the last process has left it."""

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Enter a new session, or the renewed one in place of the old."""
        self._sessions[session.id.session] = session

    def find(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def of_agent(self, agent: str) -> list[Candidate]:
        return [session.candidate for session in self if session.id.name == agent]

    def confine(self, session: Session, pid: int) -> Session:
        """Know the session by a cgroup of its own, which ``pid`` enters, where this daemon may make one."""
        cgroup = self._cgroups.create(session.id.session) if self._cgroups else None
        if cgroup is None:
            return session
        try:
            cgroup.enter(pid)
        except LocalError:
            cgroup.remove()
            return session
        confined = replace(session, cgroup=cgroup)
        self.add(confined)
        self.claimed |= {cgroup.id}
        return confined

    def remove(self, name: str) -> Session | None:
        """Take a session out. What it started may live on, in its cgroup, and reaches nothing."""
        session = self._sessions.pop(name, None)
        if session is not None and session.cgroup is not None:
            self._left.append(session.cgroup)
        return session

    def sweep(self) -> None:
        """As the daemon starts: remove what a killed one left, as far as it is empty.

        What is populated may be another daemon's: it is left alone, and reaches nothing here.
        """
        if self._cgroups is not None:
            self._left += self._cgroups.sweep(self._sessions)
            self.tidy()

    def tidy(self) -> None:
        """Remove the cgroups of ended sessions that are empty by now, and see which stand. Once a second."""
        self._left = [cgroup for cgroup in self._left if not cgroup.remove()]
        if self._cgroups is not None:
            self.claimed = frozenset(one.id for one in self._cgroups.standing())
