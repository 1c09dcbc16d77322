from pathlib import Path

import pytest

from sidecar.exits import Exit
from tests.auditlog import Keeper
from tests.sidecar.cli.world import Done, lockgate


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Logs of a node and of a peer that holds its heads, and the trust bundle, as an auditor copied them."""
    ours = Keeper()
    ours.writes(2, 3)
    peer = Keeper("agents-1", ours.ca)
    peer.keeps(ours)
    for keeper in (ours, peer):
        folder = tmp_path / keeper.name / "lib" / "audit"
        folder.mkdir(parents=True)
        for path in keeper.paths:
            (folder / path.name).write_bytes(keeper.disk.content(path))
    (tmp_path / "bundle.statement").write_bytes(ours.ca.bundle_statement.raw)
    return tmp_path


def verify(copies: Path, *words: str) -> Done:
    bundle = copies / "bundle.statement"
    return lockgate("--dir", copies / "none", "audit", "verify", "--bundle", bundle, *words)


def test_several_logs_are_judged_together(copies: Path) -> None:
    """Each with its own part of the answer; records and volumes are summed."""
    done = verify(copies, str(copies / "tools-1"), str(copies / "agents-1"), "--json")
    assert (done.code, done.json["first_bad"], done.json["forks"]) == (Exit.YES, None, [])
    ours, peer = done.json["logs"]
    assert (ours["node"], peer["node"]) == ("tools-1", "agents-1")
    assert done.json["records"] == ours["records"] + peer["records"]
    assert ours["checkpoints"] == 3
    assert ours["witnessed"] == ours["signed"]
    assert peer["witnessed"] is None


def test_each_log_is_told_by_its_node(copies: Path) -> None:
    """In words."""
    done = verify(copies, str(copies / "tools-1"), str(copies / "agents-1"))
    assert "tools-1: 10 records in 1 volumes" in done.out
    assert "peers hold it up to" in done.out
    assert "not checked" not in done.out


def test_what_is_bad_in_any_of_them_is_the_answer(copies: Path) -> None:
    """Exit code 1, with the log that it is in."""
    [volume] = (copies / "tools-1" / "lib" / "audit").iterdir()
    volume.write_bytes(b"".join(volume.read_bytes().splitlines(keepends=True)[:-2]))
    done = verify(copies, str(copies / "agents-1"), str(copies / "tools-1"), "--json")
    assert (done.code, done.json["node"]) == (Exit.NO, "tools-1")
    assert "was cut off" in done.json["first_bad"]["what"]


def test_a_bundle_that_is_none_is_refused(copies: Path) -> None:
    """It would vouch for nothing."""
    (copies / "bundle.statement").write_bytes(b"junk")
    done = verify(copies, str(copies / "tools-1"))
    assert done.code == Exit.NO
    assert "bundle.statement" in done.err
