"""Lockgate as a pair: a whole mesh, of which the agents' node is the client side and the tools' node the server side.

Two services lead to the same target: one in a best-effort segment, one whose records must be on disk on both nodes
before the first byte passes. A third leads to an HTTP tool, and each request to it is decided. They are entrances to
the same two processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.pairs import Pair, Site
from tests.mesh import Mesh, dev_mesh

AGENT = "researcher"

POLICY = """
[services.fast]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{target}"
protocol = "tcp"

[services.durable]
segment = "action"
nodes = ["tools-1"]
target = "127.0.0.1:{target}"
protocol = "tcp"

[services.web]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{web_target}"
protocol = "http"

[agents.researcher]
nodes = ["agents-1"]
uid = {uid}

[[bindings]]
agent = "researcher"
service = "fast"
listen = {fast}

[[bindings]]
agent = "researcher"
service = "durable"
listen = {durable}

[[bindings]]
agent = "researcher"
service = "web"
listen = {web}

[[grants]]
id = "bench"
agents = ["researcher"]
services = ["fast", "durable"]

[[grants]]
id = "bench-web"
agents = ["researcher"]
services = ["web"]
http = [{{ methods = ["GET"], path = "/api/**" }}]
"""


@dataclass(frozen=True)
class Lockgate:
    """The pair, its other entrances, and the mesh around it."""

    pair: Pair
    durable: Pair
    web: Pair
    mesh: Mesh


@contextmanager
def lockgate(site: Site, web: Site) -> Iterator[Lockgate]:
    """A mesh with its own policy. ``site.between`` is the second entrance: the nodes find their own ports.

    ``web`` is where the HTTP tool listens, and is reached.
    """
    policy = site.folder / "policy.toml"
    policy.write_text(
        POLICY.format(
            target=site.target,
            uid=os.getuid(),
            fast=site.entrance,
            durable=site.between,
            web_target=web.target,
            web=web.entrance,
        )
    )
    with dev_mesh(site.folder / "mesh", "--policy", str(policy)) as mesh:
        assert mesh.env["SID"], "the mesh could not start a session"
        pids = mesh.pid("agents-1"), mesh.pid("tools-1")
        pair = Pair("lockgate", site.entrance, *pids)
        durable = Pair("lockgate, durable", site.between, *pids)
        yield Lockgate(pair, durable, Pair("lockgate", web.entrance, *pids), mesh)


def new_session(mesh: Mesh) -> str:
    """Start a session of the agent, and end the one before: one uid can hold one."""
    started = mesh.cli("session", "start", "--agent", AGENT, "--json")
    assert started.code == 0, started.err
    return str(started.json["session"])
