import os
import stat
from pathlib import Path

import pytest

from pki.errors import LocalError
from sidecar.session.export import FILES, Exported, ExportFolder


def exported(number: int) -> Exported:
    return Exported(f"svid {number}", f"key {number}", f"bundle {number}")


def texts(folder: Path) -> list[str]:
    return [(folder / name).read_text() for name in FILES]


def test_only_the_owner_reads_what_is_exported(tmp_path: Path) -> None:
    """Folder 0700, files 0600, also where the umask would give more."""
    folder = tmp_path / "export"
    kept = os.umask(0)
    try:
        ExportFolder(folder).write(exported(1))
    finally:
        os.umask(kept)
    assert texts(folder) == ["svid 1", "key 1", "bundle 1"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in FILES} == {0o600}


def test_certificate_and_key_are_replaced_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever a reader looks, what it finds belongs together; nothing old is left."""
    folder = ExportFolder(tmp_path / "export")
    folder.write(exported(1))
    seen = []
    rename = Path.rename

    def watched(path: Path, target: Path) -> Path:
        seen.append(texts(folder.path))
        moved = rename(path, target)
        seen.append(texts(folder.path))
        return moved

    monkeypatch.setattr(Path, "rename", watched)
    folder.write(exported(2))
    assert [
        one for one in seen if one not in (["svid 1", "key 1", "bundle 1"], ["svid 2", "key 2", "bundle 2"])
    ] == []
    assert texts(folder.path) == ["svid 2", "key 2", "bundle 2"]
    assert sum(one.is_dir() and not one.is_symlink() for one in folder.path.iterdir()) == 1


def test_at_the_end_nothing_is_left(tmp_path: Path) -> None:
    """The folder goes, too, unless it holds something else."""
    folder = ExportFolder(tmp_path / "export")
    folder.write(exported(1))
    folder.remove()
    assert not folder.path.exists()
    folder.write(exported(1))
    (folder.path / "mine").touch()
    folder.remove()
    assert [one.name for one in folder.path.iterdir()] == ["mine"]


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    """And one that is a link, which somebody else may turn."""
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(LocalError, match="chmod 0700"):
        ExportFolder(tmp_path / "open").write(exported(1))
    (tmp_path / "good").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("good")
    with pytest.raises(LocalError, match="not a folder of uid"):
        ExportFolder(tmp_path / "link").write(exported(1))
    with pytest.raises(LocalError, match="No such file"):
        ExportFolder(tmp_path / "a" / "b").write(exported(1))


def test_links_that_lie_in_wait_are_not_followed(tmp_path: Path) -> None:
    """A file's name is taken away from them; what they led to is as it was."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = ExportFolder(tmp_path / "export")
    folder.path.mkdir(mode=0o700)
    for name in (*FILES, "..data", "svid.pem.new"):
        (folder.path / name).symlink_to(victim)
    folder.write(exported(1))
    assert texts(folder.path) == ["svid 1", "key 1", "bundle 1"]
    folder.remove()
    assert victim.read_text() == "precious"
