"""Where everything of a sidecar or CA lies on disk.

``--dir``, then LOCKGATE_DIR, names one directory with etc, lib and run in it. Without either, systemd's
directories count, each for itself, and then the usual ones.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DIR_VARIABLE = "LOCKGATE_DIR"

_SYSTEM = {
    "CONFIGURATION_DIRECTORY": "/etc/lockgate",
    "STATE_DIRECTORY": "/var/lib/lockgate",
    "RUNTIME_DIRECTORY": "/run/lockgate",
}


@dataclass(frozen=True, slots=True)
class Paths:
    """Three directories: what humans write, what must last, what ends with the boot."""

    etc: Path
    lib: Path
    run: Path

    @classmethod
    def of(cls, directory: str | None, environment: Mapping[str, str]) -> Self:
        """The paths for ``--dir DIRECTORY`` (None: not given), absolute."""
        root = directory or environment.get(DIR_VARIABLE)
        if root:
            return cls.below(Path(os.path.abspath(root)))
        # systemd joins several directories of one kind with colons; the first is the unit's own.
        etc, lib, run = (
            Path((environment.get(variable) or usual).partition(":")[0])
            for variable, usual in _SYSTEM.items()
        )
        return cls(etc, lib, run)

    @classmethod
    def below(cls, root: Path) -> Self:
        return cls(root / "etc", root / "lib", root / "run")

    @property
    def node_toml(self) -> Path:
        return self.etc / "node.toml"

    @property
    def ca_toml(self) -> Path:
        return self.etc / "ca.toml"

    @property
    def agent_sock(self) -> Path:
        return self.run / "agent.sock"

    @property
    def workload_sock(self) -> Path:
        """The SPIFFE Workload API, where it is wanted."""
        return self.run / "workload.sock"

    @property
    def admin_sock(self) -> Path:
        return self.run / "admin.sock"

    @property
    def audit_dir(self) -> Path:
        return self.lib / "audit"

    @property
    def objects(self) -> Path:
        """Bodies by digest: policies, bundles, rosters, each stored once."""
        return self.lib / "objects"

    @property
    def identity_dir(self) -> Path:
        """Holds key.pem and chain.pem."""
        return self.lib / "identity"

    @property
    def key(self) -> Path:
        return self.identity_dir / "key.pem"

    @property
    def chain(self) -> Path:
        return self.identity_dir / "chain.pem"

    @property
    def statements(self) -> Path:
        return self.lib / "statements.db"

    @property
    def pins(self) -> Path:
        """What this node has seen of the tools of its MCP servers."""
        return self.lib / "pins.json"

    @property
    def authority_dir(self) -> Path:
        """The CA's keys."""
        return self.lib / "authority"
