import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "systemd"


@pytest.fixture(scope="module", autouse=True)
def systemd_is_new_enough() -> None:
    """Skips where the tool is missing, or cannot judge a file without a running systemd."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    _, said = analyze("--version")
    if int(said.split()[1]) < 250:
        pytest.skip("systemd-analyze is older than 250 and has no --offline")


@pytest.fixture(params=["lockgate.service", "lockgate-ca.service"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the unit that starts a program every machine has, since lockgate may not be installed on this one."""
    original = UNITS / str(request.param)
    text, replaced = re.subn(r"(?m)^ExecStart=lockgate ", "ExecStart=/bin/true ", original.read_text())
    assert replaced == 1
    copy = tmp_path / original.name
    copy.write_text(text)
    return copy


def test_systemd_finds_no_fault_in_the_unit(unit: Path) -> None:
    """No unknown setting, no wrong value: systemd would ignore either and run without the protection."""
    assert analyze("verify", unit) == (0, "")


def test_the_unit_is_exposed_at_most_2(unit: Path) -> None:
    """What an attacker in the daemon could reach beyond it stays small."""
    code, said = analyze("security", "--offline=true", "--threshold=20", unit)
    assert code == 0, said


def analyze(*arguments: str | Path) -> tuple[int, str]:
    """The exit code of systemd-analyze, and all it said."""
    result = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return result.returncode, result.stdout + result.stderr
