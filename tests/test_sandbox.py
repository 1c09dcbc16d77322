"""The daemons run where memory may never become executable, as their units demand (MemoryDenyWriteExecute)."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mesh import CEILING_SECONDS

PR_SET_MDWE = 65
PR_MDWE_REFUSE_EXEC_GAIN = 1

UNDER_MDWE = f"""
import ctypes, os, sys
if ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-m", "sidecar.cli", *sys.argv[1:]])
"""

MAY_MAP = """
import mmap
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
"""


def test_the_whole_story_plays_where_memory_may_not_become_executable(tmp_path: Path) -> None:
    """CA, nodes and tools all inherit PR_SET_MDWE, and every step of the tour goes as it should."""
    command = [sys.executable, "-c", UNDER_MDWE, "dev", "--dir", str(tmp_path / "D"), "--tour"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CEILING_SECONDS, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_restriction_of_the_test_above_is_real() -> None:
    """Under the same prctl, a process cannot map memory that is writable and executable."""
    if ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    prelude = f"import ctypes; ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0)\n"
    done = subprocess.run([sys.executable, "-c", prelude + MAY_MAP], capture_output=True, check=False)
    assert b"PermissionError" in done.stderr
