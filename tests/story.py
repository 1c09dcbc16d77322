"""The mesh that the story is played on, and what the tests ask of it."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sidecar.control.client import call
from sidecar.dev.layout import free_ports
from tests.clients import ask, connect
from tests.mesh import Done, Mesh, curl, dev_mesh, until

NODES = ("agents-1", "tools-1")

OWN_SERVICE = """
[services.{name}]
segment = "retrieval"
nodes = ["tools-1"]
target = "127.0.0.1:{target}"
protocol = "tcp"

[[bindings]]
agent = "researcher"
service = "{name}"
listen = {listen}
"""

OWN_RULES = """
[[grants]]
id = "write-pages"
agents = ["researcher"]
services = ["wiki"]
http = [{ methods = ["POST"], path = "/api/pages/**" }]

[[grants]]
id = "to-the-test"
agents = ["researcher"]
services = ["probe", "sealed"]

[[denies]]
id = "sealed-off"
agents = ["researcher"]
services = ["sealed"]
"""


class Story(Mesh):
    """A mesh with the test's own services, by name: where each is reached, and where its tool listens."""

    entrance: dict[str, int]
    target: dict[str, int]

    @property
    def wiki(self) -> str:
        return self.env["WIKI"]

    @property
    def echo(self) -> int:
        return int(self.env["ECHO"].rpartition(":")[2])

    @property
    def session(self) -> str:
        return self.env["SID"]

    def is_open(self) -> bool:
        return curl("--fail", f"{self.wiki}/api/pages").returncode == 0

    @contextmanager
    def streams(self, count: int) -> Iterator[list[socket.socket]]:
        """Echo streams, each of which has echoed."""
        with ExitStack() as stack:
            opened = [stack.enter_context(connect(self.echo)) for _ in range(count)]
            assert [ask(stream, b"here") for stream in opened] == [b"here"] * count
            yield opened

    def record(self, member: str, **wanted: object) -> dict[str, Any]:
        """The newest record with these fields, once there is one."""
        return until(lambda: self.records(member, **wanted), f"{wanted} at {member}")[-1]

    def cut_streams(self, member: str, reason: str, since: float, count: int) -> list[str]:
        """The streams that were cut for ``reason`` since then (wall, s), once ``count`` are: sorted, repeats kept."""

        def found() -> list[str]:
            cuts = self.records(member, kind="cut", reason=reason)
            return sorted(one["stream"] for one in cuts if one["at"] >= since * 1_000_000)

        until(lambda: len(found()) >= count, f"{count} streams cut as {reason} at {member}")
        return found()

    def standing(self, statement: str) -> dict[str, dict[str, Any]]:
        """Node by node, whether a statement is in force."""
        sock = self.member("agents-1") / "run" / "admin.sock"
        nodes: dict[str, dict[str, Any]] = call(sock, "GET", f"/v1/statements/{statement}")["nodes"]
        return nodes

    def start_session(self) -> None:
        """Another one in place of the mesh's."""
        done = self.cli("session", "start", "--agent", "researcher", "--json")
        assert done.code == 0, done
        self.env["SID"] = str(done.json["session"])
        until(self.is_open, "the wiki to answer again")

    def run_in_session(self, *command: str) -> Done:
        return self.cli("session", "exec", "--agent", "researcher", "--", *command)

    def streams_on_record(self, member: str) -> set[str]:
        return {one["stream"] for one in self.records(member) if "stream" in one}


@contextmanager
def story_mesh(root: Path) -> Iterator[Story]:
    """A dev mesh with the sample policy, and the test's own services added to it by `policy apply`."""
    with dev_mesh(root) as plain:
        story = Story(plain.root, plain.process, plain.env, plain.started)
        ports = free_ports(4)
        story.entrance = {"probe": ports[0], "sealed": ports[1]}
        story.target = {"probe": ports[2], "sealed": ports[3]}
        services = [
            OWN_SERVICE.format(name=name, target=story.target[name], listen=port)
            for name, port in story.entrance.items()
        ]
        policy = story.root / "own-policy.toml"
        policy.write_text("".join([(story.root / "policy.toml").read_text(), *services, OWN_RULES]))
        applied = story.cli("policy", "apply", "--yes", str(policy), operator="alice")
        assert applied.code == 0, applied.err
        yield story


def receipts(done: Done) -> dict[str, tuple[str, int]]:
    """Node by node, the state of a statement and how many streams it cut there."""
    return {node: (one["state"], one["cut"]) for node, one in done.json["nodes"].items()}
