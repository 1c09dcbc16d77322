import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from sidecar.bindings import RETRY_SECONDS, Bindings
from sidecar.policy.load import load_policy
from sidecar.policy.model import Binding, Callers, Policy


class Door:
    """Serves connections as told, and remembers them."""

    def __init__(self) -> None:
        self.served: list[tuple[str, trio.SocketStream]] = []
        self.error: Exception | None = None

    async def serve(self, client: trio.SocketStream, binding: Binding) -> None:
        self.served.append((binding.agent, client))
        if self.error is not None:
            raise self.error
        async for data in client:
            await client.send_all(data)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def bindings(door: Door, nursery: trio.Nursery) -> AsyncIterator[Bindings]:
    made = Bindings("agents-1", door.serve)
    await nursery.start(made.run)
    yield made
    await made.follow(None)


@pytest.fixture
def port() -> int:
    """One that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def policy(
    *listens: int | str, agents: tuple[str, ...] = ("alpha",), node: str = "agents-1", callers: str = "kernel"
) -> Policy:
    """A binding for each of ``listens``, of the agents in turn."""
    parts = ['[services.wiki]\nsegment = "retrieval"\nnodes = ["tools-1"]\ntarget = "127.0.0.1:8001"\n']
    parts += [f'[agents.{name}]\nnodes = ["{node}"]\nuid = {1000 + ord(name[0])}\n' for name in agents]
    for number, listen in enumerate(listens):
        where = f'"{listen}"' if isinstance(listen, str) else listen
        agent = agents[number % len(agents)]
        parts.append(
            f'[[bindings]]\nagent = "{agent}"\nservice = "wiki"\nlisten = {where}\ncallers = "{callers}"\n'
        )
    return load_policy("".join(parts).encode(), "policy.toml")


async def echo(port: int, host: str = "127.0.0.1") -> bytes:
    async with await trio.open_tcp_stream(host, port) as client:
        await client.send_all(b"ping")
        return bytes(await client.receive_some())


async def test_a_binding_of_the_policy_is_open_when_the_policy_is_in_force(
    bindings: Bindings, port: int
) -> None:
    """Following returns once each entrance was tried: whoever applies a policy can connect."""
    await bindings.follow(policy(port))
    assert await echo(port) == b"ping"
    assert [entrance.problem for entrance in bindings.entrances] == [""]


async def test_both_loopback_addresses_are_served(bindings: Bindings, port: int) -> None:
    """Clients that dial `localhost` may come either way."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    await bindings.follow(policy(port))
    assert await echo(port, "::1") == b"ping"


async def test_bindings_of_other_nodes_are_not_ours(bindings: Bindings, port: int) -> None:
    """The policy names every node's bindings."""
    await bindings.follow(policy(port, node="agents-2"))
    assert bindings.entrances == []


async def test_a_unix_socket_can_be_a_binding(bindings: Bindings, tmp_path: Path) -> None:
    """It comes and goes with the policy."""
    path = tmp_path / "wiki.sock"
    await bindings.follow(policy(f"unix:{path}"))
    async with await trio.open_unix_socket(str(path)) as client:
        await client.send_all(b"ping")
        assert await client.receive_some() == b"ping"
    await bindings.follow(None)
    assert not path.exists()


async def test_a_dropped_binding_refuses_and_its_streams_go_on(bindings: Bindings, port: int) -> None:
    """Grants decide over streams, entrances over who comes in."""
    await bindings.follow(policy(port))
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(b"one")
        assert await client.receive_some() == b"one"
        await bindings.follow(None)
        with pytest.raises(OSError, match="connect"):
            await echo(port)
        await client.send_all(b"two")
        assert await client.receive_some() == b"two"


async def test_a_taken_port_is_named_and_retried(
    bindings: Bindings, port: int, autojump_clock: MockClock
) -> None:
    """One bad binding stops nothing: its problem is in the status, and it opens when it can."""
    with socket.create_server(("127.0.0.1", port)), capture_logs() as logs:
        await bindings.follow(policy(port))
        [entrance] = bindings.entrances
        assert str(port) in entrance.problem
        await trio.sleep(3 * RETRY_SECONDS)
        assert len(logs) == 1, "the same problem is said once"
    await trio.sleep(RETRY_SECONDS + 0.1)
    assert entrance.problem == ""
    assert await echo(port) == b"ping"


async def test_a_squatter_on_ipv6_loopback_is_a_problem(bindings: Bindings, port: int) -> None:
    """Half of those who dial `localhost` would reach the stranger: better nobody reaches us."""
    try:
        squatter = socket.create_server(("::1", port), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 loopback on this machine")
    with squatter, capture_logs():
        await bindings.follow(policy(port))
        assert "in use" in bindings.entrances[0].problem
        with pytest.raises(OSError, match="connect"):
            await echo(port)


async def test_a_port_may_move_to_another_agent_in_one_policy(
    bindings: Bindings, port: int, door: Door
) -> None:
    """The old entrance is closed before the new one opens, so that it never finds its own port taken."""
    await bindings.follow(policy(port))
    for agent in ("beta", "alpha", "beta"):
        await bindings.follow(policy(port, agents=(agent,)))
        assert bindings.entrances[0].problem == ""
        assert await echo(port) == b"ping"
        assert door.served[-1][0] == agent


async def test_a_policy_that_asks_for_certificates_is_followed_at_once(
    bindings: Bindings, port: int, tmp_path: Path
) -> None:
    """An entrance stays where it is, and lets nobody in any more by the kernel's word alone."""
    for listen in (port, f"unix:{tmp_path / 'entrance'}"):
        await bindings.follow(policy(listen))
        await bindings.follow(policy(listen, callers="mtls"))
        [entrance] = bindings.entrances
        assert (entrance.binding.callers, entrance.problem) == (Callers.MTLS, "")


async def test_a_connection_that_fails_leaves_the_others(bindings: Bindings, port: int, door: Door) -> None:
    """Siblings share a nursery: a bug in one is logged, and its connection closed."""
    await bindings.follow(policy(port))
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(b"one")
        assert await client.receive_some() == b"one"
        door.error = ZeroDivisionError("a bug")
        with capture_logs() as logs:
            assert await echo_until_end(port) == b""
        assert [log["event"] for log in logs] == ["stream failed"]
        await client.send_all(b"two")
        assert await client.receive_some() == b"two"


async def echo_until_end(port: int) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        return b"".join([bytes(data) async for data in client])


async def test_entrances_wait_for_the_daemon(door: Door, port: int, nursery: trio.Nursery) -> None:
    """A policy that comes first is opened when serving begins, and following never hangs on it."""
    bindings = Bindings("agents-1", door.serve)
    await bindings.follow(policy(port))
    await nursery.start(bindings.run)
    await bindings.entrances[0].tried.wait()
    assert await echo(port) == b"ping"


async def test_a_policy_that_comes_during_the_end_does_not_hang_it(door: Door, port: int) -> None:
    """A shielded merge may still follow a policy while everything is being cancelled."""
    bindings = Bindings("agents-1", door.serve)
    async with trio.open_nursery() as nursery:
        await nursery.start(bindings.run)
        await bindings.follow(policy(port))
        nursery.cancel_scope.cancel()
        with trio.fail_after(5), trio.CancelScope(shield=True):
            await bindings.follow(policy(port, agents=("beta",)))
    with trio.fail_after(5):
        await bindings.follow(None)
