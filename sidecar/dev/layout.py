"""Where everything of a dev mesh lies, and on which ports. Kept in D/dev.json, so that an existing D resumes."""

import json
import os
import socket
import sys
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from pki.errors import LocalError

TRUST_DOMAIN = "dev.lockgate.internal"
AGENTS = "agents-1"
TOOLS = "tools-1"
AGENT = "researcher"
OPERATORS = {"alice": ("admin", "approver", "responder", "auditor"), "bob": ("approver", "responder")}
FACTS = "dev.json"


@dataclass(frozen=True, slots=True)
class Ports:
    """One free loopback port for everything that listens."""

    ca: int
    ca_control: int
    nodes: dict[str, int]
    tools: dict[str, int]
    bindings: dict[str, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders of one dev mesh below ``root`` (D)."""

    root: Path
    ports: Ports

    @property
    def nodes(self) -> list[str]:
        return list(self.ports.nodes)

    @property
    def tool_nodes(self) -> list[str]:
        return [name for name in self.nodes if name != AGENTS]

    @property
    def policy(self) -> Path:
        return self.root / "policy.toml"

    @property
    def env(self) -> Path:
        return self.root / "env"

    def member(self, name: str) -> Path:
        """``--dir`` of the CA (``ca``) or a node."""
        return self.root / name

    def operator(self, name: str) -> Path:
        return self.root / "operators" / name

    def log(self, name: str) -> Path:
        return self.root / "logs" / f"{name}.log"


def open_layout(root: Path, nodes: int) -> Layout:
    """The layout in ``root``, as it was made or new with ``nodes`` tool nodes; raises LocalError."""
    facts = root / FACTS
    if facts.exists():
        try:
            return Layout(root, Ports(**json.loads(facts.read_text())))
        except (ValueError, TypeError):
            raise LocalError(f"{facts}: damaged; remove {root} and start over") from None
    if root.exists() and any(root.iterdir()):
        raise LocalError(f"{root}: not empty, and no dev mesh; choose a new folder")
    for folder in (root, root / "logs", root / "operators"):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = [AGENTS, *(f"tools-{number}" for number in range(1, nodes + 1))]
    services = ("wiki", "echo", "vault", "tickets")
    free = free_ports(2 + len(names) + 2 * len(services))
    ports = Ports(
        ca=free.pop(),
        ca_control=free.pop(),
        nodes={name: free.pop() for name in names},
        tools={name: free.pop() for name in services},
        bindings={name: free.pop() for name in services},
    )
    facts.write_text(json.dumps(asdict(ports), indent=1))
    return Layout(root, ports)


def sample_policy(layout: Layout) -> str:
    """The sample policy with this mesh's nodes, ports and user filled in."""
    ports = layout.ports
    fillings = {
        "NODES": ", ".join(f'"{name}"' for name in layout.tool_nodes),
        "UID": os.getuid(),
        **{name.upper(): port for name, port in ports.tools.items()},
        **{f"{name.upper()}_BINDING": port for name, port in ports.bindings.items()},
    }
    text = files("sidecar.dev").joinpath("policy.toml").read_text()
    for name, value in fillings.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def lockgate(*arguments: str) -> list[str]:
    """The command line of this very installation."""
    return [sys.executable, "-m", "sidecar.cli", *arguments]


def free_ports(count: int) -> list[int]:
    """Ports that are free on IPv4 and IPv6 loopback now, below the range the kernel hands out for outgoing ones."""
    start = 10_000 + int.from_bytes(os.urandom(2), "big") % 20_000
    found: list[int] = []
    for port in (10_000 + (start + step) % 22_000 for step in range(22_000)):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise LocalError("no free ports on loopback")


def _is_free(port: int) -> bool:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, port))
        except OSError:
            if family == socket.AF_INET:
                return False
    return True
