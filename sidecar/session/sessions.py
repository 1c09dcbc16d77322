"""The sessions that live on this node: who each is, and how its processes are known."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pki.clock import Wall
from pki.keys import Key
from pki.spiffe import SpiffeId
from pki.verify import Identity
from sidecar.proxy.attribute import Candidate
from sidecar.session.cgroup import SessionCgroup


@dataclass(frozen=True, slots=True)
class Session:
    """One run of one agent here. The key never leaves this process."""

    identity: Identity
    key: Key = field(repr=False)
    uid: int
    started: Wall
    cgroup: SessionCgroup | None = None

    @property
    def id(self) -> SpiffeId:
        return self.identity.id

    @property
    def candidate(self) -> Candidate:
        return Candidate(self.id.session, self.uid, self.cgroup.id if self.cgroup else None)


class Sessions:
    """By session id. Memory only: a restart of the daemon ends them."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: Session) -> None:
        """Enter a new session, or the renewed one in place of the old."""
        self._sessions[session.id.session] = session

    def find(self, name: str) -> Session | None:
        return self._sessions.get(name)

    def remove(self, name: str) -> Session | None:
        return self._sessions.pop(name, None)

    def of_agent(self, agent: str) -> list[Candidate]:
        return [session.candidate for session in self if session.id.name == agent]

    def claimed_cgroups(self) -> frozenset[int]:
        return frozenset(session.cgroup.id for session in self if session.cgroup)
