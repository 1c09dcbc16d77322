"""A node at work for tests: a policy in force, fresh, a log that can be read, and streams that live."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import trio
import trio.testing

from pki.statement import Statement
from sidecar.audit.writer import AuditWriter
from tests.authority import NOW
from tests.clock import ManualClock
from tests.datapath import LogBook, ScriptedArrival, subject
from tests.sidecar.control.world import Station, station, with_policy
from tests.statements import Mint

POLICY = """
[services.wiki]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:8001"

[services.tickets]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:8002"

[agents.researcher]
nodes = ["agents-1"]
uid = 1001

[agents.clerk]
nodes = ["agents-1"]
uid = "nobody"

[agents.ghost]
nodes = ["agents-1"]
uid = "lockgate-no-such-user"

[[bindings]]
agent = "researcher"
service = "wiki"
listen = 15001

[[grants]]
id = "all"
agents = ["researcher"]
services = ["wiki", "tickets"]
"""


async def at_work(folder: Path, log: LogBook) -> Station:
    """agents-1, which writes to ``log``."""
    made = station(folder, Mint())
    made.seams = replace(made.seams, audit=cast("AuditWriter", log))
    made.carrier.audit = log
    await with_policy(made, POLICY)
    await made.outbox.deliver()
    await refresh(made)
    log.records.clear()
    return made


async def refresh(node: Station) -> None:
    """A heartbeat over all that the node holds."""
    number, loaded = 2**40, node.member.loaded
    digest = node.member.store.numbered_digest(NOW, number)
    in_force = {"policy_sequence": loaded.sequence, "policy_digest": loaded.digest}
    await take(node, node.mint.beats(digest, NOW, number, **in_force))


async def take(node: Station, *statements: Statement) -> None:
    """What peers say."""
    assert await node.member.take([one.raw for one in statements], None) == []


def clock_of(node: Station) -> ManualClock:
    """The clock that tests set."""
    assert isinstance(node.seams.clock, ManualClock)
    return node.seams.clock


async def carrying(node: Station, nursery: trio.Nursery, log: LogBook, *services: str) -> None:
    """A live stream to each service."""
    for service in services:
        stream = subject(stream=service.ljust(16, "-").encode())
        nursery.start_soon(node.carrier.carry, ScriptedArrival(log, subject=stream).of(service))
    await trio.testing.wait_all_tasks_blocked()
    assert len(node.carrier.table) == len(services)
