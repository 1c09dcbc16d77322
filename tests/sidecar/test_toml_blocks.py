from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from sidecar import toml_blocks
from sidecar.toml_blocks import is_for_blocks, parse_blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toml_blocks, "BLOCK_CHARS", 20)


class BrokenError(Exception):
    """A fault of syntax at a line of the file."""


def parse(piece: str, line: int) -> dict[str, Any]:
    try:
        return tomli.loads(piece)
    except tomli.TOMLDecodeError as error:
        raise BrokenError(line + error.lineno) from None


def read(text: str) -> dict[str, Any] | str:
    return parse_blocks(text, parse)


lines = st.sampled_from(
    [
        "[a]", "[[a]]", "[[b]]", "[[b]] # more", "[a.c]", "[[a.d]]", "[[1]]", "x = 1", "y = [", "]", "z = [[1]]", ",",
        "[2],", "# [[a]]", 'w = "[[a]]"', "v = { k = 1 }", "", "  [[b]]", "a = []", "[[b]]\r",
    ]
)  # fmt: skip


@given(st.lists(lines, max_size=12))
def test_what_is_read_by_blocks_is_what_the_file_says(rows: list[str]) -> None:
    """The same tables as whole, or a fault: never other tables, and none where the file has a fault."""
    text = "\n".join(rows)
    try:
        whole: object = tomli.loads(text)
    except tomli.TOMLDecodeError:
        whole = None
    try:
        found = read(text)
    except BrokenError:
        return
    assert isinstance(found, str) or found == whole


def test_entries_keep_their_order_over_blocks() -> None:
    """However they are mixed with others."""
    rules = "".join(f"[[grants]]\nid = {n}\n[[denies]]\nid = {-n}\n" for n in range(20))
    text = f"x = 1\n{rules}[services.a]\ny = 2\n[[services.a.operations]]\nz = 3\n[[grants]]\nid = 20\n"
    assert read(text) == tomli.loads(text)


def test_a_fault_is_at_its_own_line() -> None:
    """In a block, and in what is left between blocks."""
    rules = "[[grants]]\nid = 1\n" * 30
    for text, line in ((f"{rules}[[grants]]\nid = \n", 62), (f"{rules}[x]\ny = \n{rules}", 62)):
        with pytest.raises(BrokenError, match=str(line)):
            read(text)


@pytest.mark.parametrize(
    "text", ["grants = []\n[[grants]]\n", "[grants]\n[x]\n[[grants]]\n", "[[x]]\n[x.y]\n"]
)
def test_a_name_is_defined_in_one_way(text: str) -> None:
    """Also where TOML would allow both."""
    assert read(text) in ("grants", "x")


@pytest.mark.parametrize("quotes", ['"""', "'''"])
def test_a_file_with_strings_of_several_lines_is_not_for_blocks(quotes: str) -> None:
    """What stands in one would become a rule."""
    text = f'x = {quotes}\n[[grants]]\nid = "all"\n[y]\n{quotes}\n'
    assert not is_for_blocks(text)
    assert "grants" not in tomli.loads(text)
    assert is_for_blocks("[[grants]]\n")
