"""The command that holds an exported session; that it follows renewals and signals is in tests/test_renewal.py."""

import json
import os
from pathlib import Path

import pytest

from sidecar.cli.export import Export
from sidecar.control.client import Held
from sidecar.exits import Exit
from sidecar.session.export import FILES
from tests.sidecar.cli.test_session import STARTED
from tests.sidecar.cli.world import FakeDaemon

GIVEN = {**STARTED, "uid": os.geteuid(), "svid": "svid", "key": "key", "bundle": "bundle"}


def test_the_key_goes_to_its_file_and_nowhere_else(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Not to standard output, which ends up in logs; and with the daemon gone, the files are gone."""
    daemon.says("POST /v1/sessions", **GIVEN)
    folder = tmp_path / "export"
    done = daemon.run("session", "start", "--agent", "researcher", "--export", folder, "--json")
    first = json.loads(done.out.splitlines()[0])
    assert (first["session"], first["exported_to"]) == (STARTED["session"], str(folder))
    assert not {"key", "svid", "bundle"} & first.keys()
    assert daemon.asked == [("POST /v1/sessions", {"agent": "researcher", "hold": True, "export": True})]
    assert done.code == Exit.UNCONFIRMED
    assert not folder.exists()


def test_a_session_that_ended_is_said_with_its_reason(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its limit, by an operator: whoever started the command looks there first."""
    daemon.says("POST /v1/sessions", **GIVEN)
    renewed = {"svid": "svid 2", "key": "key 2", "bundle": "bundle 2"}
    seen: list[str] = []

    def more(_: Held) -> list[dict[str, str]]:
        return [renewed, {"ended": "lifetime"}]

    def ready() -> None:
        seen.extend((tmp_path / "export" / name).read_text() for name in FILES)

    monkeypatch.setattr(Held, "more", more)
    export = Export(Held(daemon.paths.agent_sock, "/v1/sessions", {}), tmp_path / "export")
    with pytest.raises(Exception, match=r"ended \(lifetime\)"):
        export.run(ready)
    assert seen == ["svid", "key", "bundle"]
    assert not (tmp_path / "export").exists()


def test_a_folder_that_is_refused_is_left_as_it_is(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Others may enter it; what is in it is not ours to take away."""
    daemon.says("POST /v1/sessions", **GIVEN)
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    (folder / "svid.pem").write_text("mine")
    done = daemon.run("session", "start", "--agent", "researcher", "--export", folder)
    assert (done.code, "chmod 0700" in done.err, done.out) == (Exit.NO, True, "")
    assert (folder / "svid.pem").read_text() == "mine"
