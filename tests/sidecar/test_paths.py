from pathlib import Path

import pytest

from sidecar.paths import Paths


@pytest.mark.parametrize(
    ("directory", "environment", "expected"),
    [
        (None, {}, ("/etc/lockgate", "/var/lib/lockgate", "/run/lockgate")),
        ("/d", {"LOCKGATE_DIR": "/e", "STATE_DIRECTORY": "/s"}, ("/d/etc", "/d/lib", "/d/run")),
        (None, {"LOCKGATE_DIR": "/e", "STATE_DIRECTORY": "/s"}, ("/e/etc", "/e/lib", "/e/run")),
        (
            None,
            {"CONFIGURATION_DIRECTORY": "/c", "STATE_DIRECTORY": "/s", "RUNTIME_DIRECTORY": "/r"},
            ("/c", "/s", "/r"),
        ),
        (None, {"STATE_DIRECTORY": "/s:/t"}, ("/etc/lockgate", "/s", "/run/lockgate")),
        (
            "",
            {"LOCKGATE_DIR": "", "STATE_DIRECTORY": ""},
            ("/etc/lockgate", "/var/lib/lockgate", "/run/lockgate"),
        ),
    ],
    ids=["usual", "flag", "variable", "systemd", "partly-systemd", "empty"],
)
def test_the_nearest_word_on_directories_wins(
    directory: str | None, environment: dict[str, str], expected: tuple[str, str, str]
) -> None:
    """--dir before LOCKGATE_DIR before systemd's directories before the usual ones; empty is not given."""
    paths = Paths.of(directory, environment)
    assert (str(paths.etc), str(paths.lib), str(paths.run)) == expected


def test_a_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that changes its directory still finds its files."""
    monkeypatch.chdir(tmp_path)
    assert Paths.of("d/../e", {}) == Paths.below(tmp_path / "e")


def test_every_file_has_its_place() -> None:
    """What humans write is below etc, what must last below lib, what ends with the boot below run."""
    paths = Paths.of("/d", {})
    assert {
        name: str(getattr(paths, name).relative_to("/d"))
        for name, attribute in vars(Paths).items()
        if isinstance(attribute, property)
    } == {
        "node_toml": "etc/node.toml",
        "ca_toml": "etc/ca.toml",
        "agent_sock": "run/agent.sock",
        "workload_sock": "run/workload.sock",
        "admin_sock": "run/admin.sock",
        "audit_dir": "lib/audit",
        "objects": "lib/objects",
        "identity_dir": "lib/identity",
        "key": "lib/identity/key.pem",
        "chain": "lib/identity/chain.pem",
        "statements": "lib/statements.db",
        "pins": "lib/pins.json",
        "authority_dir": "lib/authority",
    }
