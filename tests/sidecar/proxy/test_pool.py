from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from pki.clock import HOUR
from pki.errors import LockgateError, UnreachableError
from sidecar.proxy.pool import DIALS, MAX_BYTES, MAX_IDLE, MAX_STREAMS, SPARE, Pool, Pooled
from tests.nodes import InnerMesh, inner_mesh


@pytest.fixture
async def mesh() -> AsyncIterator[InnerMesh]:
    async with inner_mesh() as mesh:
        yield mesh


@pytest.fixture
def pool(mesh: InnerMesh) -> Pool:
    return mesh.agents.pool


async def take(mesh: InnerMesh) -> Pooled:
    return await mesh.agents.pool.take(mesh.tools.id, [mesh.tools.address])


async def test_what_was_given_back_is_taken_again(mesh: InnerMesh, pool: Pool) -> None:
    """No second handshake for a second stream."""
    first = await take(mesh)
    first.ordinal = 1
    await pool.release(first)
    assert await take(mesh) is first
    assert (pool.dialled, pool.reused) == (1, 1)


async def test_a_connection_in_use_is_nobody_elses(mesh: InnerMesh, pool: Pool) -> None:
    """One stream at a time: a second taker gets another."""
    first, second = await take(mesh), await take(mesh)
    assert first is not second
    assert pool.dialled == 2


def spend(how: str, mesh: InnerMesh, pooled: Pooled) -> None:
    match how:
        case "streams":
            pooled.ordinal = MAX_STREAMS
        case "bytes":
            pooled.carried = MAX_BYTES
        case "age":
            mesh.clock.ahead = HOUR
        case "renewal":
            pooled.made_of = ()
        case "revocation":
            mesh.agents.scene.revoke("node", "tools-1")
        case _:
            mesh.agents.scene.nodes = ("agents-1",)


@pytest.mark.parametrize("how", ["streams", "bytes", "age", "renewal", "revocation", "roster"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_that_is_spent_carries_no_other_stream(
    how: str, when: str, mesh: InnerMesh, pool: Pool
) -> None:
    """Too many streams or bytes, too old, of an old certificate, of a node that is no member: closed when it is seen."""
    pooled = await take(mesh)
    if when == "before":
        spend(how, mesh, pooled)
        await pool.release(pooled)
        assert pool.idle("tools-1") == 0
    else:
        await pool.release(pooled)
        spend(how, mesh, pooled)
        mesh.tools.down = True
        with pytest.raises(UnreachableError):
            await take(mesh)
    with pytest.raises(trio.ClosedResourceError):
        await pooled.connection.frames.receive()


async def test_a_connection_that_its_peer_left_is_not_taken(mesh: InnerMesh, pool: Pool) -> None:
    """The kernel knows before anybody reads."""
    pooled = await take(mesh)
    await pool.release(pooled)
    await trio.testing.wait_all_tasks_blocked(0.001)
    await mesh.tools.connections[0].aclose()
    assert await take(mesh) is not pooled


async def test_bytes_that_nobody_asked_for_retire_a_connection(mesh: InnerMesh, pool: Pool) -> None:
    """A peer that speaks between streams would be heard in the next one."""
    pooled = await take(mesh)
    await trio.testing.wait_all_tasks_blocked(0.001)
    await mesh.tools.connections[0].tls.transport.send_all(b"boo")
    await pool.release(pooled)
    assert pool.idle("tools-1") == 0


async def test_only_so_many_wait(mesh: InnerMesh, pool: Pool) -> None:
    """Beyond the limit a connection that comes back is closed."""
    pooled = await take(mesh)
    pool._idle["tools-1"] = [pooled] * MAX_IDLE
    surplus = await pool.dial(mesh.tools.id, [mesh.tools.address])
    await pool.release(surplus)
    assert pool.idle("tools-1") == MAX_IDLE
    assert not surplus.has_waited


async def test_warming_makes_spare_connections_once(mesh: InnerMesh, pool: Pool) -> None:
    """Made before they are needed, no more than needed, by one warmer at a time."""
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pool.warm, mesh.tools.id, [mesh.tools.address])
    assert (pool.idle("tools-1"), pool.dialled) == (SPARE, SPARE)
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    assert pool.dialled == SPARE
    assert (await take(mesh)).has_waited


async def test_a_connection_that_carried_streams_goes_before_a_warmed_one(
    mesh: InnerMesh, pool: Pool
) -> None:
    """It has proven its sessions already."""
    used = await take(mesh)
    await pool.release(used)
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    assert pool.idle("tools-1") == SPARE
    assert await take(mesh) is used


async def test_warming_replaces_what_is_spent(mesh: InnerMesh, pool: Pool) -> None:
    """Idle connections are looked at without a stream, too."""
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    mesh.clock.ahead += HOUR
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    assert (pool.idle("tools-1"), pool.dialled) == (SPARE, 2 * SPARE)


async def test_a_peer_that_cannot_be_warmed_is_no_trouble(mesh: InnerMesh, pool: Pool) -> None:
    """It is only preparation; the next try is a second away."""
    mesh.tools.down = True
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    mesh.tools.down = False
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    assert pool.idle("tools-1") == SPARE


async def test_idle_connections_to_strangers_are_closed(mesh: InnerMesh, pool: Pool) -> None:
    """A revoked node keeps nothing of ours open; the others keep theirs."""
    other = mesh.nodes["tools-2"]
    await pool.warm(mesh.tools.id, [mesh.tools.address])
    await pool.warm(other.id, [other.address])
    mesh.agents.scene.revoke("node", "tools-1")
    await pool.drop_strangers()
    assert (pool.idle("tools-1"), pool.idle("tools-2")) == (0, SPARE)


async def test_an_impostor_is_not_pooled(mesh: InnerMesh, pool: Pool) -> None:
    """Connections belong to the verified peer, not to the address that answered."""
    other = mesh.nodes["tools-2"]
    with pytest.raises(LockgateError, match="answers, not"):
        await pool.take(mesh.tools.id, [other.address])


async def test_each_address_is_tried(mesh: InnerMesh, pool: Pool) -> None:
    """A node may have several; the first that answers as itself is it."""
    other = mesh.nodes["tools-2"]
    other.down = True
    assert (await pool.dial(mesh.tools.id, [other.address, mesh.tools.address])).peer == "tools-1"


async def test_a_node_without_addresses_says_so(mesh: InnerMesh, pool: Pool) -> None:
    """It dials, and is not dialled."""
    with pytest.raises(UnreachableError, match="no address"):
        await pool.take(mesh.tools.id, [])


class Doorstep:
    """In place of the real dial: all that knock stand here until the test opens, or says that nobody is at home."""

    def __init__(self) -> None:
        self.waiting = 0
        self.knocked = 0
        self.is_home = True
        self.answer = trio.Event()

    async def dial(self, *_: object, **__: object) -> object:
        self.waiting += 1
        self.knocked += 1
        await self.answer.wait()
        self.waiting -= 1
        if not self.is_home:
            raise UnreachableError("nobody at home")
        return object()


@pytest.fixture
def doorstep(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Doorstep:
    step = Doorstep()
    monkeypatch.setattr(pool._overlay, "dial", step.dial)
    return step


async def test_a_burst_of_streams_dials_in_turns(mesh: InnerMesh, pool: Pool, doorstep: Doorstep) -> None:
    """More handshakes at once than the peer allows would be turned out: the rest waits, and all get through."""
    async with trio.open_nursery() as nursery:
        for _ in range(3 * DIALS):
            nursery.start_soon(take, mesh)
        await trio.testing.wait_all_tasks_blocked()
        assert doorstep.waiting == DIALS
        doorstep.answer.set()
    assert pool.dialled == 3 * DIALS


async def test_behind_a_failed_dial_nobody_waits_for_the_next_deadline(
    mesh: InnerMesh, doorstep: Doorstep
) -> None:
    """A peer that swallows packets costs a burst one deadline, not one for every turn."""
    refusals: list[str] = []

    async def try_it() -> None:
        with pytest.raises(UnreachableError) as refusal:
            await take(mesh)
        refusals.append(str(refusal.value))

    doorstep.is_home = False
    async with trio.open_nursery() as nursery:
        for _ in range(3 * DIALS):
            nursery.start_soon(try_it)
        await trio.testing.wait_all_tasks_blocked()
        doorstep.answer.set()
    assert len(refusals) == 3 * DIALS
    assert doorstep.knocked == DIALS
    with pytest.raises(UnreachableError):
        await take(mesh)  # Who comes later tries for itself.
    assert doorstep.knocked == DIALS + 1


async def test_who_waits_to_dial_takes_what_another_gives_back(
    mesh: InnerMesh, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that ended meanwhile spares a handshake."""
    given = await take(mesh)
    step = Doorstep()
    monkeypatch.setattr(pool._overlay, "dial", step.dial)
    taken: list[Pooled] = []

    async def wait_for_one() -> None:
        taken.append(await take(mesh))

    async with trio.open_nursery() as nursery:
        for _ in range(DIALS + 1):
            nursery.start_soon(wait_for_one)
        await trio.testing.wait_all_tasks_blocked()
        await pool.release(given)
        step.answer.set()
    assert given in taken
    assert step.knocked == DIALS
