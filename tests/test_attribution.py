"""Who is taken for whom: real processes of several users race the look-up, and the kernel alone says who they are.

Each test of a race shows one line of docs/threat-model.md: refused, or what is said there. Thousands of callers at
once are in test_storm.py.
"""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.proxy.attribute import Attribution, Candidate, Refused, SocketOwner, attribute
from sidecar.proxy.callers import Callers
from sidecar.proxy.sockdiag import SockDiag
from sidecar.reasons import Reason
from sidecar.session.cgroup import SessionCgroup, SessionCgroups
from tests.actors import Actor
from tests.mesh import has, is_root
from tests.namespaces import inside, ip, network_namespace
from tests.nodes import another

AGENT, STRANGER = 64_001, 64_002
STORM = int(os.environ.get("LOCKGATE_STORM", "2000"))
SECONDS = 20.0
PR_SET_DUMPABLE, CLONE_NEWUSER = 4, 0x10000000

WRONG = Reason.WRONG_CALLER
NOBODY = Refused(WRONG, None)
AS_STRANGER = Refused(WRONG, STRANGER)
AS_ROOT = Refused(WRONG, 0)

pytestmark = pytest.mark.skipif(not is_root(), reason="only root can act as other users")


@dataclass
class Door:
    """Two listeners, and what the kernel says of who comes."""

    tcp: socket.socket
    unix: socket.socket
    callers: Callers

    def dial(self, kind: str) -> str:
        """A line for an actor: connect, as ``s``."""
        return f"s = {self.make(kind)}; {self.connect(kind)}"

    def make(self, kind: str) -> str:
        return {"tcp": "socket.socket()", "unix": "socket.socket(socket.AF_UNIX)"}[kind]

    def connect(self, kind: str) -> str:
        return f"s.connect({self.listener(kind).getsockname()!r})"

    def listener(self, kind: str) -> socket.socket:
        return {"tcp": self.tcp, "unix": self.unix}[kind]

    @contextmanager
    def accepted(self, kind: str) -> Iterator[socket.socket]:
        found, _ = self.listener(kind).accept()
        with found:
            yield found

    def judge(self, accepted: socket.socket) -> Attribution | Refused:
        """On a binding of AGENT's, whose one session is known by its uid."""
        return attribute(self.callers.caller_of(accepted), [Candidate("mine", AGENT, None)], AGENT)


@pytest.fixture
def door() -> Iterator[Door]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lg-")))
        folder.chmod(0o755)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(folder / "binding.sock"))
        (folder / "binding.sock").chmod(0o666)
        unix.listen()
        diag = SockDiag()
        stack.callback(diag.close)
        for listener in (tcp, unix):
            listener.settimeout(SECONDS)
        yield Door(tcp, unix, Callers(diag, SessionCgroups.of_machine().mount))


@pytest.fixture
def actor() -> Iterator[Actor]:
    with Actor() as actor:
        yield actor


def is_mine(found: Attribution | Refused) -> bool:
    return isinstance(found, Attribution) and (found.session, found.uid) == ("mine", AGENT)


KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])


# -- The caller changes


@KINDS
def test_a_caller_that_is_killed_before_the_look_up_is_nobody(kind: str, door: Door, actor: Actor) -> None:
    """Whoever had sent what lies in the socket is not there to be asked."""
    actor.becomes(AGENT).does(door.dial(kind), "s.sendall(b'do it')")
    with door.accepted(kind) as accepted:
        actor.ends()
        assert door.judge(accepted) == NOBODY


@KINDS
def test_another_uid_after_the_connection_changes_nothing(kind: str, door: Door, actor: Actor) -> None:
    """Root that connects and then becomes the agent is still root to us; nobody slips into a session that way."""
    actor.does(door.dial(kind)).becomes(AGENT)
    with door.accepted(kind) as accepted:
        assert door.judge(accepted) == AS_ROOT


@KINDS
def test_another_program_after_the_connection_is_the_same_caller(kind: str, door: Door, actor: Actor) -> None:
    """The session is of processes and what they become, not of programs."""
    actor.becomes(AGENT).does(door.dial(kind), "os.set_inheritable(s.fileno(), True)")
    actor.does("os.execv('/bin/sh', ['sh', '-c', 'echo done; cat'])")
    with door.accepted(kind) as accepted:
        assert is_mine(door.judge(accepted))


@pytest.mark.parametrize(("kind", "found"), [("tcp", AS_ROOT), ("unix", None)], ids=["tcp", "unix"])
def test_a_socket_that_root_made_and_the_agent_connected(
    kind: str, found: Refused | None, door: Door, actor: Actor
) -> None:
    """Over TCP its creator counts: refused. On a Unix socket who connects: the agent."""
    actor.does(f"s = {door.make(kind)}").becomes(AGENT).does(door.connect(kind))
    with door.accepted(kind) as accepted:
        judged = door.judge(accepted)
    assert judged == found if found else is_mine(judged)


@pytest.mark.parametrize(("kind", "found"), [("tcp", None), ("unix", AS_STRANGER)], ids=["tcp", "unix"])
def test_a_socket_that_the_agent_made_and_a_stranger_connected(
    kind: str, found: Refused | None, door: Door, actor: Actor
) -> None:
    """Over TCP its creator counts: who hands a socket out hands his session out (docs/threat-model.md)."""
    actor.does(f"os.seteuid({AGENT})", f"s = {door.make(kind)}", "os.seteuid(0)")
    actor.becomes(STRANGER).does(door.connect(kind))
    with door.accepted(kind) as accepted:
        judged = door.judge(accepted)
    assert judged == found if found else is_mine(judged)


# -- The connection changes hands


def pass_on(giver: Actor, taker: Actor, folder: Path) -> None:
    """By SCM_RIGHTS, with the giver's copy closed."""
    path = str(folder / "handing-over")
    taker.does(
        "l = socket.socket(socket.AF_UNIX)", f"l.bind({path!r})", f"os.chmod({path!r}, 0o666)", "l.listen()"
    )
    giver.does("g = socket.socket(socket.AF_UNIX)", f"g.connect({path!r})")
    giver.does("socket.send_fds(g, [b'x'], [s.fileno()])", "s.close()")
    taker.does("t, _ = l.accept()", "fds = socket.recv_fds(t, 1, 1)[1]")


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lg-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@KINDS
def test_a_connection_handed_to_the_agent_stays_the_strangers(kind: str, door: Door, folder: Path) -> None:
    """Nobody lends himself a session by finding a process of its user that takes a descriptor."""
    with Actor() as giver, Actor() as taker:
        giver.becomes(STRANGER).does(door.dial(kind))
        taker.becomes(AGENT)
        pass_on(giver, taker, folder)
        with door.accepted(kind) as accepted:
            assert door.judge(accepted) == AS_STRANGER


@KINDS
def test_a_connection_that_the_agent_hands_out_stays_the_agents(kind: str, door: Door, folder: Path) -> None:
    """As if it passed the bytes on itself (docs/threat-model.md)."""
    with Actor() as giver, Actor() as taker:
        giver.becomes(AGENT).does(door.dial(kind))
        taker.becomes(STRANGER)
        pass_on(giver, taker, folder)
        with door.accepted(kind) as accepted:
            assert is_mine(door.judge(accepted))


@pytest.mark.parametrize(("kind", "found"), [("tcp", None), ("unix", NOBODY)], ids=["tcp", "unix"])
def test_a_connection_whose_first_holder_is_gone(
    kind: str, found: Refused | None, door: Door, folder: Path
) -> None:
    """On a Unix socket the process that connected must be there to be asked; over TCP the socket itself is enough."""
    with Actor() as giver, Actor() as taker:
        giver.becomes(AGENT).does(door.dial(kind))
        taker.becomes(STRANGER)
        pass_on(giver, taker, folder)
        giver.ends()
        with door.accepted(kind) as accepted:
            judged = door.judge(accepted)
    assert judged == found if found else is_mine(judged)


# -- The port changes hands


def test_a_port_that_the_agent_takes_over_is_not_the_strangers_before_it(door: Door) -> None:
    """A stranger connects, sends, resets; the agent's next connection has the very same four numbers."""
    reuse = "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)"
    reset = "s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); s.close()"
    with Actor() as stranger, Actor() as agent:
        stranger.becomes(STRANGER).does("s = socket.socket()", reuse, "s.bind(('127.0.77.2', 0))")
        stranger.does(door.connect("tcp"), "s.sendall(b'do it')")
        with door.accepted("tcp") as first:
            tuple_of_both = first.getpeername()
            stranger.does(reset)
            agent.becomes(AGENT).does("s = socket.socket()", reuse, f"s.bind({tuple_of_both!r})")
            agent.does(door.connect("tcp"))
            with door.accepted("tcp") as second:
                assert second.getpeername() == tuple_of_both
                assert door.judge(first) == NOBODY
                assert is_mine(door.judge(second))


# -- Other namespaces


@KINDS
def test_root_of_a_user_namespace_is_who_made_it(kind: str, door: Door, actor: Actor) -> None:
    """Inside it is uid 0; to the kernel out here it is the agent's user all the same."""
    actor.does("libc = ctypes.CDLL(None)").becomes(AGENT)
    actor.does(f"assert libc.prctl({PR_SET_DUMPABLE}, 1, 0, 0, 0) == 0")
    actor.does(f"new = libc.unshare({CLONE_NEWUSER})")
    actor.does(f"new == 0 and open('/proc/self/uid_map', 'w').write('0 {AGENT} 1')")
    actor.does("assert new != 0 or os.getuid() == 0")
    actor.does(door.dial(kind))
    with door.accepted(kind) as accepted:
        assert is_mine(door.judge(accepted))


@pytest.mark.skipif(not has("ip", "nsenter"), reason="needs iproute2 and util-linux")
def test_a_tcp_caller_from_another_network_namespace_is_nobody() -> None:
    """Its socket is not in the sidecar's kernel table: were a binding ever forwarded to, its user would not do."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(network_namespace(end)) for end in ("a", "b"))
        ip(f"-n {here} link add end type veth peer name end netns {there}")
        for name, address in ((here, "10.77.0.1/30"), (there, "10.77.0.2/30")):
            ip(f"-n {name} addr add {address} dev end")
            ip(f"-n {name} link set end up")
        with inside(here):
            listener = stack.enter_context(socket.create_server(("10.77.0.1", 0)))
            diag = SockDiag()
        stack.callback(diag.close)
        listener.settimeout(SECONDS)
        for name, found in ((there, False), (here, True)):
            with Actor("nsenter", f"--net=/run/netns/{name}") as actor:
                actor.becomes(AGENT).does("s = socket.socket()", f"s.connect({listener.getsockname()!r})")
                accepted, _ = listener.accept()
                with accepted:
                    assert (diag.caller_of(accepted) is not None) is found


# -- The cgroup


@pytest.fixture
def cgroups() -> Iterator[list[SessionCgroup]]:
    """Three of sessions; they are empty in the end."""
    made = [SessionCgroups.of_machine().create(another(number)) for number in (1, 2, 3)]
    found = [one for one in made if one is not None]
    if len(found) < len(made):
        pytest.skip("no cgroup v2 that may be written")
    yield found
    for one in found:
        assert one.remove(), one


def in_cgroup(number: int, owner: SocketOwner | None, cgroups: list[SessionCgroup]) -> bool:
    return owner is not None and owner.cgroup_id == cgroups[number].id


@pytest.mark.parametrize(("kind", "counts"), [("tcp", 0), ("unix", 1)], ids=["tcp", "unix"])
def test_a_caller_that_root_moves_to_another_cgroup(
    kind: str, counts: int, door: Door, cgroups: list[SessionCgroup]
) -> None:
    """Over TCP the cgroup in which the socket was made counts, on a Unix socket the one its process is in now."""
    with Actor() as actor:
        cgroups[0].enter(actor.process.pid)
        actor.becomes(AGENT).does(door.dial(kind))
        cgroups[1].enter(actor.process.pid)
        with door.accepted(kind) as accepted:
            assert in_cgroup(counts, door.callers.caller_of(accepted), cgroups)


def test_an_agent_cannot_move_itself(cgroups: list[SessionCgroup]) -> None:
    """Neither into another session's cgroup nor out of its own."""
    with Actor() as actor:
        cgroups[0].enter(actor.process.pid)
        actor.becomes(AGENT)
        for path in (cgroups[1].path, cgroups[0].path.parent, cgroups[0].path.parent.parent):
            actor.does(f"assert not os.access({str(path / 'cgroup.procs')!r}, os.W_OK)")
