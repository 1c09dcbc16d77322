"""Rules of the house that no linter knows."""

import ast
import zipfile
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]

SOURCES = [path for package in ("pki", "sidecar") for path in sorted((ROOT / package).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))


def test_every_test_states_its_rule() -> None:
    """A test's docstring is the rule that it keeps."""
    unstated = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]
    assert unstated == []


def test_no_module_is_named_for_nothing() -> None:
    """A newcomer finds a file at the first guess, and none of these is anyone's first guess."""
    vague = {"base", "common", "core", "helpers", "manager", "misc", "util", "utils"}
    assert [path for path in SOURCES if path.stem in vague or path.parent.name in vague] == []


def test_modules_and_functions_stay_readable() -> None:
    """A module of over 400 lines or a function of over 64 is two things."""
    long = [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 400]
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                long += [f"{path}:{node.lineno} {node.name}"] if lines > 64 else []
    assert long == []


def test_each_test_file_mirrors_a_source_file() -> None:
    """The tests of `pki/spiffe.py` are found in `tests/pki/test_spiffe.py` without a search.

    Those of a package itself stand in its folder: `tests/sidecar/cli/test_cli.py`.
    """
    mirrors = [path.relative_to(ROOT / "tests") for path in TESTS]
    orphans = [
        path
        for path in mirrors
        if path.parts[0] in ("pki", "sidecar")
        and not (ROOT / path.with_name(path.name.removeprefix("test_"))).exists()
        and not (ROOT / path.parent / path.stem.removeprefix("test_")).is_dir()
        and path.stem != f"test_{path.parent.name}"
    ]
    assert orphans == []


def test_the_wheel_carries_code_and_data(tmp_path: Path) -> None:
    """`pipx install .` gets the demo's sample files as well as the code."""
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    packed = set(zipfile.ZipFile(wheel).namelist())
    kept = [
        path.relative_to(ROOT).as_posix()
        for package in ("pki", "sidecar")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(set(kept) - packed) == []
