import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.exits import Exit
from sidecar.session.execute import run_command
from tests.mesh import until

PYTHON = sys.executable
ME = os.geteuid()


def run(*words: str, uid: int = ME, environment: dict[str, str] | None = None) -> int:
    return run_command(list(words), {**os.environ, **(environment or {})}, uid)


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_the_exit_code_of_a_command_is_ours(code: int) -> None:
    """Whatever calls us sees what the command said."""
    assert run(PYTHON, "-c", f"raise SystemExit({code})") == code


def test_a_command_that_a_signal_ended_says_which() -> None:
    """128 and the number, as shells have it."""
    assert run(PYTHON, "-c", "import os; os.kill(os.getpid(), 9)") == 128 + signal.SIGKILL


def test_our_own_failures_have_codes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not found is 127, not executable 126, as shells have it; one line says so."""
    script = tmp_path / "script"
    script.write_text("no program")
    assert run("lockgate-no-such-command") == Exit.NOT_FOUND
    assert run(str(script)) == Exit.CANNOT_EXECUTE
    assert capsys.readouterr().err.splitlines() == [
        "lockgate: lockgate-no-such-command: not found",
        f"lockgate: {script}: may not be executed",
    ]


def test_a_file_of_another_format_is_our_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kernel's word for it."""
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF and then nothing")
    program.chmod(0o700)
    assert run(str(program)) == Exit.EXEC_FAILED
    assert "Exec format error" in capsys.readouterr().err


def test_the_environment_is_handed_over() -> None:
    """The session, its services and its trace."""
    code = "import os; raise SystemExit(os.environ['LOCKGATE_SESSION'] != 'abc')"
    assert run(PYTHON, "-c", code, environment={"LOCKGATE_SESSION": "abc"}) == 0


def test_no_descriptor_is_inherited() -> None:
    """A socket of ours in an agent's hands would carry our name."""
    kept = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        assert run(PYTHON, "-c", f"import os\ntry: os.fstat({kept})\nexcept OSError: pass\nelse: 1/0") == 0
    finally:
        os.close(kept)


@pytest.mark.skipif(ME != 0, reason="only root may become another user")
def test_root_drops_to_the_agent() -> None:
    """uid, gid and groups are the agent's before its command runs."""
    code = (
        "import os; raise SystemExit(not (os.getuid() == os.getgid() == 65534 and 0 not in os.getgroups()))"
    )
    assert run("/usr/bin/env", "python3", "-c", code, uid=65534) == 0


@pytest.mark.skipif(ME != 0, reason="only root may become another user")
def test_a_uid_without_a_user_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Its groups would be root's."""
    assert run(PYTHON, "-c", "pass", uid=4_000_000) == Exit.EXEC_FAILED
    assert "no such user" in capsys.readouterr().err


RUNNER = """
import os, sys
from sidecar.session.execute import run_command
from tests.mesh import until
raise SystemExit(run_command([sys.executable, "-c", sys.argv[1]], dict(os.environ), os.geteuid()))
"""
CHILD = """
import signal, sys
def note(number, frame):
    print("got", number, flush=True)
    if number == signal.SIGUSR1: raise SystemExit(3)
for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1): signal.signal(one, note)
print("ready", flush=True)
while True: signal.pause()
"""


def test_signals_are_passed_on() -> None:
    """Who stops us wants the command to stop; it decides how."""
    command = [PYTHON, "-c", RUNNER, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline() == "ready\n"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            runner.send_signal(number)
            assert runner.stdout.readline() == f"got {number}\n"
        assert runner.wait() == 3


def test_ctrl_c_at_a_terminal_reaches_the_command_once() -> None:
    """The terminal tells the whole process group: passed on as well, the command would be interrupted twice."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PYTHON, [PYTHON, "-c", RUNNER, CHILD])  # noqa: S606 - there is no shell to start it with
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, b"\x03")
    while b"got 2" not in said:
        said += os.read(terminal, 1024)
    os.kill(pid, signal.SIGUSR1)
    while b"got 10" not in said:
        said += os.read(terminal, 1024)
    assert said.count(b"got 2") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    os.close(terminal)


STOPPER = """
import os, signal
print(os.getpid(), flush=True)
while True: signal.pause()
"""


@pytest.mark.parametrize("way", ["told-to-stop", "stops-by-itself"])
def test_a_command_that_stops_stops_us_too(way: str) -> None:
    """Whoever waits for us sees it stopped, and continues it by continuing us."""
    command = [PYTHON, "-c", RUNNER, STOPPER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, process_group=0
    ) as runner:
        assert runner.stdout is not None
        child = int(runner.stdout.readline())
        for _ in range(2):
            if way == "told-to-stop":
                runner.send_signal(signal.SIGTSTP)
            else:
                os.kill(child, signal.SIGSTOP)
            assert os.WIFSTOPPED(os.waitpid(runner.pid, os.WUNTRACED)[1])
            assert state(child) == "T"
            runner.send_signal(signal.SIGCONT)
            assert os.WIFCONTINUED(os.waitpid(runner.pid, os.WCONTINUED)[1])
            until(lambda: state(child) != "T", "the command to go on")
        runner.send_signal(signal.SIGTERM)
        assert runner.wait() == 128 + signal.SIGTERM


def test_a_command_that_daemonises_a_grandchild_does_not_keep_us() -> None:
    """Its exit code is the command's; whoever it left behind goes on without us."""
    code = (
        "import os, sys\nif os.fork(): sys.exit(4)\nos.setsid(); print(os.getpid(), flush=True); os.pause()"
    )
    code = code.replace("os.pause()", "__import__('signal').pause()")
    command = [PYTHON, "-c", RUNNER, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as runner:
        assert runner.stdout is not None
        grandchild = int(runner.stdout.readline())
        assert runner.wait() == 4
        assert state(grandchild) == "S"
        os.kill(grandchild, signal.SIGKILL)


def state(pid: int) -> str:
    """As proc_pid_stat(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
