"""The tables of docs/wire.md, for tests that compare them with the code."""

import re
from pathlib import Path

WIRE = (Path(__file__).parents[1] / "docs/wire.md").read_text()


def section(heading: str) -> str:
    """The text below a heading, up to the next."""
    found = re.search(rf"^#+ {re.escape(heading)}(?: ✓)?\n(.*?)(?=^#|\Z)", WIRE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    found = re.search(r"(?:^\|.*\n)+", section(heading), re.MULTILINE)
    assert found is not None, heading
    lines = found[0].splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
