"""Programs are real processes, which a test starts and ends; what the kernel says of their connection is the test's."""

import errno
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing
from spiffe._proto import workload_pb2

from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.statement import Revocation, Target
from pki.verify import Identity
from sidecar.certify import CaAccess
from sidecar.peercred import PeerCred
from sidecar.proxy.attribute import ESTABLISHED, SocketOwner
from sidecar.workload.api import SECURITY_HEADER, SERVICE, Program, WorkloadApi
from sidecar.workload.grpc import GrpcError, Status
from tests.authority import NOW
from tests.sidecar.ca.world import POLICY
from tests.sidecar.control.world import Here, Station, station, with_policy
from tests.statements import Mint

UID = 1001
SVID, BUNDLES = f"{SERVICE}FetchX509SVID", f"{SERVICE}FetchX509Bundles"
TWO_AGENTS = POLICY + '[agents.writer]\nnodes = ["agents-1"]\nuid = 1001\n'


class Connection(Here):
    """Of a kernel before Linux 6.5, which tells no pidfd."""

    def getsockname(self) -> str:
        return ""

    def getpeername(self) -> str:
        return ""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:  # noqa: ARG002 - the seam's
        raise OSError(errno.ENOPROTOOPT, "not here")


@dataclass
class FakeCall:
    """What the program was sent."""

    headers: dict[str, str] = field(default_factory=lambda: {SECURITY_HEADER: "true"})
    sent: list[bytes] = field(default_factory=list)

    async def send(self, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    @property
    def ids(self) -> list[str]:
        answers = [workload_pb2.X509SVIDResponse.FromString(one) for one in self.sent]
        return [svid.spiffe_id for answer in answers for svid in answer.svids]


@pytest.fixture
async def node(tmp_path: Path) -> Station:
    node = station(tmp_path, Mint())
    await with_policy(node, POLICY)
    return node


@pytest.fixture
async def api(node: Station) -> AsyncIterator[WorkloadApi]:
    async with trio.open_nursery() as tasks:
        yield WorkloadApi(node, tasks)
        tasks.cancel_scope.cancel()


@contextmanager
def waiting() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        yield one
        one.kill()


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """A program that waits."""
    with waiting() as one:
        yield one


def program(pid: int, uid: int = UID, cgroup: int | None = None) -> Program:
    return Program(Connection(SocketOwner(ESTABLISHED, uid, 1, cgroup)), PeerCred(pid, uid, uid))


async def asks(api: WorkloadApi, one: Program, path: str = SVID, call: FakeCall | None = None) -> FakeCall:
    """A call that is given up once it was answered."""
    call = call or FakeCall()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(api.methods(one)[path], call)
        while not call.sent:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return call


async def refusal(
    api: WorkloadApi, one: Program, path: str = SVID, call: FakeCall | None = None
) -> GrpcError:
    with pytest.RaisesGroup(GrpcError) as refused:
        await asks(api, one, path, call)
    error = refused.value.exceptions[0]
    assert isinstance(error, GrpcError)
    return error


async def test_one_process_is_one_session(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """Whatever it asks again; its key has left the daemon, and the session says so."""
    first = await asks(api, program(process.pid))
    assert (await asks(api, program(process.pid))).ids == first.ids
    assert [(str(one.id), one.exported) for one in node.sessions] == [(first.ids[0], True)]


async def test_the_identity_comes_whole(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """Chain, key and trust anchors, as the specification wants them."""
    call = await asks(api, program(process.pid))
    answer = workload_pb2.X509SVIDResponse.FromString(call.sent[0]).svids[0]
    (session,) = node.sessions
    assert answer.x509_svid == b"".join(session.identity.chain)
    assert answer.bundle == b"".join(node.member.bundle.roots)


async def test_bundles_need_an_agents_user_but_no_session(api: WorkloadApi, node: Station) -> None:
    """Under the trust domain's own SPIFFE ID."""
    call = await asks(api, program(1), BUNDLES)
    bundles = workload_pb2.X509BundlesResponse.FromString(call.sent[0]).bundles
    assert dict(bundles) == {"spiffe://example.org": b"".join(node.member.bundle.roots)}
    assert list(node.sessions) == []
    assert (await refusal(api, program(1, uid=1002), BUNDLES)).status is Status.PERMISSION_DENIED


async def test_the_session_ends_with_its_process(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """However it dies. An open call then ends, too."""
    call = FakeCall()
    with pytest.RaisesGroup(GrpcError) as ended:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.methods(program(process.pid))[SVID], call)
            while not call.sent:
                await trio.lowlevel.checkpoint()
            process.kill()
    error = ended.value.exceptions[0]
    assert isinstance(error, GrpcError)
    assert error.status is Status.UNAVAILABLE
    assert list(node.sessions) == []


async def test_a_process_that_changed_its_user_is_another(
    api: WorkloadApi, process: "subprocess.Popen[bytes]"
) -> None:
    """The agent that it was keeps its identity to itself."""
    await asks(api, program(process.pid))
    assert (await refusal(api, program(process.pid, uid=1002))).status is Status.PERMISSION_DENIED


async def test_a_call_without_the_security_header_is_refused(api: WorkloadApi) -> None:
    """A browser that was talked into a request cannot set it."""
    for path in (SVID, BUNDLES):
        assert (await refusal(api, program(1), path, FakeCall({}))).status is Status.INVALID_ARGUMENT


async def test_a_user_of_two_agents_gets_none(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """The request names nobody, and a guess could be the wrong one."""
    await with_policy(node, TWO_AGENTS, 2)
    error = await refusal(api, program(process.pid))
    assert (error.status, str(error)) == (
        Status.PERMISSION_DENIED,
        "more than one agent of this node runs as uid 1001",
    )


async def test_what_is_left_of_a_session_gets_no_other(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """A revoked session would live on; so would a child with all its parent's rights."""
    node.sessions.claimed = frozenset({77})
    error = await refusal(api, program(process.pid, cgroup=77))
    assert error.status is Status.PERMISSION_DENIED
    assert "what is left of one" in str(error)


async def test_a_revoked_program_gets_no_other(
    api: WorkloadApi,
    node: Station,
    process: "subprocess.Popen[bytes]",
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Asking again would be all it takes to live on. Its open call ends, and so it is for as long as it lives."""
    call = FakeCall()
    with pytest.RaisesGroup(GrpcError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.methods(program(process.pid))[SVID], call)
            while not call.sent:
                await trio.lowlevel.checkpoint()
            (session,) = node.sessions
            body = Revocation(target=Target(kind="session", value=session.name))
            said = node.mint.says("revocation", body, NOW)
            assert await node.member.take([said.raw], None) == []
    error = await refusal(api, program(process.pid))
    assert (error.status, "was ended" in str(error)) == (Status.PERMISSION_DENIED, True)


async def test_a_program_that_became_a_child_gets_no_key_of_its_parent(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """It is asked each time where it runs, not only when its session starts."""
    await asks(api, program(process.pid))
    node.sessions.claimed = frozenset({77})
    assert (await refusal(api, program(process.pid, cgroup=77))).status is Status.PERMISSION_DENIED


async def test_a_slow_answer_of_the_ca_holds_up_nobody_else(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """One user could else keep all others of the machine waiting; calls of one process wait for each other."""
    calls, slow = node.certify, []

    async def hangs(wanted: SpiffeId, id_token: str, ca: CaAccess) -> tuple[Identity, Key]:
        slow.append(wanted)
        if len(slow) == 1:
            await trio.sleep_forever()
        return await calls(wanted, id_token, ca)

    node.life.certify = hangs
    with waiting() as other:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(api.methods(program(process.pid))[SVID], FakeCall())
            await trio.testing.wait_all_tasks_blocked()
            assert (await asks(api, program(other.pid))).ids
            assert len(slow) == 2
            nursery.cancel_scope.cancel()


async def test_a_process_that_is_gone_gets_nothing(api: WorkloadApi) -> None:
    """Nobody could end its session; a number of 0 is a process of another pid namespace."""
    gone = await trio.run_process(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_stdout=True
    )
    for pid in (int(gone.stdout), 0):
        assert (await refusal(api, program(pid))).status is Status.PERMISSION_DENIED


async def test_with_the_ca_away_a_program_may_try_again(
    api: WorkloadApi, node: Station, process: "subprocess.Popen[bytes]"
) -> None:
    """UNAVAILABLE is what clients of the Workload API retry on."""
    node.down = True
    assert (await refusal(api, program(process.pid))).status is Status.UNAVAILABLE
