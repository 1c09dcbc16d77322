"""The files on a plain directory that stands for the mount; what only a kernel can show, on the real one."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pki.errors import LocalError
from pki.ids import new_id
from sidecar.proxy.attribute import Attribution, Candidate, Method, attribute
from sidecar.proxy.sockdiag import SockDiag
from sidecar.session.cgroup import LOCK, TREE, Claim, SessionCgroup, SessionCgroups, cgroup2_mounts, enter_new

FIRST, SECOND, THIRD = (new_id(bytes([number]) * 16) for number in range(3))
NOBODY = 65534

HYBRID = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
UNIFIED = b"35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n"
ESCAPED = rb"41 31 0:38 / /mnt/with\040space\134\011 rw - cgroup2 none rw"


@pytest.mark.parametrize(
    ("mountinfo", "mounts"),
    [
        (HYBRID, ["/sys/fs/cgroup/unified"]),
        (UNIFIED, ["/sys/fs/cgroup"]),
        (UNIFIED + HYBRID, ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]),
        (ESCAPED, ["/mnt/with space\\\t"]),
        (b"", []),
        (b"41 31 0:38 / /home/cgroup2 rw - ext4 cgroup2 rw\n", []),
        (b"41 31 - cgroup2 cgroup2 rw\n", []),
    ],
    ids=["hybrid", "unified", "both", "escaped", "empty", "only-by-name", "cut"],
)
def test_the_mount_is_found_where_the_kernel_says(mountinfo: bytes, mounts: list[str]) -> None:
    """Not every machine has it at /sys/fs/cgroup, and only the file system type tells."""
    assert cgroup2_mounts(mountinfo) == [Path(mount) for mount in mounts]


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda raw: raw + b" - cgroup2 cgroup2 rw"))
def test_any_mountinfo_is_read(mountinfo: bytes) -> None:
    """A mount point may have any bytes in it: the reader never fails on them."""
    assert all(isinstance(mount, Path) for mount in cgroup2_mounts(mountinfo))


@pytest.fixture
def cgroups(tmp_path: Path) -> SessionCgroups:
    """A plain directory in place of the mount, owned by whoever runs the tests."""
    return SessionCgroups(tmp_path, owner=os.geteuid())


def forsake(*cgroups: SessionCgroup) -> None:
    """What the death of a daemon does."""
    for cgroup in cgroups:
        assert cgroup.claim is not None
        cgroup.claim.release()


def populate(cgroup: SessionCgroup, events: str) -> None:
    (cgroup.path / "cgroup.events").write_text(events)


def made(cgroups: SessionCgroups, session: str) -> SessionCgroup:
    cgroup = cgroups.create(session)
    assert cgroup is not None
    return cgroup


def test_a_machine_without_cgroup_v2_is_a_value(tmp_path: Path) -> None:
    """Old kernels and stripped containers have none: sessions go on without."""
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(b"22 27 0:21 / /proc rw,relatime - proc proc rw\n")
    cgroups = SessionCgroups.of_machine(mountinfo)
    assert cgroups.mount is None
    assert cgroups.standing() == cgroups.sweep(set()) == []


def test_a_mount_hidden_under_another_is_passed_over(tmp_path: Path) -> None:
    """mountinfo lists what was mounted, not what a path still leads to."""
    hidden, seen = tmp_path / "hidden", tmp_path / "seen"
    for mount in (hidden, seen):
        mount.mkdir()
    (seen / "cgroup.procs").touch()
    mountinfo = tmp_path / "mountinfo"
    lines = [f"41 31 0:38 / {mount} rw - cgroup2 cgroup2 rw\n" for mount in (hidden, seen)]
    mountinfo.write_text("".join(lines))
    assert SessionCgroups.of_machine(mountinfo).mount == seen


def test_mounts_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    """Without /proc the machine is broken, which is not the same as having no cgroups."""
    with pytest.raises(LocalError, match="cannot read the mounts"):
        SessionCgroups.of_machine(tmp_path / "absent")


def test_a_session_gets_a_directory_of_its_own(cgroups: SessionCgroups, tmp_path: Path) -> None:
    """Its id is the directory's inode number, and no one but the owner may write there."""
    cgroup = made(cgroups, FIRST)
    status = (tmp_path / TREE / FIRST).stat()
    assert (cgroup.path, cgroup.id) == (tmp_path / TREE / FIRST, status.st_ino)
    assert status.st_mode & 0o022 == 0


@pytest.mark.parametrize("session", ["", "..", "../../etc", "a/b", FIRST.upper(), FIRST + "a"])
def test_only_a_session_id_becomes_a_file_name(cgroups: SessionCgroups, session: str) -> None:
    """A name with a slash or dots would make, and later remove, a directory elsewhere."""
    with pytest.raises(LocalError, match="not a session id"):
        cgroups.create(session)


def assert_unavailable(cgroups: SessionCgroups, session: str, reason: str) -> None:
    with capture_logs() as logs:
        assert cgroups.create(session) is None
    assert [entry["session"] for entry in logs] == [session]
    assert reason in logs[0]["reason"]


def test_without_a_mount_there_is_none_and_the_log_says_so() -> None:
    """The session is then known by its uid; an operator can read why."""
    assert_unavailable(SessionCgroups(None), FIRST, "not mounted")


def test_a_name_is_used_once(cgroups: SessionCgroups) -> None:
    """A leftover may still have somebody's processes in it: it is never taken over."""
    made(cgroups, FIRST)
    assert_unavailable(cgroups, FIRST, "File exists")


def test_a_tree_of_another_owner_is_refused(tmp_path: Path) -> None:
    """Whoever owns the tree can move processes from session to session."""
    assert_unavailable(SessionCgroups(tmp_path, owner=os.geteuid() + 1), FIRST, "only root may write")
    assert not (tmp_path / TREE / FIRST).exists()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_tree_others_may_write_is_refused(cgroups: SessionCgroups, tmp_path: Path, mode: int) -> None:
    """Group and world must not be able to make or move what names a session."""
    tree = tmp_path / TREE
    tree.mkdir()
    tree.chmod(mode)
    assert_unavailable(cgroups, FIRST, "only root may write")


def test_a_tree_that_is_a_link_is_refused(cgroups: SessionCgroups, tmp_path: Path) -> None:
    """A link leads to a place whose owner was not looked at."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / TREE).symlink_to(tmp_path / "elsewhere")
    assert_unavailable(cgroups, FIRST, "only root may write")


def test_a_mount_that_cannot_be_written_is_a_value(tmp_path: Path) -> None:
    """A missing right or a read-only mount is an ordinary machine, not a failure."""
    (tmp_path / "plain").touch()
    assert_unavailable(SessionCgroups(tmp_path / "plain", os.geteuid()), FIRST, "Not a directory")


@pytest.mark.parametrize(("pid", "written"), [(None, "0"), (4242, "4242")])
def test_entering_writes_the_process(cgroups: SessionCgroups, pid: int | None, written: str) -> None:
    """0 is the calling process (cgroup-v2, cgroup.procs)."""
    cgroup = made(cgroups, FIRST)
    procs = cgroup.path / "cgroup.procs"
    procs.touch()
    cgroup.enter() if pid is None else cgroup.enter(pid)
    assert procs.read_text() == written


def test_entering_what_is_gone_is_an_error(cgroups: SessionCgroups) -> None:
    """An agent must not start outside its cgroup and be taken for another session."""
    with pytest.raises(LocalError, match=f"{FIRST}: cannot enter"):
        made(cgroups, FIRST).enter()


@pytest.mark.parametrize(
    ("events", "populated"),
    [
        ("populated 0\nfrozen 0\n", False),
        ("frozen 0\npopulated 0\n", False),
        ("populated 1\nfrozen 0\n", True),
        ("", True),
        ("populated 00\n", True),
        ("nonsense \xff", True),
    ],
)
def test_a_cgroup_is_empty_only_if_the_kernel_says_so(
    cgroups: SessionCgroups, events: str, *, populated: bool
) -> None:
    """What cannot be read as empty may have a process in it."""
    cgroup = made(cgroups, FIRST)
    populate(cgroup, events)
    assert cgroup.populated() is populated


def test_what_is_gone_is_empty(cgroups: SessionCgroups) -> None:
    """Removed by somebody else, before or during the question."""
    cgroup = made(cgroups, FIRST)
    assert cgroup.remove()
    assert not cgroup.populated()
    assert cgroup.remove()


def test_a_cgroup_that_cannot_be_asked_is_an_error(cgroups: SessionCgroups) -> None:
    """Neither empty nor populated may be guessed from a failure."""
    cgroup = made(cgroups, FIRST)
    (cgroup.path / "cgroup.events").mkdir()
    with pytest.raises(LocalError, match="cannot tell"):
        cgroup.populated()


def test_sweeping_removes_only_what_is_stale_and_empty(cgroups: SessionCgroups, tmp_path: Path) -> None:
    """A live session keeps its cgroup, a populated leftover is handed over, strangers are not touched."""
    live, populated, empty = (made(cgroups, session) for session in (FIRST, SECOND, THIRD))
    populate(populated, "populated 1\n")
    (tmp_path / TREE / "not-a-session").mkdir()
    (tmp_path / TREE / "cgroup.procs").touch()
    populate(live, "populated 0\n")
    forsake(populated, empty)
    assert cgroups.sweep({FIRST}) == [populated]
    assert not empty.path.exists()
    assert sorted(cgroups.standing(), key=lambda one: one.path) == sorted(
        [live, populated], key=lambda one: one.path
    )
    assert (tmp_path / TREE / "not-a-session").exists()


def test_a_daemon_that_is_not_root_sees_the_cgroups_of_others_and_sweeps_none(
    cgroups: SessionCgroups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their processes are none of its sessions; whether they are live it cannot know."""
    left = made(cgroups, FIRST)
    populate(left, "populated 0\n")
    forsake(left)
    assert (tmp_path / TREE).stat().st_mode & 0o777 == 0o755
    modes = {one.name: one.stat().st_mode & 0o777 for one in (tmp_path / TREE).iterdir()}
    assert modes == {LOCK: 0o700, FIRST: 0o711}  # Neither can be opened, so nobody else locks it.
    opened = os.open

    def refused(path: Path, flags: int) -> int:
        if path.name == LOCK:
            raise PermissionError
        return opened(path, flags)

    monkeypatch.setattr("sidecar.session.cgroup.os.open", refused)
    assert cgroups.sweep(set()) == []
    assert [one.session for one in cgroups.standing()] == [FIRST]


def test_the_cgroup_that_root_made_is_found_and_claimed(cgroups: SessionCgroups, tmp_path: Path) -> None:
    """Whoever made it may be gone before its processes are; one that somebody else may write is none."""
    made_by_root = made(cgroups, FIRST)
    found = cgroups.find(FIRST)
    assert found == made_by_root
    forsake(made_by_root)
    assert cgroups.sweep(set()) == []
    assert found.path.exists()
    assert cgroups.find(SECOND) is None
    assert cgroups.find("..") is None
    assert SessionCgroups(None).find(FIRST) is None
    assert SessionCgroups(tmp_path, owner=4_000_000).find(FIRST) is None
    found.path.chmod(0o777)
    assert cgroups.find(FIRST) is None


def test_a_daemon_that_is_not_root_finds_it_without_a_claim(
    cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may see who is in it, and no more."""
    made(cgroups, FIRST)

    def refused(_: Path) -> Claim:
        raise PermissionError

    monkeypatch.setattr("sidecar.session.cgroup.Claim", refused)
    found = cgroups.find(FIRST)
    assert found is not None
    assert found.claim is None


@pytest.mark.parametrize("works", [True, False])
def test_root_enters_a_new_cgroup_or_hears_that_it_cannot(
    cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch, *, works: bool
) -> None:
    """What nobody holds any more is swept away first."""
    left = made(cgroups, SECOND)
    forsake(left)
    populate(left, "populated 0\n")
    (left.path / "cgroup.events").unlink()
    entered: list[int] = []

    def enter(_: SessionCgroup, pid: int = 0) -> None:
        entered.append(pid)
        if not works:
            raise LocalError("no")

    monkeypatch.setattr(SessionCgroups, "of_machine", lambda: cgroups)
    monkeypatch.setattr(SessionCgroup, "enter", enter)
    assert enter_new(FIRST) is works
    assert entered == [0]
    assert not left.path.exists()


def test_a_tree_that_was_never_made_is_empty(cgroups: SessionCgroups) -> None:
    """A first start has nothing to sweep."""
    assert cgroups.standing() == cgroups.sweep(set()) == []


def test_a_leftover_that_cannot_be_removed_is_handed_over(cgroups: SessionCgroups) -> None:
    """Another cgroup inside keeps it: somebody has to know."""
    stuck = made(cgroups, FIRST)
    populate(stuck, "populated 0\n")
    forsake(stuck)
    assert cgroups.sweep(set()) == [stuck]


def test_what_a_daemon_holds_is_no_leftover(cgroups: SessionCgroups) -> None:
    """Two daemons may share a machine, and neither knows the sessions of the other."""
    held, left = made(cgroups, FIRST), made(cgroups, SECOND)
    forsake(left)
    assert cgroups.sweep(set()) == []
    assert (held.path.exists(), left.path.exists()) == (True, False)
    assert held.remove()
    assert held.remove()


@pytest.mark.parametrize("after", [4242, 4243, None], ids=["lives", "another", "dead"])
def test_a_number_that_changed_hands_is_not_moved(
    cgroups: SessionCgroups, monkeypatch: pytest.MonkeyPatch, after: int | None
) -> None:
    """It may be a stranger's by the time that it is written: the cgroup is not used, and nobody is put out of it."""
    cgroup = made(cgroups, FIRST)
    (cgroup.path / "cgroup.procs").write_text("")
    (cgroup.path.parent.parent / "cgroup.procs").write_text("")
    numbers = iter([4242, after])

    def number(_: int) -> int:
        if (one := next(numbers)) is None:
            raise ProcessLookupError
        return one

    monkeypatch.setattr("sidecar.session.cgroup.pid_of", number)
    with nullcontext() if after == 4242 else pytest.raises(LocalError, match="is gone"):
        cgroup.take_in(7)
    assert cgroup.members() == [4242]
    assert (cgroup.path.parent.parent / "cgroup.procs").read_text() == ""


# --- the real mount ---

AGENT = """
import os, socket, sys
from pathlib import Path
from sidecar.session.cgroup import SessionCgroup
path = Path(sys.argv[1])
SessionCgroup(path.name, path, 0).enter()
os.setgroups([])
os.setuid(int(sys.argv[2]))
opened = socket.socket()
opened.connect(("127.0.0.1", int(sys.argv[3])))
sys.stdin.read()
"""


@pytest.fixture
def real() -> Iterator[SessionCgroup]:
    """A cgroup of the kernel's, under an id of its own so that test runs do not meet."""
    if os.geteuid() != 0:
        pytest.skip("only root makes session cgroups")
    with capture_logs() as logs:
        cgroup = SessionCgroups.of_machine().create(new_id(os.urandom(16)))
    if cgroup is None:
        pytest.skip(f"no cgroup here: {logs[0]['reason']}")
    yield cgroup
    for pid in cgroup.members():
        os.kill(pid, signal.SIGKILL)
    wait_until_empty(cgroup)
    assert cgroup.remove()


def wait_until_empty(cgroup: SessionCgroup) -> None:
    """Wait for the kernel's own notice on cgroup.events."""
    with (cgroup.path / "cgroup.events").open() as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)
        while cgroup.populated():
            changed.poll(1000)
            events.seek(0)
            events.read()


def test_a_socket_made_inside_is_found_by_the_id_of_the_cgroup(real: SessionCgroup) -> None:
    """The whole way: enter as root, become the agent, connect; the lookup leads to this session of several."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        program = [sys.executable, "-c", AGENT, str(real.path), str(NOBODY), str(listener.getsockname()[1])]
        with subprocess.Popen(program, stdin=subprocess.PIPE, cwd=Path(__file__).parents[3]):
            accepted, _ = listener.accept()
            diag = SockDiag()
            owner = diag.caller_of(accepted)
            assert real.populated()
            assert not real.remove()
        diag.close()
        accepted.close()
    sessions = [Candidate(real.session, NOBODY, real.id), Candidate(FIRST, NOBODY, None)]
    expected = Attribution(real.session, Method.CGROUP, NOBODY, real.id)
    assert attribute(owner, sessions, NOBODY) == expected


def test_a_process_is_moved_by_its_handle_and_never_by_its_number(real: SessionCgroup) -> None:
    """One that is dead is nobody, whoever has its number by then."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as inside:
        handle = os.pidfd_open(inside.pid)
        real.take_in(handle)
        assert real.members() == [inside.pid]
        assert real.populated()
    wait_until_empty(real)
    with pytest.raises(LocalError, match="is gone"):
        real.take_in(handle)
    os.close(handle)
    assert real.members() == []


def test_the_id_read_from_the_listing_is_the_one_sockets_carry(real: SessionCgroup) -> None:
    """After a restart the ids come from the listing of the tree."""
    assert real in SessionCgroups.of_machine().standing()
