"""Control sockets without sockets: a request to an app over a stream in memory, as whatever user the test likes."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing
from starlette.types import ASGIApp

from pki.errors import UnreachableError
from pki.http.server import serve_connection
from pki.spiffe import SpiffeId
from pki.spki import Key
from pki.verify import Identity, verify
from sidecar.audit.volume import Site
from sidecar.audit.writer import AuditWriter
from sidecar.certify import CaAccess
from sidecar.config import load_node_config
from sidecar.control.unix import CALLER, CONNECTION
from sidecar.disk import RealDisk
from sidecar.gossip.journal import Journal
from sidecar.identity import Credential, save_bundle
from sidecar.lifecycle import make_folders
from sidecar.node import Node, Seams
from sidecar.objects import Objects
from sidecar.paths import Paths
from sidecar.peercred import PeerCred
from sidecar.proxy.attribute import ESTABLISHED, SocketOwner
from sidecar.session.cgroup import SessionCgroups
from tests.authority import NOW, new_key
from tests.clock import ManualClock
from tests.statements import Mint

ROOT = PeerCred(pid=1, uid=0, gid=0)
CONFIG = load_node_config(
    b"""
name = "agents-1"
trust-domain = "example.org"
ca = "127.0.0.1:7444"
ca-control = "127.0.0.1:7446"
""",
    "node.toml",
)


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    body: object = None,
    *,
    caller: PeerCred = ROOT,
    cgroup: int | None = None,
) -> tuple[int, Any]:
    """HTTP status and decoded body of one request. ``bytes`` go as they are. ``cgroup``: where its process is."""
    payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        extra = {CALLER: caller, CONNECTION: Here(SocketOwner(ESTABLISHED, caller.uid, 1, cgroup))}
        nursery.start_soon(lambda: serve_connection(theirs, app, extra=extra))
        await ours.send_all(head.encode() + payload)
        said = b"".join([part async for part in ours])
    start, _, answer = said.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(answer)


def message(answer: tuple[int, Any]) -> str:
    """What a refusal says."""
    return str(answer[1]["error"]["message"])


class Station(Node):
    """A real node over files of its own, whose sessions are certified by the test's CA."""

    mint: Mint
    down: bool = False

    async def certify(self, session: SpiffeId, id_token: str, ca: CaAccess) -> tuple[Identity, Key]:
        """What the CA does; here an ID token is its user's name."""
        if self.down:
            raise UnreachableError("CA 127.0.0.1:7444: cannot connect")
        key = new_key()
        identity = verify(self.mint.ca.issue(session, key, on_behalf_of=id_token), ca.bundle, NOW)
        assert isinstance(identity, Identity)
        return identity, key


def station(folder: Path, mint: Mint, cgroups: SessionCgroups | None = None) -> Station:
    """agents-1 of the mint's mesh."""
    paths = Paths.below(folder)
    make_folders(paths)
    clock = ManualClock()
    own = mint.node("agents-1")
    seams = Seams(
        clock=clock,
        kernel=NoKernel(),
        audit=AuditWriter(Site(disk=RealDisk(), folder=paths.audit_dir, node="agents-1"), clock),
        journal=Journal(paths.statements, create=True),
        objects=Objects(paths.objects),
        keep_bundle=partial(save_bundle, folder=paths.identity_dir),
        cgroups=cgroups,
    )
    made = Station(CONFIG, Credential(own.id, own.chain, own.key), mint.ca.bundle, seams)
    made.mint = mint
    made.life.certify = made.certify
    return made


async def with_policy(node: Station, text: str, sequence: int = 1) -> None:
    """Both members in the roster, and the policy in force."""
    digest = node.seams.objects.put(text.encode())
    mint = node.mint
    said = [
        mint.enrols("agents-1"),
        mint.enrols("tools-1"),
        mint.policy(sequence, digest, len(text.encode())),
    ]
    assert await node.member.take([one.raw for one in said], None) == []
    assert node.member.loaded.digest == digest


@dataclass(frozen=True)
class Here:
    """A connection whose other end a test made up; None: it is gone."""

    owner: SocketOwner | None


class NoKernel:
    """Knows what a test says of a connection."""

    def caller_of(self, accepted: object) -> SocketOwner | None:
        return accepted.owner if isinstance(accepted, Here) else None
